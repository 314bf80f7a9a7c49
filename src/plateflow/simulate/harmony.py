"""Write the files of a PerkinElmer Harmony (Opera Phenix, Operetta) measurement: `Index.idx.xml` beside TIFFs.

Fields, units and signs follow a real Harmony V5 export: rows, columns, fields, planes and channels count from 1, time
points from 0; resolutions and positions are in metres, positions are the centre of a field relative to the centre of
its well, and the stage's y axis points up, against the rows of the image.
"""

import xml.etree.ElementTree as ET
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.simulate.layout import LIGHT, FaultKind, PlateDescription, Record, write_tiff

NAMESPACE = "http://www.perkinelmer.com/PEHH/HarmonyV5"
START = "2026-03-02T09:30:00.0000000+01:00"


class HarmonyLayout:
    """A measurement as Harmony exports it: images and index lie in the folder `Images`."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        self.plate = plate
        self.raw = out / f"{plate.name}__{START[:19].replace(':', '_')}-Measurement 1"
        (self.raw / "Images").mkdir(parents=True, exist_ok=True)
        self.records: list[tuple[Record, bool]] = []

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane; with the fault `error` the index lists the plane without a file."""
        self.records.append((record, "error" not in faults))
        write_tiff(self.raw / "Images" / file_name(record), pixels, faults)

    def finish(self) -> None:
        """Write the index."""
        write_index(self.raw / "Images" / "Index.idx.xml", self.records, self.plate)


def file_name(record: Record) -> str:
    """The name that Harmony gives to the file of a plane."""
    return (
        f"r{record.row + 1:02d}c{record.column + 1:02d}f{record.field + 1:02d}p{record.z + 1:02d}"
        f"-ch{record.channel + 1}sk{record.t + 1}fk1fl1.tiff"
    )


def write_index(path: Path, records: Sequence[tuple[Record, bool]], plate: PlateDescription) -> None:
    """Write `Index.idx.xml` of planes, each with whether the index names a file for it; no file is looked at."""
    root = ET.Element("EvaluationInputData", {"xmlns": NAMESPACE, "Version": "1"})
    _add(root, User="simulated", InstrumentType="Phenix")
    plate_element = ET.SubElement(ET.SubElement(root, "Plates"), "Plate")
    _add(
        plate_element,
        PlateID=plate.name,
        MeasurementID="00000000-0000-4000-8000-000000000001",
        MeasurementStartTime=START,
        Name=plate.name,
        PlateTypeName=f"{plate.plate_shape[0] * plate.plate_shape[1]} well",
        PlateRows=plate.plate_shape[0],
        PlateColumns=plate.plate_shape[1],
    )
    wells: dict[str, list[Record]] = {}
    for record, _ in records:
        wells.setdefault(_well_id(record), []).append(record)
    wells_element = ET.SubElement(root, "Wells")
    for well_id, members in wells.items():
        ET.SubElement(plate_element, "Well", {"id": well_id})
        well = ET.SubElement(wells_element, "Well")
        _add(well, id=well_id, Row=members[0].row + 1, Col=members[0].column + 1)
        for record in members:
            ET.SubElement(well, "Image", {"id": _image_id(record)})
    channel_map = ET.SubElement(ET.SubElement(root, "Maps"), "Map")
    for channel, name in sorted({(record.channel, record.channel_name) for record, _ in records}):
        flat = "Character: Null, Profile: {Type: Identity}, Quality: 1"
        _add(
            ET.SubElement(channel_map, "Entry", {"ChannelID": str(channel + 1)}),
            FlatfieldProfile=f"{{Background: {{{flat}}}, Channel: {channel + 1}, ChannelName: {name}, "
            f"Foreground: {{{flat}}}, Version: Acapella:2013}}",
        )
    images = ET.SubElement(root, "Images")
    for record, has_file in records:
        _add_image(images, record, plate, url=file_name(record) if has_file else "")
    ET.indent(root)
    path.write_bytes(b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n")


def _well_id(record: Record) -> str:
    return f"{record.row + 1:02d}{record.column + 1:02d}"


def _image_id(record: Record) -> str:
    return f"{_well_id(record)}K{record.t + 1}F{record.field + 1}P{record.z + 1}R{record.channel + 1}"


def _add_image(parent: ET.Element, record: Record, plate: PlateDescription, *, url: str) -> None:
    emission_nm, exposure_s = LIGHT.get(record.channel_name, LIGHT["Marker"])
    pixel_size = (plate.pixel_size_um * 1e-6, "m")
    _add(
        ET.SubElement(parent, "Image", {"Version": "1"}),
        id=_image_id(record),
        State="Ok",
        URL=url,
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
        ImageResolutionX=pixel_size,
        ImageResolutionY=pixel_size,
        ImageSizeX=plate.field_shape[1],
        ImageSizeY=plate.field_shape[0],
        BinningX=2,
        BinningY=2,
        MaxIntensity=65535,
        CameraType="Simulated",
        PositionX=(record.x_um * 1e-6, "m"),
        PositionY=(0.0 - record.y_um * 1e-6, "m"),
        PositionZ=(record.z_um * 1e-6, "m"),
        AbsPositionZ=(0.134611905, "m"),
        MeasurementTimeOffset=(0, "s"),
        AbsTime=START,
        MainExcitationWavelength=(emission_nm - 80, "nm"),
        MainEmissionWavelength=(emission_nm, "nm"),
        ObjectiveMagnification=(20, ""),
        ObjectiveNA=(0.8, ""),
        ExposureTime=(exposure_s, "s"),
        OrientationMatrix="[[1,0,0,0],[0,-1,0,0],[0,0,1,0]]",
    )


def _add(parent: ET.Element, **values: object) -> None:
    """Add one element per value; a quantity is a pair of number and unit."""
    for tag, value in values.items():
        number, unit = value if isinstance(value, tuple) else (value, None)
        ET.SubElement(parent, tag, {} if unit is None else {"Unit": unit}).text = str(number)
