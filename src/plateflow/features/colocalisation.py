"""How two channels go together inside an object, by the definitions of CellProfiler's MeasureColocalization."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values

_ABOVE = "pixels above 15 % of the object's maximum in both"
_PAIR = {
    "Correlation": "Pearson's correlation; NaN where a channel is even",
    "Slope": "slope of the second channel over the first, least squares; NaN where the first is even",
    "Overlap": f"overlap coefficient, over {_ABOVE}; NaN without one",
}
_EACH = {
    "K": f"sum of products over the sum of the first channel's squares, over {_ABOVE}; NaN without one",
    "Manders": f"part of the first channel's intensity, above 15 % of its maximum, that lies in {_ABOVE}",
    "RWC": "the same part, each pixel weighted by how near its ranks in the two channels are",
}


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""

    def feature(name: str, text: str, first: str, second: str) -> Feature:
        return Feature(
            name=f"Correlation_{name}",
            family="colocalisation",
            unit="1",
            definition=text,
            channel=f"{first}_{second}",
        )

    found = []
    for a, b in combinations(channels, 2):
        found += [feature(name, text, a, b) for name, text in _PAIR.items()]
        found += [feature(name, text, *pair) for name, text in _EACH.items() for pair in ((a, b), (b, a))]
    return found


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`. Where nothing lies above the thresholds of both channels, Manders and RWC are 0."""
    pairs = len(image) * (len(image) - 1) // 2
    return [regions.each(_colocalisation, 9 * pairs, image) for regions in sets]


@njit(cache=True, nogil=True)
def _ranks(values: Values, out: NDArray[np.int64]) -> None:
    """Dense ranks from 0: equal values have the same."""
    order = np.argsort(values)
    rank = 0
    for k in range(len(order)):
        if k and values[order[k]] != values[order[k - 1]]:
            rank += 1
        out[order[k]] = rank


@njit(cache=True, nogil=True)
def _over(part: float, whole: float) -> float:
    return part / whole if whole != 0 else np.nan


@njit(cache=True, nogil=True)
def _colocalisation(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    channels = len(values)
    for index in range(len(out)):
        first, last = starts[index], starts[index + 1]
        n = last - first
        ranks = np.empty((channels, n), np.int64)
        top, mean, bar = np.empty(channels, np.int64), np.empty(channels), np.empty(channels)
        for channel in range(channels):
            mine = values[channel, first:last]
            _ranks(mine, ranks[channel])
            top[channel], mean[channel], bar[channel] = ranks[channel].max(), mine.mean(), 0.15 * mine.max()
        column = 0
        for i in range(channels):
            for j in range(i + 1, channels):
                a, b = values[i, first:last], values[j, first:last]
                most = max(top[i], top[j]) + 1
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
                        weight = (most - abs(ranks[i, k] - ranks[j, k])) / most
                        both_a += a[k]
                        both_b += b[k]
                        weighted_a += weight * a[k]
                        weighted_b += weight * b[k]
                        product += a[k] * b[k]
                        square_a += a[k] * a[k]
                        square_b += b[k] * b[k]
                row = out[index, column : column + 9]
                even_a, even_b = top[i] == 0, top[j] == 0
                row[0] = np.nan if even_a or even_b else max(min(_over(ab, np.sqrt(aa * bb)), 1.0), -1.0)
                row[1] = np.nan if even_a else _over(ab, aa)
                row[2] = _over(product, np.sqrt(square_a * square_b))
                row[3], row[4] = _over(product, square_a), _over(product, square_b)
                row[5], row[6] = _over(both_a, sum_a), _over(both_b, sum_b)
                row[7], row[8] = _over(weighted_a, sum_a), _over(weighted_b, sum_b)
                column += 9
