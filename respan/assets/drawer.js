// The drawer of a list: <dialog class="drawer-side" data-rows-go-on> and rows whose links have data-drawer. A press on
// such a link, or anywhere on its row, shows the fragment of its page in the drawer; `j` and `k` go on to the next row.
// Everything here is also a link to a page. The drawer has that page's address: it can be shared, Back closes it, and
// Forward opens it again. A data-drawer link inside the drawer leads on; Back then returns to what was shown before.
import htmx from "htmx.org";
import { choose, chosen, rows } from "./keyboard.js";

let list = ""; // the address under the drawer
let opener; // what gets the focus back
let timer;

const drawer = () => document.querySelector("dialog.drawer-side[data-rows-go-on]");
// How many entries of the history lie between the list and what is shown.
const depth = () => history.state?.drawer ?? 0;

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
    history.pushState({ drawer: depth() + 1 }, "", link.href);
  } else {
    list = location.href;
    opener = link;
    dialog.querySelector("[data-drawer-body]").replaceChildren();
    // htmx would load an entry of its own anew when Back comes to it; the list is still there.
    if (history.state?.htmx) history.replaceState({ list: true }, "", list);
    history.pushState({ drawer: 1 }, "", link.href);
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
  const wanted = link ?? event.target.closest("[data-rows] [data-row]")?.querySelector("a[data-drawer]");
  if (!wanted || !drawer() || (!link && !getSelection().isCollapsed)) return;
  event.preventDefault();
  show(wanted);
}

function close() {
  if (depth()) history.go(-depth());
  const last = opener?.isConnected ? opener : chosen()?.querySelector("a[data-drawer]");
  last?.focus();
}

export function drawers() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-step]");
    // A press beside an open popover closes it (logs.js), and does nothing else.
    const isBeside = [...document.querySelectorAll("details.pop[open]")].some((pop) => !pop.contains(event.target));
    if (button) step(Number(button.dataset.step));
    else if (!isBeside && event.target instanceof Element) follow(event);
  });
  // `j` and `k` with the drawer open show the row they come to.
  document.addEventListener("respan:row", (event) => {
    const link = drawer()?.open && event.target.querySelector("a[data-drawer]");
    if (!link || link.href === location.href) return;
    opener = link;
    history.replaceState({ drawer: depth() }, "", link.href);
    clearTimeout(timer);
    timer = setTimeout(() => load(link.href), 120); // somebody who holds the key down passes many
  });
  drawer()?.addEventListener("close", close);
  addEventListener("popstate", () => {
    const dialog = drawer();
    if (!dialog) return;
    if (dialog.open && location.href === list) dialog.close();
    else if (depth()) {
      if (!dialog.open) dialog.showModal();
      load(location.href);
    }
  });
}
