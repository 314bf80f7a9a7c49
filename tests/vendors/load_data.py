"""Write a plate as CellProfiler reads it: images in a folder, and `load_data.csv` with pe2loaddata's columns."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.paths import well_name
from plateflow.simulate.layout import FaultKind, PlateDescription, Record, write_tiff


class LoadDataLayout:
    """One row per site, time point and z plane; positions are in metres, of the centres of fields, y up."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        self.plate, self.raw = plate, out / plate.name
        self.raw.mkdir(parents=True, exist_ok=True)
        self.lines: dict[tuple[int, ...], dict[str, object]] = {}
        self.names: dict[int, str] = {}

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane; with the fault `error` the table names no file."""
        well, pixel = well_name(record.row, record.column), self.plate.pixel_size_um * 1e-6
        name = f"{well}-{record.field + 1}-{record.t}-{record.z}-{record.channel_name}.tif"
        write_tiff(self.raw / "images" / name, pixels, faults)
        self.names[record.channel] = f"Orig{record.channel_name}"
        line = self.lines.setdefault((record.row, record.column, record.field, record.t, record.z), {})
        line |= {"Metadata_Plate": self.plate.name, "Metadata_Well": well, "Metadata_Site": record.field + 1}
        line |= {"Metadata_TimepointID": record.t, "Metadata_PlaneID": record.z + 1}
        line |= {"Metadata_ImageResolutionX": pixel, "Metadata_ImageResolutionY": pixel}
        line |= {"Metadata_ImageSizeX": self.plate.field_shape[1], "Metadata_ImageSizeY": self.plate.field_shape[0]}
        line |= {"Metadata_PositionX": record.x_um * 1e-6, "Metadata_PositionY": -record.y_um * 1e-6}
        line |= {f"Metadata_PositionZ_{self.names[record.channel]}": record.z_um * 1e-6}
        if "error" not in faults:
            line |= {
                f"FileName_{self.names[record.channel]}": name,
                f"PathName_{self.names[record.channel]}": "images/",
            }

    def finish(self) -> None:
        """Write the table."""
        columns = [f"{kind}_{name}" for _, name in sorted(self.names.items()) for kind in ("FileName", "PathName")]
        columns += [key for line in self.lines.values() for key in line]
        with (self.raw / "load_data.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(columns)))
            writer.writeheader()
            writer.writerows(self.lines.values())
