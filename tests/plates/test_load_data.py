import csv
import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import layouts_plate
import numpy as np
import pytest
import tifffile

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates import open_plate, recognise

Line = dict[str, str]


def rewrite(path: Path, change: Callable[[Line], Line]) -> None:
    with path.open(newline="") as file:
        lines = [change(line) for line in csv.DictReader(file)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def test_pe2loaddata_of_a_real_plate(test_data: Path, tmp_path: Path) -> None:
    """By hand: the table's PathName is another machine's; OrigDNA is ch5, HOECHST 33342; 0.598 um, 1080 px, -4 um."""
    shutil.copytree(test_data / "plates" / "phenix_harmony5_BR00121482", tmp_path / "p")
    (tmp_path / "p" / "Images" / "Index.idx.xml").unlink()
    plate = open_plate(tmp_path / "p", layout="load_data")
    assert [channel["name"] for channel in plate.metadata["channels"]] == [
        "RNA",
        "ER",
        "AGP",
        "Mito",
        "Brightfield",
        "DNA",
    ]
    row = plate.planes.set_index("channel").loc["DNA"]
    assert (row["well"], row["field"], row["state"]) == ("A01", "1", "ok")
    assert (row["z_um"], row["dy_um"]) == pytest.approx((-4.0, 0.5979760809567617))
    assert (row["y_um"], row["x_um"]) == pytest.approx((-540 * 0.5979760809567617,) * 2)
    expected = tifffile.imread(tmp_path / "p" / "Images" / "r01c01f01p01-ch5sk1fk1fl1.tiff")
    np.testing.assert_array_equal(plate.read("A01", "1", "DNA"), expected)
    assert plate.metadata["disagreements"] == ["6 images lie elsewhere by the table; found by the end of their paths"]


def test_a_real_table_of_the_gallery(test_data: Path, tmp_path: Path) -> None:
    """BR00117035: paths of the cloud's mount; of its images the first site's AGP is here, in the folders' last two."""
    table = test_data / "plates" / "metadata_tables" / "cellpainting_gallery_load_data.csv"
    with table.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with gzip.open(tmp_path / "load_data.csv.gz", "wt") as file:
        file.write(table.read_text())
    with pytest.raises(RawDataError, match="not in the plate's folder"):
        open_plate(tmp_path)
    folder = tmp_path / "BR00117035__2021-05-02T16_02_51-Measurement1" / "Images"
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "r01c01f01p01-ch2sk1fk1fl1.tiff", np.full((8, 9), 5, np.uint16))
    assert recognise(tmp_path) == "load_data"
    plate = open_plate(tmp_path)
    assert [channel["name"] for channel in plate.metadata["channels"]] == ["AGP", "DNA", "ER", "Mito", "RNA"]
    assert len(plate.planes) == 5 * len(lines)
    assert plate.metadata["wells"][0] == "A01"
    ok = plate.planes[plate.planes["state"] == "ok"]
    assert ok[["well", "field", "channel"]].to_numpy().tolist() == [["A01", "1", "AGP"]]
    assert plate.read("A01", "1", "AGP")[0, 0] == 5


@pytest.mark.parametrize("url", ["s3://cellpainting-gallery/a.tif", "https://x.org/a.tif", "gs://b/a.tif"])
def test_urls_are_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "load_data.csv").write_text(f"Metadata_Plate,Metadata_Well,Metadata_Site,URL_DNA\np,A01,1,{url}\n")
    assert recognise(tmp_path) == "load_data"
    with pytest.raises(RawDataError, match="are URLs") as error:
        open_plate(tmp_path)
    assert "download" in error.value.remedy


def test_file_urls_and_absolute_paths_below_the_folder(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05", "B02"), times=1)
    expected = open_plate(raw)
    images = raw / "images"
    rewrite(raw / "load_data.csv", lambda line: line | {"PathName_OrigDNA": str(images)})
    assert open_plate(raw).planes.equals(expected.planes)

    def as_url(line: Line) -> Line:
        line["URL_OrigAGP"] = f"file://{images}/{line['FileName_OrigAGP']}" if line["FileName_OrigAGP"] else ""
        return {key: value for key, value in line.items() if key not in ("FileName_OrigAGP", "PathName_OrigAGP")}

    rewrite(raw / "load_data.csv", as_url)
    assert open_plate(raw).planes.equals(expected.planes)
    assert open_plate(raw).metadata == expected.metadata


def test_the_table_without_illumination_and_the_lines_of_one_plate(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05", "B02"), times=1)
    expected = open_plate(raw)
    table = raw / "load_data.csv"
    shutil.copy(table, raw / "load_data_with_illum.csv")
    rewrite(
        raw / "load_data_with_illum.csv", lambda line: line | {"FileName_IllumDNA": "i.npy", "Metadata_Well": "H12"}
    )
    assert open_plate(raw).planes.equals(expected.planes)
    table.write_text(
        table.read_text() + table.read_text().split("\n", 1)[1].replace("p,C05", "q,A01").replace("p,B02", "q,A02")
    )
    assert open_plate(raw).metadata["wells"] == ["B02", "C05"]
    with pytest.raises(RawDataError, match="several plates") as error:
        open_plate(PlateSpec(plate="other", path=str(raw), layout="load_data"))
    assert "p, q" in error.value.why


def test_pixel_sizes_that_are_not_in_metres_are_said_to_be_unused(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05",), times=1)
    sizes = {"Metadata_ImageResolutionX": "0.5", "Metadata_ImageResolutionY": "0.5"}
    rewrite(raw / "load_data.csv", lambda line: line | sizes)
    plate = open_plate(raw)
    assert plate.metadata["pixel_size_um"] is None
    assert "isn't in metres: this and the positions aren't used" in plate.metadata["disagreements"][-1]


def test_row_and_col_columns_and_utf16(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05", "B02"), times=1)
    expected = open_plate(raw).planes
    rewrite(
        raw / "load_data.csv",
        lambda line: (
            line
            | {
                "Metadata_Well": "",
                "Metadata_Row": {"C05": "3", "B02": "B"}[line["Metadata_Well"]],
                "Metadata_Col": line["Metadata_Well"][1:],
            }
        ),
    )
    (raw / "load_data.csv").write_bytes((raw / "load_data.csv").read_text().encode("utf-16"))
    assert open_plate(raw).planes.equals(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"PathName_OrigDNA": "../images"}, "leads out"),
        ({"Metadata_Well": "Q99"}, "cannot parse"),
        ({"Metadata_PlaneID": "top"}, "cannot parse"),
        ({"Metadata_Site": "1"}, "claim the same place"),
        ({"FileName_OrigDNA": "lost.tif", "FileName_OrigAGP": "lost.tif"}, "not in the plate's folder"),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path: Path, change: Line, message: str) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05", "B02"), times=1)
    rewrite(raw / "load_data.csv", lambda line: line | change)
    with pytest.raises(RawDataError, match=message) as error:
        open_plate(raw)
    assert error.value.remedy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[: b.rindex(b",") - 1], r"line \d+ has \d+ cells, and the table \d+ columns[\s\S]*cut"),
        (lambda b: b.replace(b",p,", b",p,x,", 1), r"line 2 has \d+ cells"),
        (lambda b: b.replace(b",p,", b',"p,', 1), r"quoted cell of line 2 reaches"),
        (lambda b: b.replace(b".tif", b"\x81\x8d.tif", 1), r"neither UTF-8 nor Windows'.*line 2"),
        (lambda b: b.split(b"\n", 1)[0] + b"\n", "no line below the names"),
        (lambda b: gzip.compress(b)[:-9], "EOFError"),
    ],
)
def test_a_table_that_is_damaged_is_told_with_its_line(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05", "B02"), times=1)
    table = raw / "load_data.csv"
    damaged = change(table.read_bytes())
    if damaged.startswith(b"\x1f\x8b"):
        table = table.rename(raw / "load_data.csv.gz")
    table.write_bytes(damaged)
    with pytest.raises(RawDataError, match=message) as error:
        open_plate(raw, layout="load_data")
    assert str(table) in error.value.where
    assert error.value.remedy


def test_an_image_that_could_be_one_of_two(tmp_path: Path) -> None:
    raw = layouts_plate.write(tmp_path, "load_data", wells=("C05", "B02"), times=1)
    shutil.copytree(raw / "images", raw / "copy")
    rewrite(raw / "load_data.csv", lambda line: line | {"PathName_OrigDNA": "/elsewhere/"})
    with pytest.raises(RawDataError, match="one of several"):
        open_plate(raw)


def test_no_table_at_all(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(RawDataError, match=r"no load_data\.csv"):
        open_plate(tmp_path, layout="load_data")
