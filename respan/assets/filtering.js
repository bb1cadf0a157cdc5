// A field that narrows a list as its reader types: <input data-filter="id of the list" hidden>; the list's children whose
// text has not all the words are hidden, chosen ones (a ticked check box) stay. Nothing is sent.
export function filtering(root) {
  for (const field of root.querySelectorAll("[data-filter]:not([data-ready])")) {
    const list = document.getElementById(field.dataset.filter);
    if (!list) continue;
    field.dataset.ready = "yes";
    field.hidden = false;
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const entry of list.children) {
        const text = entry.textContent.toLowerCase();
        const chosen = entry.querySelector("input:checked");
        entry.hidden = !chosen && !words.every((word) => text.includes(word));
      }
    });
    // Enter would send the form around it.
    field.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
  }
}
