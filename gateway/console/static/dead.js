import { api, ask, attempt, bytes, content, el, fault, field, number, say, session, show, table, time } from "./common.js";

const LABELS = { reason: "Reason", type: "Type", group: "Group", app: "App" };
let me = null;
let sinks = [];
let told = null;
let fullest = null;

function asked() {
  const given = new URLSearchParams(location.search);
  const found = {};
  for (const name of Object.keys(LABELS)) if (given.get(name)) found[name] = given.get(name);
  return found;
}

function sink() {
  const given = new URLSearchParams(location.search).get("sink");
  return sinks.includes(given) ? given : fullest;
}

function path(rest = "", of = sink()) {
  return "/api/sinks/" + encodeURIComponent(of) + "/dead" + rest;
}

function submit(event) {
  event.preventDefault();
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) if (value.trim()) found.set(name, value.trim());
  history.pushState(null, "", "?" + found);
  load();
}

function form() {
  const now = asked();
  return el("form", { onsubmit: submit, role: "search", "aria-label": "Choose parked events" },
    field("Sink", { name: "sink" }, ...sinks.map((name) => el("option", { value: name, selected: name === sink() }, name))),
    Object.keys(LABELS).map((name) => field(LABELS[name], { name, type: "search", value: now[name] || "" })),
    el("button", {}, "Show"));
}

function events(count) {
  return number(count) + (count === 1 ? " event" : " events");
}

function kinds(found) {
  return ["types", "reasons"].map((name) => el("p", { class: "more" }, Object.entries(found[name]).slice(0, 6).map(([key, count]) => key + ": " + number(count)).join(", ")));
}

// What is meant is fixed before the question: neither what is typed meanwhile nor another sink counts.
async function replay(choice, of = sink()) {
  const body = Object.keys(choice).length ? { ...choice } : { all: true };
  const found = await attempt(() => api(path("/replay", of), { ...body, limit: 10000, dry_run: true }));
  if (!found) return;
  if (!found.events) return fault("None of them is there any more.");
  const question = [el("p", {}, events(found.events) + " go back to the queue of sink " + of + ".",
    found.matched > found.events ? " That many at a time; ask again for the other " + number(found.matched - found.events) + "." : ""), ...kinds(found)];
  if (!(await ask("Replay " + events(found.events) + "?", question, "Replay"))) return;
  const work = (yes) => api(path("/replay", of), { ...body, limit: 10000, yes });
  let done;
  try {
    done = await work(false);
    fault("");
  } catch (error) {
    if (error.error !== "needs_yes") return fault(error.message);
    const again = [el("p", {}, "Sink " + of + " writes an event again when it comes again. What it has already written of these, it will have twice.")];
    if (!(await ask("Write again what comes again?", again, "Replay all the same", true))) return;
    done = await attempt(() => work(true));
  }
  await finish(done, "replayed");
}

async function discard(choice, of = sink()) {
  const body = Object.keys(choice).length ? { ...choice } : { all: true };
  const found = await attempt(() => api(path("/purge", of), body));
  if (!found) return;
  if (!found.events) return fault("None of them is there any more.");
  const question = [el("p", {}, events(found.events) + " of sink " + of + " are removed for good; nothing brings them back but a replay of the journal, as long as it keeps them."), ...kinds(found)];
  if (!(await ask("Discard " + events(found.events) + "?", question, "Discard", true))) return;
  await finish(await attempt(() => api(path("/purge", of), { ...body, yes: true })), "discarded");
}

async function finish(done, word) {
  if (!done) return;
  await load();
  const text = events(done.events) + " " + word + ".";
  content.prepend(el("p", { class: "notice green" }, text));
  say(text);
}

function detail(one) {
  const more = Object.entries(one.headers || {}).map(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
  const body = one.event === undefined ? one.body || one.body_base64 || "" : JSON.stringify(one.event, null, 2);
  return [el("dl", {}, el("dt", {}, "Reason"), el("dd", {}, one.reason), el("dt", {}, "Parked"), el("dd", {}, time(one.parked)), el("dt", {}, "Attempts"), el("dd", {}, String(one.attempt)), more.flat()),
    one.history.length ? el("details", {}, el("summary", {}, "What failed before"), el("ul", {}, one.history.map((line) => el("li", {}, line)))) : null,
    el("pre", { tabindex: "0", "aria-label": "The event" }, body)].filter(Boolean);
}

async function open(one) {
  const found = await attempt(() => api(path("/" + encodeURIComponent(one.id))));
  if (!found) return;
  const of = sink();
  let chosen = null;
  const pick = (action) => (event) => { chosen = action; event.target.closest("dialog").dispatchEvent(new Event("cancel", { cancelable: true })); };
  const buttons = el("div", { class: "row" },
    el("button", { type: "button", disabled: !me.mayAct, onclick: pick(replay) }, "Replay this event"),
    el("button", { type: "button", class: "danger", disabled: !me.mayAct, onclick: pick(discard) }, "Discard this event"));
  await ask(one.type || "Event", [...found.events.slice(0, 1).flatMap(detail), buttons]);
  if (chosen) await chosen({ id: one.id }, of);
}

function list() {
  const heads = ["Parked (UTC)", "Reason", "Type", "Group", "App", "Size", "Event"].map((label, at) => ({ label, kind: at === 0 ? "time" : at === 5 ? "number" : null }));
  const caption = number(told.parked) + " parked in sink " + told.sink + (told.events.length < told.parked ? "; " + number(told.events.length) + " of them here" : "");
  return el("section", { class: "card" }, el("h2", {}, "Parked events"), table(caption, heads, told.events.map((one) => [
    time(one.parked), one.reason, one.type, one.group, one.app, bytes(one.bytes),
    el("button", { class: "link", type: "button", "aria-label": "Open event " + one.id, onclick: () => open(one) }, one.id.slice(0, 8) || "open")])));
}

function actions() {
  const choice = asked();
  const which = Object.keys(choice).length ? "all that match" : "all";
  return el("div", { class: "row" },
    el("button", { type: "button", disabled: !me.mayAct, onclick: () => replay(choice) }, "Replay " + which),
    el("button", { type: "button", class: "danger", disabled: !me.mayAct, onclick: () => discard(choice) }, "Discard " + which),
    me.mayAct ? null : el("span", { class: "more" }, "You may only look: acting needs admin.token."));
}

async function load() {
  if (!sinks.length) {
    return show(el("p", { class: "notice" }, "This process works for no sink; look at the console of gateway work (admin.worker_port)."));
  }
  told = await attempt(() => api(path("?" + new URLSearchParams(asked()))));
  if (!told) return show(form());
  show(form(), told.events.length ? actions() : null, told.events.length ? list() : el("p", { class: "notice" + (told.parked ? "" : " green") },
    told.parked ? "None of the " + number(told.parked) + " parked events matches." : "Nothing is parked in sink " + told.sink + "."));
  say(told.events.length + " parked events shown");
}

addEventListener("popstate", load);
await attempt(async () => {
  me = await session();
  const overview = await api("/api/overview");
  sinks = overview.about.works;
  const dead = (name) => (overview.now.sinks[name] || {}).dead || 0;
  fullest = [...sinks].sort((one, other) => dead(other) - dead(one))[0];
});
if (me) await load();
