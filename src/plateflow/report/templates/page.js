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
  let values = null;
  const valued = (rows) => rows.map((row) => ({ ...row, ...values?.get(row.well) })).filter((row) => Number.isFinite(row.value));
  document.addEventListener("shown", (event) => {
    values = event.detail.values;
    const groups = document.getElementById("groups");
    if (groups) groups.hidden = !values;
    if (groups) groups.querySelector("[data-words]").textContent = event.detail.words;
    if (values) charts.forEach(({ view, rows }) => view.data("wells", valued(rows)).runAsync());
  });
  await window.mapDrawn;
  onChoice("frame", (frame) => {
    document.querySelectorAll("[data-frame]").forEach((part) => { part.hidden = part.dataset.frame !== frame; });
    document.dispatchEvent(new CustomEvent("frame", { detail: Number(frame) }));
  });
  for (const source of document.querySelectorAll("script[data-chart]")) {
    const spec = JSON.parse(source.textContent), rows = spec.data?.name === "wells" ? spec.data.values : null;
    if (rows) spec.data.values = valued(rows);
    const { view } = await drawChart(source, spec);
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && item.datum.well) document.dispatchEvent(new CustomEvent("well", { detail: { well: item.datum.well, from: "chart" } }));
    });
    if (rows) charts.push({ view, rows });
  }
  document.documentElement.dataset.ready = "yes";
})();
