// <dialog data-forget> is emptied when it closes: what it showed once (a secret) must not stay in the page, and the next
// opening begins anew.
export function forgetting() {
  document.addEventListener("close", (event) => {
    if (event.target.matches?.("dialog[data-forget]")) event.target.replaceChildren();
  }, true); // "close" does not bubble
}
