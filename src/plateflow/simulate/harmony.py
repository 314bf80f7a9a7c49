"""Write the files of a PerkinElmer Harmony (Opera Phenix, Operetta) measurement: `Index.idx.xml` beside TIFFs.

Fields, units and signs follow a real Harmony V5 export: rows, columns, fields, planes and channels count from 1, time
points from 0; resolutions and positions are in metres, positions are the centre of a field relative to the centre of
its well, and the stage's y axis points up, against the rows of the image.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from plateflow.simulate.record import LIGHT, About, FaultKind, Record, write_tiff

NAMESPACE = "http://www.perkinelmer.com/PEHH/HarmonyV5"
START = "2026-03-02T09:30:00.0000000+01:00"


class HarmonyLayout:
    """A measurement as Harmony exports it: images and index lie in its `Images`."""

    def __init__(self, out: Path, about: About) -> None:
        self.about = about
        self.raw = out / f"{about.plate}__{START[:19].replace(':', '_')}-Measurement 1"
        (self.raw / "Images").mkdir(parents=True, exist_ok=True)
        self.records: list[tuple[Record, bool]] = []

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane; with the fault `error` the index has it without a file."""
        self.records.append((record, "error" in faults))
        write_tiff(self.raw / "Images" / file_name(record), pixels, faults)

    def finish(self) -> None:
        """Write the index."""
        write_index(self.raw / "Images" / "Index.idx.xml", self.records, self.about)


class ColumbusLayout(HarmonyLayout):
    """The same measurement as Columbus exports it: a TIFF a well with many pages, and its own name of the index."""

    def __init__(self, out: Path, about: About) -> None:
        super().__init__(out, about)
        self.pages: dict[tuple[int, int], list[NDArray[Any]]] = {}
        self.buffers: dict[Record, int] = {}

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Keep one plane until its well's file is written; a missing one is in the index without a file."""
        lost = bool({"missing", "error"} & set(faults))
        self.records.append((record, lost))
        if not lost:
            pages = self.pages.setdefault((record.row, record.column), [])
            self.buffers[record] = len(pages)
            pages.append(pixels.astype(np.uint32) if "32bit" in faults else pixels)

    def finish(self) -> None:
        """Write the wells' files and the index."""
        for (row, column), pages in self.pages.items():
            with tifffile.TiffWriter(self.raw / "Images" / f"{row + 1:03d}{column + 1:03d}-1.tif") as file:
                for page in pages:
                    file.write(page, compression="lzw", metadata=None)
        path = self.raw / "Images" / "ImageIndex.ColumbusIDX.xml"
        write_index(path, self.records, self.about)
        tree = ET.parse(path)
        urls = [image.find(f"{{{NAMESPACE}}}URL") for image in tree.getroot().findall(f"{{{NAMESPACE}}}Images/*")]
        for (record, lost), url in zip(self.records, urls, strict=True):
            if url is not None and not lost:
                url.text = f"{record.row + 1:03d}{record.column + 1:03d}-1.tif"
                url.set("BufferNo", str(self.buffers[record]))
        ET.register_namespace("", NAMESPACE)
        tree.write(path)
        path.write_text(path.read_text().replace(NAMESPACE, "http://www.perkinelmer.com/Columbus"))


def file_name(record: Record) -> str:
    """The name that Harmony gives the file."""
    return (
        f"r{record.row + 1:02d}c{record.column + 1:02d}f{record.field + 1:02d}p{record.z + 1:02d}"
        f"-ch{record.channel + 1}sk{record.t + 1}fk1fl1.tiff"
    )


def _well(record: Record) -> str:
    return f"{record.row + 1:02d}{record.column + 1:02d}"


def _id(record: Record) -> str:
    return f"{_well(record)}K{record.t + 1}F{record.field + 1}P{record.z + 1}R{record.channel + 1}"


def write_index(path: Path, records: Sequence[tuple[Record, bool]], about: About) -> None:
    """Write `Index.idx.xml` for these planes, whether or not their files exist; True: without the file's name."""
    root = ET.Element("EvaluationInputData", {"xmlns": NAMESPACE, "Version": "1"})
    _texts(root, User="simulated", InstrumentType="Phenix")
    plate = ET.SubElement(ET.SubElement(root, "Plates"), "Plate")
    _texts(
        plate,
        PlateID=about.plate,
        MeasurementID="00000000-0000-4000-8000-000000000001",
        MeasurementStartTime=START,
        Name=about.plate,
        PlateTypeName=f"{about.plate_shape[0] * about.plate_shape[1]} well",
        PlateRows=about.plate_shape[0],
        PlateColumns=about.plate_shape[1],
    )
    wells: dict[str, list[Record]] = {}
    for record, _ in records:
        wells.setdefault(_well(record), []).append(record)
    listed = ET.SubElement(root, "Wells")
    for name, members in wells.items():
        ET.SubElement(plate, "Well", {"id": name})
        well = ET.SubElement(listed, "Well")
        _texts(well, id=name, Row=members[0].row + 1, Col=members[0].column + 1)
        for record in members:
            ET.SubElement(well, "Image", {"id": _id(record)})
    channels = {record.channel: record.channel_name for record, _ in records}
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
    for record, lost in records:
        _image(images, record, about, lost=lost)
    ET.indent(root)
    path.write_bytes(b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n")


def _image(parent: ET.Element, record: Record, about: About, *, lost: bool) -> None:
    emission, exposure = LIGHT.get(record.channel_name, LIGHT["Marker"])
    field_shape = about.field_shape
    image = ET.SubElement(parent, "Image", {"Version": "1"})
    _texts(
        image,
        id=_id(record),
        State="Ok",
        URL="" if lost else file_name(record),
        Row=record.row + 1,
        Col=record.column + 1,
        FieldID=record.field + 1,
        PlaneID=record.z + 1,
        TimepointID=record.t,
        ChannelID=record.channel + 1,
        FlimID=1,
        ChannelName=record.channel_name,
        ImageType="Signal",
        AcquisitionType="NonConfocal",
        IlluminationType="Epifluorescence",
        ChannelType="Fluorescence",
    )
    resolution, metres = repr(about.pixel_size_um * 1e-6), "m"
    _quantity(image, "ImageResolutionX", resolution, metres)
    _quantity(image, "ImageResolutionY", resolution, metres)
    _texts(image, ImageSizeX=field_shape[1], ImageSizeY=field_shape[0], BinningX=2, BinningY=2, MaxIntensity=65535)
    _texts(image, CameraType="Simulated")
    _quantity(image, "PositionX", repr(record.x_um * 1e-6), metres)
    _quantity(image, "PositionY", repr(0.0 - record.y_um * 1e-6), metres)
    _quantity(image, "PositionZ", repr(record.z_um * 1e-6), metres)
    _quantity(image, "AbsPositionZ", "0.134611905", metres)
    _quantity(image, "MeasurementTimeOffset", "0", "s")
    _texts(image, AbsTime=START)
    _quantity(image, "MainExcitationWavelength", str(emission - 80), "nm")
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
