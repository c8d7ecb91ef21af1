// What all pages share. Text of others reaches the page through textContent only, never as markup.
const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const content = document.getElementById("content");

export function show(...nodes) {
  content.replaceChildren(...nodes.filter(Boolean));
}

export function fault(text) {
  const place = document.getElementById("fault");
  place.textContent = text || "";
  place.hidden = !text;
}

export function say(text) {
  document.getElementById("said").textContent = text;
}

export class ApiFault extends Error {
  constructor(status, answer) {
    super(answer.detail || "The gateway answered " + status);
    this.status = status;
    this.error = answer.error;
  }
}

export async function api(path, body, method) {
  const request = { headers: {}, method: method || (body === undefined ? "GET" : "POST") };
  if (request.method !== "GET") {
    request.headers["X-Gateway-Action"] = "console";
    if (body !== undefined) request.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new ApiFault(0, { detail: "The gateway does not answer. Is it stopped?" });
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401 && path !== "/api/login") {
    location.assign("/console/login?next=" + encodeURIComponent(location.pathname));
  }
  if (!response.ok) throw new ApiFault(response.status, answer);
  return answer;
}

export async function attempt(work) {
  try {
    const found = await work();
    fault("");
    return found;
  } catch (error) {
    fault(error.message);
    return undefined;
  }
}

// Who looks at the page; pages disable what may not be done.
export async function session() {
  const me = await api("/api/me");
  const place = document.getElementById("who");
  place.replaceChildren();
  if (me.needs_login) {
    const leave = async () => { await api("/api/logout", {}); location.assign("/console/login"); };
    place.append(me.role === "act" ? "may act " : "may only look ", el("button", { class: "link", type: "button", onclick: leave }, "Log out"));
  }
  return { ...me, mayAct: me.role === "act" };
}

export function level(name) {
  document.querySelector(".mark").className = "mark " + name;
}

// Follows server-sent events; says so when the gateway is gone, and that it is back.
export function follow(path, name, take) {
  const source = new EventSource(path);
  source.addEventListener(name, (event) => { fault(""); take(JSON.parse(event.data)); });
  source.addEventListener("error", async () => {
    fault("The gateway does not answer: what you see may be old. Trying again …");
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(() => attempt(async () => { await api("/api/me"); follow(path, name, take); }), 5000);
    }
  });
  return source;
}

export function number(value) {
  return Math.round(value).toLocaleString("en");
}

export function rate(value) {
  return value >= 10 ? number(value) : value.toFixed(value ? 1 : 0);
}

export function bytes(value) {
  for (const [unit, size] of [["GB", 2 ** 30], ["MB", 2 ** 20], ["kB", 1024]]) {
    if (value >= size) return (value / size).toFixed(value >= 10 * size ? 0 : 1) + " " + unit;
  }
  return number(value) + " bytes";
}

export function duration(seconds) {
  for (const [unit, least, size] of [["days", 172800, 86400], ["h", 7200, 3600], ["min", 90, 60]]) {
    if (seconds >= least) return Math.round(seconds / size) + " " + unit;
  }
  return Math.max(0, Math.round(seconds)) + " s";
}

export function time(iso) {
  return iso ? iso.slice(0, 19).replace("T", " ") : "";
}

export function field(label, attributes, ...options) {
  const kind = options.length ? "select" : "input";
  return el("label", {}, label, el(kind, { type: kind === "input" ? "text" : null, ...attributes }, ...options));
}

export function table(caption, heads, rows) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: head.kind }, head.label)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, at) => el("td", { class: heads[at].kind }, cell)))))));
}

export function sparkline(values, label) {
  const most = Math.max(...values, 0) || 1;
  const step = 100 / Math.max(1, values.length - 1);
  const points = values.map((value, at) => (at ? "L" : "M") + (at * step).toFixed(2) + " " + (29 - 27 * value / most).toFixed(2));
  return svg("svg", { class: "spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("path", { d: points.join("") }));
}

// Asks in a dialog; resolves to what was chosen, or null. The first button is the safe one.
export function ask(title, parts, action, danger) {
  return new Promise((resolve) => {
    const done = (value) => { dialog.close(); dialog.remove(); resolve(value); };
    const form = el("div", {}, ...parts);
    const dialog = el("dialog", { "aria-labelledby": "ask-title" },
      el("h2", { id: "ask-title" }, title), form,
      el("div", { class: "row" },
        el("button", { class: "plain", type: "button", onclick: () => done(null) }, action ? "Cancel" : "Close"),
        action ? el("button", { class: danger ? "danger" : null, type: "button", onclick: () => done(true) }, action) : null));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); done(null); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
