"""Yokogawa CellVoyager (CV7000, CV8000): records of all images in MeasurementData.mlf, settings in .mrf and .mes.

As observed in real measurements: rows, columns, fields, planes and time points count from 1; X
and Y give the centre of a field relative to the centre of its well, in um, with y pointing up; sizes in px and um are
in the .mrf, per channel number, filters and exposures in the .mes that it names. A record of type ERR has neither
channel nor plane: the planes that the field lacks at that time are missing, with that reason. Time points are numbered
through all time lines, and each well may belong to one time line only. A channel may be taken twice, in two actions.
"""

import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element

from plateflow.config import PlateSpec
from plateflow.errors import number_of
from plateflow.plates.files import Listing, inside, local_name, parsing, positive_int, xml_elements
from plateflow.plates.names import NamePattern, several_measurements
from plateflow.plates.reader import Index, Records, counted, examples, geometry, make_index, other_layout, plate_files

NAMES = NamePattern(
    r"(?P<plate>.+)_(?P<well>[A-Z]{1,2}\d{2}(?:\.[a-d][1-4])?)"
    r"_T(?P<t>\d+)F(?P<field>\d+)L(?P<line>\d+)A(?P<action>\d+)Z(?P<z>\d+)C(?P<channel>\d+)\.(?:tiff?|png)"
)
Values = dict[str, str]


class YokogawaReader:
    """Reads the measurement's records, or only the file names where there are none."""

    name = "yokogawa"

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
        """By the records' file, or images named as the instrument names them."""
        return any(name.lower().endswith(".mlf") or NAMES.match(name) for name in names)

    def read(self, spec: PlateSpec) -> Index:
        """Index a CellVoyager measurement (see `Reader.read`)."""
        listing = plate_files(spec)
        source = listing.nearest(".mlf")
        if len(several := [name for name in listing.files if name.lower().endswith(".mlf")]) > 1:
            raise several_measurements(spec, several)
        records = _from_names(spec, listing) if source is None else _from_records(spec, listing, source)
        return make_index(spec, self.name, records, listing)


def _attributes(element: Element) -> Values:
    return {local_name(key): value for key, value in element.attrib.items()}


def _from_records(spec: PlateSpec, listing: Listing, source: str) -> Records:
    base = str(PurePosixPath(source).parent)
    notes: list[str] = []
    measurement, settings = _settings(spec, listing, base, notes)
    planes: list[dict[str, Any]] = []
    errors: list[tuple[Values, str]] = []
    differing: list[str] = []
    wanted = {("MeasurementData", "MeasurementRecord")}
    where, remedy = f"{spec.plate}: {listing.root / source}", "copy the measurement from the instrument again"
    for number, (_, element) in enumerate(xml_elements(listing.root / source, wanted, plate=spec.plate), 1):
        values, text = _attributes(element), (element.text or "").strip()
        if values.get("Type") == "ERR":
            errors.append((values, text))
            continue
        with parsing(f"record {number} of the measurement", where=where, remedy=remedy):
            plane = _plane(values, settings)
        if text:
            path = inside(listing, text, base=base, plate=spec.plate, source=source)
            png = str(PurePosixPath(path).with_suffix(".png"))  # which some systems store, whatever the records say
            plane["path"] = png if path not in listing.files and png in listing.files else path
            if NAMES.differs(path, plane, "t", "field", "z", "channel"):
                differing.append(text)
        planes.append(plane)
    notes += counted(
        differing, "file name[s say| says] another well, field or plane than the records, which are followed"
    )
    notes += counted(NAMES.unlisted(listing, planes), "image[s have| has] no record and [are|is] not used")
    planes += _lost(planes, errors, notes)
    _count_times(planes)
    channels = _tell_apart(planes, settings)
    depth = max([positive_int(values.get("InputBitDepth", "")) for values in settings.values()], default=0)
    rows, columns = (positive_int(measurement.get(key, "")) for key in ("RowCount", "ColumnCount"))
    return Records(
        planes=planes,
        channels=channels,
        format=(rows, columns) if rows and columns else None,
        bit_max=2**depth - 1 if 8 < depth <= 16 else None,
        disagreements=notes,
        listed=True,
    )


def _settings(spec: PlateSpec, listing: Listing, base: str, notes: list[str]) -> tuple[Values, dict[int, Values]]:
    """The settings of the measurement, and those of each channel number, from .mrf and .mes."""
    measurement: Values = {}
    channels: dict[int, Values] = {}
    wanted = {("", "MeasurementDetail"), ("MeasurementDetail", "MeasurementChannel"), ("ChannelList", "Channel")}
    for ending, content in ((".mrf", "the size of its images and pixels"), (".mes", "its channels' names")):
        name = listing.nearest(ending)
        named = measurement.get("MeasurementSettingFileName") if ending == ".mes" else None
        if named and (path := inside(listing, named, base=base, plate=spec.plate, source=".mrf")) in listing.files:
            name = path
        if name is None:
            notes.append(f"the measurement has no {ending} file, which would say {content}")
            continue
        for kind, element in xml_elements(listing.root / name, wanted, plate=spec.plate):
            values = _attributes(element)
            if kind == "MeasurementDetail":
                measurement = values
            elif values.get("Ch", "").isdecimal():
                channels.setdefault(int(values["Ch"]), {}).update(values)
    return measurement, channels


def _place(values: Values) -> tuple[dict[str, int], tuple[float, float]]:
    """Well, field and time point of a record, and the field's centre (y, x) as written, in um."""
    place = {"row": int(values["Row"]) - 1, "column": int(values["Column"]) - 1}
    place |= {"field": int(values["FieldIndex"]), "t": int(values.get("TimePoint", "1"))}
    return place, (float(values.get("Y", "nan")), float(values.get("X", "nan")))


def _plane(values: Values, settings: dict[int, Values]) -> dict[str, Any]:
    channel = int(values["Ch"])
    size = settings.get(channel, {})
    height, width = (int(size.get(key, "0")) for key in ("VerticalPixels", "HorizontalPixels"))
    dy, dx = (float(size.get(key, "nan")) for key in ("VerticalPixelDimension", "HorizontalPixelDimension"))
    place, (y, x) = _place(values)
    return {
        **place,
        "z": int(values.get("ZIndex", "1")),
        "channel": channel,
        "line": values.get("TimelineIndex", "1"),
        "action": (int(values.get("ActionIndex", "1")), values.get("ZImageProcessing", "")),
        "z_um": float(values.get("Z", "nan")),
        "time_s": datetime.fromisoformat(values["Time"]).timestamp() if "Time" in values else math.nan,
        **geometry(-y, x, dy=dy, dx=dx, height=height, width=width),
    }


def _lost(planes: list[dict[str, Any]], errors: list[tuple[Values, str]], notes: list[str]) -> list[dict[str, Any]]:
    """The planes lost to errors of the instrument: those that other fields have in that time line and time point."""
    if not errors:
        return []
    notes.append(
        f"the instrument reported {number_of(len(errors), 'error[s]')}: {examples(text for _, text in errors)}"
    )
    lost: list[dict[str, Any]] = []
    keys = ("row", "column", "field", "t", "channel", "z", "action")
    present = {tuple(plane[key] for key in keys) for plane in planes}
    for values, _ in errors:
        try:
            place, (y, x) = _place(values)
        except (KeyError, ValueError):
            continue  # an error that concerns no field; the note reports it
        line = values.get("TimelineIndex", "1")
        others = [plane for plane in planes if plane["line"] == line and plane["t"] == place["t"]] or planes
        for channel, z, action in sorted({(plane["channel"], plane["z"], plane["action"]) for plane in others}):
            if (*place.values(), channel, z, action) in present:
                continue
            model = next(plane for plane in others if plane["channel"] == channel)
            size = {"height": model["height"], "width": model["width"]}
            position = geometry(-y, x, dy=model["dy_um"], dx=model["dx_um"], **size)
            plane = model | place | position | {"z": z, "action": action, "z_um": math.nan, "time_s": math.nan}
            lost.append(plane | {"path": "", "reason": "instrument_error"})
            present.add((*place.values(), channel, z, action))
    return lost


def _count_times(planes: list[dict[str, Any]]) -> None:
    """Renumber time points from 0 among the wells that have the same time lines."""
    lines: dict[tuple[int, int], set[str]] = {}
    for plane in planes:
        lines.setdefault((plane["row"], plane["column"]), set()).add(plane["line"])
    times: dict[frozenset[str], set[int]] = {}
    for plane in planes:
        times.setdefault(frozenset(lines[plane["row"], plane["column"]]), set()).add(plane["t"])
    order = {key: {t: n for n, t in enumerate(sorted(points))} for key, points in times.items()}
    for plane in planes:
        plane["t"] = order[frozenset(lines[plane["row"], plane["column"]])][plane["t"]]


def _tell_apart(planes: list[dict[str, Any]], settings: dict[int, Values]) -> dict[Any, dict[str, Any]]:
    """The channels by number; a number that is taken twice at one place becomes one channel per action."""
    actions: dict[tuple[int, ...], set[tuple[int, str]]] = {}
    for plane in planes:
        place = tuple(plane[key] for key in ("row", "column", "field", "t", "z", "channel"))
        actions.setdefault(place, set()).add(plane["action"])
    twice = {place[-1] for place, taken in actions.items() if len(taken) > 1}
    for plane in planes:
        plane["channel"] = (plane["channel"], *(plane["action"] if plane["channel"] in twice else (0, "")))
    channels = {}
    for key in sorted({plane["channel"] for plane in planes}):
        number, action, processing = key
        values = settings.get(number, {})
        name = values.get("Fluorophore") or values.get("Target") or f"C{number:02d}"
        channel: dict[str, Any] = {"name": " ".join(filter(None, [name, f"A{action}" if action else "", processing]))}
        if match := re.match(r"BP(\d+)/", values.get("Acquisition", "")):
            channel["wavelength_nm"] = float(match[1])
        if values.get("ExposureTime", "").replace(".", "", 1).isdecimal():
            channel["exposure_s"] = float(values["ExposureTime"]) / 1000
        if source := values.get("ShadingCorrectionSource"):
            channel["flat_field"] = source
        channels[key] = channel
    return channels


def _from_names(spec: PlateSpec, listing: Listing) -> Records:
    """Without records: wells, fields, channels, planes and times from the file names; positions are unknown."""
    planes, _ = NAMES.planes(listing.image_names())
    if not planes:
        why = "there is no .mlf file in it, and no image is named as the instrument names them"
        remedy = "give the folder that holds MeasurementData.mlf"
        raise other_layout(spec, "a CellVoyager measurement", listing, why=why, remedy=remedy)
    names = set[str]()
    for plane in planes:
        match = NAMES.match(plane["path"])
        assert match is not None
        plane |= {"line": match["line"], "action": (int(match["action"]), "")}
        names.add(match["plate"])
    if len(names) > 1:
        raise several_measurements(spec, names)
    _count_times(planes)
    note = "there is no .mlf file: names alone are read, so positions, channel names and pixel size are unknown"
    return Records(planes=planes, channels=_tell_apart(planes, {}), disagreements=[note])
