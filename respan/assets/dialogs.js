// Dialogs are links first: <a href="/page" data-dialog="id"> opens <dialog id> where scripts run and goes to the page
// where they don't. [data-close] and a press beside the dialog close it. <dialog data-open> opens itself (after an error).
// A dialog with data-address keeps the window's address: closing puts the former one back.
export function dialogs() {
  document.addEventListener("click", (event) => {
    const opener = event.target.closest?.("[data-dialog]");
    if (opener && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      const dialog = document.getElementById(opener.dataset.dialog);
      if (dialog) {
        event.preventDefault();
        open(dialog);
        return;
      }
    }
    const closer = event.target.closest?.("[data-close]");
    if (closer) closer.closest("dialog")?.close();
    // The dialog itself is hit only outside its content: its backdrop.
    if (event.target.matches?.("dialog[open]")) {
      const box = event.target.getBoundingClientRect();
      const inside = event.clientX >= box.left && event.clientX <= box.right && event.clientY >= box.top && event.clientY <= box.bottom;
      if (!inside) event.target.close();
    }
  });
  for (const dialog of document.querySelectorAll("dialog[data-open]")) open(dialog);
}

export function open(dialog) {
  if (!dialog.open) dialog.showModal();
  (dialog.querySelector("[autofocus]") ?? dialog.querySelector("input:not([type=hidden]), select, textarea"))?.focus();
}
