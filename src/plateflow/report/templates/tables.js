// Tables with `data-table` can be sorted by their headers, filtered, and saved as CSV: what is shown, in the order shown.
// Buttons with `data-copy` copy the text of the element of that id; where the browser won't, they select it.
(() => {
  const valueOf = (cell) => cell.dataset.value ?? cell.textContent.trim().replace(/\s+/g, " ");
  const isNumber = (text) => text !== "" && !Number.isNaN(Number(text));
  const collator = new Intl.Collator(undefined, { numeric: true });

  function compare(a, b) { // empty cells last, whichever way
    if (a === "" || b === "") return { last: (a === "") - (b === "") };
    return { by: isNumber(a) && isNumber(b) ? Number(a) - Number(b) : collator.compare(a, b) };
  }

  function sortBy(table, column, direction) {
    const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
    rows.sort(([a], [b]) => { const order = compare(a, b); return order.last ?? direction * order.by; });
    table.tBodies[0].append(...rows.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((cell, number) => {
      if (number === column) cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    });
  }

  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const shown = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const lineOf = (row) => [...row.cells].map((cell) => quoted(valueOf(cell))).join(",");

  function controlsOf(table) {
    const name = table.dataset.table, bar = document.createElement("p"), label = document.createElement("label");
    const filter = document.createElement("input"), link = document.createElement("a"), status = document.createElement("span");
    bar.className = "table-bar";
    filter.type = "search";
    filter.autocomplete = "off";
    label.append(`Filter ${name.replaceAll("-", " ")} `, filter);
    status.setAttribute("role", "status");
    link.textContent = "Save as CSV";
    link.download = `${name}.csv`;
    link.href = "#";
    const apply = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of table.tBodies[0].rows) {
        const text = `${row.textContent} ${[...row.cells].map(valueOf).join(" ")}`.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      status.textContent = `${shown(table).length} of ${table.tBodies[0].rows.length} rows`;
    };
    filter.addEventListener("input", apply);
    link.addEventListener("click", () => { // made when it is asked for; the browser then follows the link
      const lines = [table.tHead.rows[0], ...shown(table)].map(lineOf);
      URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    });
    bar.append(label, status, link);
    (table.closest(".table") ?? table).before(bar);
    apply();
  }

  for (const table of document.querySelectorAll("table[data-table]")) {
    controlsOf(table);
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => sortBy(table, column, cell.getAttribute("aria-sort") === "ascending" ? -1 : 1));
    });
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const text = document.getElementById(button.dataset.copy), said = button.nextElementSibling;
      try {
        await navigator.clipboard.writeText(text.innerText);
        said.textContent = "Copied.";
      } catch {
        const range = document.createRange();
        range.selectNodeContents(text);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        said.textContent = "Selected: press Ctrl+C.";
      }
    });
  }
})();
