"""Colocalisation of two channels inside an object, by the definitions of CellProfiler's MeasureColocalization."""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np

from plateflow.compiled import compiled
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

_ABOVE = "pixels above 15 % of the object's maximum in both"
_TABLE = {
    "Correlation": (1, "Pearson's correlation; NaN where a channel is even"),
    "Slope": (1, "slope of the second channel over the first, least squares; NaN where the first is even"),
    "Overlap": (1, f"overlap coefficient, over {_ABOVE}; NaN without one"),
    "K": (2, f"sum of products over the sum of the first channel's squares, over {_ABOVE}; NaN without one"),
    "Manders": (2, f"part of the first channel's intensity, above 15 % of its maximum, that lies in {_ABOVE}"),
    "RWC": (2, "the same part, each pixel weighted by how near its ranks in the two channels are"),
}
"""By name: whether there is one value per pair of channels, or one for each of the two as the first; definition."""
_ROW = np.dtype([(name, np.float64, (values,)) for name, (values, _) in _TABLE.items()])


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return [
        Feature(name=f"Correlation_{name}", unit="1", definition=definition, channel=f"{first}_{second}")
        for a, b in combinations(channels, 2)
        for name, (values, definition) in _TABLE.items()
        for first, second in ((a, b), (b, a))[:values]
    ]


def _measure(regions: Regions, image: Image) -> Values:
    """Measure pairs of channels. If nothing lies above the thresholds of both channels, Manders and RWC are 0."""
    return regions.each(_colocalisation, comb(len(image), 2), image, row=_ROW).view(np.float64)


COLOCALISATION = Family(name="colocalisation", features=_features, measure=_measure)


@compiled
def _ranks(values: Values, out: Integers) -> None:
    """Dense ranks from 0: equal values have the same rank."""
    order = np.argsort(values)
    rank = 0
    for k in range(len(order)):
        if k and values[order[k]] != values[order[k - 1]]:
            rank += 1
        out[order[k]] = rank


@compiled
def _over(part: float, total: float) -> float:
    return part / total if total != 0 else np.nan


@compiled
def _colocalisation(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    channels = len(values)
    for index in range(len(rows)):
        first, last = starts[index], starts[index + 1]
        n = last - first
        ranks = np.empty((channels, n), np.int64)
        top, mean, bar = np.empty(channels, np.int64), np.empty(channels), np.empty(channels)
        for channel in range(channels):
            inside = values[channel, first:last]
            _ranks(inside, ranks[channel])
            top[channel], mean[channel], bar[channel] = ranks[channel].max(), inside.mean(), 0.15 * inside.max()
        pair = 0
        for i in range(channels):
            for j in range(i + 1, channels):
                a, b = values[i, first:last], values[j, first:last]
                n_ranks = max(top[i], top[j]) + 1
                aa = ab = bb = 0.0  # from the means
                sum_a = sum_b = both_a = both_b = weighted_a = weighted_b = 0.0
                product = square_a = square_b = 0.0
                for k in range(n):
                    u, v = a[k] - mean[i], b[k] - mean[j]
                    aa += u * u
                    ab += u * v
                    bb += v * v
                    if a[k] >= bar[i]:
                        sum_a += a[k]
                    if b[k] >= bar[j]:
                        sum_b += b[k]
                    if a[k] >= bar[i] and b[k] >= bar[j]:
                        weight = (n_ranks - abs(ranks[i, k] - ranks[j, k])) / n_ranks
                        both_a += a[k]
                        both_b += b[k]
                        weighted_a += weight * a[k]
                        weighted_b += weight * b[k]
                        product += a[k] * b[k]
                        square_a += a[k] * a[k]
                        square_b += b[k] * b[k]
                row = rows[index, pair]
                pair += 1
                even_a, even_b = top[i] == 0, top[j] == 0
                row.Correlation[0] = np.nan if even_a or even_b else max(min(_over(ab, np.sqrt(aa * bb)), 1.0), -1.0)
                row.Slope[0] = np.nan if even_a else _over(ab, aa)
                row.Overlap[0] = _over(product, np.sqrt(square_a * square_b))
                row.K[0], row.K[1] = _over(product, square_a), _over(product, square_b)
                row.Manders[0], row.Manders[1] = _over(both_a, sum_a), _over(both_b, sum_b)
                row.RWC[0], row.RWC[1] = _over(weighted_a, sum_a), _over(weighted_b, sum_b)
