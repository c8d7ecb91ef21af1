import { api, attempt, el, field, show } from "./common.js";

async function enter(event) {
  event.preventDefault();
  const token = event.target.elements.token.value;
  if (await attempt(() => api("/api/login", { token }))) {
    const next = new URLSearchParams(location.search).get("next") || "";
    location.assign(/^\/console\/[a-z]*$/.test(next) ? next : "/console/");
  }
}

show(
  el("p", {}, "With ", el("code", {}, "admin.token"), " you may act, with ", el("code", {}, "admin.view_token"), " only look."),
  el("form", { onsubmit: enter },
    field("Token", { name: "token", type: "password", autocomplete: "current-password", required: true, autofocus: true }),
    el("button", {}, "Log in")));
