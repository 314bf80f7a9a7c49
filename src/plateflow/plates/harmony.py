"""PerkinElmer and Revvity Harmony (Opera Phenix, Operetta), V4 to V7, and Columbus: an XML index beside TIFFs.

As observed in real exports: rows, columns, fields, planes and channels count from 1; lengths are
in metres unless their `Unit` says otherwise; a position is the centre of a field relative to the centre of its well,
with the stage's y axis pointing up, so that image y = -PositionY. From V6 on, the values of a channel are given once,
in Maps/Map/Entry, and an image's own value takes precedence. Harmony writes one TIFF per plane, Columbus many pages
into one file (TIFF, or .flex, which is a TIFF too). Namespaces differ between versions, so only local names count.
"""

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import Any

from plateflow.config import PlateSpec
from plateflow.plates.files import Listing, inside, local_name, parsing, positive_int, xml_elements
from plateflow.plates.load_data import load_data_tables
from plateflow.plates.names import NamePattern, several_measurements
from plateflow.plates.reader import Index, Records, counted, geometry, make_index, other_layout, plate_files
from plateflow.plates.units import power_of_um

INDEX_NAMES = ("index.idx.xml", "index.ref.xml", "index.xml", "imageindex.columbusidx.xml")
"""In small letters; V6 writes them so, others Index.idx.xml."""
_WELL = re.compile(r"(^|/)r\d+c\d+$", re.IGNORECASE)
"""A folder of one well's images, as V6 makes them."""
NAMES = NamePattern(
    r"(?:flex_)?r(?P<row>\d+)c(?P<column>\d+)f(?P<field>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)(?:(?:sk|t)(?P<t>\d+))?"
    r"(?:fk\d+)?(?:fl\d+)?\.tiff?"
)
_TO_S = {"s": 1.0, "ms": 1e-3}
# The elements that are used; the others (orientation, binning, absolute times) are skipped while parsing.
_USED = {
    *("URL", "Row", "Col", "FieldID", "PlaneID", "TimepointID", "ChannelID", "ChannelName", "MaxIntensity"),
    *("ImageResolutionX", "ImageResolutionY", "ImageSizeX", "ImageSizeY", "PositionX", "PositionY", "PositionZ"),
    *("AbsPositionZ", "MainEmissionWavelength", "ExposureTime", "MeasurementTimeOffset", "FlatfieldProfile"),
}
Values = dict[str, tuple[str, str]]
"""Tag -> (text, unit) of an image or channel; the "unit" of a URL is its `BufferNo`, the page in the file, from 0."""


class HarmonyReader:
    """Reads the index, or only the file names where there is none."""

    name = "harmony"

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
        """By an index in the folder or in its Images; else where half of the TIFFs of one measurement are named so."""
        if _index_file(names) is not None:
            return True
        if any(PurePosixPath(name).name.lower() in INDEX_NAMES for name in names) or load_data_tables(folder, names):
            return False  # that of a measurement further below; load_data says more than names
        images = [name for name in names if name.lower().endswith((".tif", ".tiff"))]
        named = [name for name in images if NAMES.match(name)]
        return 0 < len(images) <= 2 * len(named) and len({_WELL.sub("", name) for name in map(_folder, named)}) == 1

    def read(self, spec: PlateSpec) -> Index:
        """Index a Harmony measurement (see `Reader.read`)."""
        listing = plate_files(spec)
        index = _index_file(
            [*listing.files, *(f"{link}/{INDEX_NAMES[0]}" for link in listing.outside), *listing.outside]
        )
        records = _from_names(spec, listing) if index is None else _from_index(spec, listing, index)
        return make_index(spec, self.name, records, listing)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _index_file(names: Iterable[str]) -> str | None:
    """The index among files: in their folder or in its Images, whatever the case, as versions and copies differ."""
    found = {
        (_folder(name) != "", INDEX_NAMES.index(plain)): name
        for name in names
        if (plain := PurePosixPath(name).name.lower()) in INDEX_NAMES and _folder(name).lower() in ("", "images")
    }
    return found[min(found)] if found else None


def _from_index(spec: PlateSpec, listing: Listing, index: str) -> Records:
    source, path = inside(listing, index, plate=spec.plate, source="the plate's folder"), listing.root / index
    base = str(PurePosixPath(source).parent)
    plate: dict[str, str] = {}
    maps: dict[int, Values] = {}
    images: list[Values] = []
    wanted = {("Images", "Image"), ("Map", "Entry"), ("Plates", "Plate")}
    for kind, element in xml_elements(path, wanted, plate=spec.plate):
        values = {
            tag: ((child.text or "").strip(), child.get("Unit") or child.get("BufferNo") or "")
            for child in element
            if (tag := local_name(child.tag)) in _USED or kind == "Plate"
        }
        if "Coefficients" in values.pop("FlatfieldProfile", ("", ""))[0]:  # else it says that none was found
            values["flat_field"] = ("FlatfieldProfile", "")
        if kind == "Plate":
            plate |= {tag: text for tag, (text, _) in values.items()}
        elif kind == "Entry":
            maps.setdefault(positive_int(element.get("ChannelID", "")), {}).update(values)
        else:
            images.append(values)
    planes: list[dict[str, Any]] = []
    channels: dict[Any, dict[str, Any]] = {}
    differing: list[str] = []
    where, remedy = f"{spec.plate}: {path}", "copy the index from the instrument again"
    for number, image in enumerate(images, 1):
        with parsing(f"image {number} of the index", where=where, remedy=remedy):
            merged = maps.get(int(image["ChannelID"][0]), {}) | image
            plane = _plane(merged)
            channels.setdefault(plane["channel"], _channel(merged))
        url, page = image.get("URL", ("", ""))
        if url:
            plane["page"] = positive_int(page)
            plane["path"] = inside(listing, url, base=base, plate=spec.plate, source=source)
            if NAMES.differs(url, plane, "field", "z", "channel"):
                differing.append(url)
        planes.append(plane)
    notes = counted(
        differing, "file name[s say| says] another well, field or channel than the index, which is followed"
    )
    notes += counted(NAMES.unlisted(listing, planes), "image[s are| is] not in the index and [are|is] not used")
    tops = [positive_int(image.get("MaxIntensity", ("", ""))[0]) for image in [*maps.values(), *images[:1]]]
    rows, columns = (positive_int(plate.get(tag, "")) for tag in ("PlateRows", "PlateColumns"))
    return Records(
        planes=planes,
        channels=dict(sorted(channels.items())),
        format=(rows, columns) if rows > 0 and columns > 0 else None,
        bit_max=min(max(tops, default=0), 65535) or None,
        disagreements=notes,
        listed=True,
    )


def _plane(values: Values) -> dict[str, Any]:
    """The record of an image (see `Records.planes`), still without its path."""
    dy, dx, y, x = (_length(values, f"{tag}{axis}") for tag in ("ImageResolution", "Position") for axis in "YX")
    height, width = (int(values.get(tag, ("0", ""))[0]) for tag in ("ImageSizeY", "ImageSizeX"))
    return {
        "row": int(values["Row"][0]) - 1,
        "column": int(values["Col"][0]) - 1,
        "field": int(values["FieldID"][0]),
        "t": int(values.get("TimepointID", ("0", ""))[0]),
        "z": int(values.get("PlaneID", ("1", ""))[0]),
        "channel": int(values["ChannelID"][0]),
        "z_um": _length(values, "PositionZ" if "PositionZ" in values else "AbsPositionZ"),
        "time_s": _seconds(values),
        **geometry(-y, x, dy=dy, dx=dx, height=height, width=width),
    }


def _seconds(values: Values) -> float:
    """When an image was taken; NaN where that is missing or not a number, as it is not essential."""
    text, unit = values.get("MeasurementTimeOffset", ("", ""))
    try:
        return float(text) * _TO_S.get(unit or "s", math.nan)
    except ValueError:
        return math.nan


def _channel(values: Values) -> dict[str, Any]:
    channel: dict[str, Any] = {"name": values.get("ChannelName", ("", ""))[0] or f"ch{values['ChannelID'][0]}"}
    for key, tag, units in (
        ("wavelength_nm", "MainEmissionWavelength", {"nm": 1.0, "m": 1e9}),
        ("exposure_s", "ExposureTime", _TO_S),
    ):
        text, unit = values.get(tag, ("", ""))
        if text and float(text) > 0:  # brightfield has an emission of 0 nm
            channel[key] = float(text) * units.get(unit, 1.0)
    if "flat_field" in values:
        channel["flat_field"] = values["flat_field"][0]
    return channel


def _length(values: Values, tag: str) -> float:
    """A length in um, of metres where it has no unit; NaN where there is none.

    Decimal shifts the decimal point exactly: 5.979e-07 m is 0.5979 um, not 0.5978999999999999.
    """
    text, unit = values.get(tag, ("", ""))
    if not text:
        return math.nan
    power = power_of_um(unit or "m")
    if power is None:
        raise ValueError(f"{tag} has the unknown unit {unit!r}")
    try:
        return float(Decimal(text).scaleb(power))
    except InvalidOperation:
        raise ValueError(f"{tag} is {text!r}, which is not a number") from None


def _from_names(spec: PlateSpec, listing: Listing) -> Records:
    """Without an index: wells, fields, channels, planes and times from the file names; positions are unknown."""
    planes, _ = NAMES.planes(listing.image_names())
    if not planes:
        why = "there is no Index.idx.xml in it or in Images, and no image is named as Harmony names them"
        raise other_layout(spec, "a Harmony measurement", listing, why=why, remedy="give the folder that holds Images")
    parents = {match[0] for plane in planes if (match := re.match("(.*/)?images/", plane["path"], re.IGNORECASE))}
    if len(parents) > 1:
        raise several_measurements(spec, parents)
    channels = {number: {"name": f"ch{number}"} for number in sorted({plane["channel"] for plane in planes})}
    note = "there is no index: names alone are read, so positions, channel names and pixel size are unknown"
    return Records(planes=planes, channels=channels, disagreements=[note])
