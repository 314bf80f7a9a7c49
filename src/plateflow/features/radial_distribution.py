"""How intensity is spread from an object's middle to its edge, CellProfiler's MeasureObjectIntensityDistribution.

Rings and wedges are of the shape alone: they are found once an object and serve all channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features import geometry
from plateflow.features.feature import Feature, Regions, Values

RINGS = 4
_TABLE = {
    "FracAtD": "part of the object's intensity that lies in ring {} of {}, from the middle",
    "MeanFrac": "that part over the part of the pixels in the ring {} of {}; NaN if it has none",
    "RadialCV": "coefficient of variation of the means of the eight wedges of ring {} of {}; NaN if it has no pixel",
}


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [
        Feature(
            name=f"RadialDistribution_{name}",
            family="radial_distribution",
            unit="1",
            definition=text.format(ring, RINGS),
            channel=channel,
            suffix=f"{ring}of{RINGS}",
        )
        for channel in channels
        for name, text in _TABLE.items()
        for ring in range(1, RINGS + 1)
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`.

    The middle is the pixel farthest from the edge; the image's border is none, so an object that fills the image is
    NaN. A pixel's ring follows from its distance to the middle, along steps inside the object, over that plus its
    distance to the edge. Pixels without a way to the middle don't count.
    """
    return [regions.each(_radial, len(image) * 3 * RINGS, image) for regions in sets]


@njit(cache=True, nogil=True)
def _walk(mask: NDArray[np.uint8], start: int) -> Values:
    """Length of the shortest way from a pixel to each other one inside the mask, in steps of 1 and √2 (Dijkstra's
    algorithm); infinite where there is none. The mask's margin is no way."""
    height, width = mask.shape
    distance = np.full(height * width, np.inf)
    flat = mask.ravel()
    heap_value, heap_pixel = np.empty(9 * flat.sum() + 1), np.empty(9 * flat.sum() + 1, np.int64)
    heap_value[0], heap_pixel[0], n = 0.0, start, 1
    distance[start] = 0
    while n:
        value, pixel = heap_value[0], heap_pixel[0]
        n -= 1
        _sift(heap_value, heap_pixel, n)
        if value > distance[pixel]:
            continue
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                y, x = pixel // width + dy, pixel % width + dx
                if y < 1 or x < 1 or y >= height - 1 or x >= width - 1 or not mask[y, x]:
                    continue
                there = y * width + x
                way = value + (np.sqrt(2.0) if dy and dx else 1.0)
                if way < distance[there]:
                    distance[there] = way
                    _push(heap_value, heap_pixel, n, way, there)
                    n += 1
    return distance


@njit(cache=True, nogil=True)
def _push(values: Values, pixels: NDArray[np.int64], n: int, value: float, pixel: int) -> None:
    while n and values[(n - 1) // 2] > value:
        values[n], pixels[n] = values[(n - 1) // 2], pixels[(n - 1) // 2]
        n = (n - 1) // 2
    values[n], pixels[n] = value, pixel


@njit(cache=True, nogil=True)
def _sift(values: Values, pixels: NDArray[np.int64], n: int) -> None:
    """Put the heap's last entry, number n, in the place of its first."""
    value, pixel, k = values[n], pixels[n], 0
    while 2 * k + 1 < n:
        child = 2 * k + 1
        if child + 1 < n and values[child + 1] < values[child]:
            child += 1
        if values[child] >= value:
            break
        values[k], pixels[k] = values[child], pixels[child]
        k = child
    values[k], pixels[k] = value, pixel


@njit(cache=True, nogil=True)
def _radial(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    _, height, width = volume.shape
    for index in range(len(out)):
        first = starts[index]
        mine = pixels[first : starts[index + 1]]
        mask, top, left = geometry.box_mask(mine, height, width, 1)
        squared = geometry.squared_distance(mask)
        middle_y = middle_x = farthest = 0
        for pixel in mine:
            y, x = pixel // width - top, pixel % width - left
            if squared[y, x] > farthest:
                farthest, middle_y, middle_x = squared[y, x], y, x
        if farthest >= geometry.FAR:
            continue
        distance = _walk(mask, middle_y * mask.shape[1] + middle_x)
        place = np.full(len(mine), -1, np.int64)  # ring and wedge
        for k in range(len(mine)):
            y, x = mine[k] // width - top, mine[k] % width - left
            way = distance[y * mask.shape[1] + x]
            if way < np.inf:
                ring = int(way / (way + np.sqrt(squared[y, x]) + 0.001) * RINGS)
                dy, dx = y - middle_y, x - middle_x
                place[k] = 8 * ring + (dy > 0) + 2 * (dx > 0) + 4 * (abs(dy) > abs(dx))
        counts = np.zeros((RINGS, 8))
        for k in range(len(mine)):
            if place[k] >= 0:
                counts[place[k] // 8, place[k] % 8] += 1
        found = out[index].reshape(len(values), 3, RINGS)
        for channel in range(len(values)):
            sums = np.zeros((RINGS, 8))
            for k in range(len(mine)):
                if place[k] >= 0:
                    sums[place[k] // 8, place[k] % 8] += values[channel, first + k]
            total = sums.sum()
            for ring in range(RINGS):
                inside = n_ring = mean = squares = 0.0
                wedges = 0
                for wedge in range(8):
                    inside += sums[ring, wedge]
                    n_ring += counts[ring, wedge]
                    if counts[ring, wedge]:
                        mean += sums[ring, wedge] / counts[ring, wedge]
                        wedges += 1
                if total != 0:
                    found[channel, 0, ring] = inside / total
                if not wedges:
                    continue
                found[channel, 1, ring] = found[channel, 0, ring] / (n_ring / counts.sum())
                mean /= wedges
                for wedge in range(8):
                    if counts[ring, wedge]:
                        squares += (sums[ring, wedge] / counts[ring, wedge] - mean) ** 2
                if mean != 0:
                    found[channel, 2, ring] = np.sqrt(squares / wedges) / mean
