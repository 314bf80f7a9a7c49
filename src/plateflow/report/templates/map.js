// The plate map: what it shows is chosen by buttons or by typing; a well is chosen by click or Enter.
(() => {
  const source = document.getElementById("map-data"), grid = document.getElementById("map");
  if (!source || !grid) return;
  const data = JSON.parse(source.textContent), byName = new Map(data.wells.map((well, index) => [well.well, { ...well, index }]));
  const tip = document.getElementById("tip"), legend = document.getElementById("legend");
  const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"]
    .map((code) => [0, 2, 4].map((at) => parseInt(code.slice(at, at + 2), 16)));
  const STATES = { ok: ["#56b4e9", "", "ok"], flagged: ["#e69f00", "!", "flagged: look at it"],
    quarantined: ["#d55e00", "×", "left out: quarantined"], missing: ["#8d99a6", "–", "left out: missing"] };
  const LEFT_OUT = ["quarantined", "missing"];
  let values = null, shown = data.features.length ? 0 : "states", frame = 0;

  async function unpack() { // the upper halves of float64, byte by byte: see values.py
    const text = atob(data.values), bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer()), n = planes.length / 4;
    const halves = new Uint32Array(2 * n);
    for (let i = 0; i < n; i++) halves[2 * i + 1] = (planes[i] << 24) | (planes[n + i] << 16) | (planes[2 * n + i] << 8) | planes[3 * n + i];
    values = new Float64Array(halves.buffer);
  }
  const of = (feature, at, well) => values ? values[(feature * data.frames + at) * data.wells.length + well] : NaN;
  function number(value) { // as `number` in values.py
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size && (size < 1e-4 || size >= 1e9)) return value.toExponential(3).replace(/\.?0+e/, "e").replace(/e([+-])(\d)$/, "e$10$2");
    return Number(value.toPrecision(4)).toLocaleString("en-US", { maximumSignificantDigits: 4 });
  }
  function viridis(share) {
    const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
    return VIRIDIS[low].map((part, k) => Math.round(part + (at - low) * (VIRIDIS[low + 1][k] - part)));
  }
  const rgb = (code) => [1, 3, 5].map((at) => parseInt(code.slice(at, at + 2), 16));
  function paint(cell, colour, mark) {
    cell.textContent = mark;
    cell.classList.toggle("empty", !colour);
    cell.style.background = colour ? `rgb(${colour})` : "";
    const [r, g, b] = (colour || [0, 0, 0]).map((part) => (part / 255) ** 2.2);
    cell.style.color = !colour ? "" : 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
  }

  const cells = []; // of each row those of its columns
  const add = (parent, role, text, name = "div") => {
    const made = document.createElement(name);
    made.setAttribute("role", role);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const edge = data.columns <= 8 ? 64 : data.columns <= 12 ? 46 : data.columns <= 24 ? 27 : 14;
  grid.style.cssText = `--cell: ${edge}px; --columns: ${data.columns}`;
  const top = add(grid, "row", "");
  add(top, "presentation", "");
  for (let column = 1; column <= data.columns; column++) add(top, "columnheader", edge < 20 && column % 2 === 0 ? "" : column).setAttribute("aria-label", `column ${column}`);
  data.rows.forEach((letter, row) => {
    const line = add(grid, "row", "");
    add(line, "rowheader", letter);
    cells.push([]);
    for (let column = 0; column < data.columns; column++) {
      const cell = add(line, "gridcell", "");
      Object.assign(cell.dataset, { well: letter + String(column + 1).padStart(2, "0"), row, column });
      cell.tabIndex = -1;
      cells[row].push(cell);
    }
  });
  let current = cells.flat().find((cell) => byName.has(cell.dataset.well)) || cells[0][0];
  current.tabIndex = 0;

  function lines(name) {
    const well = byName.get(name);
    if (!well) return [name, "not acquired"];
    const said = [well.label ? `${name} · ${well.label}` : name, well.state + (well.flags.length ? `: ${well.flags.join(", ")}` : "")];
    if (typeof shown === "number") said.push(`${data.features[shown][1]}: ${number(of(shown, frame, well.index))}`);
    return said;
  }
  function swatch(colour, mark, text) {
    const item = document.createElement("span"), box = document.createElement("i");
    paint(box, colour, mark);
    item.append(box, text);
    return item;
  }
  function draw() {
    let low = Infinity, high = -Infinity;
    const feature = typeof shown === "number" ? shown : -1;
    for (let at = 0; feature >= 0 && at < data.frames; at++) { // all frames have the same colours
      for (let k = 0; k < data.wells.length; k++) {
        const value = of(feature, at, k);
        if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    const letters = Object.fromEntries(data.flags.map(([flag, letter]) => [flag, letter]));
    for (const cell of cells.flat()) {
      const name = cell.dataset.well, well = byName.get(name), out = well && LEFT_OUT.includes(well.state);
      cell.classList.toggle("absent", !well);
      if (!well) paint(cell, null, "");
      else if (shown === "states") paint(cell, rgb(STATES[well.state][0]), STATES[well.state][1]);
      else if (shown === "flags") paint(cell, well.flags.length ? rgb("#e69f00") : null, out ? "×" : well.flags.map((flag) => letters[flag]).join(""));
      else {
        const value = of(feature, frame, well.index), known = Number.isFinite(value);
        paint(cell, known ? viridis(high > low ? (value - low) / (high - low) : 0.5) : null, out ? "×" : well.flags.length ? "•" : "");
      }
      cell.setAttribute("aria-label", lines(name).join(", "));
    }
    const marks = [swatch(null, "×", "left out"), swatch(null, "•", "flagged"), swatch(null, "", "no value")];
    if (shown === "states") {
      const count = (state) => data.wells.filter((well) => well.state === state).length;
      legend.replaceChildren(...Object.entries(STATES).filter(([state]) => count(state)).map(([state, [colour, mark, text]]) => swatch(rgb(colour), mark, `${text} (${count(state)})`)));
    } else if (shown === "flags") {
      const count = (flag) => data.wells.filter((well) => well.flags.includes(flag)).length;
      legend.replaceChildren(...data.flags.map(([flag, letter, meaning]) => swatch(rgb("#e69f00"), letter, `${flag} (${count(flag)}): ${meaning}`)), swatch(null, "", "no flag"), marks[0]);
    } else {
      const bar = document.createElement("span"), from = document.createElement("b"), to = document.createElement("b");
      bar.className = "bar-viridis";
      bar.style.background = `linear-gradient(to right, ${VIRIDIS.map((part) => `rgb(${part})`)})`;
      [from.textContent, to.textContent] = [number(low), number(high)];
      const scale = document.createElement("span");
      scale.append(from, bar, to);
      legend.replaceChildren(...(low <= high ? [scale] : []), ...marks);
    }
    legend.classList.toggle("long", shown === "flags");
    const [column, words] = feature >= 0 ? data.features[feature] : ["", shown === "states" ? "States of the wells" : "Quality flags"];
    document.getElementById("shown").textContent = words;
    document.getElementById("column").textContent = column;
    document.querySelectorAll("[data-show]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.show === String(shown))));
    const pair = (value) => ({ value, told: number(value) });
    const told = feature < 0 ? null : new Map(data.wells.map((well, k) => [well.well, pair(of(feature, frame, k))]));
    document.dispatchEvent(new CustomEvent("shown", { detail: { words, feature, values: told, of: (k, at, well) => of(k ?? feature, at, byName.get(well).index) } }));
  }
  function show(what) {
    shown = what;
    draw();
  }

  function point(cell) {
    tip.replaceChildren(...lines(cell.dataset.well).map((line) => { const p = document.createElement("div"); p.textContent = line; return p; }));
    tip.hidden = false;
    const at = cell.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${at.top - tip.offsetHeight - 6 > 0 ? at.top - tip.offsetHeight - 6 : at.bottom + 6}px`;
  }
  const cellOf = (event) => event.target.closest("[role=gridcell]");
  const choose = (cell) => document.dispatchEvent(new CustomEvent("well", { detail: { well: cell.dataset.well, from: "map" } }));
  function move(to) {
    current.tabIndex = -1;
    current = to;
    current.tabIndex = 0;
  }
  grid.addEventListener("mouseover", (event) => { const cell = cellOf(event); if (cell) point(cell); });
  grid.addEventListener("mouseleave", () => { tip.hidden = true; });
  grid.addEventListener("focusin", (event) => { const cell = cellOf(event); if (cell) { move(cell); point(cell); } });
  grid.addEventListener("focusout", () => { tip.hidden = true; });
  grid.addEventListener("click", (event) => { const cell = cellOf(event); if (cell) choose(cell); });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { capture: true, passive: true });
  grid.addEventListener("keydown", (event) => {
    const { row, column } = current.dataset, last = data.columns - 1;
    const to = { ArrowUp: [+row - 1, +column], ArrowDown: [+row + 1, +column], ArrowLeft: [+row, +column - 1],
      ArrowRight: [+row, +column + 1], Home: [+row, 0], End: [+row, last] }[event.key];
    if (to && cells[to[0]]?.[to[1]]) { cells[to[0]][to[1]].focus(); }
    else if (event.key === "Enter" || event.key === " ") choose(current);
    else if (event.key === "Escape") tip.hidden = true;
    else if (!to) return;
    event.preventDefault();
  });
  document.addEventListener("well", (event) => cells.flat().forEach((cell) => {
    const chosen = cell.dataset.well === event.detail.well;
    cell.setAttribute("aria-selected", String(chosen));
    if (chosen) move(cell);
  }));
  document.addEventListener("frame", (event) => { frame = event.detail; draw(); });
  document.querySelectorAll("[data-show]").forEach((button) => button.addEventListener("click", () => show(button.dataset.show === "0" ? 0 : button.dataset.show)));
  if (data.features.length) combobox(data.features, show);
  const drawn = data.features.length ? unpack().catch((error) => { document.getElementById("shown").after(` Features can't be shown: this browser is too old (${error}).`); shown = "states"; }) : Promise.resolve();
  window.mapDrawn = drawn.then(draw);
})();
