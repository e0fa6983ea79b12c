// The shop works without this: an order that is sent twice is placed once. With it, a double click sends one.
"use strict";
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    form.querySelector("button[type=submit]").setAttribute("aria-busy", "true");
  });
}
// Back from a later page, the browser may show the form as it was left.
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-once]")) {
    delete form.dataset.sent;
    form.querySelector("button[type=submit]").removeAttribute("aria-busy");
  }
});
