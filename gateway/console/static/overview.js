import { api, attempt, bytes, content, duration, el, follow, level, number, rate, say, session, show, sparkline, table } from "./common.js";

const WORDS = { green: "All is well", amber: "Look at this", red: "Mend this" };
let hour = null;
let lastLevel = "";

function perSecond(now, before, take) {
  const seconds = before ? now.at_s - before.at_s : 0;
  return seconds > 0 ? Math.max(0, take(now) - take(before)) / seconds : 0;
}

function rates(name) {
  const at = hour ? hour.at_s : [];
  const counts = (hour && hour[name]) || [];
  return counts.slice(1).map((count, index) => Math.max(0, count - counts[index]) / Math.max(1, at[index + 1] - at[index]));
}

function spark(name, label, isGauge) {
  const values = isGauge ? (hour && hour[name]) || [] : rates(name);
  return values.length > 1 ? sparkline(values, label + ", last hour; highest " + rate(Math.max(...values))) : null;
}

// The time that so many of the answers of the last minute stayed within, from the counts a bucket.
function within(now, before, share) {
  const total = now.answers.count - (before ? before.answers.count : 0);
  if (total <= 0) return null;
  const bounds = Object.keys(now.answers.buckets).sort((one, other) => Number(one.replace("+Inf", "1e9")) - Number(other.replace("+Inf", "1e9")));
  for (const bound of bounds) {
    const count = now.answers.buckets[bound] - (before ? before.answers.buckets[bound] || 0 : 0);
    if (count >= share * total) return bound === "+Inf" ? "more than 5 s" : "≤ " + Number(bound) * 1000 + " ms";
  }
  return null;
}

function card(title, figure, unit, more, picture) {
  return el("section", { class: "card" }, el("h2", {}, title),
    el("p", { class: "figure" }, figure, unit ? el("small", {}, " " + unit) : null),
    more.filter(Boolean).map((line) => el("p", { class: "more" }, line)), picture);
}

function apps(told) {
  const now = told.now;
  const names = Object.keys(now.apps);
  if (!names.length) return null;
  return el("ul", { class: "apps", "aria-label": "Last callback of each app" }, names.map((app) => {
    const last = now.apps[app].last_s;
    const said = last ? duration(now.at_s - last) + " ago" : "none since the start";
    return el("li", {}, "App " + app + ": last callback ", el("strong", {}, said));
  }));
}

function state(told) {
  const causes = told.causes.map((cause) => el("li", { class: cause.level }, el("span", { class: "level" }, cause.level), " ", cause.text, " ",
    cause.page ? el("a", { href: "/console/" + cause.page }, "Go there") : null));
  return el("div", { class: "notice " + told.level },
    el("span", { class: "level" }, told.level), " ", el("strong", {}, WORDS[told.level] + (causes.length ? ":" : ".")),
    causes.length ? el("ul", { class: "causes" }, causes) : null);
}

function receiving(told) {
  const { now, minute } = told;
  const refused = Object.entries(now.requests.refused).sort((one, other) => other[1] - one[1]);
  const total = refused.reduce((sum, one) => sum + one[1], 0);
  const half = within(now, minute, 0.5), most = within(now, minute, 0.99);
  return [
    card("Callbacks", rate(perSecond(now, minute, (one) => one.requests.stored)), "a second",
      [number(now.requests.stored) + " stored since the start", number(now.requests.probes) + " probes, " + number(now.requests.connections) + " connections"],
      spark("stored", "Callbacks a second")),
    card("Refused", number(total), "since the start",
      refused.length ? refused.slice(0, 4).map(([reason, count]) => reason + ": " + number(count)) : ["None."],
      spark("refused", "Refused a second")),
    card("Answer time", half || "–", "half of them",
      [most ? "99 of 100: " + most : "No callback in the last minute.", now.requests.late ? number(now.requests.late) + " answered late" : null]),
    card("Journal", number(now.journal.waiting), "callbacks wait",
      [now.journal.waiting ? "the oldest for " + duration(now.journal.oldest_s) : "The broker has confirmed everything.",
        bytes(now.journal.waiting_bytes) + " of " + bytes(now.journal.capacity_bytes) + (now.journal.is_full ? ", full" : "")],
      spark("waiting", "Callbacks waiting", true)),
    card("Broker", now.broker.connected.publish ? "connected" : "not connected", "",
      [rate(perSecond(now, minute, (one) => one.broker.published)) + " events a second, " + number(now.broker.unconfirmed) + " unconfirmed",
        now.broker.is_blocked ? "It reads no publishes: memory or disk." : null,
        now.broker.unrouted ? number(now.broker.unrouted) + " events that no sink takes" : null],
      spark("published", "Events a second")),
  ];
}

function sinkState(one) {
  if (one.is_stopped) return "stopped";
  if (one.away) return "away: " + one.away.reason;
  if (one.is_available === undefined) return "works elsewhere";
  return one.is_available ? "takes events" : "not asked yet";
}

function sinks(told) {
  const names = [...new Set([...told.about.sinks, ...Object.keys(told.now.sinks)])];
  if (!names.length) return el("p", { class: "notice amber" }, "No sink is configured.");
  const value = (one, name) => one[name] === undefined ? "–" : number(one[name]);
  const rows = names.map((name) => {
    const one = told.now.sinks[name] || {};
    return [name, sinkState(one), value(one, "written"), value(one, "waiting"), value(one, "retrying"),
      one.dead ? el("a", { href: "/console/dead?sink=" + encodeURIComponent(name) }, number(one.dead)) : value(one, "dead"),
      one.unacked ? duration(one.oldest_s || 0) : "–", spark("sink:" + name, "Written to " + name + " a second") || ""];
  });
  const heads = ["Sink", "State", "Written", "Waiting", "Retry", "Parked", "Oldest in work", "Last hour"];
  return el("section", { class: "card" }, el("h2", {}, "Sinks"), table("Events of each sink, since the start",
    heads.map((label, at) => ({ label, kind: at > 1 && at < 7 ? "number" : null })), rows));
}

function draw(told) {
  level(told.level);
  if (told.level !== lastLevel) say(WORDS[told.level]);
  lastLevel = told.level;
  const places = () => [...content.querySelectorAll("a, button, [tabindex]")];
  const focus = places().indexOf(document.activeElement);
  const serves = told.about.serves;
  show(serves ? apps(told) : null, state(told), serves ? el("div", { class: "grid", id: "figures" }, receiving(told)) : el("p", { class: "notice" },
    "This process has workers only; what comes in stands on the console of gateway serve (admin.port)."),
  sinks(told), el("p", { class: "more" }, "Version " + told.about.version + ". Counts are of this process since its start; rates of the last minute. The lines show the last hour."));
  if (focus >= 0) places()[focus]?.focus({ preventScroll: true });
}

await attempt(async () => {
  await session();
  const told = await api("/api/overview");
  hour = told.hour;
  draw(told);
  follow("/api/overview/live", "overview", draw);
  setInterval(() => attempt(async () => { hour = (await api("/api/overview")).hour; }), 30000);
});
