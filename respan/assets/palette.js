// Cmd-K (Ctrl-K): finds pages, keys, models and recent logs. The list comes from the address in data-source as
// [{label, detail, group, url}]; pages of the rail are there before it answers. By the ARIA combobox pattern.
import { open } from "./dialogs.js";

export function palette() {
  const dialog = document.getElementById("palette");
  if (!dialog) return;
  const input = dialog.querySelector("input");
  const list = dialog.querySelector('[role="listbox"]');
  const status = dialog.querySelector('[role="status"]');
  const pages = [...document.querySelectorAll(".rail nav a")].map((link) => ({ label: link.textContent.trim(), group: "Pages", url: link.href }));
  let found = [];
  let current = 0;
  let asked = 0;
  let timer;

  const show = () => {
    list.replaceChildren();
    let group = "";
    found.forEach((entry, index) => {
      if (entry.group !== group) {
        group = entry.group;
        const head = document.createElement("div");
        head.className = "palette-group";
        head.setAttribute("role", "presentation");
        head.textContent = group;
        list.append(head);
      }
      const option = document.createElement("a");
      option.id = `palette-${index}`;
      option.href = entry.url;
      option.setAttribute("role", "option");
      option.tabIndex = -1;
      option.setAttribute("aria-selected", String(index === current));
      const label = document.createElement("span");
      label.className = "clip";
      label.textContent = entry.label;
      option.append(label);
      if (entry.detail) {
        const detail = document.createElement("span");
        detail.className = "muted clip";
        detail.textContent = entry.detail;
        option.append(detail);
      }
      list.append(option);
    });
    status.textContent = found.length ? "" : "Nothing found.";
    input.setAttribute("aria-expanded", String(found.length > 0));
    input.setAttribute("aria-activedescendant", found.length ? `palette-${current}` : "");
    list.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  };

  const search = () => {
    const text = input.value.trim();
    const number = ++asked;
    const local = pages.filter((page) => page.label.toLowerCase().includes(text.toLowerCase()));
    found = local;
    current = 0;
    show();
    clearTimeout(timer);
    if (!text) return;
    timer = setTimeout(async () => {
      let more = [];
      try {
        const answer = await fetch(`${dialog.dataset.source}?q=${encodeURIComponent(text)}`, { headers: { Accept: "application/json" } });
        if (answer.ok && answer.headers.get("content-type")?.includes("json")) more = (await answer.json()).results;
      } catch { /* pages of the rail still work */ }
      if (number !== asked) return;
      found = [...local, ...more];
      current = Math.min(current, Math.max(found.length - 1, 0));
      show();
    }, 120);
  };

  document.addEventListener("keydown", (event) => {
    if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      input.value = "";
      open(dialog);
      search();
    }
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.('[data-dialog="palette"]')) { input.value = ""; search(); }
  });
  input.addEventListener("input", search);
  input.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && found.length) {
      event.preventDefault();
      current = (current + step + found.length) % found.length;
      show();
    } else if (event.key === "Enter" && found[current]) {
      event.preventDefault();
      if (event.metaKey || event.ctrlKey) window.open(found[current].url, "_blank", "noopener");
      else location.assign(found[current].url);
    }
  });
}
