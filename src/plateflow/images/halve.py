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
        low = min(2 * y + 1, height - 1)
        for x in range(half.shape[1]):
            right = min(2 * x + 1, width - 1)
            # at an odd border a pixel counts twice, which is the mean of those that exist
            total = np.uint32(pixels[2 * y, 2 * x]) + pixels[2 * y, right] + pixels[low, 2 * x] + pixels[low, right]
            half[y, x] = (total + np.uint32(2)) >> np.uint32(2)
