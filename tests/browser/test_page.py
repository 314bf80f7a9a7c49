"""The page of a plate in the browser: what is hovered, focused, typed, chosen and switched."""

import base64
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))

from planted_plate import Planted, small_plate

from plateflow.config import PlateSpec
from plateflow.features.words import in_words
from plateflow.paths import row_name, well_name
from plateflow.project import Project
from plateflow.report.links import view_url
from plateflow.report.screen import write_screen
from plateflow.report.values import _rounded, _upper_halves

ATTACK = "</script><img src=x onerror=document.title='attacked'>"
PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.fixture(scope="session")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A small plate with its page, three wells of which have a treatment whose name is an attack."""
    root = tmp_path_factory.mktemp("page")
    plate = small_plate(root)
    rows = [("B02", "negative", "DMSO", 0), ("B03", "negative", "DMSO", 0), ("B06", "negative", "DMSO", 0)]
    rows += [(well, "treatment", ATTACK, 1) for well in ("B04", "C02", "C03")]
    table = pd.DataFrame(rows, columns=["well", "role", "treatment", "dose"])
    table.assign(note="by hand").to_csv(root / "map.csv", index=False)
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path, plate_map=str(root / "map.csv"))
    plate.run("features", "aggregate", "report")
    return plate


@pytest.fixture
def page(plate: Planted, tab: Any) -> Any:
    return opened(tab, plate.paths.table("report.html"))


def opened(tab: Any, path: Path, at: str = "") -> Any:
    page = tab.open(path.resolve().as_uri() + at)
    page.wait_for_selector("html[data-ready=yes]")
    return page


def wells_of(plate: Planted) -> pd.DataFrame:
    return pd.read_parquet(plate.paths.table("wells.parquet")).set_index("Metadata_Well")


def lit(page: Any, selector: str) -> tuple[int, int]:
    """Pixels of the cells' outlines (orange) and the nuclei's (white) in a picture as it is painted."""
    page.wait_for_function(f"[...document.querySelectorAll('{selector} img')].every((image) => image.complete)")
    shot = imagecodecs.png_decode(page.locator(selector).screenshot()).astype(int)[8:-8, 8:-8, :3]  # no corners
    return int((shot[..., 0] - shot[..., 2] > 60).sum()), int((shot.min(axis=2) > 230).sum())


def test_the_map_has_the_plates_wells_and_what_hover_and_focus_say_is_in_the_table(plate: Planted, page: Any) -> None:
    wells = wells_of(plate)
    assert page.locator("#map [role=gridcell]").count() == 96
    assert page.locator("#map [role=gridcell]:not(.absent)").count() == len(wells) == 7
    assert page.locator(".wells figure").count() == 7
    tip, channels = page.locator("#tip"), plate.plate.channels
    names = ["Nuclei_AreaShape_Area", "Cells_Intensity_MeanIntensity_AGP", "Cytoplasm_Texture_Contrast_DNA_3_00_256"]
    for name in names:
        page.fill("#feature", name)
        page.press("#feature", "Enter")
        assert page.locator("#column").inner_text() == name
        assert page.locator("#shown").inner_text() == in_words(name, channels)
        for well in ("B02", "B04"):
            cell = page.locator(f"#map [data-well={well}]")
            page.mouse.move(0, 0)
            cell.hover()
            said = tip.inner_text().splitlines()[-1].rpartition(": ")[2]
            assert float(said.replace(",", "")) == float(f"{wells.loc[well, name]:.4g}")
            page.mouse.move(0, 0)
            assert tip.is_hidden()
            cell.focus()
            assert tip.inner_text().splitlines()[-1].endswith(f": {said}")
            assert cell.get_attribute("aria-label").endswith(f": {said}")
            cell.blur()
    assert page.locator("#map [data-well=C02]").get_attribute("aria-label").endswith(": –")
    assert page.locator("#map [data-well=C02]").inner_text() == "×"
    assert page.locator("#map [data-well=A01]").get_attribute("aria-label") == "A01, not acquired"


def test_states_and_flags_have_letters_besides_colours(plate: Planted, page: Any) -> None:
    states = wells_of(plate)["Metadata_State"].value_counts()
    page.click("text=States")
    legend = page.locator("#legend").inner_text()
    assert f"flagged: look at it ({states['flagged']})" in legend
    assert f"left out: quarantined ({states['quarantined']})" in legend
    assert page.locator("#map [data-well=B03]").inner_text() == "!"
    page.click("text=Quality flags")
    assert page.locator("#map [data-well=B03]").inner_text() == "F"
    assert "the field is less sharp than the plate's others" in page.locator("#legend").inner_text()


def test_the_chart_by_treatment_follows_the_map(page: Any) -> None:
    marks = page.locator("#groups .mark-symbol.role-mark path")
    places = "all => all.map((mark) => mark.getAttribute('transform'))"
    first = marks.evaluate_all(places)
    assert len(first) == 5  # wells in use with a treatment; C02 is left out
    page.fill("#feature", "Nuclei_AreaShape_Area")
    page.press("#feature", "Enter")
    page.wait_for_timeout(200)
    changed = marks.evaluate_all(places)
    assert len(changed) == 4  # B06 is blank: no nucleus, no area
    assert not set(first) & set(changed)
    page.click("text=States")
    assert page.locator("#groups").is_hidden()


def test_a_chosen_well_shows_its_picture_with_outlines_its_figures_and_replicates(plate: Planted, page: Any) -> None:
    wells = wells_of(plate)
    page.click("#map [data-well=B04]")
    shown = page.locator("#well")
    assert shown.locator("h3").inner_text() == f"B04 {ATTACK} 1"
    picture = "#well > .picture"
    cells, nuclei = lit(page, picture)
    assert cells > 300
    assert nuclei > 300
    page.uncheck("[data-outline='1']")
    alone, none = lit(page, picture)
    assert alone >= cells  # those of nuclei lie over them
    assert none < 20
    page.uncheck("[data-outline='0']")
    assert max(lit(page, picture)) < 20
    assert max(lit(page, "#well-B02 .picture")) < 20  # those in the list, too
    page.check("[data-outline='0']")
    assert lit(page, picture) == (alone, none)
    text = shown.inner_text()
    assert f"{wells.loc['B04', 'Count_Cells'] / 2:.4g}" in text
    assert "by hand" in text  # the plate map's note
    assert page.title() == "demo · Plateflow"
    assert shown.locator(".replicates a").evaluate_all("all => all.map((a) => a.hash)") == ["#well-C02", "#well-C03"]
    assert shown.locator(".replicates a[href='#well-C03'] img").count() == 3
    assert shown.locator(".open a").get_attribute("href") == view_url("demo", "B04")
    assert shown.locator(".open code").inner_text() == f"plateflow view {plate.paths.root}/B04"
    page.click(".replicates a[href='#well-C02']")
    assert shown.locator("h3").inner_text().startswith("C02")
    assert "quarantined" in shown.inner_text() and "truncated" in shown.inner_text()
    page.click("#map [data-well=B03]")
    assert "the field is less sharp than the plate's others" in shown.inner_text()


def test_a_link_leads_to_a_well(plate: Planted, tab: Any) -> None:
    page = opened(tab, plate.paths.table("report.html"), "#well-B05")
    assert page.locator("#well h3").inner_text().startswith("B05")
    assert page.locator("#map [aria-selected=true]").get_attribute("data-well") == "B05"


def tab_to(page: Any, selector: str) -> None:
    """Press Tab until an element has the focus; all on the way show it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        if page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            return
    pytest.fail(f"Tab doesn't come to {selector}")


def test_all_of_it_works_by_keyboard(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    tab_to(page, "#feature")
    page.keyboard.type("nuclei area no such feature")
    assert page.locator("#features").inner_text() == "no feature has these words"
    page.keyboard.press("Escape")
    assert page.locator("#features").is_hidden()
    page.keyboard.press("Control+a")
    page.keyboard.type("nuclei area")
    page.keyboard.press("ArrowDown")
    picked = page.locator(f"#{page.get_attribute('#feature', 'aria-activedescendant')} code").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#column").inner_text() == picked
    tab_to(page, "#map [data-well=B02]")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.well") == "C03"
    page.keyboard.press("Enter")
    assert page.locator("#well h3").inner_text().startswith("C03")
    tab_to(page, "[data-outline='0']")
    page.keyboard.press("Space")
    assert not page.is_checked("[data-outline='0']")
    tab_to(page, ".replicates a")
    page.keyboard.press("Enter")
    assert page.locator("#well h3").inner_text().startswith("B04")
    assert page.evaluate("document.activeElement.textContent").startswith("B04")  # the heading, to read on from there


@pytest.mark.parametrize(
    "look", [{}, {"color_scheme": "dark"}, PHONE, PHONE | {"color_scheme": "dark"}], ids=["1400", "dark", "390", "390d"]
)
def test_nothing_is_cut_and_axe_finds_nothing_serious(page: Any, tab: Any, look: dict[str, Any]) -> None:
    page.evaluate("document.dispatchEvent(new CustomEvent('well', {detail: {well: 'B03', from: 'map'}}))")
    wide = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(wide)
    for show in ("States", "Quality flags"):
        page.click(f"text={show}")
        assert page.evaluate(wide)
    page.fill("#feature", "mean intensity")
    assert page.evaluate(wide)
    assert tab.problems() == []
    dark = look.get("color_scheme") == "dark"
    label = page.locator("#groups .role-axis-label text").first
    assert (label.evaluate("e => Number(getComputedStyle(e).fill.match(/\\d+/)[0])") > 128) == dark


@pytest.mark.parametrize("look", [PHONE])
@pytest.mark.parametrize("which", ["plate", "screen"])
def test_long_names_are_broken_on_a_phone(
    plate: Planted, tab: Any, tmp_path: Path, look: dict[str, Any], which: str
) -> None:
    html = plate.paths.table("report.html").read_text()
    if which == "screen":
        html = str(write_screen(Project.of(plate.config, {"demo": plate.entry})))
    long = html.replace(">demo<", f">{'demo_' * 30}<").replace("<b>demo/", f"<b>{'demo_' * 30}/")
    (tmp_path / "page.html").write_text(long)
    page = tab.open(tmp_path / "page.html")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    hidden = """[...document.querySelectorAll("body *")].filter((e) => e.scrollWidth > e.clientWidth + 1
      && getComputedStyle(e).overflowX === "hidden" && !e.matches(".sr, .skip")).map((e) => e.outerHTML.slice(0, 99))"""
    assert page.evaluate(hidden) == []


@pytest.mark.parametrize("look", [PHONE | {"color_scheme": "dark"}])
def test_on_a_phone_type_keeps_its_size_and_rows_stay_low(page: Any, look: dict[str, Any]) -> None:
    scale = "e => e.getBoundingClientRect().width / e.viewBox.baseVal.width"
    assert {round(each, 2) for each in page.locator(".chart svg").evaluate_all(f"all => all.map({scale})")} == {1}
    groups = page.locator("#groups .chart")
    assert groups.evaluate("e => e.querySelector('svg').clientWidth <= e.clientWidth")
    tall = "all => all.filter((row) => row.offsetHeight > 160).map((row) => row.textContent)"
    assert page.locator("[data-table] tbody tr").evaluate_all(tall) == []


@pytest.mark.parametrize("look", [{"viewport": {"width": 700, "height": 990}, "color_scheme": "dark"}])
def test_a_printed_page_is_light_and_whole_without_controls(page: Any, look: dict[str, Any]) -> None:
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')") == "#1b2733"
    for control in ("nav", "#feature", ".buttons", ".table-bar", ".outlines", "[data-copy]", ".vega-bindings"):
        assert page.locator(control).count(), control
        assert not any(each.is_visible() for each in page.locator(control).all()), control
    assert page.locator("#map [data-well=B02]").evaluate("e => getComputedStyle(e).printColorAdjust") == "exact"
    cut = "all => all.filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.textContent)"
    assert page.locator("section *:not(svg *):not(.sr)").evaluate_all(cut) == []


def test_every_chart_is_drawn(page: Any) -> None:
    charts = page.locator("script[data-chart]").count()
    assert charts > 5
    assert page.locator(".chart svg").count() == charts
    assert page.locator("svg .root").count() >= charts


def test_the_page_over_all_plates_leads_to_the_plates_and_is_sorted(plate: Planted, tab: Any) -> None:
    entries = {"demo": plate.entry, "later": plate.entry.model_copy(update={"plate": "later"})}
    project = Project.of(plate.config, entries)
    write_screen(project)
    page = tab.open(project.screen.table("index.html"))
    rows = page.locator("[data-table=plates] tbody tr")
    assert [row.locator(".place").inner_text() for row in rows.all()] == ["demo", "later"]
    assert rows.nth(0).locator(".usable").evaluate("e => getComputedStyle(e).color") != page.evaluate(
        "getComputedStyle(document.body).color"
    )
    page.locator("[data-table=plates]").get_by_role("button", name="Plate").press("Enter")
    page.locator("[data-table=plates]").get_by_role("button", name="Plate").press("Enter")
    assert [row.locator(".place").inner_text() for row in rows.all()] == ["later", "demo"]
    assert tab.problems() == []
    page.click(".place a")
    page.wait_for_selector("html[data-ready=yes]")
    assert page.title() == "demo · Plateflow"


def test_1536_wells_are_drawn_and_moved_over_at_once(plate: Planted, tab: Any, tmp_path: Path) -> None:
    """The page's data are replaced by those of 32 x 48 wells, packed as `values.packed` does it."""
    html = plate.paths.table("report.html").read_text()
    before, mark, rest = html.partition('id="map-data">')
    data = json.loads(rest.partition("</script>")[0])
    given = np.random.default_rng(0).lognormal(size=(20, 1536))
    given[0, 7] = np.nan
    planes = _upper_halves(_rounded(given.ravel())).astype(">u4").view(np.uint8).reshape(-1, 4).T
    names = [well_name(row, column) for row in range(32) for column in range(48)]
    data |= {"rows": [row_name(row) for row in range(32)], "columns": 48}
    data["features"] = [[f"Cells_F{k}", f"Cells: f {k}"] for k in range(20)]
    data["wells"] = [{"well": name, "state": "ok", "flags": [], "label": ""} for name in names]
    data["values"] = base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes())).decode()
    (tmp_path / "page.html").write_text(before + mark + json.dumps(data) + "</script>" + rest.partition("</script>")[2])
    page = opened(tab, tmp_path / "page.html")
    assert page.locator("#map [role=gridcell]:not(.absent)").count() == 1536
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.fill("#feature", "f 19")
    page.press("#feature", "Enter")
    page.locator("#map [data-well=AF48]").focus()
    assert page.locator("#tip").inner_text().endswith(f"Cells: f 19: {float(f'{given[19, -1]:.4g}'):g}")
    page.fill("#feature", "f 0")
    page.press("#feature", "Enter")
    assert page.locator("#map [data-well=A08]").get_attribute("aria-label").endswith(": –")
