"""Intensity of objects, under the names and by the definitions of CellProfiler's MeasureObjectIntensity, 2D and 3D.

Sums run over each object's pixels in raster order, so that a value depends on nothing but its object.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features import ranks
from plateflow.features.feature import Feature, Regions, Values

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
_PLACES = {
    "CenterMassIntensity": "{} of the centre of mass of the intensities in the image; NaN if they sum up to 0",
    "MaxIntensity": "{} of the brightest pixel in the image, the first in raster order",
}


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    found = []
    for channel in channels:
        for name, text in _TABLE.items():
            unit = "px" if name == "MassDisplacement" else "1"
            found.append(
                Feature(name=f"Intensity_{name}", family="intensity", unit=unit, definition=text, channel=channel)
            )
        for name, text in _PLACES.items():
            found += [
                Feature(
                    name=f"Location_{name}_{letter}",
                    family="intensity",
                    unit="px",
                    definition=text.format(letter.lower()),
                    kind="position",
                    channel=channel,
                )
                for letter in "ZYX"[-ndim:]
            ]
    return found


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`.

    Quartiles are CellProfiler's: between the sorted pixels k and k + 1, counted from 0, where k + fraction = area *
    quartile, so slightly above the usual ones; the MAD likewise, in 3D too.
    """
    found = []
    for regions in sets:
        columns = len(_TABLE) + 6
        table = regions.each(_intensity, len(image) * columns, image).reshape(-1, len(image), columns)
        places = table[:, :, len(_TABLE) :].reshape(-1, len(image), 2, 3)[..., -regions.ndim :]
        places = (places + np.array(regions.origin_px)).reshape(-1, len(image), 2 * regions.ndim)
        both = np.concatenate([table[:, :, : len(_TABLE)], places], axis=2)
        found.append(both.reshape(len(table), both.shape[1] * both.shape[2]))
    return found


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
def _statistics(values: Values, out: Values) -> None:
    """Sum, mean, standard deviation, minimum, maximum."""
    total = 0.0
    for value in values:
        total += value
    mean = total / len(values)
    squares = 0.0
    for value in values:
        squares += (value - mean) ** 2
    out[0], out[1], out[2] = total, mean, np.sqrt(squares / len(values))
    out[3], out[4] = values.min(), values.max()


@njit(cache=True, nogil=True)
def _intensity(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    _, height, width = volume.shape
    columns = out.shape[1] // len(values)
    for index in range(len(out)):
        first, last = starts[index], starts[index + 1]
        n = last - first
        place, edge = np.empty((n, 3)), np.empty(n, np.int64)
        n_edge = 0
        for k in range(n):
            rest, x = divmod(np.int64(pixels[first + k]), width)
            z, y = divmod(rest, height)
            place[k, 0], place[k, 1], place[k, 2] = z, y, x
            if _is_edge(volume, z, y, x):
                edge[n_edge] = k
                n_edge += 1
        for channel in range(len(values)):
            mine = values[channel, first:last]
            row = out[index, channel * columns : (channel + 1) * columns]
            _statistics(mine, row[:5])
            if n_edge:
                _statistics(mine[edge[:n_edge]], row[5:10])
            total, brightest, away = row[0], 0, 0.0
            for k in range(n):
                if mine[k] > mine[brightest]:
                    brightest = k
            for axis in range(3):
                middle = mass = 0.0
                for k in range(n):
                    middle += place[k, axis]
                    mass += place[k, axis] * mine[k]
                row[15 + axis] = mass / total if total != 0 else np.nan
                row[18 + axis] = place[brightest, axis]
                away += (row[15 + axis] - middle / n) ** 2
            row[14] = np.sqrt(away)
            ranked = mine.copy()
            row[10], rank = ranks.quantile(ranked, 0, n * 0.25)
            row[11], rank = ranks.quantile(ranked, rank, n * 0.5)
            row[12], rank = ranks.quantile(ranked, rank, n * 0.75)
            row[13] = ranks.quantile(np.abs(mine - row[11]), 0, n * 0.5)[0]
