"""Wells whose fields lie far apart: the same labels as side by side, in little memory, and pictures of the fields."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from images_project import Project, layout_of
from test_layout import INFO, planes
from test_store import make

from plateflow.errors import RawDataError
from plateflow.images import shards
from plateflow.images.canvas import canvases
from plateflow.images.layout import well_layout
from plateflow.images.shards import halve_mean
from plateflow.images.well import WellImage
from plateflow.simulate.plate import micro_wells, simulate_plate

FAR = 66_664
"""20 mm at 0.3 um per pixel."""


def test_fields_lie_as_far_apart_as_a_plate_is_long_but_no_further() -> None:
    places = [(0.0, 0.0), (20_000.0, 20_000.0), (11_000.0, 3_000.0)]
    layout = well_layout(planes(places), INFO | {"pixel_size_um": [0.3, 0.3]})
    assert layout.placement == "stage"
    assert [(box.y, box.x) for box in layout.fields] == [(0, 0), (66_667, 66_667), (36_667, 10_000)]
    assert well_layout(planes([(0.0, 0.0), (0.0, 127_000.0)]), INFO).shape[-1] == 254_120
    with pytest.raises(RawDataError, match="further apart than a plate is long") as error:
        well_layout(planes([(0.0, 0.0), (0.0, 140_000.0)]), INFO)
    assert "140 mm" in error.value.why
    assert "unit" in error.value.remedy


@pytest.mark.parametrize("level", [0, 2])
def test_labels_and_pictures_of_scattered_fields(tmp_path: Path, level: int) -> None:
    """Labels of a plane of 4.4 thousand million px take no memory of that size; fields are drawn side by side."""
    layout = layout_of((0, 0), (FAR, FAR), size=100)
    image = WellImage.open(make(tmp_path, {"B03": layout}), "B03")
    labels = np.arange(1, 10_001, dtype=np.uint32).reshape(100, 100) // 2500 + 1
    pairs = [(canvas, labels * (canvas.index + 1)) for canvas in canvases(layout, set(), "max")]
    tracemalloc.start()
    image.write_labels("nuclei", 0, 0, pairs)
    picture = image.preview_labels(level, "nuclei", 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1e8
    side = 100 >> level
    assert picture.shape == (side, 2 * side + 32)
    for canvas, left in zip(canvases(layout, set(), "max"), (0, side + 32), strict=True):
        ys, xs = (slice(side.start >> level, side.stop >> level) for side in canvas.slices)
        stored = image.array(f"labels/nuclei/{level}")[0, 0, ys, xs]
        assert stored.any()
        np.testing.assert_array_equal(picture[:, left : left + side], stored)
    assert not picture[:, side : side + 32].any()


@pytest.mark.parametrize("in_place", [False, True])
def test_pictures_show_the_pixels_of_scattered_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    """In place, the store's preview would hold but dots of them: the raw planes are read."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 2**20)
    shards.array_files.cache_clear()
    made = simulate_plate(tmp_path / "raw", wells=micro_wells()[:1], fields=2, field_shape=(64, 80))
    index = made.raw / "Images" / "Index.idx.xml"
    away = r"(?s)(<FieldID>2</FieldID>.*?<PositionX[^>]*>)[^<]*(</PositionX>\s*<PositionY[^>]*>)[^<]*"
    index.write_text(re.sub(away, r"\g<1>0.002376\g<2>-0.0024", index.read_text()))
    project = Project(raw=made.raw, results=tmp_path / "results", options={})
    if in_place:
        monkeypatch.setattr(
            "plateflow.stages.ingest.well_layout", lambda rows, about: well_layout(rows, {**about, "in_place": True})
        )
    project.run("ingest", "tile", "normalise")
    image = WellImage.open(project.paths, "B02")
    assert (image.layout.scattered, image.layout.preview is not None) == (True, in_place)
    picture = image.preview(2, image.layout.fields, ["DNA"], "max", 0)[0]
    raw = [image._raw_folder.read(image._raw_planes[name, "DNA", 0, 0]) for name in ("1", "2")]
    first, second = (halve_mean(halve_mean(pixels)) for pixels in raw)
    assert picture.shape == (16, 20 + 32 + 20)
    np.testing.assert_array_equal(picture[:, :20], first)
    np.testing.assert_array_equal(picture[:, 52:], second)
    assert np.isnan(picture[:, 20:52]).all()
    shards.array_files.cache_clear()
