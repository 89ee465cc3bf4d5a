"use strict";
(() => {
  const all = [...document.querySelectorAll("[data-key]")];
  let held = null;
  const show = (key) => {
    document.body.classList.toggle("lit", key !== null);
    for (const one of all) {
      one.classList.toggle("on", one.dataset.key === key);
      if (one.tagName === "BUTTON") one.setAttribute("aria-pressed", String(one.dataset.key === held));
    }
  };
  const keyAt = (event) => event.target.closest("[data-key]")?.dataset.key ?? null;
  const pointed = (event) => { if (event.pointerType !== "touch") show(keyAt(event) ?? held); };
  document.addEventListener("pointerover", pointed);
  document.addEventListener("focusin", (event) => show(keyAt(event) ?? held));
  document.addEventListener("focusout", () => show(held));
  document.addEventListener("click", (event) => {
    if (event.target.closest("a, summary")) return;
    const key = keyAt(event);
    held = key === held ? null : key;
    show(held);
  });
})();
