import { api, ask, attempt, bytes, duration, el, fault, field, number, say, session, show, time } from "./common.js";

let me = null;
let sinks = {};
let given = {};
let timer = 0;
let wasRunning = false;

const report = el("div", {});
const place = el("div", {});

function pairs(rows) {
  return el("dl", {}, rows.filter(Boolean).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function one(journal, at, many) {
  const title = many ? "Journal of process " + (at + 1) : "Journal";
  if (journal.fault) return el("section", { class: "card" }, el("h2", {}, title), el("p", { class: "notice red" }, journal.fault));
  return el("section", { class: "card" }, el("h2", {}, title), pairs([
    ["Id", journal.id],
    ["Positions", number(journal.first) + " to " + number(journal.head)],
    ["Confirmed up to", number(journal.cursor)],
    ["Kept since", journal.begun ? time(journal.begun) + " UTC" : "nothing is kept at present"],
    ["Last written", journal.last_written ? time(journal.last_written) + " UTC" : "–"],
    ["Files", number(journal.segments) + ", " + bytes(journal.bytes) + "; " + bytes(journal.retained_bytes) + " of them wholly confirmed, kept for replays"],
  ]));
}

function backlog(now) {
  const journal = now.journal;
  const share = journal.capacity_bytes ? journal.waiting_bytes / journal.capacity_bytes : 0;
  return el("section", { class: "card" }, el("h2", {}, "Backlog"),
    el("p", { class: "figure" }, number(journal.waiting), el("small", {}, " callbacks wait for the broker")),
    el("progress", { max: 1, value: share, "aria-label": "How full the journal is" }),
    el("p", { class: "more" }, bytes(journal.waiting_bytes) + " of " + bytes(journal.capacity_bytes) + (journal.is_full ? ": full, callbacks are refused with 503" : ""),
      journal.waiting ? "; the oldest for " + duration(journal.oldest_s) : "", journal.lost ? "; " + number(journal.lost) + " lost to damage" : ""));
}

function read(form) {
  const body = {};
  for (const [name, value] of new FormData(form)) {
    if (!value.trim()) continue;
    body[name] = ["first", "last", "rate", "process"].includes(name) ? Number(value) : value.trim();
  }
  for (const name of ["since", "until"]) if (body[name]) body[name] += ":00Z";
  return body;
}

function form(count) {
  return el("form", { onsubmit: (event) => { event.preventDefault(); start({ ...read(event.target), dry_run: true }); }, "aria-label": "Replay a range" },
    count > 1 ? field("Process", { name: "process", type: "number", min: 1, max: count, value: 1 }) : null,
    field("From position", { name: "first", type: "number", min: 1 }), field("To position", { name: "last", type: "number", min: 1 }),
    field("Received from (UTC)", { name: "since", type: "datetime-local" }), field("Received before (UTC)", { name: "until", type: "datetime-local" }),
    field("Command", { name: "command", type: "search", placeholder: "Group.*" }), field("App", { name: "app", type: "search" }),
    field("To sink", { name: "sink" }, el("option", { value: "" }, "all of them"), ...Object.keys(sinks).map((name) => el("option", { value: name }, name))),
    field("Events a second", { name: "rate", type: "number", min: 1, max: 100000, value: 500 }),
    el("button", { disabled: !me.mayAct }, "Count first (dry run)"),
    me.mayAct ? null : el("span", { class: "more" }, "You may only look: acting needs admin.token."));
}

async function start(body) {
  given = body;
  if (await attempt(() => api("/api/journal/replay", body))) await watch();
}

async function publish() {
  const body = { ...given, dry_run: false };
  const again = Object.entries(sinks).filter(([name, effect]) => effect !== "once" && (!body.sink || body.sink === name)).map(([name]) => name);
  const parts = [el("p", {}, "The broker gets these events once more, with the same ids, to " + (body.sink ? "sink " + body.sink : "all sinks") + ".")];
  if (again.length) parts.push(el("p", { class: "notice amber" }, "Written again there, though it may be there already: " + again.join(", ") + "."));
  if (await ask("Publish again?", parts, "Publish again", again.length > 0)) await start({ ...body, yes: true });
}

function list(title, counts) {
  const known = Object.entries(counts);
  return known.length ? [title, known.map(([name, count]) => name + ": " + number(count)).join(", ")] : null;
}

const WORDS = { running: "under way", done: "done", stopped: "stopped", failed: "failed" };

function draw(job) {
  if (!job) return report.replaceChildren();
  const isDry = job.asked.dry_run;
  const total = job.last - job.first + 1;
  const level = job.state === "failed" ? "red" : job.state === "done" ? "green" : "amber";
  report.replaceChildren(el("section", { class: "card", "aria-label": "The replay" }, el("h2", {}, (isDry ? "Dry run: " : "Replay: ") + WORDS[job.state]),
    job.state === "running" ? el("progress", { max: Math.max(1, total), value: Math.max(0, job.done - job.first + 1), "aria-label": "How far it has come" }) : null,
    el("p", { class: "notice " + level }, (isDry ? "Would publish " : "Published ") + number(job.events) + " events of " + number(job.callbacks) + " callbacks",
      total > 0 ? " (positions " + number(job.first) + " to " + number(job.state === "done" ? job.last : job.done) + ")." : ".", job.fault ? " " + job.fault + "." : "",
      !isDry && (job.state === "stopped" || job.state === "failed") ? " To go on, begin at position " + number(job.done + 1) + "." : ""),
    pairs([list("Types", job.types), list("Sinks", job.sinks), job.unrouted ? ["No sink takes", number(job.unrouted)] : null,
      job.lost ? ["Damaged", number(job.lost) + " positions were passed over"] : null, job.trimmed ? ["No longer kept", number(job.trimmed)] : null]),
    el("div", { class: "row" },
      job.state === "running" ? el("button", { type: "button", class: "plain", disabled: !me.mayAct, onclick: () => attempt(() => api("/api/journal/replay/stop", {})) }, "Stop") : null,
      isDry && job.state === "done" && job.events ? el("button", { type: "button", disabled: !me.mayAct, onclick: publish }, "Publish again …") : null)));
}

async function watch() {
  clearTimeout(timer);
  const told = await attempt(() => api("/api/journal/replay"));
  const job = told && told.replay;
  if (job && job.asked.dry_run && !Object.keys(given).length) given = job.asked;
  draw(job);
  const isRunning = Boolean(job && job.state === "running");
  if (wasRunning && !isRunning && job) say((job.asked.dry_run ? "Dry run " : "Replay ") + WORDS[job.state]);
  wasRunning = isRunning;
  if (isRunning) timer = setTimeout(watch, 500);
}

async function refresh() {
  const [told, overview] = await Promise.all([api("/api/journal"), api("/api/overview")]);
  sinks = told.sinks;
  place.replaceChildren(backlog(overview.now), ...told.journals.map((journal, at) => one(journal, at, told.journals.length > 1)));
  return told.journals.length;
}

await attempt(async () => {
  me = await session();
  if (!(await api("/api/overview")).about.serves) {
    return show(el("p", { class: "notice" }, "This process has no journal; look at the console of gateway serve (admin.port)."));
  }
  const count = await refresh();
  show(place, el("section", { class: "card" }, el("h2", {}, "Publish a range again"),
    el("p", { class: "more" }, "What the broker has confirmed and the journal still keeps. What waits is forwarded by itself. New callbacks overtake old ones meanwhile."), form(count)), report);
  setInterval(() => attempt(refresh), 5000);
  await watch();
});
