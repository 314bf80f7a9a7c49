"""Any folder of TIFFs whose names say what they are, or of which a table says it.

A regular expression with the groups `well` (or `row` and `column`), and where there are any `field`, `channel`, `z`,
`t`, is searched in each file's path relative to the plate's folder, with slashes; positions are unknown then. Names of
some instruments come ready (`READY`). A CSV or TSV has a column for each of these, `path`, and where known `page`,
`y_um` and `x_um` (a field's top-left corner, y down), `z_um`, `pixel_size_um`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well
from plateflow.plates.files import Listing, decode, inside, list_files, peek
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

GROUPS = {"well", "row", "column", "field", "channel", "z", "t"}
EXAMPLE = r"(?P<well>[A-Z]\d+)_s(?P<field>\d+)_w(?P<channel>\d+)\.tif"
READY = {
    # A1--W00001--P00001--Z00000--T00000--DAPI.tif
    "scanr": r"(?:^|/)(?P<well>[A-P]\d+)--W\d+--P(?P<field>\d+)--Z(?P<z>\d+)--T(?P<t>\d+)--(?P<channel>[^/.]+)\.tif",
    # B7_01_1_3_DAPI_001.tif: well, reading, number of the channel, field (and plane: 3Z2), channel, time
    "cytation": r"(?:^|/)(?P<well>[A-P]\d+)_-?\d+_\d+_(?P<field>\d+)(?:Z(?P<z>\d+))?_(?P<channel>[^/_]+)"
    r"_(?P<t>\d+)\.tif",
    # AS_09125_050116030001_D03f00d1.tif
    "cellomics": r"_(?P<well>[A-P]\d\d)f(?P<field>\d+)d(?P<channel>\d+)\.tif",
    # 20180807_Dapi--B9--empty--W0021--P000--T0000--Z000--C00.ome.tif
    "embl": r"--(?P<well>[A-P]\d+)--[^/]*--W\d+--P(?P<field>\d+)--T(?P<t>\d+)--Z(?P<z>\d+)--C(?P<channel>\d+)"
    r"(?:\.ome)?\.tif",
}
"""Names of instruments: Olympus ScanR, BioTek Cytation (Gen5), Thermo Cellomics (as TIFF), EMBL's own."""
_NUMBERS = ("y_um", "x_um", "z_um", "pixel_size_um")


class PatternReader:
    """Reads names with the plate's own regular expression, or one that comes ready, or a table."""

    name = "pattern"

    def recognise(self, folder: Path) -> bool:
        """Where one of the ready patterns matches at least half of the TIFFs."""
        return _ready([name for name in peek(folder) if name.lower().endswith((".tif", ".tiff"))]) is not None

    def read(self, entry: PlateEntry) -> Index:
        """Index the images whose names match `entry.pattern`, or that its table lists (see `Reader.read`)."""
        listing = list_files(plate_folder(entry))
        if entry.pattern and entry.pattern.lower().endswith((".csv", ".tsv")):
            return make_index(entry, self.name, _from_table(entry, listing), listing)
        pattern = _compile(entry, listing)
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
        notes = [f"{len(other)} images don't match the pattern and are not used: {some(other)}"] if other else []
        channels = {name: {"name": name} for name in sorted({plane["channel"] for plane in planes})}
        return make_index(entry, self.name, Records(planes=planes, channels=channels, disagreements=notes), listing)


def _ready(names: list[str]) -> str | None:
    """The ready pattern that matches most of the images, if these are half of them at least."""
    counts = {ready: sum(re.search(pattern, name) is not None for name in names) for ready, pattern in READY.items()}
    best = max(counts, key=lambda ready: counts[ready])
    return best if names and 2 * counts[best] >= len(names) else None


def _from_table(entry: PlateEntry, listing: Listing) -> Records:
    given = Path(entry.pattern or "")
    path = listing.root / given if (listing.root / given).is_file() else given
    try:
        text = decode(path.read_bytes())
    except OSError as error:
        raise PlateflowError(
            "the table of images can't be read",
            where=f"{entry.plate}: {path}",
            why=f"{error.strerror}",
            remedy="mend the column pattern of the plate sheet: a path below the plate's folder, or from where you are",
        ) from error
    lines = list(csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    columns = set(lines[0]) if lines else set()
    if "path" not in columns or not ("well" in columns or {"row", "column"} <= columns):
        raise PlateflowError(
            "the table of images lacks a column",
            where=f"{entry.plate}: {path}",
            why=f"it has {', '.join(sorted(map(str, columns))) or 'no line'}; path and well (row and column) needed",
            remedy=f"further columns: {', '.join(sorted(GROUPS - {'well'}))}, page, {', '.join(_NUMBERS)}",
        )
    planes = []
    for number, line in enumerate(lines, 2):
        plane = _place(entry, f"{path.name}, line {number}", line)
        try:
            known = {key: float(line[key]) for key in _NUMBERS if line.get(key)}
            plane["page"] = int(line.get("page") or 0)
        except ValueError as error:
            raise PlateflowError(
                "a line of the table can't be understood",
                where=f"{entry.plate}: {path}, line {number}",
                why=str(error),
                remedy="mend the line",
            ) from error
        if "pixel_size_um" in known:
            known |= {"dy_um": known["pixel_size_um"], "dx_um": known.pop("pixel_size_um")}
        if line["path"]:
            plane["path"] = inside(listing, line["path"], plate=entry.plate, source=path.name)
        planes.append(plane | known)
    return Records(planes=planes, channels={plane["channel"]: {"name": plane["channel"]} for plane in planes})


def _compile(entry: PlateEntry, listing: Listing) -> re.Pattern[str]:
    remedy = f"for example {EXAMPLE}, or one of {', '.join(READY)}"
    said = entry.pattern or _ready(listing.image_names())
    if said is None:
        raise PlateflowError(
            "the layout pattern needs a regular expression", where=f"{entry.plate}: column pattern", remedy=remedy
        )
    try:
        pattern = re.compile(READY.get(said.lower(), said), re.IGNORECASE if said.lower() in READY else 0)
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


def _place(entry: PlateEntry, name: str, found: Mapping[str, str | None]) -> dict[str, Any]:
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
            "the place of an image can't be understood",
            where=f"{entry.plate}: {name}",
            why=f"{error}",
            remedy="mend the pattern in the plate sheet, so that it matches images of wells alone, or the table",
        ) from error
    field = (found.get("field") or "1").lstrip("0") or "0"
    return {"row": row, "column": column, "field": field, "t": t, "z": z, "channel": found.get("channel") or "1"}
