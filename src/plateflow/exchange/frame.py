"""A frame: one canvas of a well with its labels, as it is handed to a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a program is given of a canvas.

    Attributes:
        name: that files of it begin with.
        channels: names of the label set's channels, in order.
        pixels: (channel, [z,] y, x): what the camera counted, corrected for illumination and rounded; 0 outside of
            fields.
        limits: of each channel, what is shown black and white: the plate's intensity window.
        label_set: whose labels they are.
        labels: ([z,] y, x).
        pixel_um: along [z,] y, x; None where it isn't known.
        spots: by name, their places (n, 2) along y and x in px.
        flow: ([dz,] dy, dx, logit), where it is kept; see `plateflow.segment.scratch`.
    """

    name: str
    channels: list[str]
    pixels: NDArray[np.uint16]
    limits: list[tuple[float, float]]
    label_set: str
    labels: NDArray[np.uint32]
    pixel_um: tuple[float, ...] | None
    spots: Mapping[str, NDArray[np.float64]]
    flow: NDArray[np.float16] | None

    def write_image(self, path: Path) -> None:
        """Write the pixels as an OME-TIFF, uncompressed, so that every program reads it."""
        import tifffile

        described: dict[str, Any] = {"axes": "CZYX" if self.labels.ndim == 3 else "CYX"}
        described["Channel"] = {"Name": self.channels}
        for axis, um in zip("XYZ", reversed(self.pixel_um or ()), strict=False):
            described |= {f"PhysicalSize{axis}": um, f"PhysicalSize{axis}Unit": "µm"}
        tifffile.imwrite(path, self.pixels, ome=True, photometric="minisblack", metadata=described)
