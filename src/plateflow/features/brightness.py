"""How bright the pixels of a field are, in all and where no object lies: what the segmentation is compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

STEP_PX = 4
"""Of a canvas every so many rows and columns are looked at: shares are known to a percent from a sixteenth of it."""
OCTAVE = 4
"""Bins of brightness per factor of two."""


def brightness(pixels: NDArray[np.float32], labels: NDArray[np.uint32], inside: NDArray[np.bool_]) -> Counts:
    """How bright the pixels of a field are, in all and where no object lies: (2, bins).

    Brightness is the distance from the darkest percent of the field, so that a field that is brighter as a whole has
    nothing bright for that; bin 0 holds all up to 1, and each factor of two above has OCTAVE bins.

    Args:
        pixels: ([z,] y, x), as they are segmented, in raw values.
        labels: of the same shape.
        inside: (y, x), where the field lies.
    """
    rows, columns = np.nonzero(inside[::STEP_PX, ::STEP_PX])
    values = pixels[..., ::STEP_PX, ::STEP_PX][..., rows, columns].ravel()
    if not values.size:
        return np.zeros((2, 1), np.int64)
    above = np.nan_to_num(values - np.nanpercentile(values, 1), posinf=0, neginf=0)
    bins = np.where(above > 1, 1 + np.floor(OCTAVE * np.log2(np.maximum(above, 1))), 0).astype(np.int64)
    free = labels[..., ::STEP_PX, ::STEP_PX][..., rows, columns].ravel() == 0
    return np.stack([np.bincount(part, minlength=bins.max() + 1) for part in (bins, bins[free])])


def add_counts(parts: Sequence[Counts]) -> Counts:
    """The sum of counts that may have different numbers of bins."""
    total = np.zeros((2, max((part.shape[1] for part in parts), default=1)), np.int64)
    for part in parts:
        total[:, : part.shape[1]] += part
    return total
