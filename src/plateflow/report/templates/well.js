// The chosen well: its picture, what is known of it, and its replicates.
(() => {
  const panel = document.getElementById("chosen"), place = document.getElementById("well");
  if (!panel || !place) return;
  const MOST = 12; // replicates with pictures
  let chosen = "", now = { words: "", values: null };
  const make = (name, text = "", className = "") => Object.assign(document.createElement(name), { textContent: text, className });
  const figureOf = (well) => document.getElementById(`well-${well}`);
  const told = (well) => now.values?.get(well)?.told ?? "";
  function replicates(figure) {
    const others = [...document.querySelectorAll(`.wells figure[data-group="${figure.dataset.group}"]`)].filter((other) => other !== figure);
    const heading = make("h4", others.length ? `Replicates: ${others.length} more with the same treatment and dose` : "No replicate on this plate");
    const row = make("div", "", "replicates");
    row.append(...others.slice(0, MOST).map((other) => {
      const well = other.id.slice(5), link = make("a");
      link.href = `#${other.id}`;
      link.append(other.querySelector(".picture, .none").cloneNode(true), make("b", well), make("span", told(well) || other.querySelector("i").textContent));
      return link;
    }));
    const rest = make("p", "", "note");
    others.slice(MOST).forEach((other) => { const link = make("a", other.id.slice(5)); link.href = `#${other.id}`; rest.append(link, " "); });
    return [heading, row, ...(others.length > MOST ? [rest] : [])];
  }
  function show(well) {
    const figure = figureOf(well), title = make("h3", well), label = figure?.querySelector("figcaption span").textContent;
    title.tabIndex = -1;
    chosen = well;
    document.querySelectorAll("figure.chosen").forEach((other) => other.classList.remove("chosen"));
    if (!figure) { place.replaceChildren(title, make("p", "Not acquired.", "note")); return; }
    figure.classList.add("chosen");
    if (label) title.append(" ", make("span", label));
    const about = figure.querySelector(".about").cloneNode(true), value = make("p", "", "told");
    about.hidden = false;
    if (told(well)) value.append(`${now.words}: `, make("b", told(well)));
    const picture = figure.querySelector(".picture, .none").cloneNode(true);
    place.replaceChildren(title, picture, value, about, ...(figure.dataset.group ? replicates(figure) : []));
  }
  function choose(well) { document.dispatchEvent(new CustomEvent("well", { detail: { well, from: "link" } })); }
  document.addEventListener("well", ({ detail: { well, from } }) => {
    show(well);
    document.getElementById("said").textContent = `${well} is shown`;
    history.replaceState(null, "", `#well-${well}`);
    if (from === "link") {
      document.getElementById("plate").scrollIntoView();
      place.querySelector("h3").focus({ preventScroll: true });
    }
    const at = panel.getBoundingClientRect();
    if (at.top > innerHeight * 0.7 || at.bottom < 0) panel.scrollIntoView(); // on a phone it is below the map
  });
  document.addEventListener("shown", (event) => { now = event.detail; if (chosen) show(chosen); });
  document.addEventListener("click", (event) => {
    const at = event.target.closest('a[href^="#well-"], .wells figure');
    if (!at) return;
    event.preventDefault();
    choose(at.tagName === "A" ? at.hash.slice(6) : at.id.slice(5));
  });
  panel.querySelectorAll("[data-outline]").forEach((box) => {
    const apply = () => document.body.classList.toggle(`no-${box.dataset.outline}`, !box.checked);
    box.addEventListener("change", apply);
    apply();
  });
  // By keyboard the map leads to each well: nobody has to tab through all pictures.
  document.querySelectorAll(".wells figcaption a").forEach((link) => { link.tabIndex = -1; });
  const linked = () => { if (/^#well-\w+$/.test(location.hash)) choose(location.hash.slice(6)); };
  addEventListener("hashchange", linked);
  window.mapDrawn?.then(linked);
})();
