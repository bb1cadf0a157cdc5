// A button in each password field that shows what was typed. Before the form is sent it is hidden again: browsers offer
// to keep a password only from a password field, and keep what stood in a text field as ordinary text.
export function passwords(root) {
  for (const field of root.querySelectorAll('input[type="password"]:not([data-ready])')) {
    field.dataset.ready = "yes";
    const around = document.createElement("div");
    around.className = "password";
    field.replaceWith(around);
    const button = document.createElement("button");
    button.type = "button";
    const show = (shown) => {
      field.type = shown ? "text" : "password";
      button.textContent = shown ? "Hide" : "Show";
      button.setAttribute("aria-label", `${shown ? "Hide" : "Show"} ${field.labels[0]?.textContent.trim().toLowerCase() ?? "password"}`);
    };
    around.append(field, button);
    show(false);
    button.addEventListener("click", () => show(field.type === "password"));
    field.form?.addEventListener("submit", () => show(false));
  }
}
