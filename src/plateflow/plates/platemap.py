"""Plate maps: what is in which well.

A map is a table with one line per well (long form), or one or more matrices in the shape of the plate with numbers
above and letters at the left (matrix form), below each other or on several sheets. Or it is a table of barcodes, as
JUMP and LINCS keep it: `barcode_platemap.csv` names the map of each plate, which lies beside it or in `platemap/`. What
is known about a treatment may then be in `external_metadata/`, two folders up, joined by a column that both have.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Container, Iterator
from itertools import chain, zip_longest
from pathlib import Path

import pandas as pd

from plateflow.errors import RawDataError
from plateflow.files import listed
from plateflow.paths import parse_well, row_name, well_name
from plateflow.plates.doses import column_of_dose, doses_of, is_unit_column, plain, same_doses, value_of
from plateflow.plates.reader import examples
from plateflow.plates.spreadsheets import Sheet, read_sheets

OWN = ("well", "role", "treatment", "dose")
ALIASES = {"well": ("well_position", "well_id", "well_name"), "treatment": ("pert_iname", "broad_sample")}
"""Columns that replace ours where a map lacks it, in this order (JUMP, LINCS). They are kept too; of the dose see
`doses.column_of_dose`."""
PLATE = ("plate", "barcode", "assay_plate_barcode")
_BARCODE, _MAP = "assay_plate_barcode", "plate_map_name"
_SUFFIXES = {".txt", ".csv", ".tsv", ".xlsx"}
ROLES = ("negative", "positive", "treatment", "empty")
_WORDS = {"trt": "treatment", "neg": "negative", "pos": "positive", "empty": "empty"}
_WORDED = ("control_type", "pert_type", "well_type", "control", "controls")
_CELLPROFILER = {"-1": "negative", "0": "treatment", "1": "positive"}
_FLAG = re.compile(r"(?:is_)?(neg|pos)(?:ative|itive)?_?(?:control|ctrl)s?")
_PLACE = {"well", "row", "column", "well_position", "well_id", "well_name", "plate_map_name", *PLATE}
"""Columns that say where a well is, not what is in it."""
_ROWS = {row_name(row) for row in range(32)}
DRAWN = (
    "a matrix has numbers of columns above, letters of rows at its left, no blank line above a row, and one between it "
    "and remarks; write a legend into one cell: N = negative control"
)
Row = tuple[str, dict[str, str]]
"""File and line of a row, for messages, and its cells by column."""


def read_plate_map(path: str | Path, plate: str = "") -> pd.DataFrame:
    """Read the plate map of a plate.

    Args:
        path: CSV (comma, semicolon or tab) or XLSX. Long form: a column `well` (or `well_position`; or `row` and
            `column`), and where known `role`, `treatment`, `dose`; further columns are kept. Matrix form: each matrix
            is a column, named in its top-left corner, above it, or by the title of its sheet.
        plate: the plate's id. It selects the lines in whose column `plate` or `barcode` it occurs, the sheet where
            several sheets are maps, and the map in a table of barcodes.

    Returns:
        one row per well, in the order of the file, with `well` written as B03, `role` (see `role_of`), `treatment`
        (text), `dose` (float, NaN where there is none; those of a treatment that differ by rounding are one), then the
        further columns as text, without a leading `Metadata_`; among them `dose_unit` where one is said.

    Raises:
        RawDataError: the file cannot be read, has no well column or no line with content, has a line without a well
            name, a well twice, an unknown role, or a dose that is not a number or can't be told (`doses_of`); or the
            plate is not in the table of barcodes.
    """
    path = Path(path)
    sheets = read_sheets(path)
    columns = [name.lower() for name in sheets[0].rows[0][1]] if sheets[0].rows else []
    if _BARCODE in columns and _MAP in columns:
        own = _map_of(path, [cells for _, cells in _whole(sheets[0]).rows[1:]], columns, plate)
        rows = _with_external_metadata(path.parent, _rows(own, read_sheets(own), plate))
    else:
        rows = _rows(path, sheets, plate)
    table: list[dict[str, object]] = []
    wells: dict[str, str] = {}
    doses, unit, units = doses_of(rows)
    controls = {name for name in rows[0][1] if _is_of_cellprofiler(name, {row[name].upper() for _, row in rows})}
    for (where, row), dose in zip(rows, doses, strict=True):
        well = _well(row, where)
        if well in wells:
            raise RawDataError(
                f"the plate map has the well {well} twice",
                where=where,
                why=f"first in {wells[well]}",
                remedy="keep one of the two lines; in a map of several plates a column `plate` must hold their ids",
            )
        wells[well] = where
        full = _with_alias(row)
        stated = {"dose_unit": "" if math.isnan(dose) else unit} if unit else {}
        table.append({**full, "well": well, "role": role_of(full, where, controls), "dose": dose, **stated})
    for full_row, dose in zip(table, same_doses((each.get("treatment") for each in table), doses), strict=True):
        full_row["dose"] = dose
    consumed = {"row", "column"} if "well" not in rows[0][1] else set()
    consumed |= units - {"dose_unit"} if unit else set()
    extra = [name for name in table[0] if name not in OWN and name not in consumed]
    return pd.DataFrame(table).reindex(columns=[*OWN, *extra]).fillna({"treatment": "", **dict.fromkeys(extra, "")})


def _is_of_cellprofiler(name: str, values: set[str]) -> bool:
    """Whether a column tells controls by -1, 0 and 1. Without -1, 1 may as well mean any control."""
    return name.lower().endswith(("control", "controls")) and "-1" in values <= {*_CELLPROFILER, "", "NA", "NAN"}


def role_of(row: dict[str, str], where: str, controls: Container[str] = ()) -> str:
    """The role of a well, one of `ROLES`, by the first of these rules that applies:

    1. the column `role`;
    2. JUMP: `pert_type` (or, of a control, `control_type`) begins with trt, neg, pos or empty; so may `well_type` and
       `control`;
    3. CellProfiler (`controls`): a column whose name ends in control or controls holds -1 (negative), 1 (positive) or
       0, and -1 of some well;
    4. `negative_control` or `positive_control` holds 1, true, yes or x;
    5. Broad Institute (LINCS, JUMP): `broad_sample` is blank or DMSO, and `solvent` is not blank: negative;
    6. a line with nothing but its well is empty, any other a treatment.

    Raises:
        RawDataError: the column `role` holds something else, or the well is a negative and a positive control.
    """
    cells = {
        name.lower().replace(" ", "_"): "" if value.upper() in ("NA", "NAN") else value for name, value in row.items()
    }
    if role := cells.get("role", "").lower():
        if role not in ROLES:
            what = f"the plate map has the unknown role {row['role']!r}"
            raise RawDataError(what, where=where, remedy=f"use one of {', '.join(ROLES)}")
        return role
    for column in _WORDED:
        for start, meaning in _WORDS.items():
            if cells.get(column, "").lower().startswith(start):
                return meaning
    for name, value in row.items():
        if name in controls and value in _CELLPROFILER:
            return _CELLPROFILER[value]
    if flags := _flags(cells):
        if len(flags) > 1:
            what, remedy = "the plate map has a well that is a negative and a positive control", "keep one of the two"
            raise RawDataError(what, where=where, remedy=remedy)
        return flags.pop()
    if cells.get("broad_sample", "?").upper() in ("", "DMSO") and cells.get("solvent"):
        return "negative"
    return "treatment" if any(value and not says_where(name) for name, value in cells.items()) else "empty"


def _flags(cells: dict[str, str]) -> set[str]:
    """What columns such as negative_control say of a well with 1 or true."""
    told = (_FLAG.fullmatch(name) for name, value in cells.items() if value.lower() in ("1", "true", "yes", "x"))
    return {_WORDS[match[1]] for match in told if match}


def says_where(name: str) -> bool:
    """Whether a column says where a well is, or in which unit its dose, not what is in it."""
    return plain(name) in _PLACE or plain(name).endswith(("row", "col", "column")) or is_unit_column(name)


def _map_of(path: Path, lines: list[list[str]], columns: list[str], plate: str) -> Path:
    """The map of a plate by its barcode: the plate's id, or its beginning up to a sign (`BR00117035__2021-...`)."""
    barcode_column, map_column = columns.index(_BARCODE), columns.index(_MAP)
    maps: dict[str, set[str]] = {}
    for cells in lines:
        if len(cells) > max(barcode_column, map_column):
            maps.setdefault(cells[barcode_column], set()).add(cells[map_column])
    names = set[str]().union(*(maps[barcode] for barcode in ids_of(plate, maps)))
    if len(names) != 1:
        raise RawDataError(
            "the table of barcodes is ambiguous" if names else "the table of barcodes gives the plate no map",
            where=f"{path}: {plate}",
            why=f"maps of the plate: {examples(names)}" if names else f"its barcodes are {examples(maps)}",
            remedy="name the plate by its barcode in the plate sheet, or give its own map as plate_map",
        )
    name = next(iter(names))
    files = {*listed(path.parent / "platemap"), *listed(path.parent)} - {path}
    # lincs_platemap_C-7161 is a map C-7161, too
    fitting = [f for f in files if f.suffix.lower() in _SUFFIXES and f"_{f.stem}".endswith(f"_{name}")]
    if not fitting:
        raise RawDataError(
            "the plate map named by the table of barcodes does not exist",
            where=f"{path}: {plate}: {name}",
            remedy=f"copy it to {path.parent / 'platemap' / name}.txt",
        )
    return min(fitting, key=lambda file: (len(file.stem), file))


def ids_of(plate: str, ids: Collection[str]) -> set[str]:
    """Those of some ids of plates that mean this plate: its own, or else those with which it begins."""
    return {plate} if plate in ids else {each for each in ids if each and re.match(re.escape(each) + r"[\W_]", plate)}


def _with_external_metadata(folder: Path, rows: list[Row]) -> list[Row]:
    """The lines of a map, each with what `external_metadata/` has about its treatment."""
    files = listed(folder.parent.parent / "external_metadata")
    for file in (file for file in files if file.suffix.lower() in _SUFFIXES):
        (_, names), *lines = _whole(read_sheets(file, "the external metadata")[0]).rows or [(0, [])]
        shared = next((name for name in names if name and name in rows[0][1]), None)
        if shared is None:
            continue
        n = names.index(shared)
        cells_of = {cells[n]: dict(zip(names, cells, strict=False)) for _, cells in lines if len(cells) > n}
        new = [name for name in names if name and name not in rows[0][1]]
        rows = [
            (where, row | {name: cells_of.get(row[shared], {}).get(name, "") for name in new}) for where, row in rows
        ]
    return rows


def _rows(path: Path, sheets: list[Sheet], plate: str) -> list[Row]:
    """The lines of the one sheet in long form, else those of all matrices together; at least one."""
    sheets = [sheet for sheet in sheets if plate and sheet.title == plate] or sheets
    long = [sheet for sheet in sheets if _is_long(_header(sheet))]
    if len(long) > 1:
        raise _unusable(str(path), f"several sheets are plate maps, and none is called {plate}")
    drawn = chain.from_iterable(_matrix_cells(sheet, plate) for sheet in sheets if sheet not in long)
    if long:
        listed = _long(long[0], plate)
        has = listed[0][1]
        for name, where, *_ in drawn:
            if not any(map(column_of_dose, has)) if column_of_dose(name) else name in OWN and name not in has:
                raise _unusable(where, f"it draws the {name}, and the sheet {long[0].title} lists wells without it")
        return listed
    wells: dict[str, Row] = {}
    for name, where, well, value in drawn:
        row = wells.setdefault(well, (where, {"well": well}))[1]
        if name in row:
            raise _unusable(where, f"{name} occurs twice for the well {well}")
        row[name] = value
    if not wells:
        names = ", ".join(name for sheet in sheets for name in _header(sheet) if name) or "(none)"
        raise _unusable(str(path), f"its columns are {names}, and it has no matrix of a plate either")
    columns = dict.fromkeys(name for _, row in wells.values() for name in row)
    rows = sorted(wells.items(), key=lambda item: parse_well(item[0]))
    return [(where, {name: row.get(name, "") for name in columns}) for _, (where, row) in rows]


def _unusable(where: str, why: str, remedy: str = "") -> RawDataError:
    remedy = remedy or "it needs a header with the column well, and one line per well: well,role,treatment,dose"
    return RawDataError("the plate map can't be used", where=where, why=why, remedy=remedy)


def _header(sheet: Sheet) -> list[str]:
    """Column names: our own, and those that say where a well is, in lower case; others as they are."""
    names = [name.removeprefix("Metadata_") for name in sheet.rows[0][1]] if sheet.rows else []
    lower = [{"col": "column", "doses": "dose"}.get(plain(name), plain(name)) for name in names]
    return [p if p in (*OWN, "row", "column", *ALIASES["well"]) else n for p, n in zip(lower, names, strict=True)]


def _is_long(names: list[str]) -> bool:
    return any(name in names for name in ("well", *ALIASES["well"])) or {"row", "column"} <= set(names)


def _whole(sheet: Sheet) -> Sheet:
    """A sheet whose first row names its columns.

    Raises:
        RawDataError: a row has too many cells, or a formula no value.
    """
    _refuse_blank(sheet)
    for number, cells in sheet.rows:
        sheet.check_width(sheet.rows[0][0], number, cells)
    return sheet


def _refuse_blank(sheet: Sheet) -> None:
    if sheet.blank:  # a cell with such a formula would be taken for empty
        raise RawDataError(
            "the plate map has formulas without their values",
            where=f"{sheet.where}, {'cells' if len(sheet.blank) > 1 else 'cell'} {examples(sheet.blank)}",
            why="the program that wrote the file has not computed them",
            remedy="open the file in Excel or LibreOffice and save it, or replace the formulas by their values",
        )


def _long(sheet: Sheet, plate: str) -> list[Row]:
    names = _header(_whole(sheet))
    doubled = sorted({name or "(a column without a name)" for name in names if names.count(name) > 1})
    if doubled:
        raise _unusable(sheet.where, f"its columns are {', '.join(names)}; {', '.join(doubled)} occurs twice")
    rows = [
        # A line that ends early has nothing in the columns after it.
        (f"{sheet.where}, line {number}", dict(zip_longest(names, cells[: len(names)], fillvalue="")))
        for number, cells in sheet.rows[1:]
        if any(cells[: len(names)])
    ]
    chosen, others = False, dict[str, Counter[str]]()
    for name in (name for name in names if plate and plain(name) in PLATE):
        counts = Counter(row[name] for _, row in rows if row[name])
        if own := ids_of(plate, counts):
            rows, chosen = [(where, row) for where, row in rows if row[name] in own], True
        elif len(counts) > 1 and (plain(name) != "barcode" or max(counts.values()) > 1):  # not of tubes
            others[name] = counts
    for name, ids in () if chosen else others.items():
        remedy = "write the id of the plate as in the plate sheet; a column of anything else needs another name"
        raise _unusable(sheet.where, f"its column {name} names the plates {examples(ids)}, and not {plate}", remedy)
    if not rows:
        raise _unusable(sheet.where, f"its columns are {', '.join(names)}, but it has no well")
    return rows


def _matrix_cells(sheet: Sheet, plate: str) -> Iterator[tuple[str, str, str, str]]:
    """The filled cells of all matrices in a sheet: name, file and line of the matrix, well and value.

    Rows and columns go by their names, whichever of them are there and in whichever order. A line with a single value
    is a heading or a remark, and so is what stands apart from a matrix, with a gap between, if it can't be a row.

    Raises:
        RawDataError: something that looks like a part of a matrix can't be taken for one.
    """
    heading, name, at, last = "", "", 0, 0
    columns, seen, label, drawn = dict[int, int](), set[str](), -1, set[str]()
    lines = [(0, list[str]()), *sheet.rows, (0, list[str]())]
    for (_, above), (number, cells), (_, below) in zip(lines, lines[1:], lines[2:], strict=False):
        where = f"{sheet.where}, line {number}"
        filled = [place for place, cell in enumerate(cells) if cell]
        first = filled[0]
        numbers = _column_numbers(cells, _label(below))
        if numbers and _label(cells) is None:
            columns, seen, label, at, last = numbers, set(), _label(below) or 0, number, number
            doubled = sorted({str(n + 1) for n in numbers.values() if [*numbers.values()].count(n) > 1}, key=int)
            if doubled:
                raise _unusable(where, f"the column {doubled[0]} occurs twice; put matrices below each other", DRAWN)
            title = "" if sheet.title.lower().startswith(("sheet", "tabelle")) else sheet.title
            names = [cell for cell in (*cells[: label + 1][::-1], heading, title) if cell not in ("", plate)]
            names = names or ["treatment"]
            # a heading may be a remark
            name = next((each for each in names if plain(each) in OWN or column_of_dose(each)), names[0])
            name = lower if (lower := plain(name)) in OWN else name
            _refuse_blank(sheet)
        elif columns and _label(cells) == label:
            row = cells[label].upper()
            apart, legend = bool(seen) and number > last + 1, _explains(cells, drawn)
            if apart and (len(filled) == 1 or (legend and len(cells[-1]) > 1)):
                continue
            if apart or legend:
                raise _unusable(where, f"the line {row} may be a row or a legend{_spoilt(above)}", DRAWN)
            if row in seen:
                raise _unusable(where, f"the row {row} occurs twice in the matrix that begins in line {at}", DRAWN)
            sheet.check_width(at, number, cells)
            nameless = [place for place in filled if place > label and place not in columns]
            if nameless and nameless[0] <= max(columns) + 1:
                raise _unusable(where, f"{cells[nameless[0]]!r} stands in a column without a number", DRAWN)
            seen.add(row)
            last = number
            for place in filled:
                if place in columns:
                    drawn.add(cells[place].casefold())
                    yield name, f"{sheet.where}, line {at}", f"{row}{columns[place] + 1:02d}", cells[place]
        elif _label(cells) is None and len(_column_numbers(cells, 0)) > 2:
            raise _unusable(where, "below the numbers of columns stands no row with its letter", DRAWN)
        elif len(filled) > 1 and (
            (number == last + 1 and not columns.keys().isdisjoint(filled))
            or (_label(cells) is not None and len(filled) > 2)
        ):
            raise _unusable(where, f"the line begins with {cells[first]!r} and is in no matrix{_spoilt(above)}", DRAWN)
        else:
            heading = cells[first] if len(set(cells) - {""}) == 1 else ""


def _explains(cells: list[str], drawn: set[str]) -> bool:
    """Whether a line may be a legend: a row's letter that is drawn as a value, and a text that isn't."""
    words = [cell.casefold() for cell in cells if cell]
    new = len(words) == 2 and words[1] not in drawn and value_of(words[1]) is None
    return new and words[0] in drawn and _label(cells) is not None


def _spoilt(above: list[str]) -> str:
    """What keeps the line above from being numbers of columns, where others are, for a message."""
    odd = [cell for cell in above[1:] if cell and not _is_column(cell)]
    return f"; {odd[0]!r} above it is no number of a column" if any(map(_is_column, above)) and odd else ""


def _label(cells: list[str]) -> int | None:
    """The place of the first value of a line, if it is the name of a plate's row."""
    place = next((place for place, cell in enumerate(cells) if cell), None)
    return place if place is not None and cells[place].upper() in _ROWS else None


def _column_numbers(cells: list[str], label: int | None) -> dict[int, int]:
    """The columns of a plate, from 0, that a line names, by place; none if it holds anything else behind its label."""
    if label is None:
        return {}
    numbers = {place: cell for place, cell in enumerate(cells) if cell and place > label}
    return {place: int(cell) - 1 for place, cell in numbers.items()} if all(map(_is_column, numbers.values())) else {}


def _is_column(cell: str) -> bool:
    return cell.isascii() and cell.isdecimal() and 1 <= int(cell) <= 48


def _well(row: dict[str, str], where: str) -> str:
    """The well of a line, by its name, or by its row (letters, or a number from 1) and column."""
    name = next((row[name] for name in ("well", *ALIASES["well"]) if name in row), None)
    if name is None:
        letters = row["row"]
        if letters.isdecimal() and 1 <= int(letters) <= 32:
            letters = row_name(int(letters) - 1)
        name = f"{letters}{row['column']}"
    try:
        return well_name(*parse_well(name))
    except ValueError as error:
        what, remedy = "a line of the plate map has no well", "write wells as B03"
        raise RawDataError(what, where=where, why=str(error), remedy=remedy) from error


def _with_alias(row: dict[str, str]) -> dict[str, str]:
    """A line with `treatment` taken from the columns that replace it."""
    cells = {plain(name): value for name, value in row.items()}
    aliases = [alias for alias in ALIASES["treatment"] if alias in cells]
    if "treatment" in row or not aliases:
        return row
    return {**row, "treatment": next((cells[alias] for alias in aliases if cells[alias]), "")}
