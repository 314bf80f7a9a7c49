"""Intensity of objects, under the names and by the definitions of CellProfiler's MeasureObjectIntensity, 2D and 3D.

Sums run over each object's pixels in raster order, so that a value depends on nothing but its object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features.feature import Family, Feature, Pixels, Regions, Rows, Starts, Values, Volume, is_position

_EDGE = "of its pixels with a neighbour (side by side) outside; NaN without one"
_TABLE = {
    "IntegratedIntensity": "sum of the pixels' intensities",
    "MeanIntensity": "mean intensity of the pixels",
    "StdIntensity": "standard deviation of the pixels' intensities (divided by n)",
    "MinIntensity": "least intensity of a pixel",
    "MaxIntensity": "greatest intensity of a pixel",
    "IntegratedIntensityEdge": f"sum {_EDGE}",
    "MeanIntensityEdge": f"mean {_EDGE}",
    "StdIntensityEdge": f"standard deviation {_EDGE}",
    "MinIntensityEdge": f"least {_EDGE}",
    "MaxIntensityEdge": f"greatest {_EDGE}",
    "LowerQuartileIntensity": "intensity below which a quarter of the pixels lie",
    "MedianIntensity": "intensity below which half of the pixels lie",
    "UpperQuartileIntensity": "intensity below which three quarters of the pixels lie",
    "MADIntensity": "median of the absolute differences to the median intensity",
    "MassDisplacement": "distance of the centroid to the centre of mass of the intensities",
}
_TABLE |= {
    f"{name}_{letter}": f"{letter.lower()} of {text}"
    for name, text in (
        ("CenterMassIntensity", "the centre of mass of the intensities in the image; NaN if they sum up to 0"),
        ("MaxIntensity", "the brightest pixel in the image, the first in raster order"),
    )
    for letter in "ZYX"
}
_ROW = np.dtype([(name, np.float64) for name in _TABLE])


def _columns(ndim: int) -> list[str]:
    return [name for name in _TABLE if ndim == 3 or not name.endswith("_Z")]


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """The columns of objects in 2D or 3D, channel by channel."""
    return [
        Feature(
            name=f"{'Location' if is_position(name) else 'Intensity'}_{name}",
            family="intensity",
            unit="px" if is_position(name) or name == "MassDisplacement" else "1",
            definition=_TABLE[name],
            kind="position" if is_position(name) else "measurement",
            channel=channel,
        )
        for channel in channels
        for name in _columns(ndim)
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """Measure intensities.

    Quartiles are CellProfiler's: between the sorted pixels k and k + 1, counted from 0, where k + fraction = area *
    quartile, so slightly above the usual ones; the MAD likewise, in 3D too.
    """
    return [
        regions.columns(regions.each(_intensity, len(image), image, row=_ROW), _columns(regions.ndim))
        for regions in sets
    ]


INTENSITY = Family(features=features, measure=measure, in_3d=True)


@njit(cache=True, nogil=True)
def _is_edge(volume: NDArray[np.int32], z: int, y: int, x: int) -> bool:
    label = volume[z, y, x]
    depth, height, width = volume.shape
    return (
        (z > 0 and volume[z - 1, y, x] != label)
        or (z < depth - 1 and volume[z + 1, y, x] != label)
        or (y > 0 and volume[z, y - 1, x] != label)
        or (y < height - 1 and volume[z, y + 1, x] != label)
        or (x > 0 and volume[z, y, x - 1] != label)
        or (x < width - 1 and volume[z, y, x + 1] != label)
    )


@njit(cache=True, nogil=True)
def _statistics(values: Values) -> tuple[float, float, float, float, float]:
    """Sum, mean, standard deviation, minimum, maximum."""
    total = 0.0
    for value in values:
        total += value
    mean = total / len(values)
    squares = 0.0
    for value in values:
        squares += (value - mean) ** 2
    return total, mean, np.sqrt(squares / len(values)), values.min(), values.max()


@njit(cache=True, nogil=True)
def _intensity(values: Values, pixels: Pixels, starts: Starts, volume: Volume, rows: Rows) -> None:
    _, height, width = volume.shape
    for index in range(len(rows)):
        first, last = starts[index], starts[index + 1]
        n = last - first
        place, edge = np.empty((n, 3)), np.empty(n, np.int64)
        n_edge = 0
        for k in range(n):
            plane_pixel, x = divmod(np.int64(pixels[first + k]), width)
            z, y = divmod(plane_pixel, height)
            place[k, 0], place[k, 1], place[k, 2] = z, y, x
            if _is_edge(volume, z, y, x):
                edge[n_edge] = k
                n_edge += 1
        for channel in range(len(values)):
            inside = values[channel, first:last]
            row = rows[index, channel]
            total, row.MeanIntensity, row.StdIntensity, row.MinIntensity, row.MaxIntensity = _statistics(inside)
            row.IntegratedIntensity = total
            if n_edge:
                statistics = _statistics(inside[edge[:n_edge]])
                row.IntegratedIntensityEdge, row.MeanIntensityEdge, row.StdIntensityEdge = statistics[:3]
                row.MinIntensityEdge, row.MaxIntensityEdge = statistics[3:]
            brightest, displacement = 0, 0.0
            for k in range(n):
                if inside[k] > inside[brightest]:
                    brightest = k
            mass_centre = np.empty(3)
            for axis in range(3):
                middle = mass = 0.0
                for k in range(n):
                    middle += place[k, axis]
                    mass += place[k, axis] * inside[k]
                mass_centre[axis] = mass / total if total != 0 else np.nan
                displacement += (mass_centre[axis] - middle / n) ** 2
            row.CenterMassIntensity_Z, row.CenterMassIntensity_Y = mass_centre[0], mass_centre[1]
            row.CenterMassIntensity_X = mass_centre[2]
            row.MaxIntensity_Z, row.MaxIntensity_Y = place[brightest, 0], place[brightest, 1]
            row.MaxIntensity_X = place[brightest, 2]
            row.MassDisplacement = np.sqrt(displacement)
            ranked = inside.copy()
            row.LowerQuartileIntensity, rank = _quantile(ranked, 0, n * 0.25)
            row.MedianIntensity, rank = _quantile(ranked, rank, n * 0.5)
            row.UpperQuartileIntensity, rank = _quantile(ranked, rank, n * 0.75)
            row.MADIntensity = _quantile(np.abs(inside - row.MedianIntensity), 0, n * 0.5)[0]


@njit(cache=True, nogil=True)
def _select(values: NDArray[np.float64], first: int, k: int) -> float:
    """Put the k-th smallest value in its place in values[first:]: what precedes it is smaller, what follows larger."""
    low, high = first, len(values) - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(cache=True, nogil=True)
def _quantile(values: NDArray[np.float64], first: int, position: float) -> tuple[float, int]:
    """The value at a position between two ranks (from 0), and the rank below; values before `first` are smaller.

    Much faster than sorting. Positions from the last rank on give the largest value.
    """
    below = min(int(position), len(values) - 1)
    value = _select(values, first, below)
    part = position - below
    if part > 0 and below + 1 < len(values):
        value = value * (1 - part) + values[below + 1 :].min() * part
    return value, below
