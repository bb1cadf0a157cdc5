// A search field with what it finds below it: <input data-finding="id of the list">. Arrow down and up walk from the field
// through the links, Escape goes back to the field and closes the list.
export function finding() {
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest?.("form")?.querySelector("[data-finding]");
    if (!field) return;
    const list = document.getElementById(field.dataset.finding);
    if (event.key === "Escape") {
      list.replaceChildren();
      field.focus();
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const all = [field, ...list.querySelectorAll("a")];
    const next = step && all[all.indexOf(event.target) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  });
}
