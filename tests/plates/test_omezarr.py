import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import layouts_plate
import numpy as np
import pytest
import zarr

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.files import stat_of
from plateflow.plates import PlaneError, open_plate, recognise


def group(folder: Path, attributes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(content))


def image(folder: Path, pixels: np.ndarray, axes: str, scale: Sequence[float], **more: Any) -> None:
    """A well image in two levels, sharded."""
    datasets = [{"path": "full", "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}]
    named = [{"name": axis, "type": "space", "unit": "millimeter"} if axis in "yx" else {"name": axis} for axis in axes]
    group(folder, {"ome": {"multiscales": [{"axes": named, "datasets": datasets}], **more}})
    chunks = (*(1 for _ in axes[:-2]), 8, 8)
    shards = (*pixels.shape[:-2], 16, 16)
    array = zarr.create_array(folder / "full", shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, shards=shards)
    array[...] = pixels


def plate(folder: Path, wells: Sequence[str], images: Sequence[dict[str, Any]], **more: Any) -> Path:
    """Rows and columns in use alone, as many writers list them."""
    rows, columns = (sorted({well.split("/")[n] for well in wells}) for n in (0, 1))
    about = {
        "rows": [{"name": name} for name in rows],
        "columns": [{"name": name} for name in columns],
        "wells": [
            {"path": well, "rowIndex": rows.index(well.split("/")[0]), "columnIndex": columns.index(well.split("/")[1])}
            for well in wells
        ],
    }
    group(folder, {"ome": {"version": "0.5", "plate": about | more}})
    for well in wells:
        group(folder / well, {"ome": {"well": {"images": list(images)}}})
    return folder


def test_a_real_plate_of_0_4(test_data: Path) -> None:
    """By hand from .zattrs: three axes, 2.7336 um, two wells of one image of 256 x 512 px."""
    folder = test_data / "plates" / "omezarr_hcs_mobie"
    root = folder / "single-plane-hcs.zarr"
    assert recognise(folder) == recognise(root) == "omezarr"
    opened = open_plate(root)
    assert opened.metadata["format"] == [16, 24]
    assert opened.metadata["wells"] == ["E07", "E08"]
    assert opened.metadata["pixel_size_um"] == [2.7336, 2.7336]
    names = ["Maximum-Projection_FITC_05", "Best-Focus-Projection_FITC_05", "Maximum-Projection_FITC_05 (2)"]
    assert [channel["name"] for channel in opened.metadata["channels"]] == names
    assert (opened.planes["state"] == "ok").all()
    assert set(zip(opened.planes["height"], opened.planes["width"], strict=True)) == {(256, 512)}
    level0 = zarr.open_array(root / "E" / "08" / "0" / "0", mode="r")
    for number, name in enumerate(names):
        np.testing.assert_array_equal(opened.read("E08", "0", name), level0[number])


@pytest.mark.parametrize(("axes", "shape"), [("yx", ()), ("zyx", (2,)), ("cyx", (3,)), ("tczyx", (2, 3, 2))])
def test_well_images_of_two_to_five_axes_in_shards(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(1, 999, (*shape, 20, 30)).astype(np.uint16)
    folder = plate(tmp_path / "p.zarr", ["B/03", "AF/48"], [{"path": "0"}])
    for well in ("B/03", "AF/48"):
        image(folder / well / "0", pixels, axes, [*(1.0 for _ in shape), 0.0005, 0.00025])
    opened = open_plate(folder)
    assert opened.metadata["wells"] == ["B03", "AF48"]
    assert opened.metadata["format"] == [32, 48]
    assert opened.metadata["pixel_size_um"] == [0.5, 0.25]
    size = dict(zip(axes, shape, strict=False))
    assert (opened.metadata["t"], opened.metadata["z"]) == (size.get("t", 1), size.get("z", 1))
    last = {axis: size.get(axis, 1) - 1 for axis in "tz"}
    found = opened.read("AF48", "0", opened.metadata["channels"][-1]["name"], **last)
    np.testing.assert_array_equal(found, pixels.reshape(-1, 20, 30)[-1])


def test_acquisitions_lie_on_each_other_with_their_own_channels(tmp_path: Path) -> None:
    images = [{"path": f"{a}_{f}", "acquisition": a} for a in (0, 2) for f in (0, 1)]
    folder = plate(tmp_path / "p.zarr", ["B/03"], images, acquisitions=[{"id": 0}, {"id": 2}])
    for number, about in enumerate(images):
        values = np.full((1, 20, 30), number + 1, np.uint16)
        channels = {"channels": [{"label": "DAPI" if about["acquisition"] else "GFP"}]}
        image(folder / "B/03" / about["path"], values, "cyx", [1, 1, 1], omero=channels)
    opened = open_plate(folder)
    assert [channel["name"] for channel in opened.metadata["channels"]] == ["GFP A0", "DAPI A2"]
    assert opened.metadata["fields"] == 2
    assert opened.read("B03", "1", "DAPI A2")[0, 0] == 4
    assert "several acquisitions" in opened.metadata["disagreements"][0]


@pytest.mark.parametrize("layout", ["omezarr", "omezarr 0.5"])
def test_metadata_below_ome_or_not(tmp_path: Path, layout: str) -> None:
    raw = layouts_plate.write(tmp_path, layout, wells=("B02",))
    expected = open_plate(raw).planes
    for path in [*raw.rglob(".zattrs"), *raw.rglob("zarr.json")]:
        content = json.loads(path.read_text())
        if path.name == ".zattrs":
            path.write_text(json.dumps({"ome": content}))
        elif content["node_type"] == "group":
            path.write_text(json.dumps(content | {"attributes": content["attributes"].get("ome", {})}))
    assert open_plate(raw).planes.equals(expected)


def test_a_changed_chunk_changes_the_manifest_and_the_stat(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "omezarr", wells=("B02",), times=1)
    before = open_plate(raw).planes
    name = before["path"].iloc[0]
    path = raw / name
    stat = stat_of(path)
    array = zarr.open_array(path, mode="r+")
    array[0, 0, 0] = 7
    after = open_plate(raw).planes
    changed = after[(after["mtime_ns"] != before["mtime_ns"]) | (after["size_bytes"] != before["size_bytes"])]
    assert set(changed["path"]) == {name}
    assert stat_of(path) != stat


def test_a_declared_image_that_is_not_there_and_one_without_chunks(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "omezarr 0.5", wells=("C05", "B02"), times=1)
    for path in (raw / "B/02/1").rglob("zarr.json"):
        path.unlink()
    for path in (raw / "B/02/2/0/c").rglob("*"):
        if path.is_file():
            path.unlink()
    planes = open_plate(raw).planes
    states = planes[planes["well"] == "B02"].groupby("field")["state"].unique().map(list).to_dict()
    assert states == {"1": ["missing"], "2": ["missing"], "3": ["ok"]}


def test_a_damaged_chunk_is_a_bad_plane(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "omezarr", wells=("C05", "B02"), times=1)
    (raw / "B/02/1/0/0/0/1/0/0").write_bytes(b"\x00" * 40)
    with pytest.raises(PlaneError, match="unreadable"):
        open_plate(raw).read("B02", "1", "DNA", z=1)
    assert open_plate(raw).read("B02", "1", "DNA", z=0).shape == (24, 40)


@pytest.mark.parametrize(
    ("file", "change", "to", "message"),
    [
        ("zarr.json", '"B/02"', '"../B/02"', "leads out"),
        ("zarr.json", '"rows"', '"lines"', "cannot parse"),
        ("B/02/zarr.json", '"path": "1"', '"path": "/etc"', "leads out"),
    ],
)
def test_bad_metadata_are_one_clear_error(tmp_path: Path, file: str, change: str, to: str, message: str) -> None:
    import re

    raw = layouts_plate.write(tmp_path, "omezarr 0.5", wells=("B02",), times=1)
    text, count = re.subn(change, to, (raw / file).read_text())
    assert count
    (raw / file).write_text(text)
    with pytest.raises(RawDataError) as error:
        open_plate(raw)
    assert message in str(error.value)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("change", "to", "message"),
    [
        ('"name": "y"', '"name": "q"', "y and x must be its last"),
        ('"datasets"', '"levels"', "KeyError"),
        ('"scale": [', '"scale": [3,', "can't be understood"),
    ],
)
def test_a_bad_image_leaves_its_field_out(tmp_path: Path, change: str, to: str, message: str) -> None:
    raw = layouts_plate.write(tmp_path, "omezarr 0.5", wells=("C05", "B02"), times=1)
    path = raw / "B/02/1/zarr.json"
    assert change in path.read_text()
    path.write_text(path.read_text().replace(change, to))
    plate = open_plate(raw)
    assert message in "\n".join(plate.metadata["disagreements"])
    states = plate.planes[plate.planes["well"] == "B02"].groupby("field")["state"].unique()
    assert [list(of) for of in states] == [["missing"], ["ok"], ["ok"]]


def test_a_single_image_is_no_plate(test_data: Path) -> None:
    (folder,) = (test_data / "plates" / "omezarr_fractal_cardio").glob("*.zarr")
    with pytest.raises(RawDataError, match="not an OME-Zarr plate"):
        open_plate(PlateSpec(plate="p", path=str(folder), layout="omezarr"))
