"""Folders that hold more than one plate."""

import shutil
from pathlib import Path

import layouts_plate
import numpy as np
import pytest
import tifffile

from plateflow.errors import RawDataError
from plateflow.plates import open_plate

PIXELS = np.zeros((8, 8), np.uint16)


def refused(folder: Path, layout: str | None = None) -> str:
    with pytest.raises(RawDataError, match="several measurements") as error:
        open_plate(folder, layout=layout)
    assert "plateflow init FOLDER/*" in error.value.remedy
    return error.value.where


@pytest.mark.parametrize("layout", ["harmony", "imagexpress", "yokogawa", "omezarr", "load_data"])
def test_a_folder_above_two_plates(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "raw"
    for name in ("one", "two"):
        raw = layouts_plate.write(tmp_path / f"made_{name}", layout, wells=("C05",), times=1)
        shutil.copytree(raw, folder / f"{name}.zarr" if layout == "omezarr" else folder / name)
    where = refused(folder)
    assert "one" in where and "two" in where


def test_a_metaxpress_plate_with_steps_beside_one_without(tmp_path: Path) -> None:
    """The planes of the second were taken for projections of the first's stacks, and dropped."""
    for path in ("a/ZStep_1/p_B02_s1_w1.tif", "a/ZStep_2/p_B02_s1_w1.tif", "b/p_B02_s1_w1.tif"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / path, PIXELS)
    assert refused(tmp_path).endswith("a/p, b/p")
    (tmp_path / "b/p_B02_s1_w1.tif").rename(tmp_path / "a/p_B02_s1_w1.tif")  # a projection beside its steps
    assert open_plate(tmp_path).metadata["z"] == 2


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("imagexpress", ("p_B02_s1_w1.tif", "q_C02_s1_w1.tif")),
        ("yokogawa", ("p_B02_T0001F001L01A01Z01C01.tif", "q_C02_T0001F001L01A01Z01C01.tif")),
        ("harmony", ("p/Images/r02c03f01p01-ch1t02.tiff", "q/Images/r03c03f01p01-ch1t02.tiff")),
    ],
)
def test_names_of_two_plates_with_other_wells(tmp_path: Path, layout: str, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / name, PIXELS)
    where = refused(tmp_path, layout).rpartition(": ")[2]
    assert [name[0] for name in where.split(", ")] == ["p", "q"]


def test_one_plate_whose_wells_have_folders(tmp_path: Path) -> None:
    for well in ("B02", "C02"):
        (tmp_path / well).mkdir()
        tifffile.imwrite(tmp_path / well / f"p_{well}_s1_w1.tif", PIXELS)
    assert open_plate(tmp_path).metadata["wells"] == ["B02", "C02"]
