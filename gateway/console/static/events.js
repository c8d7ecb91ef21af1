import { api, ask, attempt, bytes, content, el, field, follow, number, session, show, table, time } from "./common.js";

const MOST = 200;
const LABELS = { type: "Type", app: "App", subject: "Subject" };
let rows = [];
let source = null;
let isPaused = false;
let shown = null;

function asked() {
  const given = new URLSearchParams(location.search);
  const found = new URLSearchParams();
  for (const name of Object.keys(LABELS)) if (given.get(name)) found.set(name, given.get(name));
  return found;
}

function submit(event) {
  event.preventDefault();
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) if (value.trim()) found.set(name, value.trim());
  history.pushState(null, "", "?" + found);
  start();
}

async function open(one) {
  const told = await attempt(() => api("/api/events/one/" + encodeURIComponent(one.id)));
  if (!told) return;
  const text = JSON.stringify(told.event, null, 2);
  await ask(one.type, [
    told.shows_content ? null : el("p", { class: "more" }, "What people wrote is hidden; console.show_content shows it."),
    el("pre", { tabindex: "0", "aria-label": "The event" }, text)].filter(Boolean));
}

function rowsTable() {
  const heads = ["Recorded (UTC)", "Type", "Subject", "App", "Size", "Event"].map((label, at) => ({ label, kind: at === 0 ? "time" : at === 4 ? "number" : null }));
  return table(rows.length ? "The newest first, at most " + MOST : "Nothing has matched yet", heads, rows.map((one) => [
    time(one.recordedtime || one.time), one.type, one.subject || "", one.appid, bytes(one.bytes),
    el("button", { class: "link", type: "button", "aria-label": "Open event " + one.id, onclick: () => open(one) }, one.id.slice(0, 8))]));
}

function take(told) {
  const known = new Set(rows.map((one) => one.number));
  rows = [...told.events.filter((one) => !known.has(one.number)), ...rows].slice(0, MOST);
  if (isPaused || (told.events.length === 0 && !told.missed)) return;
  document.getElementById("missed").textContent = told.missed ? number(told.missed) + " of the last second were too many to look at" : "";
  if (told.events.length) draw();
}

function draw() {
  const place = document.activeElement && shown.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  shown.replaceChildren(rowsTable());
  if (place) [...shown.querySelectorAll("[aria-label]")].find((one) => one.getAttribute("aria-label") === place)?.focus({ preventScroll: true });
}

function pause(event) {
  isPaused = !isPaused;
  event.target.textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused) draw();
}

async function start() {
  source?.close();
  const found = asked();
  const told = await attempt(() => api("/api/events?" + found));
  if (!told) return content.childElementCount ? undefined : show(form(found));
  if (!told.publishes) {
    return show(el("p", { class: "notice" }, "This process publishes no events; look at the console of gateway serve (admin.port)."));
  }
  rows = told.events;
  shown = el("div", {});
  show(form(found), el("p", { class: "more" }, "Events as they go to the broker, from memory: the last 4 MiB since the start. ",
    told.shows_content ? "" : "What people wrote is hidden. ", el("span", { id: "missed" })), el("section", { class: "card" }, el("h2", {}, "Events"), shown));
  draw();
  source = follow("/api/events/live?" + found, "events", take);
}

function form(found) {
  return el("form", { onsubmit: submit, role: "search", "aria-label": "Choose events" },
    Object.keys(LABELS).map((name) => field(LABELS[name], { name, type: "search", value: found.get(name) || "", placeholder: name === "type" ? "im.group.*" : null })),
    el("button", {}, "Show"), el("button", { class: "plain", type: "button", onclick: pause }, isPaused ? "Go on" : "Pause"));
}

addEventListener("popstate", start);
await attempt(session);
await start();
