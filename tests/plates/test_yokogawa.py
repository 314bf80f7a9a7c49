import re
from pathlib import Path

import imagecodecs
import layouts_plate
import numpy as np
import pytest
import tifffile

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise
from plateflow.plates.plate import vendor_flat_field


def edit(raw: Path, name: str, change: str, to: str, *, count: int = 0) -> None:
    path = raw / name
    text, n = re.subn(change, to, path.read_text(encoding="utf-8-sig"), count=count)
    assert n
    path.write_text(text, encoding="utf-8-sig")


def test_a_real_cv8000(test_data: Path) -> None:
    """By hand from its files: 0.325 um, 2000 px, steps of 3 um, four fields in a square, 649.9 um apart."""
    plate = open_plate(test_data / "plates" / "yokogawa_cv8000")
    assert plate.metadata["layout"] == "yokogawa"
    assert plate.metadata["format"] == [8, 12]
    assert plate.metadata["wells"] == ["D08", "E03", "F08"]
    common = {"exposure_s": 0.1, "dtype": "uint16"}
    assert plate.metadata["channels"] == [
        {"name": "405", "wavelength_nm": 445.0, "flat_field": "SC_BP445-45_20x v2_M01_CH01.tif", **common},
        {"name": "488", "wavelength_nm": 525.0, "flat_field": "SC_BP525-50_20x v2_M01_CH02.tif", **common},
    ]
    named = "405 (SC_BP445-45_20x v2_M01_CH01.tif), 488 (SC_BP525-50_20x v2_M01_CH02.tif)"
    assert f"the vendor's flat field of {named}; it isn't used yet" in vendor_flat_field(plate.metadata)
    assert (plate.metadata["fields"], plate.metadata["z"], plate.metadata["t"]) == (4, 4, 1)
    assert plate.metadata["pixel_size_um"] == [0.325, 0.325]
    assert plate.metadata["disagreements"] == []
    planes = plate.planes
    assert (len(planes), set(planes["state"])) == (96, {"ok"})
    corners = planes[planes["well"] == "D08"].groupby("field")[["y_um", "x_um"]].first()
    # 567.1 um to the left of the centre, 402.9 um above it: half a field is 325 um
    assert corners.loc["1"].tolist() == pytest.approx([-402.9 - 325, -567.1 - 325])
    assert (corners.loc["4"] - corners.loc["1"]).tolist() == pytest.approx([649.9, 649.9])
    assert planes.groupby("z")["z_um"].first().tolist() == [0.0, 3.0, 6.0, 9.0]
    assert plate.read("D08", "1", "488", z=3).max() == 0  # the sample's pixels are blank


def test_real_records_of_errors_and_wells_of_different_time_lines(test_data: Path) -> None:
    """1,860 records of images in four wells, each in a time line of its own with one channel, and four errors."""
    plate = open_plate(test_data / "plates" / "yokogawa_cv7000_metadata_only" / "CV8000_AF_Error")
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["405", "488", "561", "640"]
    assert plate.metadata["t"] == 1  # time points 1 to 4, each in another well
    assert plate.metadata["z"] == 31
    planes = plate.planes
    assert (planes["reason"] == "missing").sum() == 1860
    lost = planes[planes["reason"] == "instrument_error"]
    assert set(zip(lost["well"], lost["field"], lost["channel"], strict=True)) == {
        ("F06", field, "640") for field in ("5", "11", "14", "15")
    }
    assert len(lost) == 4 * 31
    assert lost[lost["field"] == "5"]["x_um"].iloc[0] == pytest.approx(1050 - 1000 * 0.1625)
    assert lost[lost["field"] == "5"]["y_um"].iloc[0] == pytest.approx(-350 - 1000 * 0.1625)
    assert "the instrument reported 4 errors: AF Error at F06 No. 11" in plate.metadata["disagreements"][0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("CV7000-example", (1984, 31, [0.325] * 2)), ("CV7000_z_processed", (135, 1, [0.10833333333333334] * 2))],
)
def test_real_cv7000_metadata(test_data: Path, name: str, expected: tuple[int, int, list[float]]) -> None:
    plate = open_plate(test_data / "plates" / "yokogawa_cv7000_metadata_only" / name)
    named = plate.planes[plate.planes["path"] != ""]
    assert (len(named), plate.metadata["z"], plate.metadata["pixel_size_um"]) == expected
    assert (set(named["height"]), set(named["width"])) == ({2160}, {2560})


def test_a_channel_in_two_actions_is_two_channels(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("B02",), times=1)
    edit(raw, "MeasurementData.mlf", r'(ActionIndex="2"[^>]*) bts:Ch="2"', r'\1 bts:Ch="1"')
    plate = open_plate(raw)
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["DNA A1", "DNA A2"]
    assert len(plate.planes) == 3 * 4


def test_names_alone_where_the_records_are_missing(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("AF48",), shape=(32, 48))
    expected = open_plate(raw).planes
    (raw / "MeasurementData.mlf").unlink()
    assert recognise(raw) == "yokogawa"
    plate = open_plate(raw, pixel_size_um=0.5)
    same = ["well", "field", "t", "z", "path", "height", "width", "state"]
    there = expected[expected["state"] == "ok"]
    found = plate.planes[plate.planes["state"] == "ok"]
    assert found[same].reset_index(drop=True).equals(there[same].reset_index(drop=True))
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["C01", "C02"]
    assert "there is no .mlf file" in plate.metadata["disagreements"][0]


def test_without_settings_sizes_and_names_are_unknown(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("B02",), times=1)
    for ending in ("mrf", "mes"):
        for path in raw.glob(f"*.{ending}"):
            path.unlink()
    plate = open_plate(raw)
    assert plate.metadata["pixel_size_um"] is None
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["C01", "C02"]
    assert len([note for note in plate.metadata["disagreements"] if "the measurement has no" in note]) == 2
    given = open_plate(PlateSpec(plate="p", path=str(raw), layout="yokogawa", pixel_size_um=0.5)).planes
    corners = given.groupby("field")[["y_um", "x_um"]].first()
    assert (corners - corners.iloc[0]).to_numpy().tolist() == [[0, 0], [0, 20], [20, 0]]


def test_disagreements_are_reported(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("B02", "C05"), times=1)
    edit(raw, "MeasurementData.mlf", r'Row="3"(.*?FieldIndex=)"1"', r'Row="3"\1"9"', count=1)
    tifffile.imwrite(raw / "p_H12_T0001F001L01A01Z01C01.tif", np.zeros((24, 40), np.uint16))
    notes = "\n".join(open_plate(raw).metadata["disagreements"])
    assert "1 file name says another well, field or plane" in notes
    assert "1 image has no record and is not used: p_H12" in notes


@pytest.mark.parametrize(
    ("name", "change", "to", "message"),
    [
        ("MeasurementData.mlf", "</bts:MeasurementData>", "", "cannot parse the metadata file"),
        ("MeasurementData.mlf", r"\?>", '?><!DOCTYPE x [<!ENTITY a "aa">]>', "cannot parse the metadata file"),
        ("MeasurementDetail.mrf", "</bts:MeasurementDetail>", "", "cannot parse the metadata file"),
        ("MeasurementData.mlf", 'Row="2"', 'Row="two"', "cannot parse"),
        ("MeasurementData.mlf", 'bts:Row="2" ', "", "cannot parse"),
        ("MeasurementData.mlf", 'Row="2"', 'Row="40"', "off the plate"),
        ("MeasurementData.mlf", ">p_B02", ">../p_B02", "leads out"),
        ("MeasurementDetail.mrf", "p.mes", "/etc/p.mes", "leads out"),
        ("MeasurementData.mlf", 'FieldIndex="2"', 'FieldIndex="1"', "claim the same place"),
    ],
)
def test_bad_metadata_are_one_clear_error(tmp_path: Path, name: str, change: str, to: str, message: str) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("B02",), times=1)
    edit(raw, name, change, to)
    with pytest.raises(RawDataError, match=message) as error:
        open_plate(raw)
    assert error.value.remedy


def test_an_error_whose_record_cannot_be_read(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("B02",), times=1)
    edit(raw, "MeasurementData.mlf", 'bts:Type="ERR"([^>]*)bts:Y="[^"]*"', r'bts:Type="ERR"\1bts:Y="lost"')
    plate = open_plate(raw)
    assert "the instrument reported 1 error:" in plate.metadata["disagreements"][0]
    assert set(plate.planes["reason"]) == {"", "missing", "no_record"}


def test_numbers_that_matter_little_do_no_harm(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("B02",), times=1)
    edit(raw, "MeasurementDetail.mrf", 'InputBitDepth="16"', 'InputBitDepth="deep"')
    edit(raw, "MeasurementDetail.mrf", 'RowCount="8"', 'RowCount=""')
    plate = open_plate(raw)
    assert (plate.metadata["format"], plate.metadata["bit_max"]) == ([8, 12], 65535)


def test_a_folder_without_such_names_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((8, 8), np.uint16))
    with pytest.raises(RawDataError, match="not a CellVoyager measurement"):
        open_plate(tmp_path, layout="yokogawa")


def test_several_measurements_in_one_folder(test_data: Path) -> None:
    with pytest.raises(RawDataError, match="several measurements") as error:
        open_plate(test_data / "plates" / "yokogawa_cv7000_metadata_only")
    assert "CV7000-example" in error.value.where


def test_images_stored_as_png(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "yokogawa", wells=("C05", "B02"), times=1)
    expected = open_plate(raw)
    for path in raw.glob("p_B02*.tif"):
        path.with_suffix(".png").write_bytes(imagecodecs.png_encode(tifffile.imread(path)))
        path.unlink()
    plate = open_plate(raw)
    assert plate.planes["state"].equals(expected.planes["state"])
    np.testing.assert_array_equal(plate.read("B02", "1", "DNA", z=1), expected_pixels())


def expected_pixels() -> np.ndarray:
    """Of the first field's DNA, the second plane."""
    found = (p for p in layouts_plate.planes(("C05", "B02"), times=1) if p.record.column == 1)
    return next(p.pixels for p in found if p.record.z == 1)
