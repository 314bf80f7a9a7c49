import shutil
from pathlib import Path

import layouts_plate
import numpy as np
import pytest
import tifffile

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise


def test_a_real_plate_of_one_channel_without_w(test_data: Path) -> None:
    """By hand from the headers: 1.3668 um, FITC_05, 536 nm, 15 ms; sites 699.84 um apart in x, steps 4.94 um."""
    folder = test_data / "plates" / "imagexpress_singlechannel"
    plate = open_plate(folder)
    assert plate.metadata["layout"] == "imagexpress"
    assert plate.metadata["channels"] == [
        {"name": "FITC_05", "wavelength_nm": 536.0, "exposure_s": 0.015, "dtype": "uint16"}
    ]
    assert plate.metadata["wells"] == ["E07", "E08"]
    assert (plate.metadata["fields"], plate.metadata["z"], plate.metadata["t"]) == (2, 2, 1)
    assert plate.metadata["disagreements"] == ["4 projections are not used, as their stacks are there"]
    assert plate.metadata["pixel_size_um"] == [1.3668, 1.3668]
    planes = plate.planes
    assert len(planes) == 8
    assert (planes["state"] == "ok").all()
    assert not planes["path"].str.contains("thumb").any()
    first, second = (planes[planes["field"] == field].iloc[0] for field in ("1", "2"))
    assert second["x_um"] - first["x_um"] == pytest.approx(699.84)
    assert first["x_um"] == pytest.approx(-349.92 - 256 * 1.3668)
    assert second["y_um"] == pytest.approx(first["y_um"], abs=0.05)
    assert planes.groupby("z")["z_um"].first().tolist() == [0.0, 4.94]
    (file,) = folder.rglob("Projection-Mix_E08_s2E7EC7EF1*.tif")
    np.testing.assert_array_equal(plate.read("E08", "2", "FITC_05", z=1), tifffile.imread(file))
    # fields that touch go on in each other, on this side and not on the other
    left, right = (plate.read("E07", field, "FITC_05").astype(float) for field in ("1", "2"))
    assert np.corrcoef(left[:, -1], right[:, 0])[0, 1] > 0.95


def test_real_channels_with_a_stack_a_projection_and_one_plane(test_data: Path) -> None:
    plate = open_plate(test_data / "plates" / "imagexpress_projection_mix")
    assert [channel["name"] for channel in plate.metadata["channels"]] == [
        *("FITC_05", "FITC_05 (2)", "FITC_05 (3)", "FITC_05 (4)")
    ]
    stacks = {name: len(of) for name, of in plate.planes.groupby("channel")}
    assert list(stacks.values()) == [10, 10, 1, 1]  # w3 is a projection alone, w4 a single plane
    assert (plate.planes["state"] == "ok").all()
    third = plate.planes[plate.planes["channel"] == "FITC_05 (3)"].iloc[0]
    assert "ZStep" not in third["path"] and third["z"] == 0


def test_real_time_points_and_sites_above_each_other(test_data: Path) -> None:
    plate = open_plate(test_data / "plates" / "imagexpress_1well_3C_2S_Zmix_T")
    assert [(c["name"], c["wavelength_nm"], c["exposure_s"]) for c in plate.metadata["channels"]] == [
        *(("FITC", 536.0, 0.08), ("Cy3", 593.0, 0.1), ("Texas Red", 624.0, 0.005))
    ]
    assert (plate.metadata["fields"], plate.metadata["z"], plate.metadata["t"]) == (2, 1, 2)
    assert plate.metadata["pixel_size_um"] == [13.5504, 13.5504]
    corners = plate.planes.groupby("field")[["y_um", "x_um"]].first()
    assert corners.loc["2", "y_um"] - corners.loc["1", "y_um"] == pytest.approx(1734.52 + 1734.34)
    assert corners.loc["2", "x_um"] == corners.loc["1", "x_um"]


def test_a_real_htd_that_is_no_utf8(test_data: Path) -> None:
    plate = open_plate(test_data / "plates" / "metaxpress_exported_htd_min")
    assert plate.metadata["channels"] == [
        {"name": "DAPI", "wavelength_nm": 452.0, "exposure_s": 0.1, "dtype": "uint16"}
    ]
    assert plate.metadata["format"] == [8, 12]
    assert plate.planes[["well", "state"]].to_numpy().tolist() == [["B02", "ok"]]
    assert plate.metadata["disagreements"] == []


def test_the_htd_in_utf16_and_without_it(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("B02",), times=1)
    expected = open_plate(raw)
    (htd,) = raw.glob("*.HTD")
    htd.write_bytes(htd.read_bytes().decode("latin-1").encode("utf-16"))
    assert open_plate(raw).planes.equals(expected.planes)
    htd.unlink()
    assert recognise(raw) == "imagexpress"
    plate = open_plate(raw)
    there = expected.planes["field"] != "3"  # the third field has no file: the HTD alone knows of it
    same = ["well", "field", "channel", "t", "z", "path", "y_um", "x_um", "z_um", "state"]
    assert plate.planes[same].equals(expected.planes.loc[there, same].reset_index(drop=True))
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["DNA", "AGP"]  # from the headers


def test_wells_of_the_plan_without_images_and_the_reverse(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("C05", "B02"), times=1)
    for path in raw.rglob("p_B02_*.tif"):
        path.unlink()
    planes = open_plate(raw).planes
    assert planes.groupby("well")["state"].unique().map(sorted).to_dict() == {
        "B02": ["missing"],
        "C05": ["missing", "ok"],
    }
    assert len(planes[planes["well"] == "B02"]) == 2 * 4  # the third site has no image in any well
    assert set(planes.loc[planes["well"] == "B02", "reason"]) == {"no_record"}
    assert "the HTD file speaks of 3 sites; images of 2 are there" in open_plate(raw).metadata["disagreements"]
    (htd,) = raw.glob("*.HTD")
    text = htd.read_bytes().replace(b"TRUE, FALSE, FALSE, FALSE, FALSE, FALSE, FALSE, FALSE\r\n", b"FALSE\r\n")
    text = text.replace(b'"WaveName2", "AGP"', b'"WaveName2", "ER"')
    htd.write_bytes(text)
    plate = open_plate(raw)
    notes = "\n".join(plate.metadata["disagreements"])
    assert "1 well with images is not in the HTD file: C05" in notes
    assert "channel 2 is ER in the HTD file, which is followed, and AGP in the images" in notes


def test_single_planes_that_were_copied_into_every_step(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("B02", "C05"), times=1)
    for path in list((raw / "TimePoint_1" / "ZStep_1").glob("*_C05_*_w2*.tif")):
        for step in (2, 3):
            shutil.copy(path, raw / "TimePoint_1" / f"ZStep_{step}" / path.name)
    for path in raw.rglob("*_B02_*_w2*"):
        path.unlink()
    plate = open_plate(raw)
    assert "6 images of channel 2 are copies of one plane in every z step" in "\n".join(plate.metadata["disagreements"])
    depth = plate.planes.groupby(["well", "channel"])["z"].nunique().to_dict()
    assert depth == {("B02", "DNA"): 3, ("C05", "DNA"): 3, ("C05", "AGP"): 1}


def test_sites_that_lie_differently_in_each_well_are_all_looked_at(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("B02", "C05"), times=1)
    for path in raw.rglob("*_C05_s2_*.tif"):
        header, pixels = tifffile.TiffFile(path).pages[0].description, tifffile.imread(path)
        moved = header.replace(
            'id="OffsetFromWellCenterUmX" type="string" value="12.0"', 'id="OffsetFromWellCenterUmX" value="15.0"'
        )
        assert moved != header
        tifffile.imwrite(path, pixels, description=moved, metadata=None)
    corners = open_plate(raw).planes.groupby(["well", "field"])["x_um"].first()
    assert (corners["B02", "2"], corners["C05", "2"]) == (12 - 10, 15 - 10)


def test_stage_positions_where_there_are_no_offsets_and_a_label_of_another_well(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("B02",), times=1)
    for path in raw.rglob("*.tif"):
        header, pixels = tifffile.TiffFile(path).pages[0].description, tifffile.imread(path)
        header = header.replace("OffsetFrom", "Other").replace("B02 : Site 2", "B03 : Site 2")
        tifffile.imwrite(path, pixels, description=header, metadata=None)
    plate = open_plate(raw)
    corners = plate.planes.groupby("field")[["y_um", "x_um"]].first()
    assert (corners.loc["2"] - corners.loc["1"]).tolist() == pytest.approx([0, 20])
    assert "images say another well than their names, which are followed" in "\n".join(plate.metadata["disagreements"])


@pytest.mark.parametrize(
    ("unit", "um", "note"),
    [
        *(("\u03bcm", 0.5, ""), ("Micrometers", 0.5, ""), ("mm", 500.0, ""), ("pixels", None, ""), ("", None, "")),
        ("inch", None, "has pixels of 0.5 inch, a unit that isn't known"),
    ],
)
def test_units_of_the_calibration(tmp_path: Path, unit: str, um: float | None, note: str) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("C05",), times=1)
    for path in raw.rglob("*.tif"):
        header, pixels = tifffile.TiffFile(path).pages[0].description, tifffile.imread(path)
        header = header.replace('units" type="string" value="um"', f'units" type="string" value="{unit}"')
        tifffile.imwrite(path, pixels, description=header.encode(), metadata=None)
    plate = open_plate(raw)
    assert plate.metadata["pixel_size_um"] == (um and [um, um])
    notes = [text for text in plate.metadata["disagreements"] if "unit" in text]
    assert len(notes) == (2 if note else 0)  # of each channel
    assert all(note in text for text in notes)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("p_B02_s1_w1.TIF", ("B02", "1", 1)),
        ("p_q_B02_C03_s12_w10.tif", ("C03", "12", 1)),
        ("p_AF48_w2AD30D3B5-6C5A-4A7E-8B64-3F9B3AF9B3F0.tif", ("AF48", "1", 1)),
        ("p_E07_s117654C10-92F1-4DFD-98AA-6A01BBD77557.tif", ("E07", "1", 1)),
    ],
)
def test_names(tmp_path: Path, name: str, found: tuple[str, str, int]) -> None:
    tifffile.imwrite(tmp_path / name, np.zeros((8, 8), np.uint16))
    tifffile.imwrite(tmp_path / name.replace("_w", "_thumb_w"), np.zeros((2, 2), np.uint16))
    plate = open_plate(tmp_path, layout="imagexpress")
    row = plate.planes.iloc[0]
    assert (row["well"], row["field"], len(plate.metadata["channels"])) == found
    assert plate.planes["y_um"].isna().all()  # no header says where


def test_a_name_with_a_well_that_no_plate_has(tmp_path: Path) -> None:
    for name in ("p_B02_s1_w1.tif", "p_B99_s1_w1.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((8, 8), np.uint16))
    plate = open_plate(tmp_path, layout="imagexpress")
    assert plate.metadata["wells"] == ["B02"]
    (note,) = plate.metadata["disagreements"]
    assert note == "1 image is not named as MetaXpress names them and is not used: p_B99_s1_w1.tif"


def test_a_folder_without_such_names_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "scan.tif", np.zeros((8, 8), np.uint16))
    with pytest.raises(RawDataError, match="not a MetaXpress plate"):
        open_plate(tmp_path, layout="imagexpress")


def test_a_calibration_that_is_off_is_none(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "imagexpress", wells=("C05",), times=1)
    for path in raw.rglob("*.tif"):
        header, pixels = tifffile.TiffFile(path).pages[0].description, tifffile.imread(path)
        off = header.replace('calibration-state" type="string" value="on"', 'calibration-state" value="off"')
        assert off != header
        tifffile.imwrite(path, pixels, description=off, metadata=None)
    assert open_plate(raw).metadata["pixel_size_um"] is None
    # The user's pixel size brings the positions back, which are in um.
    given = open_plate(PlateSpec(plate="p", path=str(raw), layout="imagexpress", pixel_size_um=0.5)).planes
    assert given.groupby("field")[["y_um", "x_um"]].first().to_numpy().tolist() == [[-21, -18], [-21, 2]]


def test_wells_without_a_stack_beside_wells_with_one_are_reported(tmp_path: Path) -> None:
    """A01 is flat; A02 has three steps, and a projection of site 1 that isn't used."""
    steps = ["p_A01_s1_w1.tif", "p_A02_s1_w1.tif", *(f"ZStep_{z}/p_A02_s1_w1.tif" for z in (1, 2, 3))]
    for number, name in enumerate(steps):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / name, np.full((8, 8), number, np.uint16))
    plate = open_plate(tmp_path, layout="imagexpress")
    assert plate.metadata["disagreements"] == [
        "1 projection is not used, as its stack is there",
        "1 well has 1 z plane where most have 3 (w1); unless that was planned, something was lost: A01",
    ]
    assert plate.planes.groupby("well")["state"].agg(list).to_dict() == {"A01": ["ok"], "A02": ["ok"] * 3}
    assert plate.read("A01", "1", "w1", z=0)[0, 0] == 0
    assert [plate.read("A02", "1", "w1", z=z)[0, 0] for z in range(3)] == [2, 3, 4]
