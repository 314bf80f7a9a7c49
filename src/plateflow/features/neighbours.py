"""Neighbours of objects in their own set, by the definitions of CellProfiler's MeasureObjectNeighbors, "Adjacent"."""

from collections.abc import Sequence

import numpy as np

from plateflow.compiled import compiled
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

_TABLE = {
    "NumberOfNeighbors": ("1", "how many objects have a pixel beside one of this object's"),
    "PercentTouching": ("%", "part of the object's outline with another object's pixel around"),
    "FirstClosestDistance": ("px", "distance of the centroids to the nearest object; NaN without one"),
    "FirstClosestObjectNumber": ("1", "label of the nearest object; NaN without one"),
    "SecondClosestDistance": ("px", "distance to the second nearest object; NaN without one"),
    "SecondClosestObjectNumber": ("1", "label of the second nearest object; NaN without one"),
    "AngleBetweenNeighbors": ("degree", "angle between the two nearest ones, seen from the object"),
}
_ROW = np.dtype([(name, np.float64) for name in _TABLE])


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return Feature.of_table("Neighbors", _TABLE, suffix="Adjacent")


def _measure(regions: Regions, image: Image) -> Values:
    from scipy.spatial import KDTree

    rows = regions.each(_touching, 1, row=_ROW)
    n = len(rows)
    if n < 2:
        return rows.view(np.float64)
    row, centres = rows[:, 0], regions.centres()
    distance, index = KDTree(centres).query(centres, k=min(3, n))
    # Of objects with the same centroid any may come first; the others are what is left without the object itself.
    own = index == np.arange(n)[:, np.newaxis]
    own[~own.any(axis=1), -1] = True
    distance, index = distance[~own].reshape(n, -1), index[~own].reshape(n, -1)
    for k, name in enumerate(("First", "Second")[: index.shape[1]]):
        row[f"{name}ClosestDistance"] = distance[:, k]
        row[f"{name}ClosestObjectNumber"] = regions.numbers[index[:, k]]
    if index.shape[1] == 2:
        one, two = centres[index[:, 0]] - centres, centres[index[:, 1]] - centres
        cross, dot = one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0], (one * two).sum(axis=1)
        angle = np.degrees(np.abs(np.arctan2(cross, dot)))
        row["AngleBetweenNeighbors"] = np.where((distance > 0).all(axis=1), angle, np.nan)
    return rows.view(np.float64)


NEIGHBOURS = Family(name="neighbours", features=_features, measure=_measure, of_parts=False)


@compiled
def _touching(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    """Number of neighbours, percentage of the outline that touches them."""
    _, height, width = volume.shape
    for index in range(len(rows)):
        inside = pixels[starts[index] : starts[index + 1]]
        label = volume[0, inside[0] // width, inside[0] % width]
        others = np.empty(8, np.int64)
        n = outline = touching = 0
        for pixel in inside:
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
        rows[index, 0].NumberOfNeighbors = n
        rows[index, 0].PercentTouching = 100 * touching / outline if outline else np.nan
