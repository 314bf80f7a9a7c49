"""`load_data.csv`, as CellProfiler reads it and the Cell Painting Gallery keeps it: one line per site.

Each channel has the columns `FileName_<channel>` and `PathName_<channel>` (or `URL_<channel>`), which say where its
image is; `Metadata_*` say what it shows: `Well` (or `Row` and `Col`), `Site`, and where there are any `Plate`,
`PlaneID`, `TimepointID`. Paths are those of the machine that wrote the table; an image that is not at its path is
looked for below the plate's folder by the end of its path. Positions and pixel sizes are those of pe2loaddata: in
metres, centres of fields relative to the centre of the well, y pointing up.
"""

import gzip
import math
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError, number_of
from plateflow.plates.files import Listing, inside, link_error, page_number, parsing, positive_int
from plateflow.plates.names import parse_place, several_measurements
from plateflow.plates.reader import Index, Records, counted, examples, geometry, make_index, plate_files
from plateflow.text import TextError, decode, encoding_of, rows, table

TABLE = re.compile(r"(?:[^/]+/)?[^/]*\.csv(?:\.gz)?", re.IGNORECASE)
CHANNEL = re.compile(r"(?:Image_)?(FileName|URL)_((?!Illum).+)")
_REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:/")
_FIELD = ("Site", "FieldID", "Field")
_Z = ("PlaneID", "Plane", "Z", "ZStack")
_T = ("TimepointID", "Timepoint", "Time", "T")
Line = dict[str, str]


class LoadDataReader:
    """Reads the table; images are opened only for their size, where the table lacks it."""

    name = "load_data"

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
        """By a table with these columns, in the folder or one level below."""
        return bool(load_data_tables(folder, names))

    def read(self, spec: PlateSpec) -> Index:
        """Index the plate of a load_data table (see `Reader.read`)."""
        listing = plate_files(spec)
        tables = load_data_tables(listing.root, sorted(listing.files))
        folders = {name.rpartition("/")[0] for name in tables}
        if len(folders) > 1 and "" not in folders:
            raise several_measurements(spec, folders)
        source = min(tables, key=_rank, default=None)
        if source is None:
            for name in filter(TABLE.fullmatch, sorted(listing.files)):
                if "load_data" in name.lower():
                    _lines(spec, listing.root / name)  # says what is wrong with it, if it is no table
            if listing.outside:
                raise link_error(listing, min(listing.outside), plate=spec.plate)
            raise RawDataError(
                "there is no load_data.csv",
                where=f"{spec.plate}: {spec.path}",
                why="no CSV in it has the columns FileName_<channel> or URL_<channel>, and Metadata_Well",
                remedy="put it into the plate's folder, beside or above the images",
            )
        return make_index(spec, self.name, _records(spec, listing, source), listing)


def load_data_tables(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of a folder's files that are such tables."""
    return [name for name in names if TABLE.fullmatch(name) and _is_load_data(_columns(folder / name))]


def _rank(name: str) -> tuple[bool, bool, str]:
    """Of several tables one named load_data is preferred, and one without illumination functions."""
    return "load_data" not in name.lower(), "illum" in name.lower(), name


def _is_load_data(columns: Collection[str]) -> bool:
    wells = "Metadata_Well" in columns or {"Metadata_Row", "Metadata_Col"} <= set(columns)
    return wells and any(CHANNEL.fullmatch(column) for column in columns)


def _columns(path: Path) -> list[str]:
    """The columns of a table; none where the file is not a table."""
    try:
        head = _content(path, 2**16)
        return next(rows(head.decode(encoding_of(head) or "utf-8", "replace"), ","))[1]
    except (OSError, EOFError, zlib.error, TextError, StopIteration):
        return []


def _content(path: Path, size: int = -1) -> bytes:
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        return file.read(size)


def _lines(spec: PlateSpec, path: Path) -> list[tuple[int, Line]]:
    """All lines of a table, with their numbers; at least one.

    Raises:
        RawDataError: it can't be read as a table.
    """
    with parsing("the table", where=f"{spec.plate}: {path}", remedy="copy it again"):
        try:
            lines = list(table(decode(_content(path)), ","))
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if not lines:
            raise ValueError("it has no line below the names of its columns")
    return lines


def _records(spec: PlateSpec, listing: Listing, source: str) -> Records:
    everything = _lines(spec, listing.root / source)
    lines = _lines_of_plate(spec, everything, source)
    columns = [match for column in lines[0][1] if (match := CHANNEL.fullmatch(column))]
    channels = {match[2]: {"name": match[2].removeprefix("Orig") or match[2]} for match in columns}
    finder = _Finder(spec, listing, source)
    planes: list[dict[str, Any]] = []
    remedy = "fix the line: Metadata_Well (or Row and Col) and Metadata_Site are needed"
    for number, line in lines:
        with parsing(f"line {number} of the table", where=f"{spec.plate}: {source}", remedy=remedy):
            place = _place(line)
            pages = {channel: page_number(_cell(line, "Frame", channel)) for channel in channels}
            if any(page_number(_cell(line, "Series", channel)) for channel in channels):
                raise ValueError("only the first series of a file is read, which is 0")
        for channel in channels:
            if path := finder.find(line, channel):
                height = _real(line, f"PositionZ_{channel}") * 1e6 if "dy_um" in place else math.nan
                planes.append({**place, "path": path, "page": pages[channel], "z_um": height, "channel": channel})
    notes = finder.notes()
    sizes = {
        size for _, line in lines if (size := line.get("Metadata_ImageResolutionX")) and not _in_metres(float(size))
    }
    notes += counted(
        sizes, "pixel size[s aren't| isn't] in metres: [these|this] and the positions aren't used; set pixel_size_um"
    )
    if len({line.get("Metadata_Plate") for _, line in everything}) < 2:
        others = set(listing.image_names()) - {plane["path"] for plane in planes}
        notes += counted(others, "image[s are| is] not in the table and [are|is] not used")
    chosen = len({plane["page"] for plane in planes}) > 1
    return Records(planes=planes, channels=channels, disagreements=notes, pages_chosen=chosen, listed=True)


def _cell(line: Line, key: str, channel: str) -> str:
    """What a line says of one channel's image."""
    return line.get(f"{key}_{channel}") or line.get(f"Image_{key}_{channel}") or ""


def _lines_of_plate(spec: PlateSpec, lines: list[tuple[int, Line]], source: str) -> list[tuple[int, Line]]:
    plates = sorted({line.get("Metadata_Plate", "") for _, line in lines})
    if len(plates) < 2:
        return lines
    if chosen := [(number, line) for number, line in lines if line.get("Metadata_Plate") == spec.plate]:
        return chosen
    raise RawDataError(
        "the table has several plates, but none of this name",
        where=f"{spec.plate}: {source}",
        why=f"its plates are {examples(plates, limit=8)}",
        remedy="give the plate the id that it has in the table (plateflow init --plate)",
    )


def _place(line: Line) -> dict[str, Any]:
    """The place of a line's images, and where they are in metres the geometry of the field."""

    def first(keys: tuple[str, ...], default: str) -> str:
        return next((value for key in keys if (value := line.get(f"Metadata_{key}"))), default)

    well = {"well": line.get("Metadata_Well"), "row": line.get("Metadata_Row"), "column": line.get("Metadata_Col")}
    row, column = parse_place(well)
    place: dict[str, Any] = {"row": row, "column": column, "field": first(_FIELD, "1").lstrip("0") or "0"}
    place |= {"z": int(first(_Z, "0")), "t": int(first(_T, "0"))}
    dy, dx, y, x = (_real(line, f"{key}{axis}") for key in ("ImageResolution", "Position") for axis in "YX")
    height, width = (positive_int(line.get(f"Metadata_ImageSize{axis}") or "") for axis in "YX")
    if not (_in_metres(dy) and _in_metres(dx)):
        return place
    if height and width and not math.isnan(y + x):
        return place | geometry(-y * 1e6, x * 1e6, dy=dy * 1e6, dx=dx * 1e6, height=height, width=width)
    return place | {"dy_um": dy * 1e6, "dx_um": dx * 1e6}


def _in_metres(size: float) -> bool:
    """Whether a pixel size may be in metres; else its unit is unknown."""
    return 0 < size < 1e-3


def _real(line: Line, key: str) -> float:
    return float(line.get(f"Metadata_{key}") or "nan")


class _Finder:
    """Finds the images of a table below the plate's folder."""

    def __init__(self, spec: PlateSpec, listing: Listing, source: str) -> None:
        self.spec, self.listing, self.source = spec, listing, source
        self.base = str(PurePosixPath(source).parent)
        self.named: dict[str, list[str]] = {}
        for name in listing.files:
            self.named.setdefault(name.rpartition("/")[2], []).append(name)
        self.found = 0
        self.elsewhere: list[str] = []
        self.lost: list[str] = []

    def find(self, line: Line, channel: str) -> str:
        """The path of an image relative to the plate's folder; empty where the table names none.

        Raises:
            RawDataError: it is a URL, leads out of the folder, or could be one of several files.
        """
        file, folder, url = (_cell(line, key, channel) for key in ("FileName", "PathName", "URL"))
        if file:
            given = f"{folder.rstrip('/')}/{file}" if folder else file
        else:
            given = unquote(re.sub("^file:(//)?", "", url))
        if not given:
            return ""
        if _REMOTE.match(given):
            raise RawDataError(
                "the images of the table are URLs",
                where=f"{self.spec.plate}: {self.source}: {given}",
                why="only images on a file system are read, so that a run can be repeated and resumed",
                remedy="download them (aws s3 cp --no-sign-request --recursive ...) below the folder of the table; "
                "they are found there by the end of their paths",
            )
        path = PurePosixPath(given.replace("\\", "/"))
        if path.is_absolute() and path.is_relative_to(self.listing.root):
            path = path.relative_to(self.listing.root)
        if not path.is_absolute() and given[1:2] != ":":
            for base in dict.fromkeys((self.base, ".")):
                name = inside(self.listing, str(path), base=base, plate=self.spec.plate, source=self.source)
                if name in self.listing.files:
                    self.found += 1
                    return name
        return self._by_end(path)

    def _by_end(self, path: PurePosixPath) -> str:
        """The file that shares the longest end of a path; the bare name where none shares any."""
        shared = {name: _shared(path, PurePosixPath(name)) for name in self.named.get(path.name, [])}
        best = [name for name, parts in shared.items() if parts == max(shared.values())]
        if len(best) > 1:
            raise RawDataError(
                "an image of the table could be one of several files",
                where=f"{self.spec.plate}: {path}: {examples(best)}",
                why=f"the path given by {self.source} does not exist, and these files end alike",
                remedy="fix PathName in the table, or make a plate of each folder",
            )
        (self.elsewhere if best else self.lost).append(str(path))
        return best[0] if best else path.name

    def notes(self) -> list[str]:
        """What the table and the folder say differently.

        Raises:
            RawDataError: the folder has none of the images.
        """
        if self.lost and not self.found and not self.elsewhere:
            raise RawDataError(
                "the images of the table are not in the plate's folder",
                where=f"{self.spec.plate}: {self.source}: {examples(self.lost)}",
                remedy="give the folder that holds both the table and the images, or copy the images below it",
            )
        n = len(self.elsewhere)
        moved = (
            [number_of(n, "image[s lie| lies] elsewhere by the table; found by the end of [their paths|its path]")]
            if n
            else []
        )
        return moved + counted(self.lost, "image[s] of the table [are|is] not in the plate's folder")


def _shared(a: PurePosixPath, b: PurePosixPath) -> int:
    """The number of parts that the ends of two paths share."""
    pairs = zip(reversed(a.parts), reversed(b.parts), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(a.parts), len(b.parts)))
