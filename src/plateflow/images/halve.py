"""One step of a pyramid: half the height and width, rounded up."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def halve_mean(pixels: NDArray[Any]) -> NDArray[Any]:
    """Means of 2 x 2 pixels, rounded half up; at an odd border of those that exist.

    Args:
        pixels: unsigned integers, (..., y, x).

    Returns:
        (..., ceil(y / 2), ceil(x / 2)) of the same type.
    """
    height, width = pixels.shape[-2:]
    half = np.empty((*pixels.shape[:-2], (height + 1) // 2, (width + 1) // 2), pixels.dtype)
    for index in np.ndindex(*pixels.shape[:-2]):
        _halve(pixels[index], half[index])
    return half


def halve_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Every second label of every second row: labels aren't mixed."""
    return np.ascontiguousarray(labels[..., ::2, ::2])


@numba.njit(cache=True, nogil=True)
def _halve(pixels: NDArray[Any], half: NDArray[Any]) -> None:
    height, width = pixels.shape
    for y in range(half.shape[0]):
        up, low = pixels[2 * y], pixels[min(2 * y + 1, height - 1)]
        for x in range(width // 2):  # without a condition inside, so that it is compiled to vectors
            total = np.uint32(up[2 * x]) + np.uint32(up[2 * x + 1]) + np.uint32(low[2 * x]) + np.uint32(low[2 * x + 1])
            half[y, x] = (total + np.uint32(2)) >> np.uint32(2)
        if width % 2:  # at an odd border a pixel counts twice, which is the mean of those that exist
            total = np.uint32(2) * (np.uint32(up[width - 1]) + np.uint32(low[width - 1]))
            half[y, width // 2] = (total + np.uint32(2)) >> np.uint32(2)
