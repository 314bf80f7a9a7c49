"""Haralick's texture features (1973) of grey-level co-occurrences, as CellProfiler's MeasureTexture defines them.

An object's grey levels run over its own intensities (CellProfiler 2 scaled each object by itself, too), from the least
to the greatest but for one pixel of TAIL at either end, which are clipped: else one hot pixel would leave all others a
few levels. So the texture of equal pixels is equal whatever else the plate holds, and the camera's offset and depth
change nothing. What it can't tell is how bright an object is, or how much brighter its structure is than noise: the
intensities do. It follows the exposure all the same: the dimmer an object, the more of its levels are noise.

An object's co-occurrence matrix is mostly zeros: only the pairs that occur are visited.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from plateflow.compiled import compiled
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume
from plateflow.features.intensity import select

LEVELS = 256
TAIL, FEWEST = 200, 50
"""Of every TAIL pixels, rounded up, one at either end is clipped; none in objects of fewer than FEWEST pixels."""
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
_ROW = np.dtype([(name, np.float64) for name in _TABLE])
_STEPS = np.array([[0, 1], [1, 1], [1, 0], [1, -1]])
"""The directions, as y and x: along a row, down right, down, down left."""


def _features(channels: Sequence[str], ndim: int, scales: Sequence[int]) -> list[Feature]:
    """The columns for distances of pairs in px."""
    return [
        Feature(
            name=f"Texture_{name}",
            unit="1",
            definition=f"{text} (levels of the object's own range); pairs {scale} px apart, direction {direction}",
            channel=channel,
            suffix=f"{scale}_{direction:02d}_{LEVELS}",
        )
        for channel in channels
        for scale in scales
        for direction in range(len(_STEPS))
        for name, text in _TABLE.items()
    ]


def _measure(regions: Regions, image: Image, scales: Sequence[int]) -> Values:
    """Measure grey levels, 1 to 255; an object of one intensity has one. Without pairs in one direction all are NaN."""
    items = len(image) * len(scales) * len(_STEPS)
    rows = regions.each(_haralick, items, image, np.array(scales), row=_ROW)
    values = rows.view(np.float64)
    by_scale = values.reshape(len(rows), len(image) * len(scales), len(_STEPS) * len(_TABLE))
    by_scale[np.isnan(by_scale).any(axis=2)] = np.nan
    return values


TEXTURE = Family(name="texture", features=_features, measure=_measure)


@compiled
def _haralick(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows, scales: Integers) -> None:
    _, height, width = volume.shape
    level = np.zeros(pixels.max() - pixels.min() + 1 if len(pixels) else 0, np.uint8)
    offset = np.int64(pixels.min()) if len(pixels) else 0
    counts = np.zeros(LEVELS * LEVELS, np.int64)
    pairs = np.empty(LEVELS * LEVELS, np.int64)
    logs = np.log2(np.arange(2 * len(pixels) + 2) + 0.0)
    logs[0] = 0
    for index in range(len(rows)):
        inside = pixels[starts[index] : starts[index + 1]]
        item = rows[index].reshape(len(values), len(scales), len(_STEPS))
        for channel in range(len(values)):
            own = values[channel, starts[index] : starts[index + 1]]
            ranked, clipped = own.copy(), -(-len(own) // TAIL) if len(own) >= FEWEST else 0
            low = select(ranked, 0, clipped)
            width_of_all = select(ranked, clipped, len(own) - 1 - clipped) - low
            top = LEVELS - 1 if width_of_all > 0 else 1
            for k in range(len(inside)):
                share = min(max((own[k] - low) / width_of_all, 0.0), 1.0) if width_of_all > 0 else 0.0
                level[inside[k] - offset] = np.uint8(1 + np.rint((LEVELS - 2) * share))
            for scale in range(len(scales)):
                for step in range(len(_STEPS)):
                    dy, dx = scales[scale] * _STEPS[step, 0], scales[scale] * _STEPS[step, 1]
                    n = total = 0
                    for pixel in inside:
                        y, x = pixel // width + dy, pixel % width + dx
                        if y >= height or x < 0 or x >= width:
                            continue
                        if volume[0, y, x] != volume[0, y - dy, x - dx]:
                            continue
                        a, b = np.int64(level[pixel - offset]), np.int64(level[y * width + x - offset])
                        pair = min(a, b) * LEVELS + max(a, b)
                        if counts[pair] == 0:
                            pairs[n] = pair
                            n += 1
                        counts[pair] += 1
                        total += 1
                    if total == 0:
                        break
                    _thirteen(counts, pairs[:n], total, top + 1, logs, item[channel, scale, step])
                    for pair in pairs[:n]:
                        counts[pair] = 0


@compiled
def _thirteen(counts: Integers, pairs: Integers, total: int, levels: int, logs: Values, row: Any) -> None:
    """Compute the features from the counts of unordered pairs, each of which stands for two symmetric entries."""
    single = np.zeros(levels, np.int64)  # counts, here and below; they sum up to 2 * total
    sums = np.zeros(2 * levels, np.int64)
    differences = np.zeros(levels, np.int64)
    squares = both = entropy = products = inverse = 0.0
    entries = 2 * total
    for pair in pairs:
        a, b = pair // LEVELS, pair % LEVELS
        count = counts[pair]
        mirrored, each = (1, 2 * count) if a == b else (2, count)
        squares += mirrored * (each / entries) ** 2
        entropy += mirrored * each * logs[each]
        products += 2.0 * count * a * b
        inverse += 2.0 * count / (1 + (a - b) ** 2)
        single[a] += count
        single[b] += count
        sums[a + b] += 2 * count
        differences[b - a] += 2 * count
    log_entries = logs[entries]
    mean = mean_sum = 0.0
    for k in range(levels):
        mean += k * single[k]
        both += single[k] * logs[single[k]]
    mean /= entries
    for k in range(2 * levels):
        mean_sum += k * sums[k]
    mean_sum /= entries
    variance = sum_variance = contrast = spread = 0.0
    sum_entropy = difference_entropy = 0.0
    for k in range(levels):
        variance += (k - mean) ** 2 * single[k]
        contrast += k * k * differences[k]
        spread += (differences[k] / entries - 1 / levels) ** 2
        difference_entropy += differences[k] * logs[differences[k]]
    for k in range(2 * levels):
        sum_variance += (k - mean_sum) ** 2 * sums[k]
        sum_entropy += sums[k] * logs[sums[k]]
    variance /= entries
    entropy = log_entries - entropy / entries
    single_entropy = log_entries - both / entries
    row.AngularSecondMoment = squares
    row.Contrast = contrast / entries
    row.Correlation = 1.0 if variance == 0 else (products / entries - mean * mean) / variance
    row.Variance = variance
    row.InverseDifferenceMoment = inverse / entries
    row.SumAverage = mean_sum
    row.SumVariance = sum_variance / entries
    row.SumEntropy = log_entries - sum_entropy / entries
    row.Entropy = entropy
    row.DifferenceVariance = spread / levels
    row.DifferenceEntropy = log_entries - difference_entropy / entries
    row.InfoMeas1 = entropy - 2 * single_entropy
    if single_entropy != 0:
        row.InfoMeas1 /= single_entropy
    row.InfoMeas2 = np.sqrt(max(1 - np.exp(-2 * (2 * single_entropy - entropy)), 0.0))
