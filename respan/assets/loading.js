// A link into a dialog: <a href="/page" data-load="dialog"> shows the fragment of that page in <dialog id="dialog"> and
// opens it when the answer is there, so that nothing flashes. Without scripts, and with Ctrl, it goes to the page.
import htmx from "htmx.org";
import { open } from "./dialogs.js";

export function loading() {
  document.addEventListener("click", async (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    // What only closes the dialog is a link where there is none.
    const closer = event.target.closest?.("dialog a[data-close]");
    if (closer) event.preventDefault();
    const link = event.target.closest?.("a[data-load]");
    const dialog = link && document.getElementById(link.dataset.load);
    if (!dialog) return;
    event.preventDefault();
    if (link.dataset.busy) return;
    link.dataset.busy = "yes";
    dialog.replaceChildren();
    try {
      await htmx.ajax("GET", link.href, { target: dialog, swap: "innerHTML" });
    } catch { /* said by htmx:sendError */ }
    delete link.dataset.busy;
    if (dialog.childElementCount) open(dialog);
  });
}
