import math
from pathlib import Path

import pytest

from plateflow.config import PlateflowError
from plateflow.plates.platemap import read_plate_map


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "map.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_map_with_free_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "Well,Role,treatment,dose,batch\nb3,negative,DMSO,0,7\nA001,positive,x,1.5e-3,\nAF48,,,,\n\nc1,,y,,\n",
    )
    table = read_plate_map(path)
    assert list(table.columns) == ["well", "role", "treatment", "dose", "batch"]
    assert list(table["well"]) == ["B03", "A01", "AF48", "C01"]
    assert list(table["role"]) == ["negative", "positive", "empty", "treatment"]
    assert table["dose"].tolist()[:2] == [0.0, 0.0015]
    assert math.isnan(table["dose"][2])
    assert list(table["batch"]) == ["7", "", "", ""]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "well,role,treatment\r\nA1,treatment,Ätzung µM\r\n".replace(",", delimiter)
    table = read_plate_map(write(tmp_path, text, encoding))
    assert table.iloc[0].tolist()[:3] == ["A01", "treatment", "Ätzung µM"]
    assert list(table.columns) == ["well", "role", "treatment", "dose"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be used"),
        ("well,role\n", "can't be used"),
        ("well,role\n,,\n,\n", "can't be used"),
        ("role,well\nnegative\n", "no well"),
        ("position,role\nA1,negative\n", "can't be used"),
        ("well,role,role\nA1,negative,positive\n", "comes twice"),
        ("well,role\nA1,negative\na01,positive\n", "A01 twice"),
        ("well,role\nA1,control\n", "unknown role 'control'"),
        ("well,role\nAG1,negative\n", "no well"),
        ("well,dose\nA1,10 uM\n", "no number"),
    ],
)
def test_a_bad_map_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(PlateflowError, match=message) as error:
        read_plate_map(path)
    assert str(path) in error.value.where
    assert error.value.remedy


def test_no_map(tmp_path: Path) -> None:
    with pytest.raises(PlateflowError, match="not there"):
        read_plate_map(tmp_path / "map.csv")


def test_a_folder_for_a_map(tmp_path: Path) -> None:
    with pytest.raises(PlateflowError, match="can't be read") as error:
        read_plate_map(tmp_path)
    assert error.value.where == str(tmp_path)
