// Behaviour that the page can do without: filters of its lists.
"use strict";

// A form.filters names the element whose .problem children its selects filter by their data attributes.
for (const form of document.querySelectorAll("form.filters")) {
  const items = [...document.getElementById(form.dataset.filters).querySelectorAll(".problem")];
  const apply = () => {
    const wanted = [...form.querySelectorAll("select")].filter((select) => select.value);
    for (const item of items) item.hidden = !wanted.every((select) => item.dataset[select.name] === select.value);
    const shown = items.filter((item) => !item.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${items.length} shown`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
