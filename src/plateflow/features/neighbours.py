"""Neighbours of objects in their own set, by the definitions of CellProfiler's MeasureObjectNeighbors, "Adjacent"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values

_TABLE = {
    "NumberOfNeighbors": ("1", "how many objects have a pixel beside one of this object's", "measurement"),
    "PercentTouching": ("%", "part of the object's outline with another object's pixel around", "measurement"),
    "FirstClosestDistance": ("px", "distance of the centroids to the nearest object; NaN without one", "measurement"),
    "FirstClosestObjectNumber": ("1", "label of the nearest object; NaN without one", "number"),
    "SecondClosestDistance": ("px", "distance to the second nearest object; NaN without one", "measurement"),
    "SecondClosestObjectNumber": ("1", "label of the second nearest object; NaN without one", "number"),
    "AngleBetweenNeighbors": ("degree", "angle between the two nearest ones, seen from the object", "measurement"),
}


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [
        Feature(
            name=f"Neighbors_{name}",
            family="neighbours",
            unit=unit,
            definition=text,
            kind=kind,  # type: ignore[arg-type]
            suffix="Adjacent",
        )
        for name, (unit, text, kind) in _TABLE.items()
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`."""
    return [_neighbours(regions) for regions in sets]


def _neighbours(regions: Regions) -> Values:
    from scipy.spatial import KDTree

    found = regions.each(_touching, 2)
    out = np.full((len(found), len(_TABLE)), np.nan)
    out[:, :2] = found
    if len(found) < 2:
        return out
    centres = regions.centres()
    distance, index = KDTree(centres).query(centres, k=min(3, len(found)))
    # Of objects with the same centroid each may come first; what is left is the others.
    own = index == np.arange(len(found))[:, np.newaxis]
    own[~own.any(axis=1), -1] = True
    distance = distance[~own].reshape(len(found), -1)
    index = index[~own].reshape(len(found), -1)
    for k in range(index.shape[1]):
        out[:, 2 + 2 * k], out[:, 3 + 2 * k] = distance[:, k], regions.numbers[index[:, k]]
    if index.shape[1] == 2:
        one, two = centres[index[:, 0]] - centres, centres[index[:, 1]] - centres
        cross, dot = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0], (one * two).sum(axis=1)
        there = (distance > 0).all(axis=1)
        out[there, 6] = np.degrees(np.abs(np.arctan2(cross, dot)))[there]
    return out


@njit(cache=True, nogil=True)
def _touching(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    """Number of neighbours, percentage of the outline that touches them."""
    _, height, width = volume.shape
    for index in range(len(out)):
        mine = pixels[starts[index] : starts[index + 1]]
        label = volume[0, mine[0] // width, mine[0] % width]
        others = np.empty(8, np.int64)
        n = outline = touching = 0
        for pixel in mine:
            y, x = pixel // width, pixel % width
            on_outline, touches = y == 0 or x == 0 or y == height - 1 or x == width - 1, False
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    v, u = y + dy, x + dx
                    if v < 0 or u < 0 or v >= height or u >= width or volume[0, v, u] == label:
                        continue
                    on_outline = True
                    other = volume[0, v, u]
                    if other > 0:
                        touches = True
                        if (dy == 0 or dx == 0) and not (others[:n] == other).any():
                            if n == len(others):
                                others = np.append(others, np.empty(n, np.int64))
                            others[n] = other
                            n += 1
            outline += on_outline
            touching += touches
        out[index, 0], out[index, 1] = n, 100 * touching / outline if outline else np.nan
