// The Logs page: the drawer of a log (links with data-drawer in rows), facets that load when they open, and polling.
// Everything here is also a link to a page. The drawer has the log's address: it can be shared, and Back closes it.
// Styles tell by the attributes data-script (of html) and data-ready (of tabs) that scripts run here.
import htmx from "htmx.org";
import { choose, chosen, rows } from "./keyboard.js";

const POLL_MS = 3000;
let list = ""; // the address under the drawer
let timer;

const drawer = () => document.getElementById("log-drawer");

async function load(address) {
  const dialog = drawer();
  dialog.querySelector("[data-drawer-page]").href = address;
  const body = dialog.querySelector("[data-drawer-body]");
  body.setAttribute("aria-busy", "true");
  await htmx.ajax("GET", address, { target: body, swap: "innerHTML" });
  body.removeAttribute("aria-busy");
  dialog.scrollTop = 0;
  body.querySelector("[data-drawer-title]")?.focus({ preventScroll: true });
}

function show(link) {
  const dialog = drawer();
  const row = link.closest("[data-row]");
  if (dialog.open) {
    history.replaceState({ drawer: true }, "", link.href);
  } else {
    list = location.href;
    dialog.querySelector("[data-drawer-body]").replaceChildren();
    history.pushState({ drawer: true }, "", link.href);
    dialog.showModal();
  }
  if (row && row !== chosen()) choose(row);
  load(link.href);
}

function step(by) {
  const all = rows();
  const next = all[Math.min(Math.max(all.indexOf(chosen()) + by, 0), all.length - 1)];
  if (next && next !== chosen()) choose(next);
}

function follow(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button !== 0) return;
  const link = event.target.closest("a[href], button, input, label, summary");
  if (link && !link.matches("[data-drawer]")) return;
  const opener = link ?? event.target.closest("[data-rows] [data-row]")?.querySelector("a[data-drawer]");
  if (!opener || !drawer() || (!link && !getSelection().isCollapsed)) return;
  event.preventDefault();
  show(opener);
}

export function logs() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-step]");
    // A press beside an open popover closes it, and does nothing else.
    const beside = [...document.querySelectorAll("details.pop[open]")].filter((pop) => !pop.contains(event.target));
    for (const pop of beside) pop.open = false;
    if (button) step(Number(button.dataset.step));
    else if (!beside.length && event.target instanceof Element) follow(event);
  });
  document.addEventListener("keydown", (event) => {
    const pop = event.key === "Escape" && event.target.closest?.("details.pop[open]");
    if (pop) { pop.open = false; pop.querySelector("summary").focus(); }
  });
  // `j` and `k` with the drawer open show the row they come to.
  document.addEventListener("respan:row", (event) => {
    const link = drawer()?.open && event.target.querySelector("a[data-drawer]");
    if (!link || link.href === location.href) return;
    history.replaceState({ drawer: true }, "", link.href);
    clearTimeout(timer);
    timer = setTimeout(() => load(link.href), 120); // somebody who holds the key down passes many
  });
  drawer()?.addEventListener("close", () => {
    if (history.state?.drawer) history.back();
    chosen()?.querySelector("a[data-drawer]")?.focus();
  });
  addEventListener("popstate", () => {
    const dialog = drawer();
    if (!dialog) return;
    if (dialog.open && location.href === list) dialog.close();
    else if (history.state?.drawer) {
      if (!dialog.open) dialog.showModal();
      load(location.href);
    }
  });
  document.addEventListener("toggle", (event) => {
    if (!event.target.matches?.("details.pop[open]")) return;
    for (const pop of document.querySelectorAll("details.pop[open]")) if (pop !== event.target) pop.open = false;
    const body = event.target.querySelector(".pop-body");
    if (body.getBoundingClientRect().right > innerWidth - 8) event.target.classList.add("end");
    if (event.target.matches("[data-facet]")) htmx.trigger(event.target, "respan:open");
  }, true);
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.matches?.(".facet > .pop-body")) event.target.querySelector("input[type=search], input")?.focus();
  });
  setInterval(() => {
    if (document.visibilityState !== "visible") return;
    for (const place of document.querySelectorAll("[data-poll]")) htmx.trigger(place, "respan:poll");
  }, POLL_MS);
}
