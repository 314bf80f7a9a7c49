"""The page of a plate, and the page over all plates."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import zarr
from planted_plate import Planted
from scipy import ndimage

from plateflow.config import Normalise, PlateSpec
from plateflow.project import Project
from plateflow.report import page as pages
from plateflow.report.page import render
from plateflow.report.screen import write_screen
from plateflow.report.view import View
from plateflow.state.journal import Entry, append_outcome


@pytest.fixture(scope="module")
def page(measured: Planted) -> str:
    measured.run("report")
    return measured.paths.table("report.html").read_text()


def text_of(page: str) -> str:
    """What one reads: without scripts, styles and tags."""
    page = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_verdict_comes_first_and_says_what_is_wrong(page: str) -> None:
    text = text_of(page)
    assert "Complete, but left out: 1 well and 1 field; flagged for review: 3 wells." in text
    assert "wells measured 6 / 7" in text
    assert "fields used 10 / 14" in text


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
    assert "Edge: not tested; Row: not tested; Column: not tested." in text
    assert "Fields flagged focus or saturated are excluded from the well tables" in text
    assert "could not be created" not in text


def pictures_of(page: str) -> dict[str, np.ndarray]:
    found = re.findall(r'<figure id="well-(\w+)"[^>]*>\s*<img src="data:image/webp;base64,([^"]+)"', page)
    assert max(len(data) for _, data in found) < 60_000
    return {well: imagecodecs.webp_decode(base64.b64decode(data)).astype(int) for well, data in found}


def test_each_well_has_a_picture_with_outlines_and_an_empty_one_has_none(page: str) -> None:
    pictures = pictures_of(page)
    assert set(pictures) == {"B02", "B03", "B04", "B05", "B06", "C03"}
    # Orange alone has more red than blue.
    outlined = {well: float((pixels[..., 0] - pixels[..., 2] > 40).mean()) for well, pixels in pictures.items()}
    assert outlined["B02"] > 0.03
    assert outlined["B06"] == 0


def test_a_picture_shows_the_whole_well_with_nuclei_in_blue(measured: Planted, page: str) -> None:
    pictures = pictures_of(page)
    assert {picture.shape for picture in pictures.values()} == {(160, 320, 3)}  # two fields side by side
    grey, field = pictures["B05"][:, :158], pictures["B05"][:, 162:]  # the first is left out
    assert grey.std() < 3
    assert field.std() > 20
    image = zarr.open_group(measured.paths.image("B02"), mode="r")
    at = ((np.arange(160) + 0.5) * 1.6).astype(int), ((np.arange(320) + 0.5) * 1.6).astype(int)
    nuclei, cells = (image[f"labels/{name}/0"][0, 0][np.ix_(*at)] > 0 for name in ("nuclei", "cells"))
    red, green, blue = pictures["B02"][ndimage.binary_erosion(nuclei, iterations=2)].mean(axis=0)
    assert blue > 1.3 * green > 1.3 * red
    red, green, blue = pictures["B02"][ndimage.binary_erosion(cells & ~nuclei, iterations=2)].mean(axis=0)
    assert green > max(red, blue)


def test_the_page_needs_nothing_else(page: str) -> None:
    assert page.count("window.vegaEmbed=") == 1
    assert "default-src 'none'" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<link|<iframe|@import|src=\"(?!data:)|url\(", markup)
    assert len(page) < 3_000_000


def browse(page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """What a browser makes of a page, and says of it; skips the test where there is none."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)


def test_a_browser_draws_the_charts_without_an_error(measured: Planted, page: str, tmp_path: Path) -> None:
    run = browse(measured.paths.table("report.html"), tmp_path)
    assert 'data-ready="yes"' in run.stdout
    assert run.stdout.count('class="marks"') == page.count('data-chart="') == 10
    assert "CONSOLE" not in run.stderr


@pytest.mark.parametrize("which", ["plate", "screen"])
def test_nothing_is_cut_on_a_phone(measured: Planted, page: str, tmp_path: Path, which: str) -> None:
    """Windows of a headless browser have a least width, frames don't."""
    html = str(page if which == "plate" else write_screen(Project.of(measured.config, {"demo": measured.entry})))
    long = html.replace(">demo<", f">{'demo_' * 30}<").replace("<b>demo/", f"<b>{'demo_' * 30}/")
    measure = """<script>addEventListener("load", async () => {
        const root = document.documentElement, charts = document.querySelector("[data-chart]");
        while (charts && !root.dataset.ready) await new Promise((done) => setTimeout(done, 50));
        const hidden = [...document.querySelectorAll("body *")].filter((e) => e.scrollWidth > e.clientWidth + 1
          && getComputedStyle(e).overflowX === "hidden");
        parent.postMessage(`width ${root.scrollWidth} of ${root.clientWidth}, ${hidden.length} cut`, "*");
      });</script>"""
    (tmp_path / "page.html").write_text(long.replace("</head>", f"{measure}</head>", 1))
    (tmp_path / "frame.html").write_text(
        '<iframe src="page.html" width="390" height="800"></iframe>'
        '<script>addEventListener("message", (event) => document.body.append(event.data));</script>'
    )
    said = re.search(r"width (\d+) of (\d+), 0 cut", browse(tmp_path / "frame.html", tmp_path / "profile").stdout)
    assert said
    assert int(said[1]) <= int(said[2]) <= 390


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
    charts = json.loads(page.partition('data-chart="map">')[2].partition("</script>")[0])
    marks = {item["well"]: item.get("mark", "") for item in charts["data"]["values"]}
    assert (marks["C02"], marks["H12"], marks["A01"]) == ("×", "", "")
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
    assert page.count("<td>all</td>") == 7
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
    assert "demo/B05 field 1: quarantined at tile: truncated" in text
    assert "later no tables yet" in text
    cells = pd.read_parquet(measured.paths.table("wells.parquet"))["Count_Cells"].sum()
    assert f"cells {cells:.0f}" in text
    assert "unknown – / 2" in text  # controls, hits: none can be called
    statistics = pd.read_csv(path.with_name("plates.csv"))
    assert statistics["Metadata_Plate"].tolist() == ["demo"]
