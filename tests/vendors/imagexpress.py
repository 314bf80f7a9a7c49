"""Write the files of a MetaXpress export (ImageXpress): an HTD file, folders of time points and z steps, TIFFs.

Metadata are where a real export has them: the plan in the HTD file, which holds a byte that is not UTF-8; positions
(y down), pixel size and channel in each image's header; names with a site and a wave where there are several, and
an identifier directly behind them.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from numpy.typing import NDArray

from plateflow.paths import well_name
from plateflow.simulate.layout import LIGHT, FaultKind, PlateDescription, Record, write_tiff


class ImageXpressLayout:
    """A plate as MetaXpress exports it; no projection is written, and a single plane of a channel lies in step 1."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        self.plate, self.raw = plate, out / f"{plate.name}_Plate_1"
        self.raw.mkdir(parents=True, exist_ok=True)
        self.records: list[Record] = []

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane."""
        self.records.append(record)
        well = well_name(record.row, record.column)
        guid = str(uuid.uuid5(uuid.NAMESPACE_OID, repr(record))).upper()
        name = f"{self.plate.name}_{well}_s{record.field + 1}_w{record.channel + 1}{guid}.tif"
        folder = self.raw / f"TimePoint_{record.t + 1}" / f"ZStep_{record.z + 1}"
        write_tiff(folder / name, pixels, faults, description=_header(record, self.plate))

    def finish(self) -> None:
        """Write the HTD file."""
        rows, columns = self.plate.plate_shape
        wells = {(record.row, record.column) for record in self.records}
        names = {record.channel: record.channel_name for record in self.records}
        sites = max(record.field for record in self.records) + 1
        selections = [
            f'"WellsSelection{row + 1}", ' + ", ".join(str((row, column) in wells).upper() for column in range(columns))
            for row in range(rows)
        ]
        lines = [
            '"HTSInfoFile", Version 1.0',
            f'"Description", "simulated \x82 {self.plate.name}"',
            f'"TimePoints", {max(record.t for record in self.records) + 1}',
            f'"ZSeries", {str(any(record.z for record in self.records)).upper()}',
            f'"ZSteps", {max(record.z for record in self.records) + 1}',
            f'"XWells", {columns}',
            f'"YWells", {rows}',
            *selections,
            '"Sites", TRUE',
            f'"XSites", {sites}',
            '"YSites", 1',
            '"SiteSelection1", ' + ", ".join(["TRUE"] * sites),
            '"Waves", TRUE',
            f'"NWavelengths", {len(names)}',
            *(f'"WaveName{number + 1}", "{name}"' for number, name in sorted(names.items())),
            '"EndFile"',
        ]
        (self.raw / f"{self.plate.name}.HTD").write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))


def _header(record: Record, plate: PlateDescription) -> str:
    """The image's own metadata; the stage counts from the plate's corner, with wells 9 mm apart."""
    emission, exposure = LIGHT.get(record.channel_name, LIGHT["Marker"])
    values: dict[str, object] = {
        "spatial-calibration-state": "on",
        "spatial-calibration-x": plate.pixel_size_um,
        "spatial-calibration-y": plate.pixel_size_um,
        "spatial-calibration-units": "um",
        "stage-position-x": 14000 + 9000 * record.column + record.x_um,
        "stage-position-y": 11000 + 9000 * record.row + record.y_um,
        "stage-label": f"{well_name(record.row, record.column)} : Site {record.field + 1}",
        "z-position": 9000 + record.z_um,
        "wavelength": emission,
        "_IllumSetting_": record.channel_name,
        "Camera Bit Depth": 16,
        "Exposure Time": f"{1000 * exposure:g} ms",
        "OffsetFromWellCenterUmX": record.x_um,
        "OffsetFromWellCenterUmY": record.y_um,
        "Z Step": record.z + 1,
    }
    props = "\n".join(f'<prop id={quoteattr(k)} type="string" value={quoteattr(str(v))}/>' for k, v in values.items())
    return f"<MetaData>\n<PlaneInfo>\n{props}\n</PlaneInfo>\n</MetaData>"
