// Small conveniences; every page works without this file.

// A copy button beside a read-only field: <button data-copy="id of the field" hidden>Copy</button>
for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  if (!field) continue;
  const text = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(field.value ?? field.textContent);
      button.textContent = "Copied";
    } catch {
      // No clipboard without https: select, so that Ctrl-C works.
      if (field.select) field.select();
      else getSelection().selectAllChildren(field);
      button.textContent = "Press Ctrl-C";
    }
    setTimeout(() => { button.textContent = text; }, 2000);
  });
}

// A form is sent once: a second press of the button would hide the answer to the first.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
});

// Coming back with the Back button: the page is usable again.
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll("button")) button.disabled = false;
  }
});
