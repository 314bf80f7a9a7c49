"""Plate maps: what is in which well, as a CSV with a header."""

from __future__ import annotations

import csv
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from plateflow.config import PlateflowError
from plateflow.paths import parse_well, well_name

ROLES = ("negative", "positive", "treatment", "empty")


def read_plate_map(path: str | Path) -> pd.DataFrame:
    """Read a plate map.

    Args:
        path: a CSV (comma, semicolon or tab) with a column `well`, and where known `role` (negative, positive,
            treatment or empty), `treatment`, `dose`; further columns are kept.

    Returns:
        one row a well, in the order of the file, with `well` written as B03, `role` ("treatment" where there is
        none, "empty" in lines that say nothing else either), `treatment` (text), `dose` (float, NaN where there is
        none), then the further columns as text.

    Raises:
        PlateflowError: no file that can be read, no well column, no line with anything in it, no well name, a well
            twice, an unknown role, a dose that is no number.
    """
    path = Path(path)
    rows = _read(path)
    wells: dict[str, int] = {}
    table = []
    for number, row in rows:
        where = f"{path}, line {number}"
        try:
            well = well_name(*parse_well(row["well"]))
        except ValueError as error:
            raise PlateflowError(
                "a line of the plate map has no well", where=where, why=str(error), remedy="write wells as B03"
            ) from error
        if well in wells:
            raise PlateflowError(
                f"the plate map has the well {well} twice",
                where=where,
                why=f"first in line {wells[well]}",
                remedy="keep one of the two lines",
            )
        wells[well] = number
        table.append({**row, "well": well, "role": _role(row, where), "dose": _dose(row, where)})
    columns = ["well", "role", "treatment", "dose"]
    extra = [column for column in rows[0][1] if column not in columns]
    return pd.DataFrame(table).reindex(columns=columns + extra).fillna({"treatment": "", **dict.fromkeys(extra, "")})


def _read(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines with their numbers; column names in lower case where they are ours."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PlateflowError(
            "the plate map is not there", where=str(path), remedy="mend plate_map in the plate sheet"
        ) from None
    except OSError as error:
        raise PlateflowError(
            "the plate map can't be read",
            where=str(path),
            why=error.strerror or str(error),
            remedy="plate_map in the plate sheet must name a CSV file that you may read",
        ) from error
    except UnicodeDecodeError:
        text = path.read_text(encoding="cp1252", errors="replace")  # spreadsheets of Western Windows
    lines = text.splitlines()
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    rows = list(csv.reader(lines, delimiter=delimiter))
    names = [name.strip() for name in rows[0]] if rows else []
    names = [name.lower() if name.lower() in ("well", "role", "treatment", "dose") else name for name in names]
    doubled = {name for name in names if names.count(name) > 1}
    lines_used = [
        # a line that stops early has nothing in the columns after
        (number, dict(zip_longest(names, (cell.strip() for cell in row[: len(names)]), fillvalue="")))
        for number, row in enumerate(rows[1:], 2)
        if any(cell.strip() for cell in row)
    ]
    if "well" not in names or doubled or not lines_used:
        why = f"its columns are {', '.join(names) or '(none)'}"
        raise PlateflowError(
            "the plate map can't be used",
            where=str(path),
            why=f"{why}; {', '.join(sorted(doubled))} comes twice" if doubled else f"{why}, wells: {len(lines_used)}",
            remedy="it needs a header with the column well, and a line a well: well,role,treatment,dose",
        )
    return lines_used


def _role(row: dict[str, str], where: str) -> str:
    role = row.get("role", "").lower()
    if not role:
        return "treatment" if any(value for name, value in row.items() if name != "well") else "empty"
    if role not in ROLES:
        raise PlateflowError(
            f"the plate map has the unknown role {row['role']!r}", where=where, remedy=f"use one of {', '.join(ROLES)}"
        )
    return role


def _dose(row: dict[str, str], where: str) -> float:
    dose = row.get("dose", "")
    try:
        return float(dose) if dose else float("nan")
    except ValueError:
        raise PlateflowError(
            f"the plate map has a dose that is no number: {dose!r}",
            where=where,
            remedy="write numbers with a point, and the unit into the column's name or a column of its own",
        ) from None
