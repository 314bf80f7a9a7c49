// Wide tables and charts scroll within themselves, by keyboard too.
(() => {
  for (const table of document.querySelectorAll("table")) {
    if (table.closest(".table")) continue;
    const box = document.createElement("div");
    box.className = "table";
    table.replaceWith(box);
    box.append(table);
  }
  const watch = new ResizeObserver((seen) => seen.forEach(({ target: box }) => {
    const wide = box.scrollWidth > box.clientWidth;
    wide ? box.setAttribute("tabindex", "0") : box.removeAttribute("tabindex");
    wide ? box.setAttribute("role", "group") : box.removeAttribute("role");
    const heading = box.closest("section")?.querySelector("h2");
    wide ? box.setAttribute("aria-label", `${box.matches(".chart") ? "Chart" : "Table"}${heading ? `: ${heading.textContent}` : ""}`) : box.removeAttribute("aria-label");
  }));
  document.querySelectorAll(".table, .chart").forEach((box) => watch.observe(box));
})();
