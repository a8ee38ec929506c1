// What htmx does not do by itself. The pages work without this file.
(() => {
  "use strict";
  const live = () => document.getElementById("live");

  // A part is not renewed under the hands of its reader.
  const isUsed = (part) =>
    document.hidden ||
    part.contains(document.activeElement?.closest("input, textarea, select")) ||
    part.querySelector("details[open]:not([data-open])") !== null ||
    (getSelection()?.toString() ?? "") !== "";
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.target.id === "live" && isUsed(event.target)) event.preventDefault();
  });

  // The keyboard stays where it was when its part is renewed.
  let focused = null;
  document.addEventListener("htmx:beforeSwap", () => {
    const at = document.activeElement;
    focused = at instanceof HTMLAnchorElement && live()?.contains(at) ? at.getAttribute("href") : null;
  });
  document.addEventListener("htmx:afterSettle", () => {
    if (focused === null) return;
    for (const link of live()?.querySelectorAll("a[href]") ?? []) {
      if (link.getAttribute("href") === focused) return link.focus({ preventScroll: true });
    }
  });

  // On a narrow screen the pages stand in one line: the current one is to be seen.
  const nav = document.querySelector(".nav");
  const current = nav?.querySelector("[aria-current]");
  if (current) nav.scrollLeft = current.offsetLeft - nav.clientWidth / 2 + current.clientWidth / 2;

  // Keys: `?` shows them. Each is written beside what it does in the help of the page.
  const help = () => document.getElementById("keys");
  const rows = () => [...document.querySelectorAll("[data-row]")];
  const step = (by) => {
    const all = rows();
    if (all.length === 0) return;
    const at = all.indexOf(document.activeElement);
    all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + by))].focus();
  };
  const edit = () => {
    const part = document.querySelector("[data-edit]");
    if (part === null) return;
    part.open = true;
    part.querySelector("textarea")?.focus();
  };
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    const go = document.querySelector(`[data-go="${CSS.escape(event.key)}"]`);
    if (before === "g" && go !== null) {
      before = "";
      return go.click();
    }
    before = event.key;
    if (event.key === "?") help()?.showModal();
    else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "/") document.querySelector("[data-search]")?.focus();
    else if (event.key === "a") document.querySelector("[data-yes]")?.focus();
    else if (event.key === "c") document.querySelector("[data-comment]")?.focus();
    else if (event.key === "e") edit();
    else if (event.key === "x") document.querySelector("[data-no]")?.focus();
    else return;
    event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-keys]")) help()?.showModal();
  });

  // A filter is applied when it is chosen.
  document.addEventListener("change", (event) => {
    if (event.target.matches("form.filters select")) event.target.form.requestSubmit();
  });
})();
