// What every page may use; every page also works without it. Each part looks for its attributes in a root element, so
// that it can be run again on what htmx swapped in.
import htmx from "htmx.org";
import { copying } from "./copying.js";
import { dialogs } from "./dialogs.js";
import { drawers } from "./drawer.js";
import { entries } from "./entries.js";
import { filtering } from "./filtering.js";
import { finding } from "./finding.js";
import { forgetting } from "./forgetting.js";
import { keyboard } from "./keyboard.js";
import { loading } from "./loading.js";
import { logs } from "./logs.js";
import { palette } from "./palette.js";
import { passkeys } from "./passkeys.js";
import { passwords } from "./passwords.js";
import { ranking } from "./ranking.js";
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
// A whole page instead of a piece (no right, not there, an error): its words become a notice, the page stays as it is.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, target } = event.detail;
  if (xhr.status < 400 || !/^\s*(<!doctype|<html)/i.test(xhr.responseText)) return;
  event.detail.shouldSwap = false;
  const said = new DOMParser().parseFromString(xhr.responseText, "text/html");
  const words = [...said.querySelectorAll("main h1, main h1 ~ p")].map((each) => each.textContent.trim().replace(/[.]?$/, "."));
  target.closest("dialog")?.close();
  notify(words.join(" ") || `The server answered ${xhr.status}. Try again in a moment.`);
});

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
passkeys();
sending();
keyboard();
palette();
dialogs();
finding();
forgetting();
loading();
drawers(); // before logs: it looks which popovers a press is beside
logs();
theme();
tips();

// Per piece of page.
function enhance(root) {
  copying(root);
  entries(root);
  filtering(root);
  passwords(root);
  ranking(root);
  tabs(root);
  times(root);
}
enhance(document);
document.addEventListener("htmx:load", (event) => { if (event.detail.elt !== document.body) enhance(event.detail.elt); });
