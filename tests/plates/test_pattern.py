from pathlib import Path

import numpy as np
import pytest
import tifffile

from plateflow.config import PlateflowError
from plateflow.plates import open_plate
from plateflow.plates.pattern import EXAMPLE
from plateflow.simulate.plate import micro_wells, simulate_plate


def write(folder: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, np.full((8, 9), n, np.uint8))
    return folder


def test_a_simulated_plate_pixel_for_pixel(tmp_path: Path) -> None:
    flat = simulate_plate(tmp_path / "flat", wells=micro_wells(), field_shape=(48, 64), layout="pattern")
    harmony = simulate_plate(tmp_path / "harmony", wells=micro_wells(), field_shape=(48, 64))
    plate, twin = open_plate(flat.raw, pattern=EXAMPLE, pixel_size_um=0.6), open_plate(harmony.raw)
    assert plate.info["layout"] == "pattern"
    assert plate.info["format"] == twin.info["format"] == [8, 12]
    assert plate.info["wells"] == twin.info["wells"]
    same = ["row", "column", "well", "field", "t", "z", "height", "width", "dtype", "dy_um", "dx_um", "state"]
    assert plate.planes[same].equals(twin.planes[same])
    assert plate.planes["y_um"].isna().all()
    for channel, name in zip("123", ("DNA", "AGP", "Marker"), strict=True):
        np.testing.assert_array_equal(plate.read("B03", "2", channel), twin.read("B03", "2", name))


def test_row_and_column_folders_z_and_t(tmp_path: Path) -> None:
    names = [
        f"{row}/{column}/t{t:03d}_z{z}_{c}.tif"
        for row in "AB"
        for column in (1, 12)
        for t in (5, 7)
        for z in (1, 2)
        for c in ("dapi", "gfp")
    ]
    pattern = r"(?P<row>[A-P])/(?P<column>\d+)/t(?P<t>\d+)_z(?P<z>\d+)_(?P<channel>\w+)\.tif"
    plate = open_plate(write(tmp_path, *names), pattern=pattern)
    assert plate.info["wells"] == ["A01", "A12", "B01", "B12"]
    assert (plate.info["t"], plate.info["z"], plate.info["fields"]) == (2, 2, 1)
    assert [channel["name"] for channel in plate.info["channels"]] == ["dapi", "gfp"]
    assert plate.info["pixel_size_um"] is None
    assert plate.info["bit_max"] == 255
    assert plate.read("B01", "1", "gfp", t=1, z=0)[0, 0] == names.index("B/1/t007_z1_gfp.tif")


def test_a_missing_file_is_a_row(tmp_path: Path) -> None:
    folder = write(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif", "A02_s1_w1.tif")
    planes = open_plate(folder, pattern=EXAMPLE).planes
    assert planes[planes["state"] == "missing"][["well", "field", "channel", "reason"]].to_numpy().tolist() == [
        ["A02", "1", "2", "no_record"]
    ]


def test_files_that_do_not_match_are_reported(tmp_path: Path) -> None:
    plate = open_plate(write(tmp_path, "A01_s1_w1.tif", "thumb.tif"), pattern=EXAMPLE)
    assert plate.info["disagreements"] == ["1 images don't match the pattern and are not used: thumb.tif"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<well>", "not a regular expression"),
        ("(?P<site>.)", "groups can't be used"),
        ("(?P<row>.)", "groups can't be used"),
        (r"(?P<well>X\d)", "no image matches"),
        (r"(?P<well>1_s1)", "can't be understood"),
        (r"(?P<well>A01)_s1_w(?P<z>.)", "two planes claim"),
    ],
)
def test_bad_patterns(tmp_path: Path, pattern: str, message: str) -> None:
    folder = write(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif")
    if message == "two planes claim":
        write(tmp_path, "A01_s1_w1_copy.tif")
    with pytest.raises(PlateflowError, match=message) as error:
        open_plate(folder, pattern=pattern)
    assert error.value.remedy


def test_the_pattern_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PlateflowError, match="needs a regular expression"):
        open_plate(write(tmp_path, "A01.tif"), layout="pattern")


def test_no_sound_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "A01_s1_w1.tif").write_bytes(b"")
    with pytest.raises(PlateflowError, match="no image of the plate can be read"):
        open_plate(tmp_path, pattern=EXAMPLE)


def test_names_with_spaces_quotes_and_umlauts(tmp_path: Path) -> None:
    folder = write(tmp_path / "Größe 'x' \"y\"", "B03 ü's_s1_w1.tif")
    plate = open_plate(folder, pattern=r"(?P<well>[A-P]\d\d).*_s(?P<field>\d)_w(?P<channel>\d)")
    assert plate.read("B03", "1", "1").shape == (8, 9)
