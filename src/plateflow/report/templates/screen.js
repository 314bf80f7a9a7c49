// Charts over the plates, of which a choice shows one frame.
(async () => {
  const select = document.getElementById("frame");
  const views = [];
  const show = (view) => view.signal("frame", select.value).runAsync();
  for (const source of document.querySelectorAll("script[data-chart]")) {
    const spec = JSON.parse(source.textContent);
    const { view } = await drawChart(source, spec);
    if (select && spec.params.some((each) => each.value)) views.push(view);
  }
  if (select) {
    select.addEventListener("change", () => views.forEach(show));
    await Promise.all(views.map(show)); // browsers may have restored an earlier choice
  }
  document.documentElement.dataset.ready = "yes";
})();
