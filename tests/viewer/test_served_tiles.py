"""Tiles against pictures that are drawn of whole levels in the plainest way."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
import tifffile
import zarr
from images_project import Project, layout_of
from planted_plate import Planted
from viewed import COLOURS, TINTS, get, picture, query, serving, slow_picture

from plateflow.images import layout as layouts
from plateflow.images.canvas import canvases
from plateflow.images.well import WellImage
from plateflow.project import Project as PlateProject
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.viewer import plates as viewed_plates
from plateflow.viewer import tiles
from plateflow.viewer.plates import Plates
from plateflow.viewer.server import Server

LABELS = ["nuclei", "cells"]


@pytest.mark.parametrize("light", [True, False])
@pytest.mark.parametrize("level", [0, 1])
def test_tiles_are_the_whole_picture_cut(
    lit: Planted, served: Server, monkeypatch: pytest.MonkeyPatch, level: int, light: bool
) -> None:
    """All channels and outlines, whose lines go on from tile to tile; tiles of 90 px end within fields."""
    monkeypatch.setattr(tiles, "TILE_PX", 90)
    whole = slow_picture(lit, "B04", level, TINTS, COLOURS, light=light)
    image = WellImage.open(lit.paths, "B04")
    asked = query(image, TINTS, COLOURS, LABELS, light=int(light))
    pasted = np.zeros_like(whole)
    for y in range(-(-whole.shape[0] // 90)):
        for x in range(-(-whole.shape[1] // 90)):
            tile = picture(get(served, f"/tile/demo/B04/{level}/{x}/{y}.webp?{asked}"))
            top, left = max(y * 90 - 1, 0), max(x * 90 - 1, 0)  # tiles overlap
            pasted[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    np.testing.assert_array_equal(pasted, whole)
    with pytest.raises(HTTPError, match="404"):
        get(served, f"/tile/demo/B04/{level}/{x + 1}/{y}.webp?{asked}")


def test_each_channel_and_label_set_is_switched_by_itself(lit: Planted, served: Server) -> None:
    image = WellImage.open(lit.paths, "B03")
    seen = []
    for channels, labels in (
        *(({name: "#ffffff"}, {}) for name in TINTS),
        ({}, {}),
        *(({}, {name: "#ff0000"}) for name in LABELS),
    ):
        asked = query(image, channels, labels, LABELS)
        found = picture(get(served, f"/tile/demo/B03/0/0/0.webp?{asked}"))
        np.testing.assert_array_equal(found, slow_picture(lit, "B03", 0, channels, labels, light=True))
        seen.append(found.tobytes())
    assert len(set(seen)) == len(seen)


def test_light_is_corrected_where_the_channel_needs_it(lit: Planted, served: Server) -> None:
    image = WellImage.open(lit.paths, "B02")

    def tile(channel: str, light: int) -> np.ndarray:
        asked = query(image, {channel: "#ffffff"}, {}, LABELS, light=light)
        return picture(get(served, f"/tile/demo/B02/0/0/0.webp?{asked}"))

    assert (tile("DNA", 0) != tile("DNA", 1)).mean() > 0.1
    np.testing.assert_array_equal(tile("AGP", 0), tile("AGP", 1))


def test_a_field_that_was_left_out_is_grey(lit: Planted, served: Server) -> None:
    """Field 1 of B05 has a truncated file of AGP, which the cells need."""
    about = json.loads(get(served, "/info/demo/B05"))
    assert [name for name, *_ in about["fields"]] == ["2"]
    image = WellImage.open(lit.paths, "B05")
    found = picture(get(served, f"/tile/demo/B05/0/0/0.webp?{query(image, TINTS, {}, LABELS)}"))
    assert np.unique(found[:, :256]).tolist() == [63]
    assert len(np.unique(found[:, 256:])) > 100
    plate = json.loads(get(served, "/info/demo/plate"))
    states = {each["name"]: (each["state"], each["why"]) for each in plate["wells"]}
    assert states["B05"] == ("flagged", "field 1: truncated")
    assert states["C02"] == ("quarantined", "truncated")
    assert states["B02"] == ("ok", "")


def test_labels_at_a_pixel(lit: Planted, served: Server) -> None:
    cells = zarr.open_array(lit.paths.image("B02") / "labels" / "cells" / "0", mode="r")[0, 0]
    nuclei = zarr.open_array(lit.paths.image("B02") / "labels" / "nuclei" / "0", mode="r")[0, 0]
    for y, x in (*np.argwhere(nuclei)[::4000], *np.argwhere(cells == 0)[:2]):
        found = json.loads(get(served, f"/label/demo/B02?y={y}&x={x}&labels=0-ffffff,1-ffffff"))
        assert found == {"nuclei": nuclei[y, x], "cells": cells[y, x]}
    with pytest.raises(HTTPError, match="404"):
        get(served, "/label/demo/B02?y=256&x=0&labels=0-ffffff")


@pytest.mark.parametrize(
    "asked",
    [
        *("0/0/-1.webp", "0/x/0.webp", "2/0/0.webp", "0/0/0.webp?channels=3-ffffff", "0/0/0.webp?channels=0-fff"),
        *("0/0/0.webp?labels=2-ffffff", "0/0/0.webp?t=1", "0/0/0.webp?z=plane%201", "0/0/0.webp?z=keep"),
        *("0/0/0.webp?part=1", "0/0/0.png", "0/0/999999999999.webp", "0/0/0.webp?z=plane%20²"),
    ],
)
def test_what_there_is_not_is_said(served: Server, asked: str) -> None:
    with pytest.raises(HTTPError, match="404") as error:
        get(served, f"/tile/demo/B02/{asked}".replace("²", "%C2%B2"))
    assert json.loads(error.value.read())["what"]


PATTERN = r"(?P<well>[A-P]\d\d)_t(?P<t>\d)_z(?P<z>\d)_(?P<channel>\w+)\.tif"


def test_time_points_planes_and_projections(tmp_path: Path) -> None:
    raw, random = tmp_path / "raw", np.random.default_rng(3)
    raw.mkdir()
    pixels = random.integers(0, 4000, (2, 3, 40, 50), np.uint16)  # t, z, y, x
    for t, z in np.ndindex(2, 3):
        tifffile.imwrite(raw / f"B02_t{t}_z{z}_DNA.tif", pixels[t, z])
    options = {"z": "mean", "levels": 1, "normalise": {"illumination": False}}
    project = Project(
        raw=raw, results=tmp_path / "results", options=options, entry_options={"layout": "pattern", "pattern": PATTERN}
    )
    project.run()
    image = WellImage.open(project.paths, "B02")
    (low, high) = image.window.limits("DNA")
    known = PlateProject(config=project.plate.config, plates={"p": project.plate})
    expected = {"max": np.max, "mean": np.mean} | {f"plane {z}": lambda a, axis, z=z: a[z] for z in range(3)}
    with serving(Plates(tmp_path / "results", known)) as server:
        about = json.loads(get(server, "/info/p/B02"))
        assert (about["times"], about["planes"], about["z"]) == (2, 3, "mean")
        for t in range(2):
            for z, of in expected.items():
                asked = f"channels=0-ffffff&t={t}&z={z.replace(' ', '%20')}"
                found = picture(get(server, f"/tile/p/B02/0/0/0.webp?{asked}"))[..., 0]
                value = np.clip((of(pixels[t].astype(np.float32), axis=0) - low) / (high - low), 0, 1) ** 0.7
                assert abs(found - np.floor(255 * value)).max() <= 1


def test_a_plate_in_place_is_seen_at_full_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has a preview of a quarter of the size; the pixels of finer levels come from the raw plate."""
    made = simulate_plate(tmp_path / "raw", wells=micro_wells()[:1], fields=2, field_shape=(64, 80))
    source = Project(raw=made.raw, results=tmp_path / "source")
    source.run("ingest", "tile")
    monkeypatch.setattr(layouts, "PREVIEW_PX", 40)
    raw = source.paths.store.rename(tmp_path / "plate.zarr")
    project = Project(raw=raw, results=tmp_path / "results", entry_options={"layout": "omezarr_in_place"})
    project.run()
    image = WellImage.open(project.paths, "B02")
    assert image.layout.preview == 2
    stored = zarr.open_array(raw / "B" / "02" / "0" / "0", mode="r")[0, 0, 0].astype(np.float32)
    low, high = image.window.limits("DNA")
    known = PlateProject(config=project.plate.config, plates={"p": project.plate})
    with serving(Plates(tmp_path / "results", known)) as server:
        assert json.loads(get(server, "/info/p/B02"))["levels"] == 3
        for level in range(3):
            found = picture(get(server, f"/tile/p/B02/{level}/0/0.webp?channels=0-ffffff"))[..., 0]
            n = 2**level
            means = stored.reshape(64 // n, n, 160 // n, n).mean(axis=(1, 3))
            value = np.floor(255 * np.clip((means - low) / (high - low), 0, 1) ** 0.7)
            assert np.median(abs(found - value)) <= 1  # means of 2 x 2 are whole numbers, level by level
            assert abs(found - value).max() <= 3 * level + 1


def test_fields_that_lie_far_apart_are_parts(tmp_path: Path) -> None:
    layout = layout_of((0, 0), (5_000, 5_003), size=20)
    assert layout.scattered
    image = WellImage(paths=None, well="B02", layout=layout, levels=3)
    assert tiles.parts(layout) == [canvas.slices for canvas in canvases(layout, (), "max")]
    assert tiles.tile_region(image, 0, 0, 0, 1) == (slice(5_000, 5_020), slice(5_003, 5_023))
    assert tiles.tile_region(image, 2, 0, 0, 1) == (slice(1_250, 1_255), slice(1_250, 1_255))
    with pytest.raises(tiles.RequestError):
        tiles.tile_region(image, 0, 1, 0, 1)


def test_tiles_are_kept_up_to_a_bound_and_not_beyond_a_change(
    lit: Planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plates, drawn = Plates(lit.root / "results"), []

    def draw(name: str) -> bytes:
        return plates.drawn(name, lambda: (drawn.append(name), bytes(40))[1], lambda: True)

    monkeypatch.setattr("plateflow.viewer.plates.CACHE_BYTES", 100)
    for name in "ababcab":
        draw(name)
    assert "".join(drawn) == "abcab"


def test_few_tiles_are_drawn_at_a_time_and_none_for_a_browser_that_has_gone_on(
    lit: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewed_plates, "AT_ONCE", 2)
    drawing, most, drawn, lock, draw = 0, 0, 0, threading.Lock(), tiles.draw

    def watched(*args: object) -> np.ndarray:
        nonlocal drawing, most, drawn
        with lock:
            drawing, drawn = drawing + 1, drawn + 1
            most = max(most, drawing)
        time.sleep(0.05)
        picture = draw(*args)  # type: ignore[arg-type]
        with lock:
            drawing -= 1
        return picture

    monkeypatch.setattr(tiles, "draw", watched)
    plates = Plates(lit.root / "results")
    with serving(plates) as server, ThreadPoolExecutor(8) as browser:
        asked = [f"/tile/demo/B02/0/0/0.webp?channels=0-0000{number:02x}" for number in range(8)]
        answers = list(browser.map(lambda path: get(server, path), [*asked, asked[0]]))
        assert (most, drawn) == (2, 8)
        assert len(set(answers)) == 8 and answers[0] == answers[8]
        for _ in range(2):
            plates._turns.acquire()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as gone:
            gone.sendall(b"GET /tile/demo/B03/0/0/0.webp?channels=0-ffffff HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stays = browser.submit(get, server, "/tile/demo/B04/0/0/0.webp?channels=0-ffffff")
        time.sleep(0.3)  # both wait for their turns
        assert not stays.done()
        plates._turns.release(2)
        assert stays.result()[:4] == b"RIFF"
    assert drawn == 9
