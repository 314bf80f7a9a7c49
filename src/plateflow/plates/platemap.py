"""Plate maps: what is in which well.

A table with one line a well (long form), or pictures of the plate with a row of numbers above and letters at the left
(matrix form), several below each other or on several sheets. Or a table of barcodes (`barcode_platemap.csv` of JUMP
and LINCS) that names a map for each plate: see `barcodes`.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from plateflow.errors import PlateflowError
from plateflow.paths import parse_well, row_name, well_name
from plateflow.plates.barcodes import external_metadata, is_barcode_table, map_of
from plateflow.plates.roles import role_of
from plateflow.plates.tables import Sheet, read_sheets

OWN = ("well", "role", "treatment", "dose")
ALIASES = {
    "well": ("well_position", "well_id", "well_name"),
    "treatment": ("pert_iname", "broad_sample"),
    "dose": ("mmoles_per_liter",),
}
"""Where a map has no column of our own name, these take its part, the first first (JUMP, LINCS), and for the dose any
whose name ends in _dose or _doses; they are kept too."""
_PLATE = ("plate", "barcode", "assay_plate_barcode")
Row = tuple[str, dict[str, str]]
"""Where it stands, and its cells by column."""


def read_plate_map(path: str | Path, plate: str = "") -> pd.DataFrame:
    """Read the plate map of a plate.

    Args:
        path: CSV (comma, semicolon or tab) or XLSX. Long form: a column `well` (or `well_position`; or `row` and
            `column`), and where known `role`, `treatment`, `dose`; further columns are kept. Matrix form: each matrix
            is the column that stands in its top-left corner, or above it, or is its sheet's title.
        plate: the plate's id: picks its lines where a column `plate` or `barcode` names it, its sheet where several
            sheets are maps, and its map out of a table of barcodes.

    Returns:
        one row a well, in the order of the file, with `well` written as B03, `role` (see `roles`), `treatment` (text),
        `dose` (float, NaN where there is none), then the further columns as text, without a leading `Metadata_`.

    Raises:
        PlateflowError: no file that can be read, no well column, no line with anything in it, no well name, a well
            twice, an unknown role, a dose that is no number, a plate that the table of barcodes doesn't have.
    """
    path = Path(path)
    sheets = read_sheets(path)
    if is_barcode_table(sheets):
        path, barcodes = map_of(path, sheets, plate), path
        sheets = read_sheets(path)
        rows = external_metadata(barcodes.parent, _rows(path, sheets, plate))
    else:
        rows = _rows(path, sheets, plate)
    table: list[dict[str, object]] = []
    wells: dict[str, str] = {}
    for where, row in rows:
        well = _well(row, where)
        if well in wells:
            raise PlateflowError(
                f"the plate map has the well {well} twice",
                where=where,
                why=f"first in {wells[well]}",
                remedy="keep one of the two lines; in a map of several plates a column `plate` must hold this one's id",
            )
        wells[well] = where
        full = _with_aliases(row)
        table.append({**full, "well": well, "role": role_of(full, where), "dose": _dose(full, where)})
    consumed = {"row", "column"} if "well" not in rows[0][1] else set()
    extra = [name for name in table[0] if name not in OWN and name not in consumed]
    return pd.DataFrame(table).reindex(columns=[*OWN, *extra]).fillna({"treatment": "", **dict.fromkeys(extra, "")})


def _rows(path: Path, sheets: list[Sheet], plate: str) -> list[Row]:
    """The lines of the one sheet in long form, else those of all matrices together; never none."""
    named = {sheet.title: names for sheet in sheets if _is_long(names := _header(sheet))}
    if len(named) > 1:
        if plate not in named:
            raise _unusable(str(path), f"several sheets are plate maps, and none is called {plate}")
        named = {plate: named[plate]}
    if named:
        ((title, names),) = named.items()
        return _long(next(sheet for sheet in sheets if sheet.title == title), names, plate)
    wells: dict[str, Row] = {}
    for sheet in sheets:
        for name, where, cells in _matrices(sheet):
            for well, value in cells.items():
                row = wells.setdefault(well, (where, {"well": well}))[1]
                if name in row:
                    raise _unusable(where, f"{name} comes twice for the well {well}")
                row[name] = value
    columns = dict.fromkeys(name for _, row in wells.values() for name in row)
    if not wells:
        found = ", ".join(filter(None, (name for sheet in sheets for name in _header(sheet)))) or "(none)"
        raise _unusable(str(path), f"its columns are {found}, and it is no picture of a plate either")
    rows = sorted(wells.items(), key=lambda item: parse_well(item[0]))
    return [(where, {name: row.get(name, "") for name in columns}) for _, (where, row) in rows]


def _unusable(where: str, why: str) -> PlateflowError:
    return PlateflowError(
        "the plate map can't be used",
        where=where,
        why=why,
        remedy="it needs a header with the column well, and a line a well: well,role,treatment,dose",
    )


def _plain(name: str) -> str:
    """A column's name as it is compared: `Metadata_Well Position` is well_position."""
    plain = name.lower().replace(" ", "_")
    return plain.removeprefix("metadata_")


def _header(sheet: Sheet) -> list[str]:
    """Column names: our own and those that say where a well is in lower case, others as they are."""
    names = [name.removeprefix("Metadata_") for name in sheet.rows[0][1]] if sheet.rows else []
    while names and not names[-1]:  # a delimiter too many
        names.pop()
    plain = [{"col": "column", "doses": "dose"}.get(_plain(name), _plain(name)) for name in names]
    return [p if p in (*OWN, "row", "column", *ALIASES["well"]) else n for p, n in zip(plain, names, strict=True)]


def _is_long(names: list[str]) -> bool:
    return any(name in names for name in ("well", *ALIASES["well"])) or {"row", "column"} <= set(names)


def _long(sheet: Sheet, names: list[str], plate: str) -> list[Row]:
    doubled = sorted({name or "(a column without a name)" for name in names if names.count(name) > 1})
    if doubled:
        raise _unusable(sheet.where, f"its columns are {', '.join(names)}; {', '.join(doubled)} comes twice")
    rows = [
        # a line that stops early has nothing in the columns after
        (f"{sheet.where}, line {number}", dict(zip_longest(names, cells[: len(names)], fillvalue="")))
        for number, cells in sheet.rows[1:]
        if any(cells[: len(names)])
    ]
    for name in names:
        if plate and _plain(name) in _PLATE and any(row[name] == plate for _, row in rows):
            rows = [(where, row) for where, row in rows if row[name] == plate]
    if not rows:
        raise _unusable(sheet.where, f"its columns are {', '.join(names)}, wells: 0")
    return rows


def _matrices(sheet: Sheet) -> list[tuple[str, str, dict[str, str]]]:
    """The pictures of the plate in a sheet: name, where, and by well what isn't empty."""
    found = []
    heading = ""
    for at, (number, cells) in enumerate(sheet.rows):
        filled = [cell for cell in cells if cell]
        columns = [cell.lstrip("0") for cell in cells[1:]]
        while columns and not columns[-1]:
            columns.pop()
        if len(columns) < 2 or columns != [str(n + 1) for n in range(len(columns))]:
            heading = filled[0] if len(filled) == 1 else ""
            continue
        values: dict[str, str] = {}
        for row, (_, line) in enumerate(sheet.rows[at + 1 :]):
            if row > 31 or line[0].upper() != row_name(row):
                break
            values |= {well_name(row, c): value for c, value in enumerate(line[1 : len(columns) + 1]) if value}
        name = cells[0] or heading or (sheet.title if not sheet.title.lower().startswith(("sheet", "tabelle")) else "")
        plain = _plain(name)
        found.append((plain if plain in OWN else name or "treatment", f"{sheet.where}, line {number}", values))
    return found


def _well(row: dict[str, str], where: str) -> str:
    """The well of a line: its well's name, or its row (letter or number from 1) and column."""
    said = next((row[name] for name in ("well", *ALIASES["well"]) if name in row), None)
    try:
        if said is not None:
            return well_name(*parse_well(said))
        letter = row["row"]
        if letter.isdecimal() and 1 <= int(letter) <= 32:
            letter = row_name(int(letter) - 1)
        return well_name(*parse_well(f"{letter}{row['column']}"))
    except ValueError as error:
        raise PlateflowError(
            "a line of the plate map has no well", where=where, why=str(error), remedy="write wells as B03"
        ) from error


def _with_aliases(row: dict[str, str]) -> dict[str, str]:
    """A line with `treatment` and `dose` out of the columns that take their part."""
    named = {_plain(name): value for name, value in row.items()}
    doses = [name for name in named if name.endswith(("_dose", "_doses"))]
    for own, aliases in (("treatment", ALIASES["treatment"]), ("dose", (*ALIASES["dose"], *doses))):
        if own not in row and any(alias in named for alias in aliases):
            row = {**row, own: next((named[alias] for alias in aliases if named.get(alias)), "")}
    return row


def _dose(row: dict[str, str], where: str) -> float:
    dose = row.get("dose", "")
    try:
        value = float(dose) if dose and dose.upper() != "NA" else math.nan
        if math.isinf(value):
            raise ValueError
    except ValueError:
        raise PlateflowError(
            f"the plate map has a dose that is no number: {dose!r}",
            where=where,
            remedy="write numbers with a point, and the unit into the column's name or a column of its own",
        ) from None
    return value
