import time
from pathlib import Path

import numpy as np
import pytest
import regex
import tifffile
from vendors import PatternLayout

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise
from plateflow.plates import pattern as pattern_module
from plateflow.plates.pattern import EXAMPLE
from plateflow.simulate.plate import micro_wells, simulate_plate


def write(folder: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / name, np.full((8, 9), n, np.uint8))
    return folder


def test_a_simulated_plate_pixel_for_pixel(tmp_path: Path) -> None:
    flat = simulate_plate(tmp_path / "flat", wells=micro_wells(), field_shape=(48, 64), layout=PatternLayout)
    harmony = simulate_plate(tmp_path / "harmony", wells=micro_wells(), field_shape=(48, 64))
    plate, twin = open_plate(flat.raw, pattern=EXAMPLE, pixel_size_um=0.6), open_plate(harmony.raw)
    assert plate.metadata["layout"] == "pattern"
    assert plate.metadata["format"] == twin.metadata["format"] == [8, 12]
    assert plate.metadata["wells"] == twin.metadata["wells"]
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
    assert plate.metadata["wells"] == ["A01", "A12", "B01", "B12"]
    assert (plate.metadata["t"], plate.metadata["z"], plate.metadata["fields"]) == (2, 2, 1)
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["dapi", "gfp"]
    assert plate.metadata["pixel_size_um"] is None
    assert plate.metadata["bit_max"] == 255
    assert plate.read("B01", "1", "gfp", t=1, z=0)[0, 0] == names.index("B/1/t007_z1_gfp.tif")


@pytest.mark.parametrize(("rows", "wells"), [("b D AA", "B D AA"), ("1 02 32", "A B AF")])
def test_rows_are_letters_or_numbers_from_1(tmp_path: Path, rows: str, wells: str) -> None:
    folder = write(tmp_path, *(f"{row}-{column}.tif" for row in rows.split() for column in ("7", "012")))
    plate = open_plate(folder, pattern=r"^(?P<row>\w+)-(?P<column>\d+)")
    assert plate.metadata["wells"] == [f"{row}{column}" for row in wells.split() for column in ("07", "12")]


def test_a_row_or_column_0_is_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("0-1.tif", "1-0.tif", "A-0.tif")):
        with pytest.raises(RawDataError):
            open_plate(write(tmp_path / str(number), name), pattern=r"(?P<row>\w+)-(?P<column>\d+)")


def test_a_missing_file_is_a_row(tmp_path: Path) -> None:
    folder = write(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif", "A02_s1_w1.tif", "A02_s2_w1.tif", "A02_s2_w2.tif")
    planes = open_plate(folder, pattern=EXAMPLE).planes
    assert planes[planes["state"] == "missing"][["well", "field", "channel", "reason"]].to_numpy().tolist() == [
        ["A02", "1", "2", "no_record"]
    ]


def test_files_that_do_not_match_are_reported(tmp_path: Path) -> None:
    plate = open_plate(write(tmp_path, "A01_s1_w1.tif", "thumb.tif"), pattern=EXAMPLE)
    assert plate.metadata["disagreements"] == ["1 image doesn't match the pattern and is not used: thumb.tif"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<well>", "not a regular expression"),
        ("(?P<site>.)", "groups of the pattern can't be used"),
        ("(?P<row>.)", "groups of the pattern can't be used"),
        (r"(?P<well>X\d)", "no image matches"),
        (r"(?P<well>1_s1)", "cannot parse"),
        (r"(?P<well>A01)_s1_w(?P<z>.)", "two planes claim"),
    ],
)
def test_bad_patterns(tmp_path: Path, pattern: str, message: str) -> None:
    folder = write(tmp_path, "A01_s1_w1.tif", "A01_s1_w2.tif")
    if message == "two planes claim":
        write(tmp_path, "A01_s1_w1_copy.tif")
    with pytest.raises(RawDataError, match=message) as error:
        open_plate(folder, pattern=pattern)
    assert error.value.remedy


NAME = "B03_s1_" + "w1_" * 70 + ".tif.tif"
BACK_AND_FORTH = (
    r"(?P<well>[A-P]\d\d)(?:(?:\w+?)(?=_)_?)*\.tif$",
    r"(?P<well>[A-P]\d\d)(?:(?:\w|_)+?(?=[_w]))+\.tif$",
    r"(?P<well>[A-P]\d\d)_(\w+_?)+\.tif$",
    r"(.*)*(?P<well>[A-P]\d\d)_s\d+x[.]tif",
)


@pytest.mark.parametrize("pattern", BACK_AND_FORTH)
def test_a_pattern_that_goes_back_and_forth_ends_within_seconds(tmp_path: Path, pattern: str) -> None:
    """Python's own would take years for each; the first is refused, others are found not to match at once."""
    folder = write(tmp_path, NAME)
    start = time.process_time()
    with pytest.raises(RawDataError, match=r"no image matches|takes too long") as error:
        open_plate(folder, pattern=pattern)
    assert time.process_time() - start < 10
    assert error.value.remedy
    if pattern == BACK_AND_FORTH[0]:
        assert error.value.what == "the pattern takes too long"
        assert pattern in error.value.where
        assert NAME in error.value.why


def test_a_hundred_thousand_names_are_far_from_too_long(tmp_path: Path) -> None:
    spec = PlateSpec(plate="p", path=str(tmp_path), layout="pattern", pattern=EXAMPLE)
    names = [f"plate_{n // 9:05d}/A{n % 24 + 1:02d}_s{n % 9}_w{n % 5}.tif" for n in range(100_000)]
    start = time.process_time()
    found = pattern_module._search(spec, regex.compile(EXAMPLE), names)
    assert time.process_time() - start < pattern_module._SECONDS
    assert all(found.values())


TABLE = "path,well,field,channel\nA01_s1_w1.tif,A01,1,DNA\nA02_s1_w1.tif,A02,1,DNA\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TABLE.replace("A02,1", "A02,1,2"), r"line 3 has 5 cells, and the table 4 columns"),
        (TABLE[:-6], r"line 3 has 3 cells, and the table 4 columns[\s\S]*cut"),
        (TABLE.replace(",A01", ',"A01'), r"quoted cell of line 2 reaches to line 3"),
        (TABLE.replace("DNA", "D\udc81\udc8d"), r"neither UTF-8 nor Windows' .*line 2"),
    ],
)
def test_a_damaged_table_of_images_is_one_error(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, "A01_s1_w1.tif", "A02_s1_w1.tif")
    (tmp_path / "images.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RawDataError, match=words) as error:
        open_plate(tmp_path, pattern="images.csv")
    assert str(tmp_path / "images.csv") in error.value.where
    (tmp_path / "images.csv").write_bytes(TABLE.encode("utf-16"))
    assert open_plate(tmp_path, pattern="images.csv").metadata["wells"] == ["A01", "A02"]


def test_the_pattern_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="needs a regular expression"):
        open_plate(write(tmp_path, "A01.tif"), layout="pattern")


def test_no_sound_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "A01_s1_w1.tif").write_bytes(b"")
    with pytest.raises(RawDataError, match="no image of the plate can be read"):
        open_plate(tmp_path, pattern=EXAMPLE)


def test_names_with_spaces_quotes_and_umlauts(tmp_path: Path) -> None:
    folder = write(tmp_path / "Größe 'x' \"y\"", "B03 ü's_s1_w1.tif")
    plate = open_plate(folder, pattern=r"(?P<well>[A-P]\d\d).*_s(?P<field>\d)_w(?P<channel>\d)")
    assert plate.read("B03", "1", "1").shape == (8, 9)


def test_real_names_of_cytation(test_data: Path) -> None:
    """By hand: three wells, one field each (of other numbers), three channels, time 001."""
    folder = test_data / "plates" / "cytation_nf1_cellpainting"
    assert recognise(folder / "Plate_2_images") == recognise(folder) == "pattern"
    plate = open_plate(folder)
    assert plate.metadata["wells"] == ["D06", "F07", "H12"]
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["DAPI", "GFP", "RFP"]
    assert plate.planes.groupby("well")["field"].unique().map(list).to_dict() == {
        "D06": ["2"],
        "F07": ["2"],
        "H12": ["1"],
    }
    assert set(zip(plate.planes["height"], plate.planes["width"], strict=True)) == {(904, 1224)}
    assert plate.metadata["disagreements"][0].startswith("9 images don't match the pattern")  # the masks
    expected = tifffile.imread(folder / "Plate_2_images" / "F7_01_3_2_RFP_001.tif")
    np.testing.assert_array_equal(plate.read("F07", "2", "RFP"), expected)


def test_real_names_of_cellomics_and_embl(test_data: Path) -> None:
    plate = open_plate(test_data / "plates" / "cellomics_bbbc008_examplehuman")
    assert (plate.metadata["wells"], plate.metadata["bit_max"]) == (["D03"], 255)
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["0", "1", "2"]
    plate = open_plate(test_data / "plates" / "almf_embl_zerobased")
    assert plate.metadata["wells"] == ["B09"]
    assert plate.planes[["field", "channel", "t", "z"]].to_numpy().tolist() == [["0", "00", 0, 0], ["0", "01", 0, 0]]
    assert plate.read("B09", "0", "00").shape == (1608, 1608)


def test_the_companions_that_macos_writes_are_no_images(tmp_path: Path) -> None:
    """They match the pattern too: two planes claimed the same place."""
    names = [f"AS_09125_050116030001_{well}f00d0.tif" for well in ("D03", "D04")]
    write(tmp_path, *names)
    for name in names:
        (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7" + bytes(4092))
    assert recognise(tmp_path) == "pattern"
    assert open_plate(tmp_path).planes["path"].tolist() == names


def test_names_of_scanr_and_a_ready_pattern_by_its_name(tmp_path: Path) -> None:
    folder = write(
        tmp_path, *(f"data/H12--W00096--P0000{f}--Z0000{z}--T00000--DAPI.tif" for f in (1, 2) for z in (0, 1))
    )
    assert recognise(folder) == "pattern"
    plate = open_plate(folder)
    assert (plate.metadata["wells"], plate.metadata["fields"], plate.metadata["z"]) == (["H12"], 2, 2)
    assert open_plate(folder, pattern="ScanR").planes.equals(plate.planes)
    with pytest.raises(RawDataError, match="no image matches"):
        open_plate(folder, pattern="embl")


def test_a_table_of_paths(tmp_path: Path) -> None:
    folder = write(tmp_path, "x/one.tif", "x/two.tif", "three.tif")
    lines = [
        "path,well,field,channel,y_um,x_um,pixel_size_um",
        "x/one.tif,a1,7,DNA,0,0,0.5",
        "x/two.tif,A1,8,DNA,0,4.5,0.5",
    ]
    (folder / "files.csv").write_text("\n".join([*lines, "three.tif,AF48,7,DNA,,,0.5", ",AF48,8,DNA,,,0.5"]) + "\n")
    plate = open_plate(folder, pattern="files.csv")
    assert plate.metadata["wells"] == ["A01", "AF48"]
    assert plate.metadata["pixel_size_um"] == [0.5, 0.5]
    assert plate.planes["x_um"].tolist()[:2] == [0.0, 4.5]
    assert plate.planes["reason"].tolist() == ["", "", "", "no_record"]
    assert plate.read("AF48", "7", "DNA")[0, 0] == 2
    tsv = tmp_path.parent / "files.tsv"  # need not lie in the plate's folder
    tsv.write_text("row\tcolumn\tpath\nB\t12\tthree.tif\n")
    assert open_plate(folder, pattern=str(tsv)).metadata["wells"] == ["B12"]


def test_columns_of_a_table_in_capitals_and_others(tmp_path: Path) -> None:
    """`Channel` was ignored: two channels became one."""
    folder = write(tmp_path, "x.tif", "y.tif")
    lines = ["Path,Well,Channel,Wavelength,Dose,Plane", "x.tif,A1,GFP,488,1,1", "y.tif,A2,DAPI,405,2,1"]
    (folder / "t.csv").write_text("\n".join(lines))
    plate = open_plate(folder, pattern="t.csv")
    assert plate.read("A02", "1", "DAPI")[0, 0] == 1
    ok = plate.planes[plate.planes["state"] == "ok"]
    assert list(zip(ok["well"], ok["channel"], strict=True)) == [("A01", "GFP"), ("A02", "DAPI")]
    note = "3 columns of the table of images aren't read: Dose, Plane, Wavelength"
    assert plate.metadata["disagreements"][0] == note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,well,Site\nx.tif,A1,3\ny.tif,A2,4\n", r"isn't understood[\s\S]*name it field"),
        ("path,well,pixel size\nx.tif,A1,1\ny.tif,A2,1\n", r"isn't understood[\s\S]*name it pixel_size_um"),
        ("path,site\nx.tif,1\n", "lacks a column"),
        ("", "lacks a column"),
        ("path,well\n../x.tif,A1\n", "leads out"),
        ("path,well\nx.tif,Q77\n", "cannot parse"),
        ("path,well,y_um\nx.tif,A1,left\n", "cannot parse"),
        ("path,well\nx.tif,A1\ny.tif,A01\n", "two planes claim"),
        (None, "can't be read"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str | None, message: str) -> None:
    write(tmp_path, "x.tif", "y.tif")
    if text is not None:
        (tmp_path / "files.csv").write_text(text)
    with pytest.raises(RawDataError, match=message) as error:
        open_plate(tmp_path, pattern="files.csv")
    assert error.value.remedy


def test_names_of_cytation_with_planes_and_stitched_ones(tmp_path: Path) -> None:
    folder = write(tmp_path, *(f"A1_-1_1_1Z{z}_Bright Field_00{t}.tif" for z in (0, 1) for t in (1, 2)))
    plate = open_plate(folder)
    assert (plate.metadata["z"], plate.metadata["t"], [c["name"] for c in plate.metadata["channels"]]) == (
        *(2, 2),
        ["Bright Field"],
    )
