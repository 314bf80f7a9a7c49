"""`load_data.csv`, as CellProfiler reads it and the Cell Painting Gallery has it: a line a site, columns a channel.

`FileName_<channel>` and `PathName_<channel>` (or `URL_<channel>`) say where an image is, `Metadata_*` what it is of:
`Well` (or `Row` and `Col`), `Site`, and where there are any `Plate`, `PlaneID`, `TimepointID`. Paths are those of the
machine that wrote the table; an image that isn't there is looked for by the end of its path, below the plate's folder.
Positions and pixel sizes are pe2loaddata's: in metres, centres of fields from the centre of the well, y up.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well
from plateflow.plates.files import Listing, decode, inside, list_files, peek, whole
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

TABLE = re.compile(r"(?:[^/]+/)?[^/]*\.csv(?:\.gz)?", re.IGNORECASE)
CHANNEL = re.compile(r"(?:Image_)?(FileName|URL)_((?!Illum).+)")
_REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/")
_FIELD = ("Site", "FieldID", "Field")
_Z = ("PlaneID", "Plane", "Z", "ZStack")
_T = ("TimepointID", "Timepoint", "Time", "T")
Line = dict[str, str]


class LoadDataReader:
    """Reads the table; the images are opened for their size alone, where the table lacks it."""

    name = "load_data"

    def recognise(self, folder: Path) -> bool:
        """A table with such columns, in the folder or one below it."""
        return _table(folder, peek(folder)) is not None

    def read(self, entry: PlateEntry) -> Index:
        """Index the plate of a load_data table (see `Reader.read`)."""
        folder = plate_folder(entry)
        listing = list_files(folder)
        source = _table(listing.root, sorted(listing.files))
        if source is None:
            raise PlateflowError(
                "there is no load_data.csv",
                where=f"{entry.plate}: {folder}",
                why="no CSV in it has the columns FileName_<channel> or URL_<channel>, and Metadata_Well",
                remedy="put it into the plate's folder, beside or above the images",
            )
        return make_index(entry, self.name, _records(entry, listing, source), listing)


def _table(folder: Path, names: Iterable[str]) -> str | None:
    """The table: `load_data.csv` if there are several, the one without illumination functions first."""
    found = [name for name in names if TABLE.fullmatch(name) and _is_load_data(_lines(folder / name, head=True))]
    return min(found, key=lambda name: ("load_data" not in name.lower(), "illum" in name.lower(), name), default=None)


def _is_load_data(lines: list[Line]) -> bool:
    columns = set(lines[0]) if lines else set()
    wells = {"Metadata_Well"} <= columns or {"Metadata_Row", "Metadata_Col"} <= columns
    return wells and any(CHANNEL.fullmatch(column) for column in columns if column)


def _lines(path: Path, *, head: bool = False) -> list[Line]:
    """The lines of a table, or its first alone; none where it is no table."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            text = decode(file.read(2**16 if head else -1))
        reader = csv.DictReader(io.StringIO(text))
        return [line for _, line in zip(range(1), reader, strict=False)] if head else list(reader)
    except (OSError, EOFError, csv.Error):
        return []


def _records(entry: PlateEntry, listing: Listing, source: str) -> Records:
    lines = _of_plate(entry, _lines(listing.root / source), source)
    columns = [match for column in lines[0] if column and (match := CHANNEL.fullmatch(column))]
    channels = {match[2]: {"name": match[2].removeprefix("Orig") or match[2]} for match in columns}
    finder = _Finder(entry, listing, source)
    planes: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 2):
        try:
            place = _place(line)
        except (KeyError, ValueError) as error:
            raise PlateflowError(
                "a line of the table can't be understood",
                where=f"{entry.plate}: {source}, line {number}",
                why=f"{type(error).__name__}: {error}",
                remedy="mend the line: Metadata_Well (or Row and Col) and Metadata_Site are needed",
            ) from error
        for channel in channels:
            if path := finder.find(line, channel):
                height = _real(line, f"PositionZ_{channel}") * 1e6 if "dy_um" in place else math.nan
                more = {"path": path, "page": whole(line.get(f"Frame_{channel}") or ""), "z_um": height}
                planes.append({**place, **more, "channel": channel})
    notes = finder.notes()
    other = sorted(set(listing.image_names()) - {plane["path"] for plane in planes})
    if other and len({line.get("Metadata_Plate") for line in _lines(listing.root / source)}) < 2:
        notes.append(f"{len(other)} images are not in the table and are not used: {some(other)}")
    return Records(planes=planes, channels=channels, disagreements=notes)


def _of_plate(entry: PlateEntry, lines: list[Line], source: str) -> list[Line]:
    plates = sorted({line.get("Metadata_Plate") or "" for line in lines})
    if len(plates) < 2:
        return lines
    mine = [line for line in lines if line.get("Metadata_Plate") == entry.plate]
    if mine:
        return mine
    raise PlateflowError(
        "the table has several plates, and none of this name",
        where=f"{entry.plate}: {source}",
        why=f"its plates are {some(plates, limit=8)}",
        remedy="give the plate the id that it has in the table (plateflow init --plate)",
    )


def _place(line: Line) -> dict[str, Any]:
    def first(keys: tuple[str, ...], default: str) -> str:
        return next((value for key in keys if (value := line.get(f"Metadata_{key}"))), default)

    if well := line.get("Metadata_Well"):
        row, column = parse_well(well)
    else:
        said = line["Metadata_Row"]
        row = int(said) - 1 if said.isdecimal() else parse_well(f"{said}1")[0]
        column = int(line["Metadata_Col"]) - 1
    place = {"row": row, "column": column, "field": first(_FIELD, "1").lstrip("0") or "0"}
    place |= {"z": int(first(_Z, "0")), "t": int(first(_T, "0"))}
    dy, dx, y, x = (_real(line, f"{key}{axis}") for key in ("ImageResolution", "Position") for axis in "YX")
    height, width = (whole(line.get(f"Metadata_ImageSize{axis}") or "") for axis in "YX")
    if not (0 < dy < 1e-3 and 0 < dx < 1e-3):  # not in metres: who knows
        return place
    um = {"dy_um": dy * 1e6, "dx_um": dx * 1e6}
    if height and width and not math.isnan(y + x):
        um |= {"height": height, "width": width}
        um |= {"y_um": -y * 1e6 - height * um["dy_um"] / 2, "x_um": x * 1e6 - width * um["dx_um"] / 2}
    return place | um


def _real(line: Line, key: str) -> float:
    return float(line.get(f"Metadata_{key}") or "nan")


class _Finder:
    """Finds images below the plate's folder."""

    def __init__(self, entry: PlateEntry, listing: Listing, source: str) -> None:
        self.entry, self.listing, self.source = entry, listing, source
        self.base = str(PurePosixPath(source).parent)
        self.named: dict[str, list[str]] = {}
        for name in listing.files:
            self.named.setdefault(name.rpartition("/")[2], []).append(name)
        self.there = 0
        self.elsewhere: list[str] = []
        self.lost: list[str] = []

    def find(self, line: Line, channel: str) -> str:
        """The path of an image, relative to the plate's folder; empty where the table names none.

        Raises:
            PlateflowError: it is a URL, leads out of the folder, or could be one of several.
        """
        file = line.get(f"FileName_{channel}") or line.get(f"Image_FileName_{channel}") or ""
        folder = line.get(f"PathName_{channel}") or line.get(f"Image_PathName_{channel}") or ""
        url = line.get(f"URL_{channel}") or line.get(f"Image_URL_{channel}") or ""
        said = (f"{folder.rstrip('/')}/{file}" if folder else file) if file else unquote(re.sub("^file:(//)?", "", url))
        if not said:
            return ""
        if _REMOTE.match(said):
            raise PlateflowError(
                "the images of the table are URLs",
                where=f"{self.entry.plate}: {self.source}: {said}",
                why="only images on a file system are read, so that a run can be repeated and resumed",
                remedy="download them (aws s3 cp --no-sign-request --recursive ...) below the folder of the table; "
                "they are found there by the end of their paths",
            )
        path = PurePosixPath(said.replace("\\", "/"))
        if path.is_absolute() and path.is_relative_to(self.listing.root):
            path = path.relative_to(self.listing.root)
        if not path.is_absolute() and said[1:2] != ":":
            for base in dict.fromkeys((self.base, ".")):
                name = inside(self.listing, str(path), base=base, plate=self.entry.plate, source=self.source)
                if name in self.listing.files:
                    self.there += 1
                    return name
        return self._by_end(path)

    def _by_end(self, path: PurePosixPath) -> str:
        """The file that shares most of the end of a path."""
        shared = {name: _shared(path, PurePosixPath(name)) for name in self.named.get(path.name, [])}
        best = [name for name, parts in shared.items() if parts == max(shared.values())]
        if len(best) > 1:
            raise PlateflowError(
                "an image of the table could be one of several",
                where=f"{self.entry.plate}: {path}: {some(best)}",
                why=f"{self.source} names a path that isn't there, and these end alike",
                remedy="mend PathName in the table, or make a plate of each folder",
            )
        (self.elsewhere if best else self.lost).append(str(path))
        return best[0] if best else path.name

    def notes(self) -> list[str]:
        """What the table and the folder say differently.

        Raises:
            PlateflowError: no image is there.
        """
        if self.lost and not self.there and not self.elsewhere:
            raise PlateflowError(
                "the images of the table are not in the plate's folder",
                where=f"{self.entry.plate}: {self.source}: {some(self.lost)}",
                remedy="give the folder that holds both the table and the images, or copy the images below it",
            )
        said = []
        if self.elsewhere:
            said.append(f"{len(self.elsewhere)} images lie elsewhere by the table; found by the end of their paths")
        if self.lost:
            said.append(f"{len(self.lost)} images of the table are not in the plate's folder: {some(self.lost)}")
        return said


def _shared(a: PurePosixPath, b: PurePosixPath) -> int:
    pairs = zip(reversed(a.parts), reversed(b.parts), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(a.parts), len(b.parts)))
