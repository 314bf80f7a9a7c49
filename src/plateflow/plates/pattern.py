"""Any folder of TIFFs whose names say what they show, or that a table lists.

A regular expression with the groups `well` (or `row` and `column`), and where there are any `field`, `channel`, `z`,
`t`, is searched for in the path of each file relative to the plate's folder, with slashes; positions are unknown then.
Where each page of a file is a channel, the group `channels` finds their names, between commas; where it finds nothing,
they are numbered.
Patterns for some instruments are built in (`READY`). A CSV or TSV has a column for each of these groups, `path`, and
where known `page`, `y_um` and `x_um` (the top-left corner of a field, y pointing down), `z_um`, `pixel_size_um`, in
capitals or not. Other columns are told, and refused where they seem to mean one of these that isn't there.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import regex  # unlike re, it can be stopped

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates.files import Listing, inside, page_number, parsing
from plateflow.plates.headers import HEADERS_READ
from plateflow.plates.names import parse_place
from plateflow.plates.pages import REMEDY, pages_in, stack_in
from plateflow.plates.reader import Index, Records, counted, examples, make_index, plate_files
from plateflow.text import decode, table

GROUPS = {"well", "row", "column", "field", "channel", "z", "t"}
PAGES = "channels"
"""The group that names the channels of a file's pages."""
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
"""File names of Olympus ScanR, BioTek Cytation (Gen5), Thermo Cellomics (as TIFF), and EMBL's own."""
_NUMBERS = ("y_um", "x_um", "z_um", "pixel_size_um")
_MEANT = {
    "channel": r"channel|wave|stain|dye|marker",
    "field": r"field|site|fov|tile",
    "z": r"z|plane|slice",
    "t": r"t$|timepoint",
    "y_um": r"y(um|pos.*)?$|(pos|position|stage)y",
    "x_um": r"x(um|pos.*)?$|(pos|position|stage)x",
    "pixel_size_um": r"pixelsize",
}
"""Column of a table -> how others' names for it begin, without signs: were they ignored, channels would be mixed."""
_SECONDS, _SECONDS_PER_NAME = 2.0, 1e-3
"""The computing time that a pattern may take for a plate, some hundred times what a sound one takes; a pattern that
goes back and forth in a name would take years."""


class PatternReader:
    """Reads file names by the plate's regular expression, or by a built-in one; or reads a table."""

    name = "pattern"

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
        """By a built-in pattern that matches at least half of the TIFFs."""
        return _ready([name for name in names if name.lower().endswith((".tif", ".tiff"))]) is not None

    def read(self, spec: PlateSpec) -> Index:
        """Index the images whose names match `spec.pattern`, or that its table lists (see `Reader.read`)."""
        listing = plate_files(spec)
        if spec.pattern and spec.pattern.lower().endswith((".csv", ".tsv")):
            return make_index(spec, self.name, _from_table(spec, listing), listing)
        matches = _search(spec, _compile(spec, listing), listing.image_names())
        found = {name: groups for name, groups in matches.items() if groups}
        planes = list(_planes(spec, listing, found))
        others = [name for name, groups in matches.items() if not groups]
        if others and not planes:
            raise RawDataError(
                "no image matches the pattern",
                where=f"{spec.plate}: {examples(others)}",
                why=f"the pattern is {spec.pattern}",
                remedy="fix the pattern in the plate sheet",
            )
        notes = counted(others, "image[s don't| doesn't] match the pattern and [are|is] not used") + _stacks(
            spec, listing, found
        )
        in_order = {plane["channel"]: {"name": plane["channel"]} for plane in planes}
        channels = in_order if any(PAGES in groups for groups in found.values()) else dict(sorted(in_order.items()))
        return make_index(spec, self.name, Records(planes=planes, channels=channels, disagreements=notes), listing)


def _ready(names: list[str]) -> str | None:
    """The built-in pattern that matches most of the images, if it matches at least half of them."""
    counts = {ready: sum(re.search(pattern, name) is not None for name in names) for ready, pattern in READY.items()}
    best = max(counts, key=lambda ready: counts[ready])
    return best if names and 2 * counts[best] >= len(names) else None


def _from_table(spec: PlateSpec, listing: Listing) -> Records:
    given = Path(spec.pattern or "")
    path = listing.root / given if (listing.root / given).is_file() else given
    where = f"{spec.plate}: {path}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RawDataError(
            "the table of images can't be read",
            where=where,
            why=f"{error.strerror}",
            remedy="fix the column pattern of the plate sheet: a path below the plate's folder, or from where you are",
        ) from error
    with parsing("the table of images", where=where, remedy="save it as CSV in UTF-8"):
        lines = list(table(decode(content), "\t" if path.suffix.lower() == ".tsv" else ","))
    names = [name for name in lines[0][1] if name] if lines else []
    lines = [(number, {name.lower(): cell for name, cell in line.items()} | line) for number, line in lines]
    columns = {name.lower() for name in names}
    if "path" not in columns or not ("well" in columns or {"row", "column"} <= columns):
        raise RawDataError(
            "the table of images lacks a column",
            where=where,
            why=f"it has {', '.join(sorted(names)) or 'no line'}; path and well (or row and column) needed",
            remedy=f"further columns: {', '.join(sorted(GROUPS - {'well'}))}, page, {', '.join(_NUMBERS)}",
        )
    others = {name for name in names if name.lower() not in GROUPS | {"path", "page", *_NUMBERS}}
    for name in sorted(others):
        plain = re.sub(r"[\W_]", "", name.lower())
        meant = [key for key, begin in _MEANT.items() if key not in columns and re.match(begin, plain)]
        if meant and (meant == ["pixel_size_um"] or len({line[name] for _, line in lines}) > 1):
            raise RawDataError(
                "a column of the table of images isn't understood",
                where=f"{where}: {name}",
                why=f"it may be meant as {meant[0]}, which the table lacks",
                remedy=f"name it {meant[0]} (in what unit, the name says); else remove it",
            )
    planes = []
    for number, line in lines:
        plane = _place(spec, f"{path.name}, line {number}", line)
        with parsing(f"line {number} of the table", where=where, remedy="fix the line"):
            plane |= {key: float(line[key]) for key in _NUMBERS if line.get(key)}
            plane["page"] = page_number(line.get("page"))
        if "pixel_size_um" in plane:
            plane["dy_um"] = plane["dx_um"] = plane.pop("pixel_size_um")
        if line["path"]:
            plane["path"] = inside(listing, line["path"], plate=spec.plate, source=path.name)
        planes.append(plane)
    channels = {plane["channel"]: {"name": plane["channel"]} for plane in planes}
    notes = counted(others, "column[s] of the table of images [aren't|isn't] read")
    chosen = len({plane["page"] for plane in planes}) > 1
    return Records(planes=planes, channels=channels, disagreements=notes, pages_chosen=chosen, listed=True)


def _search(spec: PlateSpec, pattern: regex.Pattern[str], names: Iterable[str]) -> dict[str, dict[str, str] | None]:
    """What the groups of a pattern find in each name; None where it doesn't match."""
    left = _SECONDS
    found: dict[str, dict[str, str] | None] = {}
    for name in names:
        start = time.process_time()
        try:
            match = pattern.search(name, timeout=max(left, _SECONDS_PER_NAME))
        except TimeoutError:
            raise RawDataError(
                "the pattern takes too long",
                where=f"{spec.plate}: {spec.pattern}",
                why=f"after {_SECONDS:g} s it was still trying ways to match {name}",
                remedy="give its repetitions one way to match: [^_]+_ instead of .*_, and no + or * around another",
            ) from None
        left += _SECONDS_PER_NAME - (time.process_time() - start)
        found[name] = match.groupdict() if match else None
    return found


def _compile(spec: PlateSpec, listing: Listing) -> regex.Pattern[str]:
    """The regular expression of a plate, checked."""
    remedy = f"for example {EXAMPLE}, or one of {', '.join(READY)}"
    given = spec.pattern or _ready(listing.image_names())
    if given is None:
        where = f"{spec.plate}: column pattern"
        raise RawDataError("the layout pattern needs a regular expression", where=where, remedy=remedy)
    where = f"{spec.plate}: {spec.pattern}"
    pattern = f"(?i){READY[given.lower()]}" if given.lower() in READY else given
    try:
        re.compile(pattern)  # whose language it is: regex takes more
        compiled = regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        what = "the pattern is not a regular expression"
        raise RawDataError(what, where=where, why=str(error), remedy=remedy) from error
    groups = set(compiled.groupindex)
    known, twice = GROUPS | {PAGES}, {"channel", PAGES}
    if groups - known or twice <= groups or not ("well" in groups or {"row", "column"} <= groups):
        raise RawDataError(
            "the groups of the pattern can't be used",
            where=where,
            why=f"it names {', '.join(sorted(groups)) or 'none'}; it needs well, or row and column; "
            f"allowed are {', '.join(sorted(known))}, and of channel and {PAGES} one",
            remedy=remedy,
        )
    return compiled


def _planes(
    spec: PlateSpec, listing: Listing, found: Mapping[str, Mapping[str, str | None]]
) -> Iterator[dict[str, Any]]:
    """The planes in the files by what the pattern found in their names; where pages are channels, one for each.

    Where the files don't name the channels they are numbered, as many as the fullest of a few files has pages.
    """
    unnamed = [name for name, groups in found.items() if not groups.get(PAGES, "named")]
    few = unnamed[:: max(1, len(unnamed) // HEADERS_READ)][:HEADERS_READ]
    numbers = [str(page) for page in range(1, max([1, *(pages_in(listing.root / name) for name in few)]) + 1)]
    for name, groups in found.items():
        plane = {**_place(spec, name, groups), "path": name}
        if PAGES in groups:
            channels = named.split(",") if (named := groups[PAGES]) else numbers
            yield from ({**plane, "page": page, "channel": channel.strip()} for page, channel in enumerate(channels))
        else:
            yield plane


def _stacks(spec: PlateSpec, listing: Listing, found: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    """A note where pages are read as channels that the metadata of a few files give as planes or times of one."""
    paged = [name for name, groups in found.items() if PAGES in groups]
    stacked: list[str] = []
    for name in paged[:: max(1, len(paged) // HEADERS_READ)][:HEADERS_READ]:
        channels, planes = stack_in(listing.root / name)
        if channels > 1 and planes > 1:
            raise RawDataError(
                f"the pages of the images are not all channels, as the group {PAGES} says",
                where=f"{spec.plate}: {name}",
                why=f"by its metadata it has {channels} channels, and {planes} planes or times of each",
                remedy=REMEDY,
            )
        stacked += [name] if planes > 1 else []
    return counted(
        stacked,
        f"image[s have| has] pages that are planes or times by [their|its] metadata, and [are|is] read as {PAGES}",
    )


def _place(spec: PlateSpec, name: str, values: Mapping[str, str | None]) -> dict[str, Any]:
    """Row, column, field, channel, t and z that a name, or a line of a table, gives."""
    remedy = "fix the table, or the pattern in the plate sheet, so that it only matches images of wells"
    with parsing("the place of an image", where=f"{spec.plate}: {name}", remedy=remedy):
        row, column = parse_place(values)
        t, z = (int(values.get(axis) or 0) for axis in ("t", "z"))
    field = (values.get("field") or "1").lstrip("0") or "0"
    return {"row": row, "column": column, "field": field, "t": t, "z": z, "channel": values.get("channel") or "1"}
