"""The page of a plate, and the page over all plates."""

import base64
import re
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import zarr
from page_map import map_of
from planted_plate import Planted
from scipy import ndimage

from plateflow.config import Normalise, PlateSpec
from plateflow.project import Project
from plateflow.report import page as pages
from plateflow.report import thumbnails, values
from plateflow.report.page import render
from plateflow.report.screen import write_screen
from plateflow.report.view import View
from plateflow.report.wells import plate as map_section
from plateflow.report.wells import wells as wells_section
from plateflow.state.journal import Entry, append_outcome


@pytest.fixture(scope="module")
def page(measured: Planted) -> str:
    measured.run("report")
    return measured.paths.table("report.html").read_text()


STATES = {
    "B02": "ok",
    "B03": "flagged",
    "B04": "ok",
    "B05": "flagged",
    "B06": "flagged",
    "C02": "quarantined",
    "C03": "ok",
}


def text_of(page: str) -> str:
    """What one reads: without scripts, styles and tags."""
    page = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_verdict_comes_first_and_says_what_is_wrong(page: str) -> None:
    text = text_of(page)
    assert "Usable with care. Complete, but left out: 1 well and 1 field; flagged for review: 3 wells." in text
    assert "Controls: unknown (positive controls: too few wells: 2 negative controls and 0 positive controls" in text
    assert "wells measured 6 / 7" in text
    assert "fields used 10 / 14" in text
    assert re.findall("<dt>(.*?)</dt>", page.partition('<dl class="cards">')[2].partition("</dl>")[0]) == [
        *("wells measured", "cells", "cells per field (median well)", "controls", "hits")
    ]


def test_the_verdict_says_what_speaks_against_a_plate(measured: Planted) -> None:
    view = View.read(measured.plate)
    drift = {"doubts": ["the window has moved"], "segmentation": [{"flag": "none", "label_set": "cells"}]}
    worst = replace(view, aggregate=replace(view.aggregate, info=view.aggregate.info | drift))
    made = pages.verdict(worst)
    assert (made["level"], made["usable"]) == ("bad", "Not usable as it is")  # a drift doesn't make it better
    assert made["why"][0] == "The window has moved."
    corrected = replace(view, wells=view.wells.assign(Metadata_Corrected=["cells", "", None, "", "", "", ""]))
    assert pages.verdict(corrected)["why"][-1] == "Labels of 1 well were corrected by hand."
    html = render("wells.html.j2", **wells_section(corrected))
    assert re.findall("<dt>corrected by hand</dt><dd>(.*?)</dd>", html) == ["cells"]


def test_a_plate_of_which_every_field_is_excluded_can_not_be_used(measured: Planted) -> None:
    view = View.read(measured.plate)
    made = pages.verdict(replace(view, wells=view.wells.assign(Metadata_FieldsUsed=0)))
    assert (made["level"], made["usable"]) == ("empty", "Not usable")
    assert made["line"].startswith("Every field is excluded for its flags")


def test_a_column_of_the_plate_map_is_not_taken_for_a_number_of_the_segmentation(measured: Planted) -> None:
    view = View.read(measured.plate)
    mapped = replace(view, wells=view.wells.assign(Metadata_Tip_Dropped="yes"))
    assert values.features(mapped) == values.features(view)
    assert set(view.judged) < set(view.wells)
    html = render("wells.html.j2", **wells_section(mapped))
    assert html.count("<dt>Tip_Dropped</dt><dd>yes</dd>") == len(view.by_well)


def test_what_was_left_out_is_named_with_file_reason_and_remedy(page: str) -> None:
    section = text_of(page[page.index('id="left_out"') : page.index('id="segmentation"')])
    assert "demo/B05" in section
    assert "r02c05f01p01-ch2sk1fk1fl1.tiff" in section
    assert section.count("truncated") == 2  # a field of B05, and C02
    assert "demo/C02 all quarantined at tile" in section
    assert len(set(re.findall(r"r03c02f0\dp01-ch\d", section))) > 1  # every file of it that can't be read
    assert "copy the file again" in section


def test_flags_windows_models_and_versions_are_shown(page: str) -> None:
    text = text_of(page)
    assert "B03 (field 2)" in text
    assert "B06 (field 1, 2)" in text
    assert "CC-BY-4.0" in text
    assert "0123456789ab" in text
    assert "scikit-image" in text
    assert "Illumination profile" in text
    assert "nuclei.flow_threshold" in text


def test_what_can_not_be_said_of_controls_and_hits_is_said(page: str) -> None:
    text = text_of(page)
    assert "Unknown positive controls: too few wells: 2 negative controls and 0 positive controls; 3 are needed" in text
    assert "No hits can be called: too few wells to compare with: 2 negative controls in use, 3 are needed." in text
    assert "hits – " in text
    assert "Excluded from the statistics for their flags: B03 (field 2: focus" in text
    assert "Edge: not tested; row: not tested; column: not tested." in text
    assert "Fields flagged focus or saturated are excluded from the well tables" in text
    assert "could not be created" not in text


def pictures_of(page: str) -> dict[str, list[np.ndarray]]:
    """Of each well its picture, and the overlays with the outlines of cells and of nuclei."""
    found = dict(re.findall(r'<figure id="well-(\w+)"[^>]*>\s*(<div class="picture">.*?</div>)', page, re.DOTALL))
    assert max(map(len, found.values())) < 92_000
    urls = {well: re.findall(r'src="data:image/webp;base64,([^"]+)"', html) for well, html in found.items()}
    return {well: [imagecodecs.webp_decode(base64.b64decode(url)).astype(int) for url in urls[well]] for well in urls}


def test_each_well_has_a_picture_with_outlines_and_an_empty_one_has_none(page: str) -> None:
    pictures = pictures_of(page)
    assert set(pictures) == {"B02", "B03", "B04", "B05", "B06", "C03"}
    for well, (picture, *overlays) in pictures.items():
        assert len(overlays) == 2
        for overlay, (red, green, blue) in zip(overlays, [(255, 176, 0), (255, 255, 255)], strict=True):
            assert overlay.shape == (*picture.shape[:2], 4)
            lines = overlay[..., 3] > 0
            assert (0.004 < lines.mean() < 0.4) == (well != "B06")  # of B05 one field is left out
            assert (overlay[lines][:, :3] == (red, green, blue)).all()
        assert not (picture[..., 0] - picture[..., 2] > 40).any()  # orange alone has more red than blue


def test_a_picture_shows_the_whole_well_with_nuclei_in_blue(measured: Planted, page: str) -> None:
    pictures = pictures_of(page)
    assert {picture.shape for picture, *_ in pictures.values()} == {(256, 512, 3)}  # two fields side by side
    grey, field = pictures["B05"][0][:, :254], pictures["B05"][0][:, 258:]  # the first is left out
    assert grey.std() < 3
    assert field.std() > 20
    image = zarr.open_group(measured.paths.image("B02"), mode="r")
    labels = {name: np.asarray(image[f"labels/{name}/0"][0, 0]) for name in ("cells", "nuclei")}
    for (name, whole), overlay in zip(labels.items(), pictures["B02"][1:], strict=True):
        lines = np.zeros(whole.shape, bool)  # by the definition: the label below or to the right differs
        lines[:-1] |= whole[:-1] != whole[1:]
        lines[:, :-1] |= whole[:, :-1] != whole[:, 1:]
        assert ((overlay[..., 3] > 0) == lines).all(), name
    nuclei, cells = labels["nuclei"] > 0, labels["cells"] > 0
    red, green, blue = pictures["B02"][0][ndimage.binary_erosion(nuclei, iterations=2)].mean(axis=0)
    assert blue > 1.3 * green > 1.3 * red
    red, green, blue = pictures["B02"][0][ndimage.binary_erosion(cells & ~nuclei, iterations=2)].mean(axis=0)
    assert green > max(red, blue)


@pytest.mark.parametrize("at_most", [30_000, 5_000])
def test_a_picture_is_as_large_as_its_share_of_the_page_allows(measured: Planted, at_most: int) -> None:
    made = thumbnails.picture(measured.plate, "B02", at_most=at_most)
    assert len(made.url) + sum(map(len, made.overlays.values())) <= at_most
    assert made.size == {30_000: (420, 210), 5_000: (128, 64)}[at_most]


def test_values_have_four_digits_whatever_their_size(measured: Planted) -> None:
    given = np.append(10.0 ** np.random.default_rng(1).uniform(-300, 300, 20_000), [0, 1.0005, 12.345, 9999.5, 99995])
    given = np.concatenate([given, -given, [np.nan]])
    held = (values._upper_halves(values._rounded(given)).astype(np.uint64) << np.uint64(32)).view(np.float64)
    assert [f"{value:.4g}" for value in held] == [f"{value:.4g}" for value in given]


def test_the_map_offers_each_feature_with_the_values_of_the_well_table(measured: Planted, page: str) -> None:
    found = map_of(page)
    wells = pd.read_parquet(measured.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert [name for name, _ in found["features"]][:2] == ["Count_Cells", "Count_Nuclei"]
    assert len({words for _, words in found["features"]}) == len(found["features"]) == len(found["values"])
    measurements = [name for name in wells if f"{name}_MAD" in wells and wells[name].notna().any()]
    assert len(measurements) > 300
    assert set(measurements) <= set(found["values"])
    assert not any(name.endswith(("_MAD", "_Q25", "_Q75")) for name in found["values"])
    for name in measurements:
        for well, value in found["values"][name][0].items():
            said = wells.loc[well, name] if wells.loc[well, "Metadata_FieldsUsed"] else np.nan
            assert f"{value:.4g}" == f"{said:.4g}", (name, well)
    share, per_field = (found["values"][name][0]["B02"] for name in ("Metadata_Cells_Uncovered", "Count_Cells"))
    assert f"{share:.4g}" == f"{wells.loc['B02', 'Metadata_Cells_Uncovered']:.4g}"
    said = wells.loc["B02", "Count_Cells"] / wells.loc["B02", "Metadata_FieldsUsed"]
    assert f"{per_field:.4g}" == f"{said:.4g}"


def test_of_a_long_series_the_first_features_are_offered_and_the_page_says_so(
    measured: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = View.read(measured.plate)
    monkeypatch.setattr(values, "MAX_VALUES", 5 * len(view.by_well))
    made = map_section(view)
    assert len(made["map"]["features"]) == 5
    n = len(values.features(view)) - 5
    assert f"{n:,} more are in wells.parquet" in text_of(render("plate.html.j2", **made))


def test_the_page_needs_nothing_else(page: str) -> None:
    assert page.count("window.vegaEmbed=") == 1
    assert "default-src 'none'" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<link|<iframe|@import|src=\"(?!data:)|url\(", markup)
    assert len(page) < 3_000_000


def test_the_page_styles_nothing_of_a_tooltip(page: str) -> None:
    """Vega's tooltip has cells of the classes key and value, which had the dots of the legend."""
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style
    assert ".key" not in style[1] and ".value" not in style[1]


def test_the_same_plate_gives_the_same_bytes(measured: Planted, page: str) -> None:
    measured.paths.journal("report", "plate").unlink()
    measured.run("report")
    assert measured.paths.table("report.html").read_text() == page


def test_names_from_files_are_shown_not_run(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    path = tmp_path / "map.csv"
    attack = "<script>alert(1)</script>"
    path.write_text(
        f'well,role,treatment,dose,"note ""><img src=x onerror=alert(2)>"\n'
        f"B02,treatment,{attack},1,</dd>{attack}\nB03,negative,'\"`,0,\nZ1,treatment,{attack},2,\n"
    )
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path, plate_map=str(path))
    plate.run("aggregate", "report")
    page = plate.paths.table("report.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "</dd><script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\\u003cscript\\u003ealert(1)" in page  # in the charts' data
    assert plate.plate.outcomes("report").required().info.keys() == {"bytes"}


def test_a_changed_map_redoes_the_page_and_nothing_is_done_twice(measured: Planted, page: str, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    plate.run("aggregate", "report")
    done = len(plate.journal("report"))
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path)
    plate.run("aggregate", "report")
    assert len(plate.journal("report")) == done + 1


def test_wells_that_only_the_plate_map_names_are_a_note_and_not_left_out(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    path = tmp_path / "map.csv"
    path.write_text("well,role,treatment,dose\nB02,negative,DMSO,0\nG11,treatment,late,1\nH12,treatment,late,2\n")
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path, plate_map=str(path))
    plate.run("aggregate", "report")
    page = plate.paths.table("report.html").read_text()
    text = text_of(page)
    assert "Complete, but left out: 1 well and 1 field; flagged for review: 3 wells." in text
    assert "wells measured 6 / 7" in text
    assert text.count("G11") == text.count("H12") == 1
    assert "not acquired: G11, H12." in text
    assert {item["well"]: item["state"] for item in map_of(page)["wells"]} == STATES  # no H12
    first = write_screen(Project.of(plate.config, {"demo": plate.entry}))
    row = re.search(r"demo</b></a></td>(.*?)</tr>", first, re.DOTALL)
    assert row is not None
    assert "Usable with care : left out: 1 well" in " ".join(text_of(row[1]).split()).replace("care:", "care :")
    assert "6 of 7 3 1" in " ".join(text_of(row[1]).split())  # measured, flagged, left out


def test_a_section_that_fails_is_named_and_the_rest_goes_on(
    measured: Planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plate = measured.copy(tmp_path)

    def fail(view: View) -> dict:
        raise ValueError("no <b>luck</b>")

    changed = tuple((name, title, fail if name == "plate" else make) for name, title, make in pages.SECTIONS)
    monkeypatch.setattr(pages, "SECTIONS", changed)
    plate.paths.journal("report", "plate").unlink(missing_ok=True)
    plate.run("report")
    page = plate.paths.table("report.html").read_text()
    assert "ValueError: no &lt;b&gt;luck&lt;/b&gt;" in page
    assert 'id="well-B02"' in page
    assert plate.plate.outcomes("report").required().info["failed sections"] == ["plate"]


def test_of_many_bad_files_a_few_are_named() -> None:
    item = {"plate": "p", "well": "B02", "field": "", "stage": "tile", "label_set": "", "state": "missing"}
    item |= {"reason": "missing", "detail": "gone"}
    item |= {"files": [f"raw/{n}.tif" for n in range(9)], "remedy": "copy them"}
    text = text_of(render("left_out.html.j2", items=[item], disagreements=[]))
    assert "raw/5.tif and 3 more files" in text
    assert "raw/6.tif" not in text


def test_a_plate_of_which_nothing_is_left_still_has_tables_and_a_page(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    for well in plate.plate.wells:
        entry = Entry(well=well, fingerprint="x", state="quarantined", reason="truncated", detail="cut", sequence=9)
        append_outcome(plate.paths.journal("tile", "0"), entry)
    plate.run("features", "aggregate", "report")
    page = plate.paths.table("report.html").read_text()
    assert "No well could be measured." in page
    assert "could not be created" not in page
    assert page.count("<td>all</td>") == 7 + 1  # and the row of all stages
    assert not list(plate.paths.cells("B02").parent.iterdir())


@pytest.mark.parametrize(
    ("scope", "said"),
    [("plate", "its limits become"), ("well", "the limits of each well, from its own pixels alone, become")],
)
def test_the_page_says_whose_limits_the_network_has(scope: str, said: str) -> None:
    html = render("intensity.html.j2", channels=[], settings=Normalise(scope=scope), frozen=True, vendor="it is there")
    assert "It is there." in html
    assert f"over the {scope}): {said} 0 and 1 for the network. " in text_of(html)
    assert ("Those below are the plate's." in html) == (scope == "well")


def test_the_page_over_all_plates(measured: Planted, page: str) -> None:
    entries = {"demo": measured.entry, "later": measured.entry.model_copy(update={"plate": "later"})}
    first = write_screen(Project.of(measured.config, entries))
    path = Path(measured.config.results) / "screen" / "index.html"
    assert path.read_text() == first == write_screen(Project.of(measured.config, entries))
    text = text_of(first)
    assert "1 of 2 plates has no tables yet. Left out: 1 well and 1 field, listed below." in text
    assert 'href="../demo/report.html"' in first
    assert "demo B05 1 quarantined tile truncated" in " ".join(text.split())
    assert "later no tables yet" in text
    cells = pd.read_parquet(measured.paths.table("wells.parquet"))["Count_Cells"].sum()
    assert f"cells {cells:.0f}" in text
    assert "unknown – / 2" in text  # controls, hits: none can be called
    statistics = pd.read_csv(path.with_name("plates.csv"))
    assert statistics["Metadata_Plate"].tolist() == ["demo"]
