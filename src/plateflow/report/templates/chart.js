// A chart before the script that describes it: as wide as it says, or as its section where that is narrower.
function drawChart(source, spec) {
  const room = source.closest("section").clientWidth - 48;
  if (spec.width + 100 > room) Object.assign(spec, { width: room, autosize: { type: "fit-x", contains: "padding" } });
  return window.vegaEmbed(source.previousElementSibling, spec, { actions: false, renderer: "svg" });
}
