"""Write the files of a PerkinElmer Harmony (Opera Phenix, Operetta) measurement: `Index.idx.xml` beside TIFFs.

Fields, units and signs follow a real Harmony V5 export: rows, columns, fields, planes and channels count from 1, time
points from 0; resolutions and positions are in metres, positions are the centre of a field relative to the centre of
its well, and the stage's y axis points up, against the rows of the image.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NAMESPACE = "http://www.perkinelmer.com/PEHH/HarmonyV5"
START = "2026-03-02T09:30:00.0000000+01:00"

# name in the file, excitation and emission (nm), exposure (s); other channels get the last row's numbers
_LIGHT = {"DNA": (375, 456, 0.1), "AGP": (561, 599, 0.2), "Marker": (488, 522, 0.2)}
_PLATE_TYPES = {(8, 12): "96 well", (16, 24): "384 well", (32, 48): "1536 well"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """One plane of the index: row, column, field and channel from 0, position of the field's centre in um (y down)."""

    row: int
    column: int
    field: int
    channel: int
    channel_name: str
    y_um: float
    x_um: float

    @property
    def file_name(self) -> str:
        """The name that Harmony gives the file."""
        return f"r{self.row + 1:02d}c{self.column + 1:02d}f{self.field + 1:02d}p01-ch{self.channel + 1}sk1fk1fl1.tiff"

    @property
    def _well(self) -> str:
        return f"{self.row + 1:02d}{self.column + 1:02d}"

    @property
    def _id(self) -> str:
        return f"{self._well}K1F{self.field + 1}P1R{self.channel + 1}"


def folder_name(plate: str) -> str:
    """The folder of a measurement, as Harmony exports it; the images and the index lie in its `Images`."""
    return f"{plate}__{START[:19].replace(':', '_')}-Measurement 1"


def write_index(
    path: Path,
    records: Sequence[Record],
    *,
    plate: str,
    plate_shape: tuple[int, int],
    field_shape: tuple[int, int],
    pixel_size_um: float,
) -> None:
    """Write `Index.idx.xml` for these planes, whether or not their files exist."""
    root = ET.Element("EvaluationInputData", {"xmlns": NAMESPACE, "Version": "1"})
    _texts(root, User="simulated", InstrumentType="Phenix")
    about = ET.SubElement(ET.SubElement(root, "Plates"), "Plate")
    _texts(
        about,
        PlateID=plate,
        MeasurementID="00000000-0000-4000-8000-000000000001",
        MeasurementStartTime=START,
        Name=plate,
        PlateTypeName=_PLATE_TYPES.get(plate_shape, f"{plate_shape[0] * plate_shape[1]} well"),
        PlateRows=plate_shape[0],
        PlateColumns=plate_shape[1],
    )
    wells: dict[str, list[Record]] = {}
    for record in records:
        wells.setdefault(record._well, []).append(record)
    listed = ET.SubElement(root, "Wells")
    for name, members in wells.items():
        ET.SubElement(about, "Well", {"id": name})
        well = ET.SubElement(listed, "Well")
        _texts(well, id=name, Row=members[0].row + 1, Col=members[0].column + 1)
        for record in members:
            ET.SubElement(well, "Image", {"id": record._id})
    channels = {record.channel: record.channel_name for record in records}
    entries = ET.SubElement(ET.SubElement(root, "Maps"), "Map")
    for channel, name in sorted(channels.items()):
        entry = ET.SubElement(entries, "Entry", {"ChannelID": str(channel + 1)})
        flat = "Character: Null, Profile: {Type: Identity}, Quality: 1"
        _texts(
            entry,
            FlatfieldProfile=f"{{Background: {{{flat}}}, Channel: {channel + 1}, ChannelName: {name}, "
            f"Foreground: {{{flat}}}, Version: Acapella:2013}}",
        )
    images = ET.SubElement(root, "Images")
    for record in records:
        _image(images, record, field_shape, pixel_size_um)
    ET.indent(root)
    path.write_bytes(b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n")


def _image(parent: ET.Element, record: Record, field_shape: tuple[int, int], pixel_size_um: float) -> None:
    excitation, emission, exposure = _LIGHT.get(record.channel_name, _LIGHT["Marker"])
    image = ET.SubElement(parent, "Image", {"Version": "1"})
    _texts(
        image,
        id=record._id,
        State="Ok",
        URL=record.file_name,
        Row=record.row + 1,
        Col=record.column + 1,
        FieldID=record.field + 1,
        PlaneID=1,
        TimepointID=0,
        ChannelID=record.channel + 1,
        FlimID=1,
        ChannelName=record.channel_name,
        ImageType="Signal",
        AcquisitionType="NonConfocal",
        IlluminationType="Epifluorescence",
        ChannelType="Fluorescence",
    )
    resolution, metres = repr(pixel_size_um * 1e-6), "m"
    _quantity(image, "ImageResolutionX", resolution, metres)
    _quantity(image, "ImageResolutionY", resolution, metres)
    _texts(image, ImageSizeX=field_shape[1], ImageSizeY=field_shape[0], BinningX=2, BinningY=2, MaxIntensity=65535)
    _texts(image, CameraType="Simulated")
    _quantity(image, "PositionX", repr(record.x_um * 1e-6), metres)
    _quantity(image, "PositionY", repr(0.0 - record.y_um * 1e-6), metres)
    _quantity(image, "PositionZ", "-5E-06", metres)
    _quantity(image, "AbsPositionZ", "0.134611905", metres)
    _quantity(image, "MeasurementTimeOffset", "0", "s")
    _texts(image, AbsTime=START)
    _quantity(image, "MainExcitationWavelength", str(excitation), "nm")
    _quantity(image, "MainEmissionWavelength", str(emission), "nm")
    _quantity(image, "ObjectiveMagnification", "20", "")
    _quantity(image, "ObjectiveNA", "0.8", "")
    _quantity(image, "ExposureTime", str(exposure), "s")
    _texts(image, OrientationMatrix="[[1,0,0,0],[0,-1,0,0],[0,0,1,0]]")


def _texts(parent: ET.Element, **values: object) -> None:
    for tag, value in values.items():
        ET.SubElement(parent, tag).text = str(value)


def _quantity(parent: ET.Element, tag: str, text: str, unit: str) -> None:
    ET.SubElement(parent, tag, {"Unit": unit}).text = text
