"use strict";
// The page of a plate or a well: what it shows comes from /info, its pixels from /tile. Names are put in as text alone.
const byId = (id) => document.getElementById(id);
const [plate, well] = location.pathname.split("/").slice(1).map(decodeURIComponent);
const path = (...names) => "/" + names.map(encodeURIComponent).join("/");
const state = {}; // what is shown, as the hash of the address has it
let viewer, info, enlarged;

function make(tag, values = {}, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}

function tell(trouble) {
  const lines = [trouble.what, trouble.where, trouble.why, trouble.remedy && `What to do: ${trouble.remedy}`];
  byId("trouble").textContent = lines.filter(Boolean).join("\n");
  byId("trouble").hidden = false;
}

async function ask(url) {
  const answer = await fetch(url);
  const content = await answer.json();
  if (!answer.ok) throw content;
  return content;
}

function showPlate(about) {
  const dense = about.rows * about.columns > 384; // of more wells, the pictures would be dots
  const grid = byId("wells");
  grid.classList.toggle("dense", dense);
  grid.style.gridTemplateColumns = `auto repeat(${about.columns}, minmax(${dense ? 25 : 44}px, 1fr))`;
  const place = (element, row, column) => {
    element.style.gridArea = `${row} / ${column}`;
    grid.append(element);
  };
  const letters = (row) => (row < 26 ? "" : "A") + String.fromCharCode(65 + (row % 26));
  for (let column = 0; column < about.columns; column++) place(make("b", { textContent: column + 1 }), 1, column + 2);
  for (let row = 0; row < about.rows; row++) place(make("b", { textContent: letters(row) }), row + 2, 1);
  for (const each of about.wells) {
    const seen = each.state === "ok" || each.state === "flagged";
    const said = each.state === "ok" ? each.name : `${each.name}: ${each.state} ${each.why}`.trim();
    const link = make("a", { href: path(plate, each.name), title: said, className: each.state.replace(" ", "-") });
    link.setAttribute("aria-label", said);
    if (seen && !dense) {
      link.classList.add("pictured");
      link.append(make("img", { src: path("tile", plate, each.name, "preview.webp"), alt: "", loading: "lazy" }));
    }
    link.append(make("span", { textContent: each.name }));
    place(link, each.row + 2, each.column + 2);
    if (each.state !== "ok") byId("doubtful").append(make("li", { textContent: said }));
  }
  grid.hidden = false;
}

// Which of them are switched on, and their colours: 0-3366ff,2-ffffff
const chosen = (items) => items.flatMap((each, n) => (each.on ? [`${n}-${each.colour.slice(1)}`] : [])).join(",");

function choose(items, text) {
  const on = new Map(text.split(",").filter(Boolean).map((part) => part.split("-")));
  items.forEach((each, n) => {
    each.on = on.has(String(n));
    if (/^[0-9a-f]{6}$/i.test(on.get(String(n)) ?? "")) each.colour = `#${on.get(String(n))}`;
  });
}

function readHash() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (said.has("channels")) choose(info.channels, said.get("channels"));
  if (said.has("labels")) choose(info.labels, said.get("labels"));
  Object.assign(state, { light: said.get("light") ?? "1", t: said.get("t") ?? "0", z: said.get("z") ?? info.z });
  return said.get("at")?.split(",").map(Number);
}

const query = () => new URLSearchParams({ channels: chosen(info.channels), labels: chosen(info.labels), ...state });

function writeHash() {
  const said = query();
  const [centre, zoom] = [viewer.viewport.getCenter(), viewer.viewport.getZoom()];
  said.set("at", [centre.x, centre.y, zoom].map((value) => value.toFixed(5)).join(","));
  history.replaceState(null, "", `#${said}`);
  for (const link of [byId("before"), byId("after")]) { // other wells are shown alike, from their own middle
    said.delete("at");
    if (link.href) link.hash = `${said}`;
  }
}

// Parts of the image whose fields lie far apart are drawn side by side, in units of the width of all.
function places() {
  const across = Math.ceil(Math.sqrt(info.parts.length));
  const gap = info.parts.length > 1 ? 32 : 0;
  const [tallest, widest] = [2, 3].map((side) => Math.max(...info.parts.map((part) => part[side])) + gap);
  const all = widest * Math.min(across, info.parts.length) - gap;
  return info.parts.map(([, , , width], n) => ({
    x: ((n % across) * widest) / all, y: (Math.floor(n / across) * tallest) / all, width: width / all,
  }));
}

// New pictures are laid over the old ones, which go when all of the new ones are there: nothing flickers.
function draw() {
  const old = [...Array(viewer.world.getItemCount()).keys()].map((n) => viewer.world.getItemAt(n));
  const asked = query();
  places().forEach((place, part) => {
    const [, , height, width] = info.parts[part];
    const levels = info.levels;
    viewer.addTiledImage({
      ...place,
      tileSource: {
        height, width, tileSize: info.tile, tileOverlap: info.overlap, minLevel: 0, maxLevel: levels - 1,
        getTileUrl: (level, x, y) => `${path("tile", plate, well, levels - 1 - level, x, y)}.webp?part=${part}&${asked}`,
      },
      success: ({ item }) => {
        item.addHandler("fully-loaded-change", ({ fullyLoaded }) => {
          if (!fullyLoaded) return;
          old.splice(0).forEach((each) => viewer.world.removeItem(each));
          byId("view").dataset.shown = asked;
        });
      },
    });
  });
  writeHash();
}

function fillControls() {
  for (const [id, items, coloured] of [["channels", info.channels, true], ["labels", info.labels, false]]) {
    items.forEach((each) => {
      const box = make("input", { type: "checkbox", checked: each.on });
      box.addEventListener("change", () => { each.on = box.checked; draw(); });
      const row = make("div", { className: "row" }, make("label", {}, box, each.name));
      if (coloured) {
        const [low, high] = each.limits;
        row.title = `black at ${low}, full brightness at ${high}: the plate's intensity window`;
        const tint = make("input", { type: "color", value: each.colour, ariaLabel: `colour of ${each.name}` });
        tint.addEventListener("input", () => { each.colour = tint.value; draw(); });
        row.append(tint);
      } else {
        const swatch = make("span", { className: "swatch" });
        swatch.style.borderColor = each.colour;
        row.append(swatch);
      }
      byId(id).append(row);
    });
  }
  byId("labels").hidden = !info.labels.length;
  byId("light").checked = state.light !== "0";
  byId("light").addEventListener("change", () => { state.light = byId("light").checked ? "1" : "0"; draw(); });
  const planes = [...Array(info.planes).keys()].map((n) => [`plane ${n}`, `${n}`]);
  const projections = [["max", "all: the maximum"], ["mean", "all: the mean"]];
  fillSelect("z", info.planes > 1 ? [...projections, ...planes] : []);
  fillSelect("t", info.times > 1 ? [...Array(info.times).keys()].map((n) => [`${n}`, `${n}`]) : []);
  info.fields.forEach(([name], n) => byId("field").append(make("option", { value: n, textContent: name })));
  byId("field").addEventListener("change", () => {
    const field = info.fields[byId("field").value];
    if (!field) { viewer.viewport.goHome(); return; }
    const [, y, x, height, width] = field;
    const part = info.parts.findIndex(([py, px, ph, pw]) => y >= py && x >= px && y + height <= py + ph && x + width <= px + pw);
    const [top, left] = info.parts[part];
    const item = itemOf(part);
    viewer.viewport.fitBounds(item.imageToViewportRectangle(x - left, y - top, width, height));
  });
  byId("in").addEventListener("click", () => viewer.viewport.zoomBy(2));
  byId("out").addEventListener("click", () => viewer.viewport.zoomBy(0.5));
  byId("fit").addEventListener("click", () => viewer.viewport.goHome());
  byId("full").addEventListener("click", () => viewer.viewport.zoomTo(itemOf(0).imageToViewportZoom(1)));
  for (const [program, how] of Object.entries(info.others)) {
    const shown = how.startsWith("https://") ? make("a", { href: how, rel: "noreferrer", textContent: "its page, on the web" }) : make("code", { textContent: how });
    byId("others").append(make("dt", { textContent: program }), make("dd", {}, shown));
  }
}

function fillSelect(id, options) {
  byId(`${id}-row`).hidden = !options.length;
  byId(id).append(...options.map(([value, text]) => make("option", { value, textContent: text })));
  byId(id).value = state[id];
  byId(id).addEventListener("change", () => { state[id] = byId(id).value; draw(); });
}

// The newest picture of a part.
const itemOf = (part) => viewer.world.getItemAt(viewer.world.getItemCount() - info.parts.length + part);

async function tellLabels(position) {
  for (const [part, [top, left, height, width]] of info.parts.entries()) {
    const point = itemOf(part).viewerElementToImageCoordinates(position);
    const [y, x] = [Math.floor(point.y), Math.floor(point.x)];
    if (y < 0 || x < 0 || y >= height || x >= width) continue;
    const asked = query();
    asked.set("labels", info.labels.map((each, n) => `${n}-ffffff`).join(","));
    const found = await ask(`${path("label", plate, well)}?y=${top + y}&x=${left + x}&${asked}`).catch(() => ({}));
    const said = Object.entries(found).filter(([, label]) => label).map(([name, label]) => `${name} ${label}`);
    byId("found").textContent = `y ${top + y}, x ${left + x}: ${said.join(", ") || "no object"}`;
    return;
  }
}

function showWell() {
  const at = readHash();
  fillControls();
  const here = info.wells.indexOf(well);
  for (const [id, other] of [["before", info.wells[here - 1]], ["after", info.wells[here + 1]]]) {
    byId(id).hidden = !other;
    if (other) Object.assign(byId(id), { href: path(plate, other) }).querySelector("span").textContent = other;
  }
  byId("neighbours").hidden = false;
  byId("image").hidden = false;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  viewer = OpenSeadragon({
    element: byId("view"), drawer: "canvas", showNavigationControl: false, animationTime: still ? 0 : 0.4,
    maxZoomPixelRatio: 32, visibilityRatio: 0.2, blendTime: 0, imageSmoothingEnabled: true,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, gestureSettingsTouch: { clickToZoom: false },
  });
  window.viewer = viewer;
  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute("aria-label", `Image of well ${well}: arrows move it, plus and minus zoom`);
  viewer.addHandler("canvas-click", (event) => { if (event.quick) tellLabels(event.position); });
  viewer.addHandler("animation-finish", writeHash);
  viewer.addHandler("update-viewport", () => { // above full size pixels are seen as they are
    const large = viewer.world.getItemCount() > 0 && itemOf(0).viewportToImageZoom(viewer.viewport.getZoom(true)) >= 1;
    if (large !== enlarged) viewer.drawer.setImageSmoothingEnabled(!large);
    enlarged = large;
  });
  draw();
  viewer.world.addOnceHandler("add-item", () => {
    viewer.viewport.goHome(true);
    if (at?.length === 3 && at.every(Number.isFinite)) {
      viewer.viewport.zoomTo(at[2], null, true);
      viewer.viewport.panTo(new OpenSeadragon.Point(at[0], at[1]), true);
    }
  });
}

async function start() {
  document.title = `${well ? `${well}, ` : ""}${plate}: Plateflow view`;
  byId("plate").textContent = plate;
  byId("plate").href = path(plate);
  byId("well").textContent = well ? ` / ${well}` : "";
  if (!well) { showPlate(await ask(path("info", plate, "plate"))); return; }
  info = await ask(path("info", plate, well));
  if (!window.OpenSeadragon) {
    throw { what: "The script that shows tiles isn't installed", remedy: "run `make viewer` in the clone, then `plateflow view` again" };
  }
  showWell();
}

start().catch((trouble) => tell(trouble.what ? trouble : { what: String(trouble) }));
