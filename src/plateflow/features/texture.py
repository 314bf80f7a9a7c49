"""Haralick's texture features (1973) of grey-level co-occurrences, as CellProfiler's MeasureTexture defines them.

An object's co-occurrence matrix has mostly zeros: only the pairs that occur are gone through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values

LEVELS = 256
_TABLE = {
    "AngularSecondMoment": "sum of the squared probabilities of pairs of levels",
    "Contrast": "mean squared difference of the levels of a pair",
    "Correlation": "correlation of the levels of a pair; 1 for an even object",
    "Variance": "variance of the levels in pairs",
    "InverseDifferenceMoment": "mean of 1 / (1 + squared difference)",
    "SumAverage": "mean of the sum of a pair's levels",
    "SumVariance": "variance of the sum of a pair's levels",
    "SumEntropy": "entropy of the sum, in bits",
    "Entropy": "entropy of the pairs, in bits",
    "DifferenceVariance": "variance of the probabilities of the differences",
    "DifferenceEntropy": "entropy of the difference, in bits",
    "InfoMeas1": "first information measure of correlation",
    "InfoMeas2": "second information measure of correlation",
}
_STEPS = np.array([[0, 1], [1, 1], [1, 0], [1, -1]])
"""Of the directions, in y and x: along a row, down right, down, down left."""


def features(channels: Sequence[str], ndim: int, scales: Sequence[int] = (3,)) -> list[Feature]:
    """See `Family.features`; scales: distances of pairs, in px."""
    return [
        Feature(
            name=f"Texture_{name}",
            family="texture",
            unit="1",
            definition=f"{text}; pairs {scale} px apart, direction {direction}",
            channel=channel,
            suffix=f"{scale}_{direction:02d}_{LEVELS}",
        )
        for channel in channels
        for scale in scales
        for direction in range(len(_STEPS))
        for name, text in _TABLE.items()
    ]


def measure(
    sets: Sequence[Regions], image: NDArray[Any], scales: Sequence[int] = (3,), tops: Sequence[float] | None = None
) -> list[Values]:
    """See `Family.measure`.

    Intensities 0 to the channel's top (by default 1) become the levels 0 to 255, whatever lies beyond the nearest of
    them; level 0 makes no pairs. An object without pairs in one of the directions is NaN in all.
    """
    top = np.ones(len(image)) if tops is None else np.array(tops, np.float64)
    columns = len(image) * len(scales) * len(_STEPS) * len(_TABLE)
    return [regions.each(_haralick, columns, image, np.array(scales), _STEPS, top) for regions in sets]


@njit(cache=True, nogil=True)
def _haralick(
    values: Values,
    pixels: NDArray[np.int32],
    starts: NDArray[np.int64],
    volume: NDArray[np.int32],
    out: Values,
    scales: NDArray[np.int64],
    steps: NDArray[np.int64],
    tops: Values,
) -> None:
    _, height, width = volume.shape
    level = np.zeros(pixels.max() - pixels.min() + 1 if len(pixels) else 0, np.uint8)
    offset = np.int64(pixels.min()) if len(pixels) else 0
    counts = np.zeros(LEVELS * LEVELS, np.int64)
    pairs = np.empty(LEVELS * LEVELS, np.int64)
    logs = np.log2(np.arange(2 * len(pixels) + 2) + 0.0)
    logs[0] = 0
    for index in range(len(out)):
        mine = pixels[starts[index] : starts[index + 1]]
        found = out[index].reshape(len(values), len(scales), len(steps), 13)
        for channel in range(len(values)):
            top = 0
            for k in range(len(mine)):
                grey = min(max(np.rint(255 * (values[channel, starts[index] + k] / tops[channel])), 0.0), 255.0)
                level[mine[k] - offset] = np.uint8(grey)
                top = max(top, int(grey))
            for scale in range(len(scales)):
                for step in range(len(steps)):
                    dy, dx = scales[scale] * steps[step, 0], scales[scale] * steps[step, 1]
                    n = total = 0
                    for pixel in mine:
                        y, x = pixel // width + dy, pixel % width + dx
                        if y >= height or x < 0 or x >= width:
                            continue
                        if volume[0, y, x] != volume[0, y - dy, x - dx]:
                            continue
                        a, b = np.int64(level[pixel - offset]), np.int64(level[y * width + x - offset])
                        if a == 0 or b == 0:
                            continue
                        pair = min(a, b) * LEVELS + max(a, b)
                        if counts[pair] == 0:
                            pairs[n] = pair
                            n += 1
                        counts[pair] += 1
                        total += 1
                    if total == 0:
                        found[channel, scale] = np.nan
                        break
                    _thirteen(counts, pairs[:n], total, top + 1, logs, found[channel, scale, step])
                    for pair in pairs[:n]:
                        counts[pair] = 0


@njit(cache=True, nogil=True)
def _thirteen(
    counts: NDArray[np.int64], pairs: NDArray[np.int64], total: int, levels: int, logs: Values, out: Values
) -> None:
    """The features from the counts of unordered pairs; the matrix is symmetric: each stands for two entries."""
    single = np.zeros(levels, np.int64)  # counts, of 2 * total, in what follows
    sums = np.zeros(2 * levels, np.int64)
    differences = np.zeros(levels, np.int64)
    squares = 0.0
    both = entropy = products = inverse = 0.0
    whole = 2 * total
    for pair in pairs:
        a, b = pair // LEVELS, pair % LEVELS
        count = counts[pair]
        entries, each = (1, 2 * count) if a == b else (2, count)
        squares += entries * (each / whole) ** 2
        entropy += entries * each * logs[each]
        products += 2.0 * count * a * b
        inverse += 2.0 * count / (1 + (a - b) ** 2)
        single[a] += count
        single[b] += count
        sums[a + b] += 2 * count
        differences[b - a] += 2 * count
    log_whole = logs[whole]
    mean = mean_sum = 0.0
    for k in range(levels):
        mean += k * single[k]
        both += single[k] * logs[single[k]]
    mean /= whole
    for k in range(2 * levels):
        mean_sum += k * sums[k]
    mean_sum /= whole
    variance = sum_variance = contrast = spread = 0.0
    sum_entropy = difference_entropy = 0.0
    for k in range(levels):
        variance += (k - mean) ** 2 * single[k]
        contrast += k * k * differences[k]
        spread += (differences[k] / whole - 1 / levels) ** 2
        difference_entropy += differences[k] * logs[differences[k]]
    for k in range(2 * levels):
        sum_variance += (k - mean_sum) ** 2 * sums[k]
        sum_entropy += sums[k] * logs[sums[k]]
    variance /= whole
    entropy = log_whole - entropy / whole
    single_entropy = log_whole - both / whole
    out[0], out[1], out[3], out[4] = squares, contrast / whole, variance, inverse / whole
    out[2] = 1.0 if variance == 0 else (products / whole - mean * mean) / variance
    out[5], out[6], out[7], out[8] = mean_sum, sum_variance / whole, log_whole - sum_entropy / whole, entropy
    out[9], out[10] = spread / levels, log_whole - difference_entropy / whole
    out[11] = entropy - 2 * single_entropy
    if single_entropy != 0:
        out[11] /= single_entropy
    out[12] = np.sqrt(max(1 - np.exp(-2 * (2 * single_entropy - entropy)), 0.0))
