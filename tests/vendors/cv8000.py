"""Write the files of a Yokogawa CV8000 measurement: .mlf (records), .mrf and .mes (settings), TIFFs.

Attributes and units follow real measurements: everything counts from 1, positions are in um with y up, each channel is
an action. A plane with the fault `error` has a record of the type ERR, which has neither channel nor plane.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.paths import well_name
from plateflow.simulate.layout import LIGHT, FaultKind, PlateDescription, Record, write_tiff

SCHEMA = "http://www.yokogawa.co.jp/BTS/BTSSchema/1.0"
START = "2026-03-02T09:30:00.000+01:00"


class CV8000Layout:
    """A measurement as the CellVoyager leaves it, images and metadata in one folder."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        self.plate, self.raw = plate, out / f"{plate.name}_20260302_093000"
        self.raw.mkdir(parents=True, exist_ok=True)
        self.records: list[tuple[Record, bool]] = []

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane."""
        self.records.append((record, "error" in faults))
        write_tiff(self.raw / self._name(record), pixels, faults)

    def finish(self) -> None:
        """Write the metadata."""
        data = _element("MeasurementData", Version="1.0")
        for record, is_error in self.records:
            place = {"Column": record.column + 1, "Row": record.row + 1, "TimePoint": record.t + 1}
            place |= {"FieldIndex": record.field + 1}
            where = {"X": record.x_um, "Y": 0.0 - record.y_um}
            if is_error:
                item = _element("MeasurementRecord", Type="ERR", Time=START, **place, TimelineIndex=1, **where)
                item.text = f"AF Error at {well_name(record.row, record.column)} No. {record.field + 1}"
            else:
                action = {"ZIndex": record.z + 1, "TimelineIndex": 1, "ActionIndex": record.channel + 1, "Action": "3D"}
                end = {"Z": record.z_um, "Ch": record.channel + 1}
                item = _element("MeasurementRecord", Type="IMG", Time=START, **place, **action, **where, **end)
                item.text = self._name(record)
            data.append(item)
        _write(self.raw / "MeasurementData.mlf", data)
        _write(self.raw / "MeasurementDetail.mrf", self._detail())
        _write(self.raw / f"{self.plate.name}.mes", self._setting())

    def _name(self, record: Record) -> str:
        number = f"T{record.t + 1:04d}F{record.field + 1:03d}L01A{record.channel + 1:02d}Z{record.z + 1:02d}"
        return f"{self.plate.name}_{_well(record, self.plate)}_{number}C{record.channel + 1:02d}.tif"

    def _channels(self) -> list[tuple[int, str]]:
        return sorted({(record.channel, record.channel_name) for record, _ in self.records})

    def _detail(self) -> ET.Element:
        rows, columns = self.plate.plate_shape
        height, width = self.plate.field_shape
        size = {
            "HorizontalPixelDimension": self.plate.pixel_size_um,
            "VerticalPixelDimension": self.plate.pixel_size_um,
        }
        size |= {"InputBitDepth": 16, "HorizontalPixels": width, "VerticalPixels": height}
        settings = {"MeasurementSettingFileName": f"{self.plate.name}.mes", "TargetSystem": "CV8000"}
        detail = _element("MeasurementDetail", Title=self.plate.name, ColumnCount=columns, RowCount=rows, **settings)
        for channel, _ in self._channels():
            detail.append(_element("MeasurementChannel", Ch=channel + 1, **size))
        return detail

    def _setting(self) -> ET.Element:
        setting = _element("MeasurementSetting", Version="1.0")
        channels = _element("ChannelList")
        for channel, name in self._channels():
            emission, exposure = LIGHT.get(name, LIGHT["Marker"])
            light = {"Target": "405", "Acquisition": f"BP{emission}/45", "ExposureTime": f"{1000 * exposure:g}"}
            channels.append(_element("Channel", Ch=channel + 1, **light, Fluorophore=name))
        setting.append(channels)
        return setting


def _well(record: Record, plate: PlateDescription) -> str:
    """The well in a file's name: with 1536 wells, one of 96 and the place in its 4 x 4."""
    if plate.plate_shape != (32, 48):
        return well_name(record.row, record.column)
    return f"{well_name(record.row // 4, record.column // 4)}.{'abcd'[record.row % 4]}{record.column % 4 + 1}"


def _element(name: str, **values: object) -> ET.Element:
    return ET.Element(f"{{{SCHEMA}}}{name}", {f"{{{SCHEMA}}}{key}": str(value) for key, value in values.items()})


def _write(path: Path, root: ET.Element) -> None:
    ET.register_namespace("bts", SCHEMA)
    path.write_bytes(b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8"))
