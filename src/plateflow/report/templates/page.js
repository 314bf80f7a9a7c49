// Frames, and charts: each chart follows the page's colours by itself, as the style sheet's variables are in it.
(async () => {
  function onChoice(id, apply) {
    const select = document.getElementById(id);
    if (!select) return;
    let shown = select.options[0].value; // as the page is made
    const now = () => { if (select.value !== shown) apply(shown = select.value); };
    select.addEventListener("change", now);
    window.addEventListener("pageshow", now); // browsers may have restored an earlier choice
    now();
  }
  const charts = []; // those that show what the plate map shows
  const curves = []; // those over time, of a feature or of the one that the map shows, where it has none
  const ofOne = [...document.querySelectorAll("script[data-chart^=curves]")].map((source) => JSON.parse(source.textContent).usermeta.feature);
  let values = null, frame = 0, of = () => NaN;
  const valued = (rows) => rows.map((row) => ({ ...row, ...values?.get(row.well) })).filter((row) => Number.isFinite(row.value));
  const series = (rows, { feature, frames }) => rows.flatMap((row) => frames.map(([time, plane], at) => ({ ...row, time, plane, value: of(feature, at, row.well) })))
    .filter((row) => Number.isFinite(row.value) && row.plane === frames[frame][1]);
  document.addEventListener("shown", (event) => {
    values = event.detail.values;
    of = event.detail.of;
    document.querySelectorAll("#groups, [data-chosen]").forEach((part) => { part.hidden = !values || (part.id !== "groups" && ofOne.includes(event.detail.feature)); });
    document.querySelectorAll("[data-words]").forEach((part) => { part.textContent = event.detail.words; });
    curves.forEach(({ view, rows, how }) => view.data("series", series(rows, how)).runAsync());
    if (values) charts.forEach(({ view, rows }) => view.data("wells", valued(rows)).runAsync());
  });
  await window.mapDrawn;
  onChoice("frame", (chosen) => {
    frame = Number(chosen);
    document.querySelectorAll("[data-frame]").forEach((part) => { part.hidden = part.dataset.frame !== chosen; });
    document.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  });
  for (const source of document.querySelectorAll("script[data-chart]")) {
    const spec = JSON.parse(source.textContent), rows = spec.data?.name === "wells" ? spec.data.values : null;
    const over = spec.data?.name === "series" ? spec.data.values : null, how = spec.usermeta;
    if (rows) spec.data.values = valued(rows);
    if (over) spec.data.values = series(over, how);
    const { view } = await drawChart(source, spec);
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.well) document.dispatchEvent(new CustomEvent("well", { detail: { well: item.datum.well, from: "chart" } }));
    });
    if (rows) charts.push({ view, rows });
    if (over) curves.push({ view, rows: over, how });
  }
  document.documentElement.dataset.ready = "yes";
})();
