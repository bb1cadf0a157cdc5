// The Logs page: facets that load when they open, one popover at a time, and polling. Its drawer is drawer.js.
// Styles tell by the attributes data-script (of html) and data-ready (of tabs) that scripts run here.
import htmx from "htmx.org";

const POLL_MS = 3000;

export function logs() {
  document.addEventListener("click", (event) => {
    // A press beside an open popover closes it, and does nothing else (drawer.js leaves it alone).
    for (const pop of document.querySelectorAll("details.pop[open]")) if (!pop.contains(event.target)) pop.open = false;
  });
  document.addEventListener("keydown", (event) => {
    const pop = event.key === "Escape" && event.target.closest?.("details.pop[open]");
    if (pop) { pop.open = false; pop.querySelector("summary").focus(); }
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
