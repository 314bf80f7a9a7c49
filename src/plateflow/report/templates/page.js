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
  onChoice("frame", (frame) => document.querySelectorAll("[data-frame]").forEach((part) => { part.hidden = part.dataset.frame !== frame; }));
  const chosen = document.getElementById("chosen");
  const views = [];
  function show(well) {
    const figure = document.getElementById("well-" + well);
    if (!figure || !chosen) return;
    document.querySelectorAll("figure.chosen").forEach((other) => other.classList.remove("chosen"));
    figure.classList.add("chosen");
    const title = document.createElement("h3");
    title.textContent = well;
    const facts = figure.querySelector("dl").cloneNode(true);
    facts.hidden = false;
    const image = figure.querySelector("img");
    chosen.replaceChildren(title, ...(image ? [image.cloneNode(true)] : []), facts);
  }
  document.querySelectorAll(".wells figure").forEach((figure) => {
    const well = figure.id.slice(5);
    const open = () => { show(well); document.getElementById("plate").scrollIntoView(); };
    figure.addEventListener("click", open);
    figure.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
  });
  for (const source of document.querySelectorAll("script[data-chart]")) {
    const spec = JSON.parse(source.textContent);
    const result = await window.vegaEmbed(source.previousElementSibling, spec, { actions: false, renderer: "svg" });
    result.view.addEventListener("click", (event, item) => { if (item && item.datum && item.datum.well) show(item.datum.well); });
    if ((spec.params || []).some((param) => param.name === "metric")) views.push(result.view);
  }
  onChoice("metric", (metric) => views.forEach((view) => view.signal("metric", metric).runAsync()));
  document.documentElement.dataset.ready = "yes";
})();
