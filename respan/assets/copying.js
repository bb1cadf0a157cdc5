// Copy buttons: <button data-copy="id of the field or element" hidden> or <button data-copy-text="..." hidden>.
export function copying(root) {
  for (const button of root.querySelectorAll("[data-copy], [data-copy-text]")) {
    if (button.dataset.ready) continue;
    button.dataset.ready = "yes";
    button.hidden = false;
    button.addEventListener("click", async () => {
      const field = button.dataset.copy ? document.getElementById(button.dataset.copy) : null;
      const text = button.dataset.copyText ?? field?.value ?? field?.textContent ?? "";
      const word = button.querySelector(".word") ?? button;
      const before = word.textContent;
      try {
        await navigator.clipboard.writeText(text);
        word.textContent = "Copied";
      } catch {
        // No clipboard without https: select, so that Ctrl-C works.
        if (field?.select) field.select();
        else if (field) getSelection().selectAllChildren(field);
        word.textContent = field ? "Press Ctrl-C" : "No clipboard here";
      }
      setTimeout(() => { word.textContent = before; }, 2000);
    });
  }
}
