"""Write a plate as OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3): one image per field, axes t c z y x, one chunk per plane."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plateflow.paths import row_name
from plateflow.simulate.layout import FaultKind, PlateDescription, Record


class OmeZarrLayout:
    """OME-Zarr 0.4. A missing plane has no chunk; one plane of 32 bits makes its whole field so."""

    version: ClassVar = "0.4"

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        self.plate, self.raw = plate, out / f"{plate.name}.zarr"
        self.raw.mkdir(parents=True, exist_ok=True)
        self.images: dict[tuple[int, int, int], list[tuple[Record, NDArray[Any], Collection[FaultKind]]]] = {}
        self.size = np.zeros(3, int)

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Keep one plane until the plate's shape is known.

        Raises:
            ValueError: the layout cannot have such a fault.
        """
        if not set(faults) <= {"missing", "error", "32bit", "defocus"}:
            raise ValueError(f"a plane in an OME-Zarr can't be {', '.join(faults)}")
        self.images.setdefault((record.row, record.column, record.field), []).append((record, pixels, faults))
        self.size = np.maximum(self.size, (record.t + 1, record.channel + 1, record.z + 1))

    def finish(self) -> None:
        """Write all groups and images."""
        rows, columns = self.plate.plate_shape
        wells = sorted({key[:2] for key in self.images})
        plate = {
            "version": self.version,
            "name": self.plate.name,
            "rows": [{"name": row_name(row)} for row in range(rows)],
            "columns": [{"name": f"{column + 1:02d}"} for column in range(columns)],
            "wells": [
                {"path": f"{row_name(row)}/{column + 1:02d}", "rowIndex": row, "columnIndex": column}
                for row, column in wells
            ],
        }
        self._group(self.raw, {"plate": plate})
        for row, column in wells:
            folder = self.raw / row_name(row) / f"{column + 1:02d}"
            fields = sorted(key[2] for key in self.images if key[:2] == (row, column))
            self._group(folder.parent, {})
            images = [{"path": str(field + 1)} for field in fields]
            self._group(folder, {"well": {"version": self.version, "images": images}})
            for field in fields:
                self._image(folder / str(field + 1), self.images[row, column, field])

    def _image(self, folder: Path, planes: list[tuple[Record, NDArray[Any], Collection[FaultKind]]]) -> None:
        import zarr

        heights = {record.z: record.z_um for record, _, _ in planes}
        step = heights.get(1, 1.0) - heights.get(0, 0.0)
        scale = [1.0, 1.0, step, self.plate.pixel_size_um, self.plate.pixel_size_um]
        first = planes[0][0]
        corner = [
            c - n * self.plate.pixel_size_um / 2
            for c, n in zip((first.y_um, first.x_um), self.plate.field_shape, strict=True)
        ]
        transforms = [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": [0.0, 0.0, 0.0, *corner]},
        ]
        kinds = {"t": "time", "c": "channel"}
        axes = [{"name": axis, "type": kinds.get(axis, "space")} for axis in "tczyx"]
        for axis in axes[2:]:
            axis["unit"] = "micrometer"
        names = {record.channel: record.channel_name for record, _, _ in planes}
        self._group(
            folder,
            {
                "multiscales": [
                    {
                        "version": self.version,
                        "name": folder.name,
                        "axes": axes,
                        "datasets": [{"path": "0", "coordinateTransformations": transforms}],
                    }
                ],
                "omero": {"channels": [{"label": name} for _, name in sorted(names.items())]},
            },
        )
        wide = any("32bit" in faults for _, _, faults in planes)
        two = self.version == "0.4"
        array = zarr.create_array(
            folder / "0",
            shape=(*map(int, self.size), *self.plate.field_shape),
            chunks=(1, 1, 1, *self.plate.field_shape),
            dtype="uint32" if wide else planes[0][1].dtype,
            zarr_format=2 if two else 3,
            fill_value=0,
            chunk_key_encoding={"name": "v2" if two else "default", "separator": "/"},
        )
        for record, pixels, faults in planes:
            if not {"missing", "error"} & set(faults):
                array[record.t, record.channel, record.z] = pixels

    def _group(self, folder: Path, attributes: dict[str, Any]) -> None:
        folder.mkdir(exist_ok=True)
        if self.version == "0.4":
            (folder / ".zgroup").write_text('{"zarr_format": 2}')
            (folder / ".zattrs").write_text(json.dumps(attributes, indent=1))
            return
        content = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"ome": {"version": self.version, **attributes}},
        }
        (folder / "zarr.json").write_text(json.dumps(content, indent=1))


class OmeZarr05Layout(OmeZarrLayout):
    """OME-Zarr 0.5."""

    version: ClassVar = "0.5"
