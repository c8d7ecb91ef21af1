import { api, attempt, content, el, field, number, say, session, show, svg, table, time } from "./common.js";

const FIELDS = ["group", "member", "operator", "app"];
const LABELS = { group: "Group", member: "Who left", operator: "By whom", app: "App" };
const DAY = 86400000;
let sinks = [];

function asked() {
  const given = new URLSearchParams(location.search);
  const found = new URLSearchParams();
  for (const name of [...FIELDS, "since", "until", "sink"]) if (given.get(name)) found.set(name, given.get(name));
  return found;
}

// For the API: the last day is meant with all its hours.
function query() {
  const found = asked();
  if (found.has("until")) found.set("until", new Date(Date.parse(found.get("until")) + DAY).toISOString().slice(0, 10));
  return found;
}

function go(found) {
  history.pushState(null, "", "?" + found);
  load();
}

function submit(event) {
  event.preventDefault();
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) if (value.trim()) found.set(name, value.trim());
  go(found);
}

function form() {
  const now = asked();
  return el("form", { onsubmit: submit, role: "search", "aria-label": "Choose member exits" },
    FIELDS.map((name) => field(LABELS[name], { name, type: "search", value: now.get(name) || "" })),
    field("From (UTC)", { name: "since", type: "date", value: now.get("since") || "" }),
    field("To", { name: "until", type: "date", value: now.get("until") || "" }),
    sinks.length > 1 ? field("Read from", { name: "sink" }, ...sinks.map((sink) => el("option", { value: sink, selected: sink === now.get("sink") }, sink))) : null,
    el("button", {}, "Show"),
    el("a", { class: "button plain", href: "/api/exits.csv?" + query(), download: "" }, "Download CSV"));
}

function chosen(name, value) {
  const add = () => { const found = asked(); found.set(name, value); go(found); };
  return value ? el("button", { type: "button", class: "link", "aria-label": LABELS[name] + " " + value + ": show only these", onclick: add }, value) : "";
}

function days(told) {
  const known = Object.keys(told.days).sort();
  const first = Date.parse(known[0]), last = Date.parse(known[known.length - 1]);
  const all = (last - first) / DAY > 400 ? known
    : Array.from({ length: (last - first) / DAY + 1 }, (_, at) => new Date(first + at * DAY).toISOString().slice(0, 10));
  return all.map((day) => [day, told.days[day] || 0]);
}

function chart(told) {
  const all = days(told);
  const most = Math.max(...all.map((one) => one[1]));
  const width = 100 / Math.max(all.length, 7);
  const label = "Member exits a day from " + all[0][0] + " to " + all[all.length - 1][0] + ", at most " + number(most) + " a day";
  return el("section", { class: "card" }, el("h2", {}, "Exits a day (UTC)"),
    svg("svg", { class: "chart", viewBox: "0 0 100 50", preserveAspectRatio: "none", role: "img", "aria-label": label },
      all.map(([day, count], at) => svg("rect", { x: at * width + width * 0.1, y: 50 - 48 * count / most, width: width * 0.8, height: 48 * count / most },
        svg("title", {}, day + ": " + number(count))))),
    el("p", { class: "more" }, all[0][0] + " to " + all[all.length - 1][0] + ", at most " + number(most) + " a day",
      told.is_cut ? ". Only the newest " + number(told.counted) + " are counted." : ""),
    el("details", {}, el("summary", {}, "The same in numbers"),
      table("Member exits a day", [{ label: "Day" }, { label: "Exits", kind: "number" }], all.filter((one) => one[1]).map(([day, count]) => [day, number(count)]))));
}

function list(told) {
  const rows = told.exits.map((one) => [time(one.time), chosen("group", one.group), chosen("member", one.member), one.how || "", chosen("operator", one.operator), chosen("app", one.app)]);
  const heads = ["Time (UTC)", "Group", "Who left", "How", "By whom", "App"].map((label, at) => ({ label, kind: at ? null : "time" }));
  const caption = told.exits.length < told.counted ? "The newest " + told.exits.length + " of " + number(told.counted) + (told.is_cut ? " or more" : "") : number(told.counted) + " found, newest first";
  return el("section", { class: "card" }, el("h2", {}, "Member exits"), table(caption, heads, rows));
}

async function load() {
  const told = await attempt(() => api("/api/exits?" + query()));
  if (!told) return content.childElementCount ? undefined : show(form());
  sinks = told.sinks;
  if (!sinks.length) {
    return show(el("p", { class: "notice amber" }, "Member exits are kept by a sink of kind sqlite, postgres or mysql without a table of your own, and none is configured. Add one under ",
      el("code", {}, "sinks"), ", with events ", el("code", {}, '["im.group.member.exited.#"]'), "."));
  }
  const isEmpty = !told.exits.length;
  show(form(), isEmpty ? el("p", { class: "notice" }, told.note || "No member exit matches.") : chart(told), isEmpty ? null : list(told));
  say(isEmpty ? "No member exit matches." : number(told.counted) + " member exits");
}

addEventListener("popstate", load);
await attempt(session);
await load();
