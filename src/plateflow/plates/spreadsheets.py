"""Spreadsheets that people and instruments write: CSV, TSV or XLSX, as rows of text."""

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from plateflow.errors import PlateflowError, RawDataError
from plateflow.text import TextError, decode, rows

LARGEST = 50_000_000
"""Bytes, unpacked, of the largest file that can be a plate map: a larger one is something else, or an attack."""
ROWS = 200_000
MERGED = 1536
"""The most cells of a merged area: no plate has more wells."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One spreadsheet.

    Attributes:
        where: the file and sheet, for messages.
        rows: number and cells of each row that is not empty, up to its last filled cell; the number of the line in
            which it begins.
        widths: of each row the number of cells as written, empty ones at its end included (text; in a workbook no cell
            can slip).
        blank: cells with a formula, but without the value that it had when the file was saved (XLSX).
    """

    where: str
    title: str
    rows: list[tuple[int, list[str]]]
    widths: Mapping[int, int] = field(default_factory=dict)
    blank: tuple[str, ...] = ()

    def check_width(self, header: int, number: int, cells: list[str]) -> None:
        """Refuse row `number`, if it has more filled cells than row `header`, which names the columns, has cells.

        Raises:
            RawDataError: a delimiter too many, as in a value without quotes, has shifted the values.
        """
        if self.widths and len(cells) > self.widths[header]:
            raise RawDataError(
                f"a line of the table has {len(cells)} cells, and its header {self.widths[header]}",
                where=f"{self.where}, line {number}",
                remedy="fix the line: a value that holds the delimiter must stand in double quotes",
            )


def read_sheets(path: Path, what: str = "the plate map") -> list[Sheet]:
    """Read a file of one spreadsheet, or a workbook of several.

    Args:
        path: XLSX, judged by its content; anything else is text, separated by comma, semicolon or tab, whichever is the
            most frequent in the first row.
        what: what the file is, for messages.

    Raises:
        RawDataError: the file does not exist, cannot be read, or is far too large.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST else b""
    except FileNotFoundError:
        remedy = "fix plate_map in the plate sheet"
        raise RawDataError(f"{what} does not exist", where=str(path), remedy=remedy) from None
    except OSError as error:
        raise RawDataError(
            f"{what} can't be read",
            where=str(path),
            why=error.strerror or str(error),
            remedy="plate_map in the plate sheet must name a CSV, TSV or XLSX file that you are allowed to read",
        ) from error
    if size > LARGEST:
        raise _not_a_table(path, what, f"it has {size:,} bytes; a plate map has a few thousand")
    if content.startswith(b"PK\3\4"):
        return list(_workbook(path, what, content))
    if content.startswith(b"\xd0\xcf\x11\xe0"):
        raise _not_a_table(path, what, "it is an old Excel workbook (.xls), or locked by a password")
    try:
        text = decode(content)
        first = next((line for line in text.splitlines() if line.strip()), "")
        numbered = list(islice(rows(text, max(",;\t", key=first.count)), ROWS))
    except TextError as error:
        raise RawDataError(f"{what} can't be read", where=str(path), why=str(error), remedy=error.remedy) from error
    widths = {number: len(cells) for number, cells in numbered}
    return [Sheet(where=str(path), title="", rows=list(_filled(numbered)), widths=widths)]


def _not_a_table(path: Path, what: str, why: str) -> RawDataError:
    remedy = "save it as CSV or XLSX, without a password"
    return RawDataError(f"{what} can't be read", where=str(path), why=why, remedy=remedy)


def _filled(numbered: Iterable[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for number, row in islice(numbered, ROWS):
        cells = [cell.strip() for cell in row]
        while cells and not cells[-1]:  # delimiters too many
            cells.pop()
        if cells:
            yield number, cells


def _workbook(path: Path, what: str, content: bytes) -> Iterator[Sheet]:
    import openpyxl  # with defusedxml, which openpyxl uses where it is installed

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
            if unpacked > LARGEST:
                raise _not_a_table(path, what, f"unpacked it would have {unpacked:,} bytes")
            sheets = [archive.read(name) for name in archive.namelist() if "worksheets/" in name]
            formulas, merged = (any(tag in sheet for sheet in sheets) for tag in (b"<f", b"mergeCell"))
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        blank = _blank_formulas(openpyxl.load_workbook(io.BytesIO(content), read_only=True), book) if formulas else {}
        # a book that is read row by row doesn't know its merged cells
        whole = openpyxl.load_workbook(io.BytesIO(content), data_only=True) if merged else None
        for sheet in book.worksheets:
            rows = [[_cell(cell) for cell in row] for row in islice(sheet.iter_rows(), ROWS)]
            if whole is not None:
                _fill(rows, [area.bounds for area in whole[sheet.title].merged_cells.ranges])
            numbered = enumerate(rows, 1)
            where = f"{path}, sheet {sheet.title}"
            yield Sheet(where=where, title=sheet.title, rows=list(_filled(numbered)), blank=blank.get(sheet.title, ()))
    except PlateflowError:
        raise
    except Exception as error:  # zip, XML, and whatever a broken workbook makes openpyxl raise
        raise _not_a_table(path, what, f"{type(error).__name__}: {error}") from error


def _fill(rows: list[list[str]], areas: Iterable[tuple[int, int, int, int]]) -> None:
    """Give every cell of a merged area its value, which a workbook keeps in the first one alone.

    Args:
        rows: the cells of a sheet, in place.
        areas: first column, first row, last column and last row, from 1. Those of more than MERGED cells stay as
            they are.
    """
    for left, top, right, bottom in areas:
        if (right - left + 1) * (bottom - top + 1) > MERGED or top > len(rows) or left > len(rows[top - 1]):
            continue
        value = rows[top - 1][left - 1]
        rows += [[] for _ in range(bottom - len(rows))]
        for cells in rows[top - 1 : bottom]:
            cells.extend([""] * (right - len(cells)))
            cells[left - 1 : right] = [value] * (right - left + 1)


def _blank_formulas(typed: Any, shown: Any) -> dict[str, tuple[str, ...]]:
    """By sheet, the cells that have a formula, but no value: a workbook as it was typed, and as Excel shows it.

    A text without characters is a value, which openpyxl doesn't give.
    """
    return {
        sheet.title: tuple(
            formula.coordinate
            for row, values in islice(zip(sheet.iter_rows(), shown[sheet.title].iter_rows(), strict=False), ROWS)
            for formula, value in zip(row, values, strict=False)
            if formula.data_type == "f" and value.value is None and value.data_type != "str"
        )
        for sheet in typed.worksheets
    }


def _cell(cell: Any) -> str:
    """A cell as people typed it: a workbook keeps 3 as 3.0, and 0.1% as 0.001 with a format."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, (int, float)) and "%" in re.sub(r'"[^"]*"|\\.', "", cell.number_format):
        return f"{value * 100:.12g}%"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
