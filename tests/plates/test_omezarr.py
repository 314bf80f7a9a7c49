import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import layouts_plate
import numpy as np
import pytest
import zarr

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.files import stat_of
from plateflow.plates import PlaneError, open_plate, recognise
from plateflow.plates.check_index import check_index


def group(folder: Path, attributes: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    (folder / "zarr.json").write_text(json.dumps(content))


def image(
    folder: Path,
    pixels: np.ndarray,
    axes: str,
    scale: Sequence[float],
    *,
    at: tuple[float, float] | None = None,
    unit: str | None = "millimeter",
    **more: Any,
) -> None:
    """A well image in two levels, sharded; `at`: its place (y, x) in px, if the metadata shall say it."""
    steps = [{"type": "scale", "scale": list(scale)}]
    if at is not None:
        shift = [0.0] * (len(axes) - 2) + [place * step for place, step in zip(at, scale[-2:], strict=True)]
        steps.append({"type": "translation", "translation": shift})
    datasets = [{"path": "full", "coordinateTransformations": steps}]
    named = [{"name": axis} | ({"type": "space", "unit": unit} if axis in "yx" and unit else {}) for axis in axes]
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


@pytest.mark.parametrize(
    ("path", "well"), [("Aa/011", "A01"), ("Ab/012", "B02"), ("Ba/031", "E09"), ("Hd/124", "AF48"), ("AA/11", "AA11")]
)
def test_1536_wells_as_fractal_names_them(tmp_path: Path, path: str, well: str) -> None:
    """B03.a1 of the instrument is Ba/031 (fractal-tasks-core, pull request 715): row 4, column 8."""
    folder = plate(tmp_path / "p.zarr", [path], [{"path": "0"}])
    image(folder / path / "0", np.ones((20, 30), np.uint16), "yx", [1, 1])
    assert open_plate(folder).metadata["wells"] == [well]


@pytest.mark.parametrize("path", ["Aa/11", "X/y", "1/2", "0/2"])
def test_a_wells_name_is_never_guessed_from_its_index(tmp_path: Path, path: str) -> None:
    folder = plate(tmp_path / "p.zarr", [path], [{"path": "0"}])
    image(folder / path / "0", np.ones((20, 30), np.uint16), "yx", [1, 1])
    with pytest.raises(RawDataError, match="name of a well isn't understood"):
        open_plate(folder)


def test_rows_that_are_numbers_are_counted_where_all_are_listed(tmp_path: Path) -> None:
    lists = {key: [{"name": str(n)} for n in range(count)] for key, count in (("rows", 8), ("columns", 12))}
    folder = plate(tmp_path / "p.zarr", ["1/2"], [{"path": "0"}], **lists)
    image(folder / "1/2/0", np.ones((20, 30), np.uint16), "yx", [1, 1])
    assert open_plate(folder).metadata["wells"] == ["B03"]


@pytest.mark.parametrize(
    ("columns", "well"),
    [
        ([f"{n:02d}" for n in range(12)], "B03"),
        ([f"{n:02d}" for n in range(1, 13)], "B02"),
        (["00", "02"], None),
        ([f"{n:02d}" for n in range(11, -1, -1)], None),
    ],
)
def test_columns_that_count_from_0_are_told_by_the_whole_list(
    tmp_path: Path, columns: list[str], well: str | None
) -> None:
    lists = {"rows": [{"name": name} for name in "ABCDEFGH"], "columns": [{"name": name} for name in columns]}
    folder = plate(tmp_path / "p.zarr", ["B/02"], [{"path": "0"}], **lists)
    image(folder / "B/02/0", np.ones((20, 30), np.uint16), "yx", [1, 1])
    if well:
        assert open_plate(folder).metadata["wells"] == [well]
    else:
        with pytest.raises(RawDataError, match="columns from 0"):
            open_plate(folder)


@pytest.mark.parametrize(
    ("unit", "step", "um", "note"),
    [
        *((unit, 0.5, 0.5, "") for unit in ("micrometer", "\u00b5m", "\u03bcm", "um", "microns", "Micrometers")),
        *((unit, 0.5, 500.0, "") for unit in ("mm", "millimetre")),
        ("micrometer", 1, 1.0, ""),
        (None, 1, None, ""),
        (None, 0.5, 0.5, "without a unit"),
        *((unit, 0.5, None, f"sizes in '{unit}', which is no known unit") for unit in ("pixel", "px", "furlong")),
        ("pixel", 1, None, "'pixel', which is no known unit"),
        ("ms", 0.5, None, "'ms', which is no known unit"),
    ],
)
def test_units_of_length(tmp_path: Path, unit: str | None, step: float, um: float | None, note: str) -> None:
    folder = plate(tmp_path / "p.zarr", ["B/03"], [{"path": "0"}, {"path": "1"}])
    for name in ("0", "1"):
        pixels = np.ones((20, 30), np.uint16)
        image(folder / "B/03" / name, pixels, "yx", [step, step], at=(0, 30 * int(name)), unit=unit)
    opened = open_plate(folder)
    assert opened.metadata["pixel_size_um"] == (um and pytest.approx([um, um]))
    notes = opened.metadata["disagreements"]
    assert (note in notes[0]) if note else notes == []
    assert opened.planes["x_um"].isna().all() if um is None else opened.planes["x_um"].tolist() == [0, 30 * um]
    given = open_plate(PlateSpec(plate="p", path=str(folder), layout="omezarr", pixel_size_um=0.25))
    if um is None or unit is None:  # what the user says is the size of a px is known of the places as well
        assert given.planes["x_um"].tolist() == [0, 7.5]
        assert given.metadata["disagreements"] == []


@pytest.mark.parametrize(("n", "notes"), [(1, []), (3, ["distances of planes in 'ms'"])])
def test_the_unit_along_z_matters_where_there_are_planes(tmp_path: Path, n: int, notes: list[str]) -> None:
    folder = plate(tmp_path / "p.zarr", ["B/03"], [{"path": "0"}])
    image(folder / "B/03/0", np.ones((1, n, 20, 30), np.uint16), "tzyx", [1, 2, 0.5, 0.5], unit="um")
    path = folder / "B/03/0/zarr.json"
    axes = json.loads(path.read_text())
    for axis in axes["attributes"]["ome"]["multiscales"][0]["axes"][:2]:
        axis["unit"] = "ms"
    path.write_text(json.dumps(axes))
    opened = open_plate(folder)
    assert opened.metadata["pixel_size_um"] == [0.5, 0.5]
    assert [note.split("give ")[1].split(",")[0] for note in opened.metadata["disagreements"]] == notes


@pytest.mark.parametrize(
    ("second", "values"),
    [
        (["GFP", "DAPI"], {"DAPI": 2, "GFP": 1}),
        (["GFP"], {"GFP": 1}),
        (None, {"DAPI": 1, "GFP": 2}),
        (["DAPI", "RFP"], "B/03/0 are DAPI, GFP"),
        (["RFP", "GFP", "DAPI"], {"RFP": 1, "GFP": 2, "DAPI": 3}),
        (["GFP", "GFP"], "B/03/0 are DAPI, GFP"),
    ],
)
def test_channels_go_by_their_names(tmp_path: Path, second: list[str] | None, values: Any) -> None:
    """The channels of the second image hold 1, 2, ...; they went by their index, whatever they were called."""
    folder = plate(tmp_path / "p.zarr", ["B/03"], [{"path": "0"}, {"path": "1"}])
    for n, labels in enumerate((["DAPI", "GFP"], second)):
        count = len(labels or "12")
        pixels = np.ones((count, 20, 30), np.uint16) * np.arange(1, count + 1, dtype=np.uint16)[:, None, None]
        omero = {"channels": [{"label": label} for label in labels]} if labels else {}
        image(folder / "B/03" / str(n), pixels, "cyx", [1, 1, 1], at=(0, 30 * n), omero=omero)
    if isinstance(values, str):
        with pytest.raises(RawDataError, match="different channels") as error:
            open_plate(folder)
        assert values in error.value.why
        return
    opened = open_plate(folder)
    planes = opened.planes[(opened.planes["field"] == "1") & (opened.planes["state"] == "ok")]
    assert {name: opened.read("B03", "1", name)[0, 0] for name in planes["channel"]} == values
    note = "1 image doesn't name its channels, which are taken in the others' order: B/03/1"
    assert opened.metadata["disagreements"] == ([] if second else [note])


def test_wells_with_other_channels(tmp_path: Path) -> None:
    folder = plate(tmp_path / "p.zarr", ["B/03", "B/04"], [{"path": "0"}])
    for well, labels in (("B/03", ["DAPI", "GFP"]), ("B/04", ["RFP", "DAPI"])):
        omero = {"channels": [{"label": label} for label in labels]}
        image(folder / well / "0", np.ones((2, 20, 30), np.uint16), "cyx", [1, 1, 1], omero=omero)
    opened = open_plate(folder)
    assert opened.planes.groupby("well")["channel"].agg(list).to_dict() == {
        "B03": ["DAPI", "GFP"],
        "B04": ["DAPI", "RFP"],
    }
    assert set(opened.planes["state"]) == {"ok"}
    assert opened.metadata["lacking_channels"] == {"B03": ["RFP"], "B04": ["GFP"]}


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


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plane_that_lost_some_of_its_chunks_is_told(tmp_path: Path, zarr_format: Literal[2, 3]) -> None:
    """Read as 0, they were measured as background; the corner that no plane has may be beside stitched fields."""
    folder = plate(tmp_path / "p.zarr", ["B/03", "B/04"], [{"path": "0"}])
    for well in ("B/03", "B/04"):
        image(folder / well / "0", np.ones((2, 20, 30), np.uint16), "cyx", [1, 1, 1])
        array = zarr.create_array(
            folder / well / "0/full",
            data=np.ones((2, 20, 30), np.uint16),
            chunks=(1, 10, 15),
            zarr_format=zarr_format,
            overwrite=True,
        )
        array[:, 10:, 15:] = 0
    assert open_plate(folder).metadata["disagreements"] == []
    array[1, :10, 15:] = 0
    (note,) = open_plate(folder).metadata["disagreements"]
    assert note.startswith("1 channel of fields lacks chunks where others have them") and note.endswith(
        ": B04 field 0 1"
    )


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
    (note,) = plate.metadata["disagreements"]
    assert message in note
    assert not [problem for problem in check_index(plate) if "position" in problem.what]
    states = plate.planes[plate.planes["well"] == "B02"].groupby("field")["state"].unique()
    assert [list(of) for of in states] == [["missing"], ["ok"], ["ok"]]


def test_a_single_image_is_no_plate(test_data: Path) -> None:
    (folder,) = (test_data / "plates" / "omezarr_fractal_cardio").glob("*.zarr")
    with pytest.raises(RawDataError, match="not an OME-Zarr plate"):
        open_plate(PlateSpec(plate="p", path=str(folder), layout="omezarr"))
