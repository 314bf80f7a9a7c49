"""The viewer in the browser: what is on the screen is what the arrays hold."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import zarr

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("features", "viewer")]

from viewed import address, lit_plate, serving, slow_picture  # noqa: E402

from plateflow.viewer.plates import Plates  # noqa: E402
from plateflow.viewer.server import OPENSEADRAGON, Server  # noqa: E402

CHANNELS = {"DNA": "#0000ff", "AGP": "#ffa500", "Marker": "#00ff00"}
LABELS = {"nuclei": "#ffb000", "cells": "#ffffff"}
NARROW = {"viewport": {"width": 390, "height": 844}}
SCREEN = """async () => {
  const canvas = viewer.drawer.canvas;
  const corner = viewer.world.getItemAt(0).imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
  return [canvas.toDataURL("image/png").split(",")[1], corner.x, corner.y];
}"""


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if not OPENSEADRAGON.is_file():
        reason = "the script that shows tiles isn't there: `make viewer` takes it from npm"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return lit_plate(tmp_path_factory.mktemp("seen"))


@pytest.fixture(scope="module")
def served(lit: Any) -> Iterator[Server]:
    with serving(Plates(lit.root / "results")) as server:
        yield server


def until(page: Any, what: str) -> None:
    """Wait for something; Playwright's own way evaluates text in the page, which the page's policy forbids."""
    for _ in range(100):
        if page.evaluate(what):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it never was so: {what}")


def change(page: Any, do: Any) -> None:
    """Do something that draws the image anew, and wait until it is there."""
    page.evaluate("delete document.getElementById('view').dataset.shown")
    do()
    page.wait_for_selector("#view[data-shown]")


def screen(page: Any, height: int = 256, width: int = 512) -> np.ndarray:
    """The image as it is on the screen, where it is shown at full size from its corner."""
    page.evaluate(
        """() => {
          const view = viewer.viewport, item = viewer.world.getItemAt(0);
          view.zoomTo(item.imageToViewportZoom(1), null, true);
          const corner = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
          const off = new OpenSeadragon.Point(corner.x - Math.round(corner.x), corner.y - Math.round(corner.y));
          view.panBy(view.deltaPointsFromPixels(off), true);
        }"""
    )
    page.wait_for_timeout(300)
    data, x, y = page.evaluate(SCREEN)
    seen = imagecodecs.png_decode(base64.b64decode(data))[..., :3]
    return seen[round(y) : round(y) + height, round(x) : round(x) + width]


def open_well(tab: Any, server: Server, well: str) -> Any:
    page = tab.open(address(server, f"/demo/{well}"))
    page.wait_for_selector("#view[data-shown]")
    return page


def test_pixels_and_outlines_on_the_screen_are_those_of_the_arrays(tab: Any, lit: Any, served: Server) -> None:
    page = open_well(tab, served, "B02")
    both = screen(page)
    np.testing.assert_array_equal(both, slow_picture(lit, "B02", 0, CHANNELS, LABELS, light=True))
    change(page, lambda: page.get_by_label("cells").uncheck())
    fewer = screen(page)
    np.testing.assert_array_equal(
        fewer, slow_picture(lit, "B02", 0, CHANNELS, {"nuclei": LABELS["nuclei"]}, light=True)
    )
    assert (fewer != both).any()
    change(page, lambda: page.get_by_label("nuclei").uncheck())
    change(page, lambda: page.get_by_label("corrected for illumination").uncheck())
    np.testing.assert_array_equal(screen(page), slow_picture(lit, "B02", 0, CHANNELS, {}, light=False))
    change(page, lambda: page.get_by_label("AGP", exact=True).uncheck())
    change(page, lambda: page.get_by_label("Marker", exact=True).uncheck())
    change(page, lambda: page.get_by_label("colour of DNA").fill("#ffffff"))
    only = screen(page)
    np.testing.assert_array_equal(only, slow_picture(lit, "B02", 0, {"DNA": "#ffffff"}, {}, light=False))
    page.reload()  # the address says what is shown
    page.wait_for_selector("#view[data-shown]")
    np.testing.assert_array_equal(screen(page), only)


def test_another_well_a_field_and_the_number_of_an_object(tab: Any, lit: Any, served: Server) -> None:
    page = open_well(tab, served, "B02")
    page.locator("#after").click()
    page.wait_for_selector("#view[data-shown]")
    assert page.url.split("#")[0].endswith("/demo/B03")
    np.testing.assert_array_equal(screen(page), slow_picture(lit, "B03", 0, CHANNELS, LABELS, light=True))
    page.get_by_label("Field").select_option(label="2")
    page.wait_for_timeout(200)
    middle = page.evaluate("(() => { const c = viewer.viewport.getCenter(); return [c.x, c.y]; })()")
    assert middle == pytest.approx([0.75, 0.25], abs=0.01)
    page.get_by_role("button", name="Whole well").click()
    page.locator("#view").click()
    until(page, "document.getElementById('found').textContent.startsWith('y ')")
    y, x = map(int, re.findall(r"\d+", page.locator("#found").inner_text())[:2])
    assert (abs(y - 128) <= 2, abs(x - 256) <= 2) == (True, True)
    at = {
        name: zarr.open_array(lit.paths.image("B03") / "labels" / name / "0", mode="r")[0, 0, y, x] for name in LABELS
    }
    said = ", ".join(f"{name} {label}" for name, label in at.items() if label)
    assert page.locator("#found").inner_text() == f"y {y}, x {x}: {said or 'no object'}"


def test_the_plate_shows_its_wells_and_why_one_is_left_out(tab: Any, served: Server) -> None:
    page = tab.open(address(served, "/demo"))
    page.wait_for_selector("#wells a")
    assert page.locator("#wells a").count() == 7
    assert "C02: quarantined truncated" in page.locator("#doubtful").inner_text()
    until(page, "[...document.querySelectorAll('#wells img')].every((image) => image.naturalWidth)")
    assert page.locator("#wells img").count() == 6
    assert tab.problems() == []
    page.goto(address(served, "/demo/C02"))
    page.wait_for_selector("#trouble:not([hidden])")
    assert "the well was left out: truncated" in page.locator("#trouble").inner_text()
    assert any("409" in said for said in tab.said)
    tab.said.clear()  # the browser says of each such answer that it failed


@pytest.mark.parametrize("look", [{"color_scheme": "dark"}, {"color_scheme": "light"}, NARROW], ids=str)
def test_by_keyboard_alone_on_any_screen(tab: Any, served: Server, look: dict[str, Any]) -> None:
    page = open_well(tab, served, "B02")
    assert tab.problems() == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.parentElement.textContent") == "nuclei":
            break
    change(page, lambda: page.keyboard.press("Space"))
    assert not page.get_by_label("nuclei").is_checked()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === viewer.canvas"):
            break
    before = page.evaluate("viewer.viewport.getZoom()")
    page.keyboard.press("+")
    until(page, f"viewer.viewport.getZoom() > {before}")
