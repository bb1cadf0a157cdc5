// A ranked list that can be dragged into order: in <ol data-ranked> every <li> has a <form data-move> whose buttons are
// named "place". Dropping a line on another sends the form of the dragged one with the other's place; the buttons do the
// same without a mouse and without scripts.
export function ranking(root) {
  for (const list of root.querySelectorAll("[data-ranked]:not([data-ready])")) {
    list.dataset.ready = "yes";
    const lines = [...list.children];
    let dragged = null;
    const clear = () => { for (const line of lines) delete line.dataset.over; };
    for (const line of lines) {
      line.draggable = true;
      line.addEventListener("dragstart", (event) => {
        dragged = line;
        line.dataset.dragged = "";
        event.dataTransfer.effectAllowed = "move";
        event.dataTransfer.setData("text/plain", "");
      });
      line.addEventListener("dragend", () => {
        delete line.dataset.dragged;
        dragged = null;
        clear();
      });
      line.addEventListener("dragover", (event) => {
        if (!dragged) return;
        event.preventDefault();
        clear();
        if (line !== dragged) line.dataset.over = "";
      });
      line.addEventListener("drop", (event) => {
        if (!dragged || dragged === line) return;
        event.preventDefault();
        const button = dragged.querySelector("[data-move] button:not([disabled])");
        button.value = String(lines.indexOf(line) + 1);
        button.click();
      });
    }
  }
}
