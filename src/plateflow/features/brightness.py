"""How bright the pixels of a field are, in all and where no object lies: what the segmentation is compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

STEP_PX = 4
"""Of a canvas every so many rows and columns are looked at: shares are known to a percent from a sixteenth of it."""
OCTAVE = 4
"""Bins of brightness per factor of two."""
STANDS_OUT = 4.0
"""What is bright must be this many times as far above the darkest percent of its field as the rest is. Noise lies 2.3
of its standard deviations above, so this is 7 above its mean; noise alone, cut in two, comes to 2."""
LEAST_BRIGHT = 0.002
"""Share of its pixels that must be bright in a well that is judged: less is dust."""


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


def bright_from(counts: Counts) -> int | None:
    """The bin from which on a plate's pixels are bright; None where nothing stands out.

    Otsu's threshold (IEEE Trans Syst Man Cybern 9 (1979) 62) of the logarithms, which a few very bright specks don't
    move, parts what is bright from the rest and, where that is haze, what lies in it from the haze. Half of the median
    of the bright, the contour of a blurred edge, is the threshold then: at Otsu's own, objects would have halos. Where
    values go in wide steps (8 or 12 bits that fill 16), the first step is nothing that stands out.

    Args:
        counts: of all pixels, by bin.
    """
    gap, start, first = int(OCTAVE * np.log2(STANDS_OUT)), None, 0
    step = 1 + int(np.searchsorted(np.cumsum(counts[1:]), counts.sum() / 100))
    floor = max(step - gap, 0)
    counts = np.concatenate([np.zeros(floor, np.int64), counts[: floor + 1].sum(keepdims=True), counts[floor + 1 :]])
    for _ in range(2):
        cut = first + _otsu(counts[first:])
        if cut == first:
            break
        dark, bright = (_median_bin(counts, side) for side in (slice(first, cut), slice(cut, None)))
        if bright - dark < gap or (first and counts[cut:].sum() < LEAST_BRIGHT * counts.sum()):
            break
        start, first = max(bright - OCTAVE, cut), cut
    return start


def _otsu(counts: Counts) -> int:
    """The first bin above Otsu's threshold; 0 where there is none."""
    bins = np.arange(len(counts))
    below = np.cumsum(counts)
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.cumsum(counts * bins) / below, (np.sum(counts * bins) - np.cumsum(counts * bins)) / above
        between = np.nan_to_num(below * 1.0 * above * (means[1] - means[0]) ** 2)
    return int(between.argmax()) + 1 if between.any() else 0


def _median_bin(counts: Counts, side: slice) -> int:
    below = np.cumsum(counts[side])
    return (side.start or 0) + int(np.searchsorted(below, below[-1] / 2))
