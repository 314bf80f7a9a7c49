"""Spreadsheets that people and instruments write: CSV, TSV or XLSX, in any encoding, as rows of text."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from plateflow.errors import PlateflowError, RawDataError
from plateflow.plates.files import decode

LARGEST = 50_000_000
"""Bytes, unpacked, of the largest file that can be a plate map: a larger one is something else, or an attack."""
ROWS = 200_000


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One spreadsheet.

    Attributes:
        where: the file and sheet, for messages.
        title: the title of the sheet (XLSX).
        rows: number and cells of each row that is not empty, up to its last filled cell.
    """

    where: str
    title: str
    rows: list[tuple[int, list[str]]]


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
    text = decode(content)
    if "\0" in text:  # UTF-16 without a byte order mark
        text = content.decode("utf-16-be" if content.startswith(b"\0") else "utf-16-le", "replace")
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        return [Sheet(where=str(path), title="", rows=list(_filled(reader)))]
    except csv.Error as error:
        raise _not_a_table(path, what, str(error)) from error


def _not_a_table(path: Path, what: str, why: str) -> RawDataError:
    remedy = "save it as CSV or XLSX, without a password"
    return RawDataError(f"{what} can't be read", where=str(path), why=why, remedy=remedy)


def _filled(rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(islice(rows, ROWS), 1):
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
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        for sheet in book.worksheets:
            rows = list(_filled([_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)))
            yield Sheet(where=f"{path}, sheet {sheet.title}", title=sheet.title, rows=rows)
    except PlateflowError:
        raise
    except Exception as error:  # zip, XML, and whatever a broken workbook makes openpyxl raise
        raise _not_a_table(path, what, f"{type(error).__name__}: {error}") from error


def _cell(value: object) -> str:
    """A cell as people typed it: a workbook keeps 3 as 3.0."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
