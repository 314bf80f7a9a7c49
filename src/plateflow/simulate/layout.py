"""What the simulated raw-data layouts share: their interface, the place of a plane, its TIFF, sound or with faults."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tifffile
from numpy.typing import NDArray

FaultKind = Literal["defocus", "truncated", "missing", "error", "32bit", "size", "constant", "nan", "zero-byte"]

LIGHT = {"DNA": (456, 0.1), "AGP": (599, 0.2), "Marker": (522, 0.2), "GFP": (509, 0.3)}
"""Emission (nm) and exposure (s) per channel name; other channels take those of Marker."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One plane: row, column, field, channel, t and z from 0, position of the field's centre in um (y down)."""

    row: int
    column: int
    field: int
    channel: int
    channel_name: str
    y_um: float
    x_um: float
    t: int = 0
    z: int = 0
    z_um: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PlateDescription:
    """A simulated plate: its name, its rows and columns, height and width of its fields in px, the pixel size."""

    name: str
    plate_shape: tuple[int, int] = (8, 12)
    field_shape: tuple[int, int] = (384, 384)
    pixel_size_um: float = 0.6


class Layout(Protocol):
    """Writes a plate as a vendor's software would: every plane once, then `finish`."""

    raw: Path
    """The plate's folder."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        """Make the plate's folder below `out`."""

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane YX, with the given faults."""

    def finish(self) -> None:
        """Write the metadata."""


def write_tiff(path: Path, plane: NDArray[Any], faults: Collection[FaultKind] = (), *, description: str = "") -> None:
    """Write a plane YX as a TIFF, with the given faults; `missing` and `error` write no file, `defocus` is no fault of
    a file."""
    if "missing" in faults or "error" in faults:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if "zero-byte" in faults:
        path.write_bytes(b"")
        return
    stored = plane
    for fault in faults:
        if fault == "32bit":
            stored = plane.astype(np.uint32)
        elif fault == "size":
            stored = plane[: plane.shape[0] // 2]
        elif fault == "constant":
            stored = np.full_like(plane, 200)
        elif fault == "nan":
            stored = plane.astype(np.float32)
            stored[::7, ::5] = np.nan
    tags: Any = {"description": description} if description else {}
    tifffile.imwrite(path, stored, compression="lzw", rowsperstrip=stored.shape[0], metadata=None, **tags)
    if "truncated" in faults:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
