"""Molecular Devices ImageXpress (MetaXpress): one TIFF a plane, its metadata in its header, an HTD file with the plan.

Facts as real exports have them (docs/plate-layouts): a file is `<name>_<well>[_s<site>][_w<wave>][GUID].tif`, below
`TimePoint_<t>` where there are time points and `ZStep_<z>` where there are stacks; beside or above the steps, or in
`ZStep_0`, lies the projection, and files with `_thumb` are previews. Of a channel that has a stack the stack is used,
of one that has a projection alone the projection. The exporting software copies the single plane of a channel without a
stack into every step; the `Z Step` in the headers tells. Positions stand in the headers alone: see `metaseries`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well, well_name
from plateflow.plates.files import Listing, decode, list_files, peek
from plateflow.plates.metaseries import WELLS_SAMPLED, Headers, Plane, heights_of, positions_of, real
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

GUID = r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}"
FILE_NAME = re.compile(
    r"(?:(?P<name>.+?)_)?(?P<well>(?:[A-Z]|A[A-F])\d\d)(?:_?s(?P<field>\d+))?(?:_?w(?P<channel>\d+))?"
    + f"(?P<guid>{GUID})?"
    + r"\.tif",
    re.IGNORECASE,
)
FOLDER = re.compile(r"(?:^|/)(TimePoint|ZStep)_(\d+)(?=/)", re.IGNORECASE)


class ImageXpressReader:
    """Reads the HTD file, the names and a few headers; without an HTD file the names say what there is."""

    name = "imagexpress"

    def recognise(self, folder: Path) -> bool:
        """An HTD file, or TIFFs named as MetaXpress names them: with a GUID, or with a site and a wave."""
        for name in peek(folder):
            match = FILE_NAME.fullmatch(PurePosixPath(name).name)
            if name.lower().endswith(".htd") or (match and (match["guid"] or (match["name"] and match["channel"]))):
                return True
        return False

    def read(self, entry: PlateEntry) -> Index:
        """Index a MetaXpress plate (see `Reader.read`)."""
        listing = list_files(plate_folder(entry))
        notes: list[str] = []
        planes = _from_names(listing, notes)
        if not planes:
            raise PlateflowError(
                "the folder is not a MetaXpress plate",
                where=f"{entry.plate}: {entry.path}",
                why="no image is named as MetaXpress names them (name_B03_s1_w1.tif)",
                remedy="give the folder that holds the images; for other layouts set `layout` in the plate sheet",
            )
        heads = Headers(listing)
        planes = _without_copies(_stacks(planes, notes), heads, notes)
        htd = _read_htd(listing)
        if htd and not ("EndFile" in htd and _number(htd, "YWells")):
            notes.append("the HTD file is damaged, or ends early: what was planned and isn't there goes unseen")
        channels, sizes = _channels(planes, heads, htd, notes)
        heights = heights_of(planes, heads)
        places = positions_of(planes, heads, sizes, notes)
        for plane in planes:
            plane.update(sizes[plane["channel"]])
            plane["z_um"] = heights.get((plane["channel"], plane["z"]), math.nan)
            well = plane["row"], plane["column"]
            centre = places.get((*well, plane["field"]), places.get(plane["field"], (math.nan, math.nan)))
            plane["y_um"] = centre[0] - plane["height"] * plane["dy_um"] / 2
            plane["x_um"] = centre[1] - plane["width"] * plane["dx_um"] / 2
        planes += _planned(planes, htd, notes)
        bits = real(heads.first(planes), "Camera Bit Depth")
        records = Records(
            planes=planes,
            channels=channels,
            format=(_number(htd, "YWells"), _number(htd, "XWells")) if _number(htd, "YWells") else None,
            bit_max=2 ** int(bits) - 1 if 8 < bits <= 16 else None,
            disagreements=notes,
        )
        return make_index(entry, self.name, records, listing)


def _from_names(listing: Listing, notes: list[str]) -> list[Plane]:
    planes, other = [], []
    for name in listing.image_names():
        file = PurePosixPath(name).name
        if "_thumb" in file.lower():
            continue
        match = FILE_NAME.fullmatch(file)
        if match is None:
            other.append(name)
            continue
        folders = {kind.lower(): int(number) for kind, number in FOLDER.findall(name)}
        row, column = parse_well(match["well"])
        planes.append(
            {
                "row": row,
                "column": column,
                "field": int(match["field"] or 1),
                "channel": int(match["channel"] or 1),
                "t": folders.get("timepoint", 0),
                "z": folders.get("zstep", 0),
                "path": name,
            }
        )
    if other and planes:
        notes.append(f"{len(other)} images are not named as MetaXpress names them and are not used: {some(other)}")
    return planes


def _stacks(planes: list[Plane], notes: list[str]) -> list[Plane]:
    """Projections of channels without a stack, at the lowest step; of the others the steps alone."""
    stacked = {plane["channel"] for plane in planes if plane["z"] > 0}
    kept = [plane for plane in planes if plane["z"] > 0 or plane["channel"] not in stacked]
    if len(kept) < len(planes):
        notes.append(f"{len(planes) - len(kept)} projections are not used, as their stacks are there")
    lowest = min((plane["z"] for plane in kept if plane["z"] > 0), default=0)
    for plane in kept:
        plane["z"] = max(plane["z"], lowest)
    return kept


def _without_copies(planes: list[Plane], heads: Headers, notes: list[str]) -> list[Plane]:
    """Without the copies of single planes in every step."""
    stacks: dict[int, dict[tuple[Any, ...], list[Plane]]] = {}
    for plane in planes:
        key = (plane["row"], plane["column"], plane["field"], plane["t"])
        stacks.setdefault(plane["channel"], {}).setdefault(key, []).append(plane)
    for channel, of_channel in sorted(stacks.items()):
        sample = [of for of in list(of_channel.values())[:WELLS_SAMPLED] if len(of) > 1]
        steps = [[heads.of(p).get("Z Step", heads.of(p).get("z-position")) for p in of] for of in sample]
        if steps and all(None not in of and len(set(of)) == 1 for of in steps):
            lowest = min(plane["z"] for plane in planes if plane["channel"] == channel)
            kept = [plane for plane in planes if plane["channel"] != channel or plane["z"] == lowest]
            notes.append(
                f"{len(planes) - len(kept)} images of channel {channel} are copies of one plane in every z step "
                "and are not used"
            )
            planes = kept
    return planes


def _channels(
    planes: list[Plane], heads: Headers, htd: Mapping[str, list[str]], notes: list[str]
) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
    """What is known of each channel, and the size of its images and pixels."""
    channels: dict[int, dict[str, Any]] = {}
    sizes: dict[int, dict[str, Any]] = {}
    for number in sorted({plane["channel"] for plane in planes}):
        head = heads.first([plane for plane in planes if plane["channel"] == number])
        planned, taken = htd.get(f"WaveName{number}", [""])[0], head.get("_IllumSetting_", "")
        about: dict[str, Any] = {"name": planned or taken or f"w{number}"}
        if planned and taken and planned != taken:
            notes.append(f"channel {number} is {planned} in the HTD file, which is followed, and {taken} in the images")
        if (wavelength := real(head, "wavelength")) > 0:
            about["wavelength_nm"] = wavelength
        if match := re.fullmatch(r"([\d.]+) (m?s)", head.get("Exposure Time", "").strip()):
            about["exposure_s"] = float(match[1]) / (1000 if match[2] == "ms" else 1)
        channels[number] = about
        known = head.get("spatial-calibration-units", "").lower() in ("um", "µm", "microns", "micrometer")
        sizes[number] = {
            "height": int(head.get("height", "0")),
            "width": int(head.get("width", "0")),
            "dy_um": real(head, "spatial-calibration-y") if known else math.nan,
            "dx_um": real(head, "spatial-calibration-x") if known else math.nan,
        }
    if len(channels) < _number(htd, "NWavelengths"):
        notes.append(
            f"the HTD file speaks of {_number(htd, 'NWavelengths')} channels; images of {len(channels)} are there"
        )
    return channels, sizes


def _planned(planes: list[Plane], htd: Mapping[str, list[str]], notes: list[str]) -> list[Plane]:
    """Planes that the HTD file plans and that aren't there, one of each such field and time; `make_index` adds more."""
    rows, columns = _number(htd, "YWells"), _number(htd, "XWells")
    selected = {
        (row, column)
        for row in range(rows)
        for column, flag in enumerate(htd.get(f"WellsSelection{row + 1}", [])[:columns])
        if flag.upper() == "TRUE"
    }
    there = {(plane["row"], plane["column"]) for plane in planes}
    if selected and (extra := there - selected):
        notes.append(
            f"{len(extra)} wells with images are not in the HTD file: {some(well_name(*well) for well in extra)}"
        )
    sites = sorted({plane["field"] for plane in planes})
    planned_sites = sum(
        flag.upper() == "TRUE" for n in range(_number(htd, "YSites")) for flag in htd.get(f"SiteSelection{n + 1}", [])
    )
    if htd.get("Sites", [""])[0].upper() == "TRUE" and planned_sites > len(sites):
        notes.append(f"the HTD file speaks of {planned_sites} sites; images of {len(sites)} are there")
    known = {(plane["row"], plane["column"], plane["field"], plane["t"]): plane for plane in planes}
    of_site = {plane["field"]: plane for plane in planes}
    return [
        of_site[site] | {"row": row, "column": column, "t": t, "path": ""}
        for row, column in sorted(selected)
        for site in sites
        for t in sorted({plane["t"] for plane in planes})
        if (row, column, site, t) not in known
    ]


def _read_htd(listing: Listing) -> dict[str, list[str]]:
    """Key -> values of the HTD file nearest to the plate's folder; empty where there is none."""
    names = [name for name in listing.files if name.lower().endswith(".htd")]
    if not names:
        return {}
    name = min(names, key=lambda name: (name.count("/"), name))
    htd: dict[str, list[str]] = {"file": [name]}
    for line in decode((listing.root / name).read_bytes()).splitlines():
        key, *values = (part.strip().strip('"') for part in line.split(","))
        if values or key == "EndFile":
            htd[key] = values
    return htd


def _number(htd: Mapping[str, list[str]], key: str) -> int:
    text = htd.get(key, [""])[0]
    return int(text) if text.isdecimal() and len(text) < 5 else 0  # no plate has more of anything
