"""Any folder of TIFFs whose names say what they are: a regular expression with named groups.

Groups: `well` (or `row` and `column`), and where there are any `field`, `channel`, `z`, `t`. The expression is searched
in the file's path relative to the plate's folder, with slashes. Positions are unknown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from plateflow.config import PlateEntry, PlateflowError
from plateflow.paths import parse_well
from plateflow.plates.files import list_files
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

GROUPS = {"well", "row", "column", "field", "channel", "z", "t"}
EXAMPLE = r"(?P<well>[A-Z]\d+)_s(?P<field>\d+)_w(?P<channel>\d+)\.tif"


class PatternReader:
    """Reads names with the plate's own regular expression."""

    name = "pattern"

    def recognise(self, folder: Path) -> bool:
        """Never: only a person knows the pattern."""
        return False

    def read(self, entry: PlateEntry) -> Index:
        """Index the images whose names match `entry.pattern` (see `Reader.read`)."""
        pattern = _compile(entry)
        listing = list_files(plate_folder(entry))
        planes, other = [], []
        for name in listing.image_names():
            match = pattern.search(name)
            if match is None:
                other.append(name)
                continue
            planes.append({**_place(entry, name, match.groupdict()), "path": name})
        if other and not planes:
            raise PlateflowError(
                "no image matches the pattern",
                where=f"{entry.plate}: {some(other)}",
                why=f"the pattern is {entry.pattern}",
                remedy="mend the pattern in the plate sheet",
            )
        names = sorted({plane["channel"] for plane in planes})
        notes = [f"{len(other)} images don't match the pattern and are not used: {some(other)}"] if other else []
        channels = {name: {"name": name} for name in names}
        return make_index(entry, self.name, Records(planes=planes, channels=channels, disagreements=notes), listing)


def _compile(entry: PlateEntry) -> re.Pattern[str]:
    remedy = f"for example {EXAMPLE}"
    if entry.pattern is None:
        raise PlateflowError(
            "the layout pattern needs a regular expression", where=f"{entry.plate}: column pattern", remedy=remedy
        )
    try:
        pattern = re.compile(entry.pattern)
    except re.error as error:
        raise PlateflowError(
            "the pattern is not a regular expression",
            where=f"{entry.plate}: {entry.pattern}",
            why=str(error),
            remedy=remedy,
        ) from error
    groups = set(pattern.groupindex)
    if groups - GROUPS or not ("well" in groups or {"row", "column"} <= groups):
        raise PlateflowError(
            "the pattern's groups can't be used",
            where=f"{entry.plate}: {entry.pattern}",
            why=f"it names {', '.join(sorted(groups)) or 'none'}; needed is well, or row and column; "
            f"allowed are {', '.join(sorted(GROUPS))}",
            remedy=remedy,
        )
    return pattern


def _place(entry: PlateEntry, name: str, found: dict[str, str | None]) -> dict[str, Any]:
    """Row, column, field, channel, t and z of one name."""
    try:
        if found.get("well"):
            row, column = parse_well(found["well"] or "")
        else:
            said = found.get("row") or ""
            row = int(said) - 1 if said.isdecimal() else parse_well(f"{said}1")[0]
            column = int(found.get("column") or "") - 1
        t, z = (int(found.get(axis) or 0) for axis in ("t", "z"))
    except ValueError as error:
        raise PlateflowError(
            "a file name can't be understood",
            where=f"{entry.plate}: {name}",
            why=f"{error}",
            remedy="mend the pattern in the plate sheet, so that it matches images of wells alone",
        ) from error
    field = (found.get("field") or "1").lstrip("0") or "0"
    return {"row": row, "column": column, "field": field, "t": t, "z": z, "channel": found.get("channel") or "1"}
