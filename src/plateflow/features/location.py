"""Where an object lies in the image of its well; its row and column in the plate are metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [
        Feature(
            name=f"Location_Center_{letter}{suffix}",
            family="location",
            unit=unit,
            definition=f"{letter.lower()} of the centroid in the image of the well",
            source="Plateflow" if suffix else "CellProfiler",
            kind="position",
        )
        for suffix, unit in (("", "px"), ("_um", "µm"))
        for letter in "XYZ"[:ndim]
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`."""
    found = []
    for regions in sets:
        centre = regions.each(_centre, 3)[:, -regions.ndim :] + np.array(regions.origin_px)
        found.append(np.hstack([centre[:, ::-1], (centre * np.array(regions.pixel_size_um))[:, ::-1]]))
    return found


@njit(cache=True, nogil=True)
def _centre(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    _, height, width = volume.shape
    for index in range(len(out)):
        sum_z = sum_y = sum_x = 0
        for pixel in pixels[starts[index] : starts[index + 1]]:
            rest, x = divmod(np.int64(pixel), width)
            sum_z += rest // height
            sum_y += rest % height
            sum_x += x
        n = starts[index + 1] - starts[index]
        out[index, 0], out[index, 1], out[index, 2] = sum_z / n, sum_y / n, sum_x / n
