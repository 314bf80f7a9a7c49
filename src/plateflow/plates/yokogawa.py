"""Yokogawa CellVoyager (CV7000, CV8000): records of all images in MeasurementData.mlf, settings in .mrf and .mes.

Facts as real measurements have them (docs/plate-layouts): rows, columns, fields, planes and time points count from 1;
X and Y are in um, of a field's centre from the centre of its well, with y pointing up; sizes in px and um stand in the
.mrf for each channel number, filters and exposures in the .mes that it names. A record of the type ERR has neither
channel nor plane: what the field lacks at that time is missing, with that reason. Time points are numbered through all
time lines, and wells may belong to one time line each. A channel may be taken twice, in two actions.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well
from plateflow.plates.files import Listing, inside, list_files, local, peek, whole, xml_elements
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

FILE_NAME = re.compile(
    r"(?P<plate>.+)_(?P<well>[A-Z]{1,2}\d{2}(?:\.[a-d][1-4])?)"
    r"_T(?P<t>\d+)F(?P<field>\d+)L(?P<line>\d+)A(?P<action>\d+)Z(?P<z>\d+)C(?P<channel>\d+)\.(?:tiff?|png)",
    re.IGNORECASE,
)
Values = dict[str, str]


class YokogawaReader:
    """Reads the measurement's records; where there are none, the file names alone."""

    name = "yokogawa"

    def recognise(self, folder: Path) -> bool:
        """Records, or TIFFs named as the instrument names them."""
        names = (PurePosixPath(name).name for name in peek(folder))
        return any(name.lower().endswith(".mlf") or FILE_NAME.fullmatch(name) for name in names)

    def read(self, entry: PlateEntry) -> Index:
        """Index a CellVoyager measurement (see `Reader.read`)."""
        listing = list_files(plate_folder(entry))
        source = _nearest(listing, ".mlf")
        if len(several := [name for name in listing.files if name.lower().endswith(".mlf")]) > 1:
            raise PlateflowError(
                "several measurements lie in the folder",
                where=f"{entry.plate}: {some(several)}",
                why="a plate is one measurement",
                remedy="make a plate of each folder that holds a MeasurementData.mlf",
            )
        records = _from_names(entry, listing) if source is None else _from_records(entry, listing, source)
        return make_index(entry, self.name, records, listing)


def _nearest(listing: Listing, ending: str) -> str | None:
    names = [name for name in listing.files if name.lower().endswith(ending)]
    return min(names, key=lambda name: (name.count("/"), name), default=None)


def _from_records(entry: PlateEntry, listing: Listing, source: str) -> Records:
    base = str(PurePosixPath(source).parent)
    notes: list[str] = []
    about, settings = _settings(entry, listing, base, notes)
    planes: list[dict[str, Any]] = []
    errors: list[tuple[Values, str]] = []
    differing: list[str] = []
    wanted = {("MeasurementData", "MeasurementRecord")}
    for number, (_, element) in enumerate(xml_elements(listing.root / source, wanted, plate=entry.plate), 1):
        values = {local(key): value for key, value in element.attrib.items()}
        text = (element.text or "").strip()
        if values.get("Type") == "ERR":
            errors.append((values, text))
            continue
        try:
            plane = _plane(values, settings)
        except (KeyError, ValueError) as error:
            raise PlateflowError(
                "a record of the measurement can't be understood",
                where=f"{entry.plate}: {listing.root / source}, record {number}",
                why=f"{type(error).__name__}: {error}",
                remedy="copy the measurement from the instrument again",
            ) from error
        if text:
            path = inside(listing, text, base=base, plate=entry.plate, source=source)
            png = str(PurePosixPath(path).with_suffix(".png"))  # what some systems store, whatever the records say
            plane["path"] = png if path not in listing.files and png in listing.files else path
            if _name_differs(text, plane):
                differing.append(text)
        planes.append(plane)
    if differing:
        notes.append(
            f"{len(differing)} file names say another well, field or plane than the records, which are followed: "
            + some(differing)
        )
    images = {name for name in listing.image_names() if FILE_NAME.fullmatch(PurePosixPath(name).name)}
    if unlisted := images - {plane.get("path") for plane in planes}:
        notes.append(f"{len(unlisted)} images have no record and are not used: {some(unlisted)}")
    planes += _lost(planes, errors, notes)
    _count_times(planes)
    channels = _tell_apart(planes, settings)
    depth = max([whole(values.get("InputBitDepth", "")) for values in settings.values()], default=0)
    rows, columns = (whole(about.get(key, "")) for key in ("RowCount", "ColumnCount"))
    return Records(
        planes=planes,
        channels=channels,
        format=(rows, columns) if rows and columns else None,
        bit_max=2**depth - 1 if 8 < depth <= 16 else None,
        disagreements=notes,
    )


def _settings(entry: PlateEntry, listing: Listing, base: str, notes: list[str]) -> tuple[Values, dict[int, Values]]:
    """Of the measurement, and of each channel number what .mrf and .mes say."""
    about: Values = {}
    channels: dict[int, Values] = {}
    for ending, wanted in (
        (".mrf", {("MeasurementDetail", "MeasurementChannel"), ("", "MeasurementDetail")}),
        (".mes", {("ChannelList", "Channel")}),
    ):
        name = _nearest(listing, ending)
        said = about.get("MeasurementSettingFileName")
        if ending == ".mes" and said and (path := inside(listing, said, base=base, plate=entry.plate, source=".mrf")):
            name = path if path in listing.files else name
        if name is None:
            what = {".mrf": "the size of its images and pixels", ".mes": "its channels' names"}[ending]
            notes.append(f"the measurement has no {ending} file, which would say {what}")
            continue
        for kind, element in xml_elements(listing.root / name, wanted, plate=entry.plate):
            values = {local(key): value for key, value in element.attrib.items()}
            if kind == "MeasurementDetail":
                about = values
            elif values.get("Ch", "").isdecimal():
                channels.setdefault(int(values["Ch"]), {}).update(values)
    return about, channels


def _plane(values: Values, settings: dict[int, Values]) -> dict[str, Any]:
    channel = int(values["Ch"])
    size = settings.get(channel, {})
    height, width = (int(size.get(key, "0")) for key in ("VerticalPixels", "HorizontalPixels"))
    dy, dx = (float(size.get(key, "nan")) for key in ("VerticalPixelDimension", "HorizontalPixelDimension"))
    return {
        "row": int(values["Row"]) - 1,
        "column": int(values["Column"]) - 1,
        "field": int(values["FieldIndex"]),
        "t": int(values.get("TimePoint", "1")),
        "z": int(values.get("ZIndex", "1")),
        "channel": channel,
        "line": values.get("TimelineIndex", "1"),
        "action": (int(values.get("ActionIndex", "1")), values.get("ZImageProcessing", "")),
        "y_um": -float(values.get("Y", "nan")) - height * dy / 2,
        "x_um": float(values.get("X", "nan")) - width * dx / 2,
        "z_um": float(values.get("Z", "nan")),
        "time_s": datetime.fromisoformat(values["Time"]).timestamp() if "Time" in values else math.nan,
        "dy_um": dy,
        "dx_um": dx,
        "height": height,
        "width": width,
    }


def _name_differs(name: str, plane: dict[str, Any]) -> bool:
    match = FILE_NAME.fullmatch(PurePosixPath(name.replace("\\", "/")).name)
    if match is None:
        return False
    try:
        well = parse_well(match["well"])
    except ValueError:
        return True
    keys = ("t", "field", "z", "channel")
    return well != (plane["row"], plane["column"]) or [int(match[key]) for key in keys] != [plane[key] for key in keys]


def _lost(planes: list[dict[str, Any]], errors: list[tuple[Values, str]], notes: list[str]) -> list[dict[str, Any]]:
    """What a field lacks where the instrument reported an error: the planes that others have in that line and time."""
    if not errors:
        return []
    notes.append(f"the instrument reported {len(errors)} errors: {some(text for _, text in errors)}")
    lost: list[dict[str, Any]] = []
    place = ("row", "column", "field", "t", "channel", "z", "action")
    known = {tuple(plane[key] for key in place) for plane in planes}
    for values, _ in errors:
        try:
            of = {"row": int(values["Row"]) - 1, "column": int(values["Column"]) - 1}
            of |= {"field": int(values["FieldIndex"]), "t": int(values.get("TimePoint", "1"))}
        except (KeyError, ValueError):
            continue  # of no field: said in the notes
        line = values.get("TimelineIndex", "1")
        y, x = (float(values.get(key, "nan")) for key in "YX")
        like = [plane for plane in planes if plane["line"] == line and plane["t"] == of["t"]] or planes
        for channel, z, action in sorted({(plane["channel"], plane["z"], plane["action"]) for plane in like}):
            if (*of.values(), channel, z, action) in known:
                continue
            model = next(plane for plane in like if plane["channel"] == channel)
            at = {
                "y_um": -y - model["height"] * model["dy_um"] / 2,
                "x_um": x - model["width"] * model["dx_um"] / 2,
                "z_um": math.nan,
                "time_s": math.nan,
            }
            lost.append(model | of | at | {"z": z, "action": action, "path": "", "reason": "instrument_error"})
            known.add((*of.values(), channel, z, action))
    return lost


def _count_times(planes: list[dict[str, Any]]) -> None:
    """Time points counted from 0 among the wells that have the same time lines."""
    lines: dict[tuple[int, int], set[str]] = {}
    for plane in planes:
        lines.setdefault((plane["row"], plane["column"]), set()).add(plane["line"])
    times: dict[frozenset[str], set[int]] = {}
    for plane in planes:
        times.setdefault(frozenset(lines[plane["row"], plane["column"]]), set()).add(plane["t"])
    order = {key: {t: n for n, t in enumerate(sorted(of))} for key, of in times.items()}
    for plane in planes:
        plane["t"] = order[frozenset(lines[plane["row"], plane["column"]])][plane["t"]]


def _tell_apart(planes: list[dict[str, Any]], settings: dict[int, Values]) -> dict[Any, dict[str, Any]]:
    """The channels, by number; a number that is taken twice of one place becomes a channel an action."""
    actions: dict[tuple[int, ...], set[tuple[int, str]]] = {}
    for plane in planes:
        place = tuple(plane[key] for key in ("row", "column", "field", "t", "z", "channel"))
        actions.setdefault(place, set()).add(plane["action"])
    twice = {place[-1] for place, of_place in actions.items() if len(of_place) > 1}
    for plane in planes:
        plane["channel"] = (plane["channel"], *(plane["action"] if plane["channel"] in twice else (0, "")))
    found = {}
    for key in sorted({plane["channel"] for plane in planes}):
        number, action, processing = key
        values = settings.get(number, {})
        name = values.get("Fluorophore") or values.get("Target") or f"C{number:02d}"
        about: dict[str, Any] = {
            "name": " ".join([name, *([f"A{action}"] if action else []), *([processing] if processing else [])])
        }
        if match := re.match(r"BP(\d+)/", values.get("Acquisition", "")):
            about["wavelength_nm"] = float(match[1])
        if values.get("ExposureTime", "").replace(".", "", 1).isdecimal():
            about["exposure_s"] = float(values["ExposureTime"]) / 1000
        found[key] = about
    return found


def _from_names(entry: PlateEntry, listing: Listing) -> Records:
    """Without records: wells, fields, channels, planes and times from the names; positions are unknown."""
    planes: list[dict[str, Any]] = []
    for name in listing.image_names():
        match = FILE_NAME.fullmatch(PurePosixPath(name).name)
        if match is None:
            continue
        try:
            row, column = parse_well(match["well"])
        except ValueError:
            continue
        keys = ("field", "t", "z", "channel")
        action = {"line": match["line"], "action": (int(match["action"]), "")}
        planes.append({"row": row, "column": column, **{k: int(match[k]) for k in keys}, **action, "path": name})
    if not planes:
        raise PlateflowError(
            "the folder is not a CellVoyager measurement",
            where=f"{entry.plate}: {entry.path}",
            why="there is no .mlf file in it, and no image is named as the instrument names them",
            remedy="give the folder that holds MeasurementData.mlf; for other layouts set `layout` in the plate sheet",
        )
    _count_times(planes)
    note = "there is no .mlf file: names alone are read, so positions, channel names and pixel size are unknown"
    return Records(planes=planes, channels=_tell_apart(planes, {}), disagreements=[note])
