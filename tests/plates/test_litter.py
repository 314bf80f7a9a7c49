"""What macOS and Windows leave beside files is nobody's data, wherever files are listed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import plateflow
from layouts_plate import write
from test_layouts import PATTERN
from vendors import LAYOUTS

from plateflow.files import listed, stat_of
from plateflow.plates import open_plate, recognise
from plateflow.plates.platemap import read_plate_map

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(64)


def strew(folder: Path) -> None:
    """Put litter beside every file of a folder."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(APPLE_DOUBLE)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            file.with_name(name).write_bytes(b"\0\0\0\1Bud1")
    shutil.copytree(folder, folder.parent / "copy")
    (folder.parent / "copy").rename(folder / "__MACOSX")


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_plate_among_litter_is_the_same_plate(tmp_path: Path, layout: str) -> None:
    raw = write(tmp_path, layout, wells=("B02",), times=1)
    pattern = PATTERN if layout == "pattern" else None
    before, name = open_plate(raw, pattern=pattern), pattern or recognise(raw)
    strew(raw)
    after = open_plate(raw, pattern=pattern)
    assert (pattern or recognise(raw)) == name
    assert after.planes.equals(before.planes)
    assert after.metadata == before.metadata


def test_a_table_of_barcodes_and_what_is_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "metadata" / "platemaps" / "batch"
    (folder / "platemap").mkdir(parents=True)
    (tmp_path / "metadata" / "external_metadata").mkdir()
    (folder / "barcode_platemap.csv").write_text("Assay_Plate_Barcode,Plate_Map_Name\nP1,C-1\n")
    (folder / "platemap" / "lincs_C-1.txt").write_text("well_position\tbroad_sample\nA01\tx\n")
    (tmp_path / "metadata" / "external_metadata" / "meta.tsv").write_text("broad_sample\tname\nx\ty\n")
    before = read_plate_map(str(folder / "barcode_platemap.csv"), "P1")
    strew(tmp_path / "metadata")
    (folder / "platemap" / "._C-1.txt").write_bytes(APPLE_DOUBLE)  # a shorter name would be preferred
    assert read_plate_map(str(folder / "barcode_platemap.csv"), "P1").equals(before)
    assert [path.name for path in listed(folder)] == ["barcode_platemap.csv", "platemap"]


def test_an_array_that_is_read_in_place_stays_the_same(tmp_path: Path) -> None:
    (tmp_path / "array").mkdir()
    (tmp_path / "array" / "0.0").write_bytes(b"1234")
    before = stat_of(tmp_path / "array")
    strew(tmp_path / "array")
    shutil.rmtree(tmp_path / "array" / "__MACOSX")
    assert stat_of(tmp_path / "array") == before


def test_a_folder_of_litter_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / ".DS_Store").write_bytes(b"")
    assert "the plate's folder is empty" in plateflow("init", tmp_path / "raw", cwd=tmp_path, status=1)


def test_images_that_a_shell_lists(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 20), np.uint16))
    (tmp_path / "._a.tif").write_bytes(APPLE_DOUBLE)
    tiny = Path(__file__).parents[1] / "data" / "tiny.safetensors"
    plateflow("segment", "._a.tif", "a.tif", "-o", "out", "--model", tiny, cwd=tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_labels.tif"]
