"""What programs are handed and give back: labels bit by bit, pixels as they were read, trouble named, no code run."""

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi
from skimage.measure import points_in_poly

from plateflow.errors import PlateflowError, RawDataError
from plateflow.exchange.frame import Frame
from plateflow.exchange.images import PROGRAMS, Item, digest_of
from plateflow.exchange.napari import SCRIPT
from plateflow.segment.pictures import read_image

LABELS = hnp.arrays(
    np.uint32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 5, 70_000]),
    fill=st.nothing(),
)


def frame_of(labels: NDArray[np.uint32], flow: NDArray[np.float16] | None = None) -> Frame:
    pixels = np.arange(2 * labels.size, dtype=np.uint16).reshape(2, *labels.shape)
    return Frame(
        name="demo_B03_0",
        channels=["AGP", "DNA"],
        pixels=pixels,
        limits=[(3.0, 40.0), (5.0, 60.0)],
        label_set="cells",
        labels=labels,
        pixel_um=(1.5, 0.6, 0.6)[-labels.ndim :],
        flow=flow,
        spots={},
    )


def item_of(program: str, file: Path, labels: NDArray[np.uint32]) -> Item:
    of = {"plate": "demo", "label_set": "cells", "well": "B03", "canvas": 0, "program": program}
    return Item(**of, shape=labels.shape, exported=digest_of(labels), file=file)


def exported(folder: Path, program: str, labels: NDArray[np.uint32]) -> Item:
    return item_of(program, folder / PROGRAMS[program].write(folder, frame_of(labels)), labels)


TWO = np.zeros((12, 16), np.uint32)
TWO[1:6, 1:6], TWO[3, 3], TWO[4:9, 6:12] = 3, 0, 70_000


@pytest.mark.parametrize("program", PROGRAMS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(labels=LABELS)
def test_labels_that_nobody_changed_come_back_bit_by_bit(
    tmp_path: Path, program: str, labels: NDArray[np.uint32]
) -> None:
    item = exported(tmp_path, program, labels)
    back = item.read()
    if program == "cellpose":  # numbers run from 1 on, in their order
        labels = np.searchsorted(np.unique(np.append(labels, 0)), labels)
    np.testing.assert_array_equal(back, labels)
    assert digest_of(back) == item.exported


@pytest.mark.parametrize("program", ["qupath", "imagej"])
def test_outlines_enclose_the_pixels_for_whoever_draws_them(tmp_path: Path, program: str) -> None:
    """By skimage's own test of points in polygons: centres of pixels in an odd number of an object's rings."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 4, (7, 9)), np.ones((3, 3), int)).astype(np.uint32)
    labels[rng.random(labels.shape) < 0.1] = 0  # holes, corners, objects cut by the edge
    file = exported(tmp_path, program, labels).file
    rings: dict[int, list[Any]] = {}
    if program == "qupath":
        for each in json.loads(file.read_text())["features"]:
            polygons = each["geometry"]["coordinates"]
            polygons = [polygons] if each["geometry"]["type"] == "Polygon" else polygons
            rings[int(each["properties"]["name"])] = [ring for polygon in polygons for ring in polygon]
    else:
        with zipfile.ZipFile(file) as archive:
            regions = [ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()]
        rings = {int(region.name): region.coordinates(multi=True) for region in regions}
    centres = np.stack(np.indices(labels.shape)[::-1], axis=-1).reshape(-1, 2) + 0.5  # x, y
    drawn = np.zeros(labels.size, np.uint32)
    for number, own in rings.items():
        drawn[sum(points_in_poly(centres, np.array(ring)).astype(int) for ring in own) % 2 == 1] += np.uint32(number)
    np.testing.assert_array_equal(drawn.reshape(labels.shape), labels)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_has_its_pixels_channels_and_size(tmp_path: Path, program: str) -> None:
    exported(tmp_path, program, TWO)
    (path,) = (path for path in tmp_path.glob("*.tif") if "labels" not in path.name)
    picture = read_image(path)  # as `plateflow segment` and `train` read it
    np.testing.assert_array_equal(picture.pixels, frame_of(TWO).pixels)
    assert "0.6 μm per pixel" in picture.taken
    assert program == "imagej" or picture.names == ["AGP", "DNA"]
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "CYX"
        if program == "imagej":
            said = file.imagej_metadata
            assert said is not None and said["Labels"] == ["AGP", "DNA"] and said["mode"] == "composite"
            assert list(said["Ranges"]) == [3, 40, 5, 60]


def test_one_channel_and_volumes(tmp_path: Path) -> None:
    volume = np.stack([TWO, TWO * 0, TWO])
    assert (exported(tmp_path, "napari", volume).read() == volume).all()
    with tifffile.TiffFile(tmp_path / "demo_B03_0.ome.tif") as file:
        assert file.series[0].axes == "CZYX" and 'PhysicalSizeZ="1.5"' in str(file.ome_metadata)
    one = frame_of(TWO)
    for program in PROGRAMS:
        folder = tmp_path / program
        folder.mkdir()
        PROGRAMS[program].write(folder, Frame(**{**vars(one), "pixels": one.pixels[:1], "channels": ["DNA"]}))
        (path,) = (path for path in folder.glob("*.tif") if "labels" not in path.name)
        np.testing.assert_array_equal(np.squeeze(tifffile.imread(path)), one.pixels[0])


def test_a_digest_knows_objects_and_not_their_numbers() -> None:
    one = digest_of(TWO)
    assert digest_of(np.where(TWO == 3, 900, TWO).astype(np.float32)) == one
    assert digest_of(np.where(TWO == 3, 70_000, TWO)) != one
    assert digest_of(np.where(TWO == 3, 0, TWO)) != one
    assert digest_of(TWO.T) != one
    assert digest_of(np.ones((2, 2), int)) != digest_of(np.zeros((2, 2), int))


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("run-by-a-pickle",)


def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content in (Attack(), {"masks": Attack()}, {"masks": np.array([Attack()], object), "flows": []}):
        np.save(tmp_path / "a_seg.npy", np.array(content, object), allow_pickle=True)
        with pytest.raises(RawDataError, match="can't be read") as error:
            item_of("cellpose", tmp_path / "a_seg.npy", TWO).read()
        assert "mkdir" in error.value.why
    assert not (tmp_path / "run-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("program", "content", "why"),
    [
        ("cellpose", b"\x93NUMPY\x01", "ValueError"),
        ("cellpose", pickle.dumps({"masks": 1}), "magic"),
        ("qupath", b"{", "JSONDecodeError"),
        ("qupath", b'{"features": 3}', "FeatureCollection"),
        ("qupath", b'[{"geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}]', "LineString"),
        ("qupath", b'[{"geometry": {"type": "Point", "coordinates": [0, 0]}, "properties": {"name": "x"}}]', "(x)"),
        ("qupath", b'[{"type": "Feature"}]', "is a None"),
        ("qupath", b'[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [5, NaN], [5, 5]]]}}]', "number"),
        ("imagej", b"PK", "BadZipFile"),
        ("napari", b"no image", "TiffFileError"),
    ],
)
def test_what_is_damaged_or_no_area_is_told(tmp_path: Path, program: str, content: bytes, why: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(RawDataError, match="can't be read") as error:
        item_of(program, file, TWO).read()
    assert why in error.value.why and error.value.where == str(file)


def test_qupath_objects_that_were_edited_drawn_and_overlap(tmp_path: Path) -> None:
    item = exported(tmp_path, "qupath", TWO)
    content = json.loads(item.file.read_text())
    assert [each["properties"]["objectType"] for each in content["features"]] == ["annotation"] * 2
    kinds = [(each["geometry"]["type"], each["properties"]["name"]) for each in content["features"]]
    assert kinds == [("Polygon", "3"), ("Polygon", "70000")]
    ring = content["features"][0]["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1] and [1, 1] in ring and [6, 6] in ring  # edges of pixels 1 to 5
    first, second = content["features"]
    second["geometry"]["coordinates"] = [[[6.4, 4], [12, 4], [12, 9], [6.4, 9], [6.4, 4]]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[12, 10], [14, 10], [14, 12]]]}}
    item.file.write_text(json.dumps([first, second, drawn]))  # as older QuPaths write
    expected = TWO.copy()
    expected[10, 13] = 70_001  # the other centres lie on the slope, a left line
    np.testing.assert_array_equal(item.read(), expected)
    second["geometry"]["coordinates"] = [[[5, 4], [12, 4], [12, 9], [5, 9]]]
    item.file.write_text(json.dumps({"type": "FeatureCollection", "features": [first, second]}))
    with pytest.raises(RawDataError, match="overlaps") as error:
        item.read()
    assert error.value.why == "3 and 70000 (2 px)" and error.value.where == str(item.file)


def test_imagej_regions_are_traced_or_composite_and_new_ones_are_read(tmp_path: Path) -> None:
    item = exported(tmp_path, "imagej", TWO)
    with zipfile.ZipFile(item.file) as archive:
        regions = {name: ImagejRoi.frombytes(archive.read(name)) for name in archive.namelist()}
    assert list(regions) == ["3.roi", "70000.roi"]
    hollow, solid = regions.values()
    assert hollow.composite and not solid.composite and solid.roitype == ROI_TYPE.TRACED
    assert (solid.left, solid.top, solid.right, solid.bottom) == (6, 4, 12, 9)
    assert not solid.subpixelresolution and (hollow.left, hollow.top, hollow.right, hollow.bottom) == (1, 1, 6, 6)
    square = ImagejRoi(roitype=ROI_TYPE.RECT, left=13, top=0, right=15, bottom=2)
    disc = ImagejRoi(roitype=ROI_TYPE.OVAL, left=0, top=8, right=4, bottom=12)
    with zipfile.ZipFile(item.file, "a") as archive:
        archive.writestr("0001-0014.roi", square.tobytes())
        archive.writestr("0010-0002.roi", disc.tobytes())
    labels = item.read()
    assert (labels[labels <= 70_000] == TWO[labels <= 70_000]).all()
    assert (labels == 70_001)[:2, 13:15].all() and (labels == 70_001).sum() == 4
    assert (labels == 70_002).sum() == 12  # of 4 x 4 px without the corners
    with zipfile.ZipFile(item.file, "a") as archive:
        archive.writestr("spot.roi", ImagejRoi(roitype=ROI_TYPE.POINT, n_coordinates=0).tobytes())
    with pytest.raises(RawDataError) as error:
        item.read()
    assert "spot is a point" in error.value.why
    with zipfile.ZipFile(item.file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.roi", bytes(2**26 + 1))
    with pytest.raises(RawDataError) as error:
        item.read()
    assert "region 1 has 67,108,865 bytes" in error.value.why
    wide = np.zeros((1, 60_536), np.uint32)
    with pytest.raises(PlateflowError, match="too large for ImageJ"):
        exported(tmp_path, "imagej", wide)


def test_the_script_shows_an_image_and_its_labels_in_napari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = exported(tmp_path, "napari", TWO)
    listed = {"file": item.file.name, "pixel_um": [0.6, 0.6]}
    shown = {"channels": ["AGP", "DNA"], "limits": [[3, 40], [5, 60]], "items": [listed]}
    (tmp_path / "plateflow.json").write_text(json.dumps(shown))
    calls: list[tuple[Any, ...]] = []

    class Viewer:
        def __init__(self, title: str) -> None:
            calls.append(("viewer", title))

        def add_image(self, pixels: Any, **how: Any) -> None:
            calls.append(("image", how["name"], how["contrast_limits"], how["scale"], int(pixels.sum())))

        def add_labels(self, labels: Any, **how: Any) -> None:
            calls.append(("labels", how["name"], int((labels != TWO).sum())))

    stand_in = ModuleType("napari")
    stand_in.__dict__.update(Viewer=Viewer, run=lambda: calls.append(("run",)))
    monkeypatch.setitem(sys.modules, "napari", stand_in)
    script = tmp_path / "open_in_napari.py"
    assert script.read_text() == SCRIPT
    monkeypatch.setattr(sys, "argv", [str(script)])
    exec(compile(SCRIPT, script, "exec"), {"__file__": str(script), "__name__": "__main__"})
    sums = frame_of(TWO).pixels.sum(axis=(1, 2)).tolist()
    images = [("image", "AGP", [3, 40], [0.6, 0.6], sums[0]), ("image", "DNA", [5, 60], [0.6, 0.6], sums[1])]
    assert calls == [("viewer", "demo_B03_0"), *images, ("labels", "demo_B03_0_labels", 0), ("run",)]
    monkeypatch.setattr(sys, "argv", [str(script), "nothing"])
    with pytest.raises(SystemExit, match="there is no nothing; there are demo_B03_0"):
        exec(compile(SCRIPT, script, "exec"), {"__file__": str(script), "__name__": "__main__"})
