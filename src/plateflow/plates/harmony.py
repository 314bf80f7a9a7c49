"""PerkinElmer and Revvity Harmony (Opera Phenix, Operetta), V4 to V7, and Columbus: an index in XML beside TIFFs.

Facts as real exports have them (docs/plate-layouts): rows, columns, fields, planes and channels count from 1; lengths
are in metres unless their `Unit` says otherwise; a position is the centre of a field relative to the centre of its
well, with the stage's y axis pointing up, so that image y = -PositionY. From V6 on what belongs to a channel stands
once, in Maps/Map/Entry, and an image's own value wins. Harmony writes one TIFF a plane, Columbus many pages into one
(TIFF or .flex, which is one too). Namespaces differ from version to version: local names count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import Any

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.plates.files import Listing, inside, list_files, local, whole, xml_elements
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

INDEX_NAMES = ("Index.idx.xml", "Index.ref.xml", "Index.xml", "ImageIndex.ColumbusIDX.xml")
FILE_NAME = re.compile(
    r"(?:flex_)?r(?P<row>\d+)c(?P<column>\d+)f(?P<field>\d+)p(?P<z>\d+)-ch(?P<channel>\d+)(?:sk(?P<t>\d+)|t(?P<t7>\d+))?"
    r"(?:fk\d+)?(?:fl\d+)?\.tiff?",
    re.IGNORECASE,
)
# powers of ten; the micro sign comes as two characters that look the same
_TO_UM = {"m": 6, "mm": 3, "um": 0, "\u00b5m": 0, "\u03bcm": 0, "nm": -3}
_TO_S = {"s": 1.0, "ms": 1e-3}
# What of an image is used; the rest (orientation, binning, absolute times) is passed over while parsing.
_USED = {
    *("URL", "Row", "Col", "FieldID", "PlaneID", "TimepointID", "ChannelID", "ChannelName", "MaxIntensity"),
    *("ImageResolutionX", "ImageResolutionY", "ImageSizeX", "ImageSizeY", "PositionX", "PositionY", "PositionZ"),
    *("AbsPositionZ", "MainEmissionWavelength", "ExposureTime", "MeasurementTimeOffset"),
}
Values = dict[str, tuple[str, str]]
"""Of an image or channel: tag -> (text, unit); the URL's unit is its `BufferNo`, the page in the file, from 0."""


class HarmonyReader:
    """Reads the index; where there is none, the file names alone."""

    name = "harmony"

    def recognise(self, folder: Path) -> bool:
        """An index by its name, or TIFFs named as Harmony names them, in the folder or in its Images."""
        if _index_file(folder) is not None:
            return True
        return any(
            FILE_NAME.fullmatch(path.name) for place in _places(folder) if place.is_dir() for path in place.iterdir()
        )

    def read(self, entry: PlateEntry) -> Index:
        """Index a Harmony measurement (see `Reader.read`)."""
        folder = plate_folder(entry)
        listing = list_files(folder)
        index = _index_file(folder)
        records = _from_names(entry, listing) if index is None else _from_index(entry, listing, index)
        return make_index(entry, self.name, records, listing)


def _places(folder: Path) -> tuple[Path, ...]:
    return folder, folder / "Images", folder / "images"


def _index_file(folder: Path) -> Path | None:
    for place in _places(folder):
        for name in INDEX_NAMES:
            if (place / name).is_file():
                return place / name
    return None


def _from_index(entry: PlateEntry, listing: Listing, path: Path) -> Records:
    source = inside(listing, path.relative_to(entry.path).as_posix(), plate=entry.plate, source="the plate's folder")
    base = str(PurePosixPath(source).parent)
    about: dict[str, str] = {}
    maps: dict[int, Values] = {}
    images: list[Values] = []
    for kind, values in _elements(path, entry.plate):
        if kind == "Plate":
            about |= {tag: text for tag, (text, _) in values.items()}
        elif kind == "Entry":
            maps.setdefault(whole(values.pop("ChannelID")[0]), {}).update(values)
        else:
            images.append(values)
    disagreements: list[str] = []
    planes: list[dict[str, Any]] = []
    channels: dict[Any, dict[str, Any]] = {}
    differing: list[str] = []
    for number, image in enumerate(images, 1):
        try:
            merged = maps.get(int(image["ChannelID"][0]), {}) | image
            plane = _plane(merged)
            channels.setdefault(plane["channel"], _channel(merged))
        except (KeyError, ValueError) as error:
            raise PlateflowError(
                "an image of the index can't be understood",
                where=f"{entry.plate}: {path}, image {number}",
                why=f"{type(error).__name__}: {error}",
                remedy="copy the index from the instrument again",
            ) from error
        url, page = image.get("URL", ("", ""))
        if url:
            plane["page"] = whole(page)
            plane["path"] = inside(listing, url, base=base, plate=entry.plate, source=source)
            if _name_differs(url, plane):
                differing.append(url)
        planes.append(plane)
    if differing:
        disagreements.append(
            f"{len(differing)} file names say another well, field or channel than the index, which is followed: "
            + some(differing)
        )
    unlisted = {name for name in listing.image_names() if FILE_NAME.fullmatch(PurePosixPath(name).name)}
    unlisted -= {plane["path"] for plane in planes if "path" in plane}
    if unlisted:
        disagreements.append(f"{len(unlisted)} images are not in the index and are not used: {some(unlisted)}")
    tops = [whole(image.get("MaxIntensity", ("", ""))[0]) for image in [*maps.values(), *images[:1]]]
    rows, columns = (whole(about.get(tag, "")) for tag in ("PlateRows", "PlateColumns"))
    return Records(
        planes=planes,
        channels=dict(sorted(channels.items())),
        format=(rows, columns) if rows > 0 and columns > 0 else None,
        bit_max=min(max(tops, default=0), 65535) or None,
        disagreements=disagreements,
    )


def _elements(path: Path, plate: str) -> Iterator[tuple[str, Values]]:
    """The Plate, Entry and Image elements of an index; an Entry has its ChannelID as if it were a tag."""
    for kind, element in xml_elements(path, {("Images", "Image"), ("Map", "Entry"), ("Plates", "Plate")}, plate=plate):
        values = {
            tag: ((child.text or "").strip(), child.get("Unit") or child.get("BufferNo") or "")
            for child in element
            if (tag := local(child.tag)) in _USED or kind == "Plate"
        }
        if kind == "Entry":
            values["ChannelID"] = (element.get("ChannelID", ""), "")
        yield kind, values


def _plane(values: Values) -> dict[str, Any]:
    """A record (see `Records.planes`) of an image's values; its path is not in it yet."""
    dy, dx = (_length(values, tag) for tag in ("ImageResolutionY", "ImageResolutionX"))
    height, width = (int(values.get(tag, ("0", ""))[0]) for tag in ("ImageSizeY", "ImageSizeX"))
    return {
        "row": int(values["Row"][0]) - 1,
        "column": int(values["Col"][0]) - 1,
        "field": int(values["FieldID"][0]),
        "t": int(values.get("TimepointID", ("0", ""))[0]),
        "z": int(values.get("PlaneID", ("1", ""))[0]),
        "channel": int(values["ChannelID"][0]),
        "y_um": -_length(values, "PositionY") - height * dy / 2,
        "x_um": _length(values, "PositionX") - width * dx / 2,
        "z_um": _length(values, "PositionZ" if "PositionZ" in values else "AbsPositionZ"),
        "dy_um": dy,
        "dx_um": dx,
        "height": height,
        "width": width,
        "time_s": _seconds(values),
    }


def _seconds(values: Values) -> float:
    """When an image was taken, of which Plateflow can do without: NaN where it isn't told, or no number."""
    text, unit = values.get("MeasurementTimeOffset", ("", ""))
    try:
        return float(text) * _TO_S.get(unit or "s", math.nan)
    except ValueError:
        return math.nan


def _channel(values: Values) -> dict[str, Any]:
    about: dict[str, Any] = {"name": values.get("ChannelName", ("", ""))[0] or f"ch{values['ChannelID'][0]}"}
    for key, tag, units in (
        ("wavelength_nm", "MainEmissionWavelength", {"nm": 1.0, "m": 1e9}),
        ("exposure_s", "ExposureTime", _TO_S),
    ):
        text, unit = values.get(tag, ("", ""))
        if text and float(text) > 0:  # brightfield has an emission of 0 nm
            about[key] = float(text) * units.get(unit, 1.0)
    return about


def _length(values: Values, tag: str) -> float:
    """A length in um; NaN where there is none. Without a unit it is in metres.

    Decimal moves the point exactly: 5.979e-07 m is 0.5979 um, not 0.5978999999999999.
    """
    text, unit = values.get(tag, ("", ""))
    if not text:
        return math.nan
    if (unit or "m") not in _TO_UM:
        raise ValueError(f"{tag} has the unknown unit {unit!r}")
    try:
        return float(Decimal(text).scaleb(_TO_UM[unit or "m"]))
    except InvalidOperation:
        raise ValueError(f"{tag} is {text!r}, which is not a number") from None


def _name_differs(url: str, plane: dict[str, Any]) -> bool:
    match = FILE_NAME.fullmatch(PurePosixPath(url).name)
    if match is None:
        return False
    said = [int(match[key]) for key in ("row", "column", "field", "z", "channel")]
    return said != [plane["row"] + 1, plane["column"] + 1, plane["field"], plane["z"], plane["channel"]]


def _from_names(entry: PlateEntry, listing: Listing) -> Records:
    """Without an index: wells, fields, channels, planes and times from the names; positions are unknown."""
    planes: list[dict[str, Any]] = []
    for name in listing.image_names():
        match = FILE_NAME.fullmatch(PurePosixPath(name).name)
        if match is not None:
            planes.append(
                {
                    "row": int(match["row"]) - 1,
                    "column": int(match["column"]) - 1,
                    "field": int(match["field"]),
                    "t": int(match["t"] or match["t7"] or 0),
                    "z": int(match["z"]),
                    "channel": int(match["channel"]),
                    "path": name,
                }
            )
    if not planes:
        raise PlateflowError(
            "the folder is not a Harmony measurement",
            where=f"{entry.plate}: {entry.path}",
            why=f"there is no {', '.join(INDEX_NAMES)} in it or in Images, and no image is named as Harmony names them",
            remedy="give the folder that holds Images; for other layouts set `layout` in the plate sheet",
        )
    channels = {number: {"name": f"ch{number}"} for number in sorted({plane["channel"] for plane in planes})}
    note = "there is no index: names alone are read, so positions, channel names and pixel size are unknown"
    return Records(planes=planes, channels=channels, disagreements=[note])
