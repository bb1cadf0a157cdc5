// A row that opens in place: <a data-open-below href="/its/page"> in a table's row shows the fragment of that page below
// the row (in a row with data-below of its own) and hides it at the second press. Without scripts, and with Ctrl, it is
// a link to the page.
import htmx from "htmx.org";

export function entries(root) {
  for (const link of root.querySelectorAll("a[data-open-below]")) {
    if (link.dataset.ready) continue;
    link.dataset.ready = "yes";
    link.setAttribute("aria-expanded", "false");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
      event.preventDefault();
      const isOpen = link.getAttribute("aria-expanded") === "true";
      below(link).hidden = isOpen;
      link.setAttribute("aria-expanded", String(!isOpen));
    });
  }
}

function below(link) {
  const row = link.closest("tr");
  const next = row.nextElementSibling;
  if (next?.matches("[data-below]")) return next;
  const made = document.createElement("tr");
  made.dataset.below = "";
  const cell = made.insertCell();
  cell.colSpan = row.cells.length;
  row.after(made);
  htmx.ajax("GET", link.href, { target: cell, swap: "innerHTML" });
  return made;
}
