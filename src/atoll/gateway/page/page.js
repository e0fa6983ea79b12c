const field = document.querySelector(".filter input");
const operations = [...document.querySelectorAll("details.operation")];

function filter() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = new Set();
  for (const one of operations) {
    one.hidden = !words.every((word) => one.dataset.words.includes(word));
    if (!one.hidden) shown.add(one.id);
  }
  for (const link of document.querySelectorAll("nav li")) {
    link.hidden = !shown.has(decodeURIComponent(link.firstChild.hash.slice(1)));
  }
  for (const service of document.querySelectorAll("[data-service]")) {
    service.hidden = !service.querySelector("details.operation:not([hidden]), li:not([hidden])");
  }
  document.querySelector(".nothing").hidden = shown.size > 0;
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

field.closest("label").hidden = false;
field.addEventListener("input", filter);
addEventListener("hashchange", openTarget);
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== field) {
    event.preventDefault();
    field.focus();
  }
});
if (navigator.clipboard) {
  for (const button of document.querySelectorAll(".copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  }
}
openTarget();
