// What stands under the pointer in a chart: the text of data-tip, at once (a <title> would wait a second).
let tip;

export function tips() {
  document.addEventListener("pointermove", (event) => {
    const mark = event.target.closest?.("[data-tip]");
    if (!mark) { tip?.remove(); tip = undefined; return; }
    if (!tip) {
      tip = document.createElement("div");
      tip.className = "tip";
      tip.setAttribute("aria-hidden", "true"); // the link's own name and the table say the same
      document.body.append(tip);
    }
    if (tip.dataset.of !== mark.dataset.tip) {
      tip.dataset.of = mark.dataset.tip;
      tip.replaceChildren(...mark.dataset.tip.split("\n").map((line) => {
        const row = document.createElement("div");
        row.textContent = line;
        return row;
      }));
    }
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - box.width - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - box.height - 8, 8)}px`;
  });
}
