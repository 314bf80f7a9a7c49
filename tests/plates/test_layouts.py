"""The same plate in every layout: pixel for pixel, position for position, the same manifest up to paths."""

from itertools import product
from pathlib import Path
from time import process_time

import layouts_plate
import numpy as np
import pytest
import tifffile
from vendors import LAYOUTS

from plateflow.paths import well_name
from plateflow.plates import PlaneError, open_plate, recognise
from plateflow.plates.plate import RawPlate
from plateflow.simulate.layout import PlateDescription, Record

PATTERN = r"(?P<well>[A-Z]+\d+)_s(?P<field>\d+)_w(?P<channel>\d+)(?:_t(?P<t>\d+)_z(?P<z>\d+))?\.tif"
GUID = "17654C10-92F1-4DFD-98AA-6A01BBD77557"


def opened(raw: Path, layout: str) -> RawPlate:
    return open_plate(raw, pattern=PATTERN, pixel_size_um=0.5) if layout == "pattern" else open_plate(raw)


@pytest.mark.parametrize(
    ("wells", "shape"), [(("B02", "C05"), (8, 12)), (("P24", "A01"), (16, 24)), (("AF48", "Z03"), (32, 48))]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixel_for_pixel_and_position_for_position(
    tmp_path: Path, layout: str, wells: tuple[str, str], shape: tuple[int, int]
) -> None:
    raw = layouts_plate.write(tmp_path, layout, wells=wells, shape=shape)
    if layout != "pattern":
        assert recognise(raw) == {"columbus": "harmony", "omezarr 0.5": "omezarr"}.get(layout, layout)
    plate = opened(raw, layout)
    assert plate.metadata["format"] == list(shape)
    assert set(plate.metadata["wells"]) == set(wells)
    assert (plate.metadata["fields"], plate.metadata["z"], plate.metadata["t"]) == (3, 3, 2)
    assert plate.metadata["pixel_size_um"] == [0.5, 0.5]
    names = [channel["name"] for channel in plate.metadata["channels"]]
    assert names == (["1", "2"] if layout == "pattern" else ["DNA", "AGP"])
    index = plate.planes.set_index(["well", "field", "channel", "t", "z"])
    seen = 0
    for plane in layouts_plate.planes(wells):
        record = plane.record
        well, field, channel = well_name(record.row, record.column), str(record.field + 1), names[record.channel]
        # a Zarr array has one type, so that a whole field has 32 bits
        wide = "32bit" in plane.faults or (layout[:7] == "omezarr" and (well, field) == (wells[0], "2"))
        if layout == "pattern" and record.field == 2 and plane.faults:
            continue  # a field without any file is unknown to names alone
        row = index.loc[well, field, channel, record.t, record.z]
        assert (row["height"], row["width"], row["dtype"]) == (24, 40, "uint16")
        lacks = {"missing", "error"} & set(plane.faults)
        assert row["state"] == ("missing" if lacks else "ok")
        if layout != "pattern":
            assert row["y_um"] == pytest.approx(record.y_um - 24 * 0.5 / 2, abs=1e-6)
            assert row["x_um"] == pytest.approx(record.x_um - 40 * 0.5 / 2, abs=1e-6)
            assert lacks or row["z_um"] == pytest.approx(record.z_um, abs=1e-6)
        place = {"t": record.t, "z": record.z}
        if lacks or wide:
            with pytest.raises(PlaneError) as error:
                plate.read(well, field, channel, **place)
            assert error.value.reason == ("missing" if lacks else "wrong_type")
        else:
            np.testing.assert_array_equal(plate.read(well, field, channel, **place), plane.pixels)
        seen += 1
    assert seen == len(index) == (48 - 8 if layout == "pattern" else 48)


def many(out: Path, layout: str, wells: int, fields: int, channels: int, *, missing: bool = False) -> Path:
    """A plate of 384 wells, of which some are there, of tiny images, or of none."""
    writer = LAYOUTS[layout](out, PlateDescription(name="p", plate_shape=(16, 24), field_shape=(8, 8)))
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    for well, field, channel in product(range(wells), range(fields), range(channels)):
        place = {"row": well // 24, "column": well % 24, "field": field, "y_um": 4.8 * field, "x_um": 0.0}
        record = Record(**place, channel=channel, channel_name=f"c{channel}")
        writer.write(record, pixels, ["missing"] if missing else [])
    writer.finish()
    return writer.raw


@pytest.mark.parametrize("layout", ["harmony", "imagexpress", "yokogawa", "load_data", "pattern"])
def test_few_images_are_opened(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = many(tmp_path, layout, 48, 4, 3)
    opened: list[Path] = []
    original = tifffile.TiffFile

    def count(path: Path, **options: object) -> tifffile.TiffFile:
        opened.append(path)
        return original(path, **options)

    monkeypatch.setattr(tifffile, "TiffFile", count)
    plate = open_plate(raw, pattern=PATTERN) if layout == "pattern" else open_plate(raw)
    assert (len(plate.planes), set(plate.planes["state"])) == (48 * 4 * 3, {"ok"})
    assert len(opened) <= 48


@pytest.mark.parametrize("layout", ["harmony", "yokogawa", "load_data"])
def test_17280_planes_from_metadata(tmp_path: Path, layout: str) -> None:
    """384 wells of 9 fields of 5 channels: under 20 s of a core, 3 s at most where it was measured."""
    raw = many(tmp_path, layout, 384, 9, 5, missing=True)
    image = raw / "image-of-another-name.tif"
    tifffile.imwrite(image, np.zeros((8, 8), np.uint16))  # load_data wants one image there
    if layout == "load_data":
        table = raw / "load_data.csv"
        table.write_text(table.read_text().replace("A01-1-0-0-c0.tif,images/", f"{image.name},./", 1))
    start = process_time()
    assert len(open_plate(raw).planes) == 17280
    assert process_time() - start < 20


@pytest.mark.parametrize("layout", ["harmony", "imagexpress", "yokogawa"])
def test_17280_planes_from_names(tmp_path: Path, layout: str) -> None:
    """Under 60 s of a core, 2 s at most where it was measured."""
    raw = many(tmp_path, layout, 1, 1, 1)
    (one,) = raw.rglob("*.tif*")
    content, folder = one.read_bytes(), one.parent
    for path in raw.rglob("*"):
        if path.is_file():
            path.unlink()
    for well, field, channel in product(range(384), range(9), range(5)):
        name = {
            "harmony": f"r{well // 24 + 1:02d}c{well % 24 + 1:02d}f{field + 1:02d}p01-ch{channel + 1}sk1fk1fl1.tiff",
            "imagexpress": f"p_{well_name(well // 24, well % 24)}_s{field + 1}_w{channel + 1}{GUID}.tif",
            "yokogawa": f"p_{well_name(well // 24, well % 24)}_T0001F{field + 1:03d}L01A01Z01C{channel + 1:02d}.tif",
        }[layout]
        (folder / name).write_bytes(content)
    start = process_time()
    plate = open_plate(raw, pixel_size_um=1.0)
    assert len(plate.planes) == 17280
    assert process_time() - start < 60
