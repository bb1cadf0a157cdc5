// What every page may use; every page also works without it. Each part looks for its attributes in a root element, so
// that it can be run again on what htmx swapped in.
import htmx from "htmx.org";
import { copying } from "./copying.js";
import { dialogs } from "./dialogs.js";
import { keyboard } from "./keyboard.js";
import { palette } from "./palette.js";
import { sending } from "./sending.js";
import { tabs } from "./tabs.js";
import { theme } from "./themes.js";
import { times } from "./times.js";
import { tips } from "./tips.js";

htmx.config.includeIndicatorStyles = false; // would be an inline style
htmx.config.allowEval = false;
htmx.config.selfRequestsOnly = true;
htmx.config.historyCacheSize = 0; // pages may hold secrets: nothing of them stays in the browser's storage
htmx.config.refreshOnHistoryMiss = true;
htmx.config.scrollIntoViewOnBoost = false;
htmx.config.responseHandling = [
  { code: "204", swap: false },
  { code: "[23]..", swap: true },
  { code: "[45]..", swap: true, error: false }, // a refusal is a fragment that says why
];

document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRFToken"] = document.querySelector("meta[name=csrf-token]")?.content ?? "";
});
// No answer at all: say so where the reader looks.
document.addEventListener("htmx:sendError", () => notify("The server cannot be reached. Try again in a moment."));

export function notify(text) {
  const place = document.getElementById("notices");
  if (!place) return;
  const line = document.createElement("p");
  line.className = "flash flash-error";
  line.setAttribute("role", "alert");
  line.textContent = text;
  place.replaceChildren(line);
}

// Once per page, by delegation.
sending();
keyboard();
palette();
dialogs();
theme();
tips();

// Per piece of page.
function enhance(root) {
  copying(root);
  tabs(root);
  times(root);
}
enhance(document);
document.addEventListener("htmx:load", (event) => { if (event.detail.elt !== document.body) enhance(event.detail.elt); });
