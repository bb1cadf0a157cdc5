// Tabs by the ARIA pattern: <div class="tabset"><div role="tablist"><button role="tab" aria-controls="id">…</button></div>
// <div role="tabpanel" id="id">…</div></div>. Without scripts the list is hidden and every panel is shown, one below the
// other. `data-remember="name"` keeps the choice (the language of snippets, say) for the next page.
export function tabs(root) {
  for (const set of root.querySelectorAll(".tabset:not([data-ready])")) {
    set.dataset.ready = "yes";
    const all = [...set.querySelectorAll(':scope > [role="tablist"] > [role="tab"]')];
    const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));
    const choose = (chosen, focus) => {
      for (const tab of all) {
        const is = tab === chosen;
        tab.setAttribute("aria-selected", String(is));
        tab.tabIndex = is ? 0 : -1;
        const body = panel(tab);
        if (body) body.hidden = !is;
      }
      if (focus) chosen.focus();
      if (set.dataset.remember) localStorage.setItem(`tab:${set.dataset.remember}`, chosen.dataset.name ?? "");
    };
    for (const tab of all) {
      tab.addEventListener("click", () => choose(tab, false));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        choose(all[(all.indexOf(tab) + step + all.length) % all.length], true);
      });
    }
    const remembered = set.dataset.remember && localStorage.getItem(`tab:${set.dataset.remember}`);
    const first = all.find((tab) => remembered && tab.dataset.name === remembered)
      ?? all.find((tab) => tab.getAttribute("aria-selected") === "true") ?? all[0];
    if (first) choose(first, false);
  }
}
