// Keys: `/` goes to the page's search (data-search), `j` and `k` walk rows (table[data-rows] tr[data-row]), Enter follows
// the row's link, `?` shows the keys, `g` and a letter goes to a page (data-go on a link of the rail). Never while typing.
import { open } from "./dialogs.js";

const isTyping = (element) => element?.closest?.("input, textarea, select, [contenteditable]") !== null && element !== document.body;

export function rows() {
  return [...document.querySelectorAll("[data-rows] [data-row]")];
}

export function chosen() {
  return document.querySelector('[data-rows] [data-row][aria-selected="true"]');
}

export function choose(row) {
  chosen()?.removeAttribute("aria-selected");
  row.setAttribute("aria-selected", "true");
  row.scrollIntoView({ block: "nearest" });
  row.dispatchEvent(new CustomEvent("respan:row", { bubbles: true }));
}

function step(by) {
  const all = rows();
  if (!all.length) return;
  const now = all.indexOf(chosen());
  choose(all[Math.min(Math.max(now + by, 0), all.length - 1)]);
}

export function keyboard() {
  let afterG = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const modal = document.querySelector("dialog[open]:not([data-rows-go-on])");
    if (modal) return;
    if (Date.now() - afterG < 1000) {
      afterG = 0;
      const link = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    switch (event.key) {
      case "/": {
        const search = document.querySelector("main [data-search], .docs-top [data-search]");
        if (search) { event.preventDefault(); search.focus(); search.select?.(); }
        break;
      }
      case "j": step(1); break;
      case "k": step(-1); break;
      case "g": afterG = Date.now(); break;
      case "Enter": {
        const link = event.target === document.body || event.target.matches?.("main, [data-row]") ? chosen()?.querySelector("a[href]") : null;
        if (link) { event.preventDefault(); link.click(); }
        break;
      }
      case "?": {
        const dialog = document.getElementById("keys");
        if (dialog) { event.preventDefault(); open(dialog); }
        break;
      }
      default:
    }
  });
}
