"""Plate maps that are drawn in the shape of the plate: rows and columns go by their names."""

import re
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from plateflow.errors import RawDataError
from plateflow.paths import row_name, well_name
from plateflow.plates.platemap import read_plate_map


def read(path: Path, text: str) -> dict[str, tuple[str, float]]:
    path.write_text(text)
    table = read_plate_map(path)
    return dict(zip(table["well"], zip(table["treatment"], table["dose"], strict=True), strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_any_rows_and_columns_are_those_of_a_list_of_the_same_wells(tmp_path: Path, seed: int) -> None:
    """Random subsets, in random order, with an empty margin and a remark; each matrix has its own."""
    rng = np.random.default_rng(seed)
    drawn: list[str] = []
    wells: dict[str, dict[str, str]] = {}
    for name in ("treatment", "dose"):
        rows = rng.permutation(32)[: rng.integers(1, 32)].tolist()
        columns = rng.permutation(48)[: rng.integers(1, 48)].tolist()
        margin = [""] * int(rng.integers(0, 3))
        lines = [["a remark, of a line"], [*margin, name, *(str(column + 1) for column in columns)]]
        for row in rows:
            values = [f"{1 + rng.integers(9)}" if rng.random() < 0.8 else "" for _ in columns]
            lines.append([*margin, row_name(row), *values])
            for column, value in zip(columns, values, strict=True):
                if value:
                    wells.setdefault(well_name(row, column), {})[name] = value
        width = max(map(len, lines))
        drawn += [";".join([*line, *[""] * (width - len(line))]) for line in lines] + [""]
    listed = "\n".join([f"{w};{v.get('treatment', '')};{v.get('dose', '')}" for w, v in wells.items()])
    expected = read(tmp_path / "list.csv", f"well;treatment;dose\n{listed}\n")
    found = read(tmp_path / "drawn.csv", "\n".join(drawn))
    assert found.keys() == expected.keys()
    np.testing.assert_equal(found, {well: expected[well] for well in found})


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (",1,2\nA,x,y\nB?,x,y\n", 3, "begins with 'B[?]'"),
        (",1,2\nA,x,y\n,x,y\n", 3, "begins with 'x'"),
        (",1,2\nA,x,y\nAG,x,y\n", 3, "begins with 'AG'"),
        (",1,2\nA,x,y\nA,x,y\n", 3, "row A occurs twice"),
        (",1,2,2\nA,x,y,z\n", 1, "column 2 occurs twice"),
        (",1,2,,1,2\nA,x,y,A,x,y\n", 1, "column 1 occurs twice"),
        (",1,,3\nA,x,y,z\n", 2, "'y' stands in a column without a number"),
        (",1,2,,\nA,x,y,z\n", 2, "'z' stands in a column without a number"),
        (",1,2\nA,x,y\n\ndose,0,1,2\nA,1,1,1\n", 5, "'0' above it is no number"),
        (",1,2,x,4\nA,a,b,c,d\n", 2, "in no matrix; 'x' above it is no number of a column"),
        (",1,2\nA,x,y\n\nB,x,y\n", 4, "B may be a row or a legend"),
        (",1,2\nA,x,y\n\nN,negative control\n", 4, "N may be a row or a legend"),  # N isn't drawn
        (",1,2\nA,A,C\nB,A,D\n\nC,E\n", 5, "C may be a row or a legend"),
        (",1,2\nA,N,t\nN,negative control\n", 3, "N may be a row or a legend"),
        (",1,2\nA,n,B\nB,x\n", 3, "B may be a row or a legend"),
        (",1,2\nA,N,x\n\npassage,12\nN,negative\n", 5, "N may be a row or a legend"),
        (",1,2\nA,x,y\n\ndose,1,2,3\nRow A,1,1,1\n", 4, "no row with its letter"),
        (",1,2\nA,x,y\n\n,dose,c1,c2\n,B,1,1\n", 5, "in no matrix"),
    ],
)
def test_what_is_not_taken_is_an_error_that_names_its_line(tmp_path: Path, text: str, line: int, why: str) -> None:
    with pytest.raises(RawDataError, match=why) as error:
        read(tmp_path / "map.csv", text)
    assert error.value.where.endswith(f"line {line}")
    assert "blank line" in error.value.remedy


def test_remarks_apart_from_a_matrix_do_no_harm(tmp_path: Path) -> None:
    text = "by Anna,12 May\n\n,1,2\nA,x,y\n\nmedium,RPMI,10 % FCS\nin Zürich,z\n"
    assert read(tmp_path / "map.csv", text).keys() == {"A01", "A02"}


LEGEND = [["N", "negative control"], ["a", "a compound"], ["P = positive control"], ["D"]]


@pytest.mark.parametrize("suffix", ["csv", "xlsx"])
def test_a_legend_below_a_matrix_is_no_row(tmp_path: Path, suffix: str) -> None:
    """Of keys that are drawn as values; rows of one value, or of letters that are values too, stay rows."""
    rows = [["", 1, 2], ["A", "N", "A"], ["B", "P", "b"], ["D", "b"], [], *LEGEND, [], ["dose", 1], ["A", 5], ["B", 7]]
    path = tmp_path / f"map.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    else:
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
    table = read_plate_map(path)
    assert dict(zip(table["well"], table["treatment"], strict=True)) == {
        "A01": "N", "A02": "A", "B01": "P", "B02": "b", "D01": "b",
    }  # fmt: skip
    assert table["dose"].tolist()[:3:2] == [5, 7]


def drawn_book(path: Path, merged: list[str]) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "treatment"
    sheet["A1"] = "Compounds of plate 7"
    for column in range(1, 5):
        sheet.cell(2, column + 1, column)
    for row, letter in enumerate("ABCD", 3):
        sheet.cell(row, 1, letter)
        for column in range(1, 5):
            sheet.cell(row, column + 1, f"{letter}{column}")
    for area in merged:
        sheet.merge_cells(area)
    book.save(path)
    return path


def test_merged_cells_hold_their_value_in_every_well(tmp_path: Path) -> None:
    """Over two columns, over two rows, over both, and a title over the whole sheet."""
    path = drawn_book(tmp_path / "map.xlsx", ["A1:E1", "B3:C3", "D4:D5", "B5:C6"])
    table = read_plate_map(path).set_index("well")["treatment"]
    assert len(table) == 16
    assert table[["A01", "A02", "A03"]].tolist() == ["A1", "A1", "A3"]
    assert table[["B03", "C03", "D03"]].tolist() == ["B3", "B3", "D3"]
    assert table[["C01", "C02", "D01", "D02"]].tolist() == ["C1"] * 4
    assert set(read_plate_map(path)["role"]) == {"treatment"}


def test_merged_cells_of_a_list_hold_their_value_in_every_line(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["well", "treatment", "dose"], ["A1", "x", 1], ["A2", None, 2], ["A3", "y", 1]):
        sheet.append(row)
    sheet.merge_cells("B2:B3")
    sheet.merge_cells("E1:XFD9")  # no well can be meant
    book.save(tmp_path / "map.xlsx")
    assert read_plate_map(tmp_path / "map.xlsx")["treatment"].tolist() == ["x", "x", "y"]


def test_a_plate_has_the_sheet_of_its_name(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for title in ("p1", "p2"):
        sheet = book.create_sheet(title)
        for row in (["treatment", 3, 4], ["C", f"{title}-x", "y"]):
            sheet.append(row)
    book.save(tmp_path / "map.xlsx")
    assert read_plate_map(tmp_path / "map.xlsx", "p2")["treatment"].tolist() == ["p2-x", "y"]


def test_the_sheet_of_a_plate_draws_the_treatment(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for title in ("p1", "p2"):
        sheet = book.create_sheet(title)
        for row in (["", 1, 2], ["A", f"{title}-x", "y"]):
            sheet.append(row)
    book.save(tmp_path / "map.xlsx")
    assert read_plate_map(tmp_path / "map.xlsx", "p2")["treatment"].tolist() == ["p2-x", "y"]


@pytest.mark.parametrize("dose", ["dose", "dose_uM", "Conc. (nM)"])
def test_a_drawn_dose_beside_a_list_without_doses_is_refused(tmp_path: Path, dose: str) -> None:
    book = openpyxl.Workbook()
    for title, rows in {"list": [["well", "treatment"], ["A1", "x"]], "map": [[dose, 1], ["A", 5]]}.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(tmp_path / "map.xlsx")
    with pytest.raises(RawDataError, match=f"draws the {re.escape(dose)}, and the sheet list lists wells without it"):
        read_plate_map(tmp_path / "map.xlsx")
