"""Molecular Devices ImageXpress (MetaXpress): one TIFF per plane with metadata in its header, and an HTD file.

As observed in real exports: a file is `<name>_<well>[_s<site>][_w<wave>][GUID].tif`, below
`TimePoint_<t>` where there are time points and `ZStep_<z>` where there are stacks; beside or above the steps, or in
`ZStep_0`, lies the projection, and files with `_thumb` are previews. Where a field has a stack of a channel, only the
stack is used; without one it has its projection. The exporting software copies the single plane of a channel without a
stack into every step; the `Z Step` in the headers shows this. The HTD file says what was planned.

Stage positions are in um, of the centre of a field, and y points down, as the rows of the image do (in real plates,
fields above each other continue so). They are in the headers only, and sites lie alike in all wells, so three wells per
site are read, and all of them only where these three differ.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

from plateflow.config import PlateSpec
from plateflow.errors import number_of
from plateflow.paths import well_name
from plateflow.plates.files import Listing
from plateflow.plates.names import NamePattern, refuse_odd_names, several_measurements
from plateflow.plates.pixels import own_fault
from plateflow.plates.reader import Index, Records, counted, examples, geometry, make_index, other_layout, plate_files
from plateflow.plates.units import NO_LENGTH, um_per
from plateflow.text import TextError, decode

GUID = r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}"
NAMES = NamePattern(
    r"(?:(?P<name>.+?)_)?(?P<well>(?:[A-Z]|A[A-F])\d\d)(?:_?s(?P<field>\d+))?(?:_?w(?P<channel>\d+))?"
    rf"(?P<guid>{GUID})?\.tif"
)
FOLDER = re.compile(r"(?:^|/)(TimePoint|ZStep)_(\d+)(?=/)", re.IGNORECASE)
WELLS_SAMPLED = 3
Plane = dict[str, Any]
Head = Mapping[str, str]
Heads = Callable[[str], Head]
"""Path of an image, relative to the plate's folder -> its header; each is read once."""


class ImageXpressReader:
    """Reads the HTD file, the file names and a few headers; without an HTD file, the names say what there is."""

    name = "imagexpress"

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
        """By an HTD file, or TIFFs named as MetaXpress names them: with a GUID, or with a name and a wave."""
        for name in names:
            match = NAMES.match(name)
            if name.lower().endswith(".htd") or (match and (match["guid"] or (match["name"] and match["channel"]))):
                return True
        return False

    def read(self, spec: PlateSpec) -> Index:
        """Index a MetaXpress plate (see `Reader.read`)."""
        listing = plate_files(spec)
        names = [name for name in listing.image_names() if "_thumb" not in PurePosixPath(name).name.lower()]
        planes, others = NAMES.planes(names)
        if not planes:
            why = "no image is named as MetaXpress names them (name_B03_s1_w1.tif)"
            remedy = "give the folder that holds the images"
            raise other_layout(spec, "a MetaXpress plate", listing, why=why, remedy=remedy)
        for plane in planes:
            folders = {kind.lower(): int(number) for kind, number in FOLDER.findall(plane["path"])}
            plane |= {"t": folders.get("timepoint", 0), "z": folders.get("zstep", 0)}
        _refuse_several(spec, listing, planes)
        notes = counted(others, "image[s are| is] not named as MetaXpress names them and [are|is] not used")
        heads = cache(lambda name: _head(listing.root / name))
        planes = _without_copies(_stacks(planes, notes), heads, notes)
        htd = _read_htd(listing)
        if htd and not ("EndFile" in htd and _number(htd, "YWells")):
            notes.append("the HTD file is damaged, or ends early: what was planned and isn't there goes unseen")
        channels, sizes = _channels(planes, heads, htd, notes)
        if spec.pixel_size_um:
            sizes = {channel: size | dict.fromkeys(("dy", "dx"), spec.pixel_size_um) for channel, size in sizes.items()}
        heights = _heights(planes, heads)
        centres = _centres(planes, heads, sizes, notes)
        for plane in planes:
            site = plane["field"]
            y, x = centres.get((plane["row"], plane["column"], site), centres.get(site, (math.nan, math.nan)))
            plane.update(geometry(y, x, **sizes[plane["channel"]]))
            plane["z_um"] = heights.get((plane["channel"], plane["z"]), math.nan)
        planes += _planned(planes, htd, notes)
        bits = _real(_usual_head(planes, heads), "Camera Bit Depth")
        records = Records(
            planes=planes,
            channels=channels,
            format=(_number(htd, "YWells"), _number(htd, "XWells")) if _number(htd, "YWells") else None,
            bit_max=2 ** int(bits) - 1 if 8 < bits <= 16 else None,
            disagreements=notes,
        )
        return make_index(spec, self.name, records, listing)


def _refuse_several(spec: PlateSpec, listing: Listing, planes: list[Plane]) -> None:
    """Refuse images of several plates: with other names, or in folders that hold the same wells, sites and channels.

    Raises:
        RawDataError: names the plates.
    """
    owners: dict[tuple[int, ...], set[str]] = {}
    names: dict[str, str] = {}
    for plane in planes:
        match, folder = NAMES.match(plane["path"]), PurePosixPath(FOLDER.sub("", plane["path"]).lstrip("/")).parent
        name = (match and match["name"]) or ""
        names.setdefault(name.casefold(), str(folder / name))
        place = tuple(plane[key] for key in ("row", "column", "field", "channel", "t"))
        owners.setdefault(place, set()).add(str(folder / name))
    several = next((found for found in owners.values() if len(found) > 1), set(names.values()))
    if len(several) > 1:
        refuse_odd_names(spec, listing, {plane["path"] for plane in planes})  # which may be all that differs
        raise several_measurements(spec, several)


def _usual_head(planes: list[Plane], heads: Heads) -> Head:
    """Of a few planes the first header with the most common size, so that one bad file does not decide."""
    step = max(1, len(planes) // 5)
    read = [head for plane in planes[::step] if plane["path"] and (head := heads(plane["path"]))]
    sizes = Counter((head["height"], head["width"]) for head in read)
    return next((head for head in read if (head["height"], head["width"]) == sizes.most_common(1)[0][0]), {})


def _head(path: Path) -> Head:
    """The header of a TIFF: property -> text, with `height` and `width`; empty where it has none, or is damaged."""
    import tifffile
    from defusedxml.ElementTree import fromstring

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            size = {"height": str(page.shape[0]), "width": str(page.shape[1])}
            text = page.description
            properties = fromstring(text).iter() if text.startswith("<MetaData") else ()  # prop and custom-prop
            return {str(item.get("id")): str(item.get("value")) for item in properties} | size
    except Exception as error:
        if not own_fault(error):
            raise
        return {}


def _real(head: Head, key: str) -> float:
    """A number of a header, NaN where there is none."""
    try:
        return float(head.get(key, "nan"))
    except ValueError:
        return math.nan


def _stacks(planes: list[Plane], notes: list[str]) -> list[Plane]:
    """The planes without the projections of stacks that are there; other projections go to the lowest step."""
    place = itemgetter("row", "column", "field", "t", "channel")
    stacked = {place(plane) for plane in planes if plane["z"] > 0}
    kept = [plane for plane in planes if plane["z"] > 0 or place(plane) not in stacked]
    if len(kept) < len(planes):
        notes.append(
            number_of(
                len(planes) - len(kept), "projection[s are| is] not used, as [their stacks are|its stack is] there"
            )
        )
    lowest = min((plane["z"] for plane in kept if plane["z"] > 0), default=0)
    for plane in kept:
        plane["z"] = max(plane["z"], lowest)
    return kept


def _without_copies(planes: list[Plane], heads: Heads, notes: list[str]) -> list[Plane]:
    """The planes without the copies that single planes have in every step."""
    stacks: dict[int, dict[tuple[Any, ...], list[Plane]]] = {}
    for plane in planes:
        key = (plane["row"], plane["column"], plane["field"], plane["t"])
        stacks.setdefault(plane["channel"], {}).setdefault(key, []).append(plane)
    for channel, channel_stacks in sorted(stacks.items()):
        sample = [stack for stack in list(channel_stacks.values())[:WELLS_SAMPLED] if len(stack) > 1]
        steps = [
            [heads(p["path"]).get("Z Step", heads(p["path"]).get("z-position")) for p in stack] for stack in sample
        ]
        if steps and all(None not in stack and len(set(stack)) == 1 for stack in steps):
            lowest = min(plane["z"] for plane in planes if plane["channel"] == channel)
            kept = [plane for plane in planes if plane["channel"] != channel or plane["z"] == lowest]
            notes.append(
                number_of(
                    len(planes) - len(kept),
                    f"image[s] of channel {channel} [are copies|is a copy] of one plane in every z step, not used",
                )
            )
            planes = kept
    return planes


def _channels(
    planes: list[Plane], heads: Heads, htd: Mapping[str, list[str]], notes: list[str]
) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """What is known about each channel, and the size of its images and pixels (see `geometry`)."""
    channels: dict[int, dict[str, Any]] = {}
    sizes: dict[int, dict[str, Any]] = {}
    for number in sorted({plane["channel"] for plane in planes}):
        head = _usual_head([plane for plane in planes if plane["channel"] == number], heads)
        planned, taken = htd.get(f"WaveName{number}", [""])[0], head.get("_IllumSetting_", "")
        channel: dict[str, Any] = {"name": planned or taken or f"w{number}"}
        if planned and taken and planned != taken:
            notes.append(f"channel {number} is {planned} in the HTD file, which is followed, and {taken} in the images")
        if (wavelength := _real(head, "wavelength")) > 0:
            channel["wavelength_nm"] = wavelength
        if match := re.fullmatch(r"([\d.]+) (m?s)", head.get("Exposure Time", "").strip()):
            channel["exposure_s"] = float(match[1]) / (1000 if match[2] == "ms" else 1)
        channels[number] = channel
        calibrated = head.get("spatial-calibration-state", "").lower() != "off"
        unit = head.get("spatial-calibration-units", "") if calibrated else ""
        size = _real(head, "spatial-calibration-x")
        if math.isnan(um := um_per(unit)) and unit.strip().casefold() not in NO_LENGTH:
            notes.append(
                f"channel {number} has pixels of {size:g} {unit}, a unit that isn't known: their size is unknown; "
                "set pixel_size_um in the plate sheet"
            )
        sizes[number] = {
            "height": int(head.get("height", "0")),
            "width": int(head.get("width", "0")),
            "dy": _real(head, "spatial-calibration-y") * um,
            "dx": size * um,
        }
    if len(channels) < _number(htd, "NWavelengths"):
        planned = number_of(_number(htd, "NWavelengths"), "channel[s]")
        notes.append(f"the HTD file speaks of {planned}; images of {len(channels)} are there")
    return channels, sizes


def _heights(planes: list[Plane], heads: Heads) -> dict[tuple[int, int], float]:
    """The height in um of each channel and step above the lowest step of the plate, taken from one full field."""
    place = itemgetter("row", "column", "field", "t")
    (fullest, _), *_ = Counter(map(place, planes)).most_common(1)
    field = [plane for plane in planes if place(plane) == fullest]
    stacks = Counter(plane["channel"] for plane in field)
    heights = {
        (p["channel"], p["z"]): _real(heads(p["path"]), "z-position")
        for p in sorted(field, key=lambda p: (-stacks[p["channel"]], p["channel"], p["z"]))
    }
    lowest = next(iter(heights.values()))
    return {key: round(height - lowest, 3) for key, height in heights.items()}


def _centres(
    planes: list[Plane], heads: Heads, sizes: Mapping[int, Mapping[str, Any]], notes: list[str]
) -> dict[Any, tuple[float, float]]:
    """The centre (y, x) of each site, or where wells differ of each (row, column, site), in um.

    It counts from the centre of the well, or from the lowest site where the headers do not give that offset.
    """
    by_site: dict[int, dict[tuple[int, int], Plane]] = {}
    for plane in planes:
        by_site.setdefault(plane["field"], {}).setdefault((plane["row"], plane["column"]), plane)
    counts = Counter(well for wells in by_site.values() for well in wells)
    anchor = min(by_site)

    def offset(plane: Plane) -> tuple[float, float] | None:
        head = heads(plane["path"])
        if "OffsetFromWellCenterUmX" in head:
            y, x = (_real(head, f"OffsetFromWellCenterUm{axis}") for axis in "YX")
        else:
            lowest = by_site[anchor].get((plane["row"], plane["column"]))
            base = heads(lowest["path"]) if lowest else {}
            y, x = (_real(head, f"stage-position-{a}") - _real(base, f"stage-position-{a}") for a in "yx")
        return None if math.isnan(y + x) else (y, x)

    centres: dict[Any, tuple[float, float]] = {}
    wrong: list[str] = []
    pixel = next(iter(sizes.values()))["dx"]
    for site, wells in by_site.items():
        usual = sorted(wells, key=lambda well: (-counts[well], well))
        sample = [wells[usual[n * (len(usual) - 1) // (WELLS_SAMPLED - 1)]] for n in range(WELLS_SAMPLED)]
        for plane in sample:
            label = heads(plane["path"]).get("stage-label", "").partition(" : ")[0].strip()
            if label and label != well_name(plane["row"], plane["column"]):
                wrong.append(f"{plane['path']} ({label})")
        offsets = [place for plane in sample if (place := offset(plane)) is not None]
        if not offsets:
            continue
        y, x = (median(place[axis] for place in offsets) for axis in (0, 1))
        if any(max(abs(place[0] - y), abs(place[1] - x)) > 2 * pixel for place in offsets):
            centres |= {(*well, site): place for well, p in wells.items() if (place := offset(p)) is not None}
        centres[site] = y, x
    if wrong:
        notes.append(f"images say another well than their names, which are followed: {examples(set(wrong))}")
    return centres


def _planned(planes: list[Plane], htd: Mapping[str, list[str]], notes: list[str]) -> list[Plane]:
    """One plane for each field and time that the HTD file plans and that has no image; `make_index` adds the others."""
    rows, columns = _number(htd, "YWells"), _number(htd, "XWells")
    selected = {
        (row, column)
        for row in range(rows)
        for column, flag in enumerate(htd.get(f"WellsSelection{row + 1}", [])[:columns])
        if flag.upper() == "TRUE"
    }
    if selected:
        extra = {(plane["row"], plane["column"]) for plane in planes} - selected
        notes += counted([well_name(*well) for well in extra], "well[s] with images [are|is] not in the HTD file")
    sites = sorted({plane["field"] for plane in planes})
    planned_sites = sum(
        flag.upper() == "TRUE" for n in range(_number(htd, "YSites")) for flag in htd.get(f"SiteSelection{n + 1}", [])
    )
    if htd.get("Sites", [""])[0].upper() == "TRUE" and planned_sites > len(sites):
        notes.append(f"the HTD file speaks of {planned_sites} sites; images of {len(sites)} are there")
    present = {(plane["row"], plane["column"], plane["field"], plane["t"]) for plane in planes}
    by_site = {plane["field"]: plane for plane in planes}
    return [
        by_site[site] | {"row": row, "column": column, "t": t, "path": ""}
        for row, column in sorted(selected)
        for site in sites
        for t in sorted({plane["t"] for plane in planes})
        if (row, column, site, t) not in present
    ]


def _read_htd(listing: Listing) -> dict[str, list[str]]:
    """Key -> values of the HTD file that lies nearest to the plate's folder; empty where there is none."""
    name = listing.nearest(".htd")
    if name is None:
        return {}
    htd: dict[str, list[str]] = {"file": [name]}
    content = (listing.root / name).read_bytes()
    try:
        text = decode(content)
    except TextError:  # descriptions in it may hold anything; what is used of it is ASCII
        text = content.decode("cp1252", "replace")
    for line in text.splitlines():
        key, *values = (part.strip().strip('"') for part in line.split(","))
        if values or key == "EndFile":
            htd[key] = values
    return htd


def _number(htd: Mapping[str, list[str]], key: str) -> int:
    text = htd.get(key, [""])[0]
    return int(text) if text.isdecimal() and len(text) < 5 else 0  # no plate has 10,000 of anything
