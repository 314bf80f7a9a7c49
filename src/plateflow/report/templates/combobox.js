// A list that is narrowed by typing parts of names; `pick` gets the place of what was picked.
function combobox(features, pick) {
  const input = document.getElementById("feature"), list = document.getElementById("features");
  const MOST = 60;
  const texts = features.map(([column, words]) => `${words} ${column}`.toLowerCase());
  let found = [], active = -1;
  function close() {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }
  function activate(place) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = Math.min(Math.max(place, 0), found.length - 1);
    const item = list.children[active];
    if (!item) return;
    item.setAttribute("aria-selected", "true");
    input.setAttribute("aria-activedescendant", item.id);
    item.scrollIntoView({ block: "nearest" });
  }
  function open() {
    const parts = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [...features.keys()].filter((k) => parts.every((part) => texts[k].includes(part)));
    if (parts.length) found.sort((a, b) => features[a][1].length - features[b][1].length || a - b);
    const more = found.length - MOST;
    found = found.slice(0, MOST);
    list.replaceChildren(...found.map((k, place) => {
      const item = document.createElement("li"), column = document.createElement("code");
      item.id = `feature-${place}`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", "false");
      column.textContent = features[k][0];
      item.append(features[k][1], " ", column);
      item.title = features[k][0];
      item.addEventListener("mousedown", (event) => { event.preventDefault(); take(place); });
      return item;
    }));
    if (more > 0 || !found.length) {
      const note = document.createElement("li");
      note.setAttribute("role", "option");
      note.setAttribute("aria-disabled", "true");
      note.setAttribute("aria-selected", "false");
      note.className = "note";
      note.textContent = found.length ? `${more.toLocaleString("en-US")} more: type another word` : "no feature has these words";
      list.append(note);
    }
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    active = -1;
    input.removeAttribute("aria-activedescendant");
    if (parts.length) activate(0);
  }
  function take(place) {
    if (!(place in found)) return;
    input.value = features[found[place]][1];
    close();
    pick(found[place]);
  }
  input.addEventListener("input", open);
  input.addEventListener("focus", () => input.select());
  input.addEventListener("click", () => { if (list.hidden) open(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (list.hidden) open(); else activate(active + step);
      event.preventDefault();
    } else if (event.key === "Enter" && !list.hidden) take(active);
    else if (event.key === "Escape") close();
  });
}
