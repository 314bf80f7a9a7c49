"""Spread of intensity from an object's middle to its edge, as CellProfiler's MeasureObjectIntensityDistribution.

Rings and wedges depend on the shape alone: they are found once per object and serve all channels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.features import geometry
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

RINGS = 4
_TABLE = {
    "FracAtD": "part of the object's intensity that lies in ring {} of {}, from the middle",
    "MeanFrac": "that part over the part of the pixels in the ring {} of {}; NaN if it has none",
    "RadialCV": "coefficient of variation of the means of the eight wedges of ring {} of {}; NaN if it has no pixel",
}
_ROW = np.dtype([(name, np.float64, (RINGS,)) for name in _TABLE])


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return [
        Feature(
            name=f"RadialDistribution_{name}",
            unit="1",
            definition=text.format(ring, RINGS),
            channel=channel,
            suffix=f"{ring}of{RINGS}",
        )
        for channel in channels
        for name, text in _TABLE.items()
        for ring in range(1, RINGS + 1)
    ]


def _measure(regions: Regions, image: Image) -> Values:
    """Measure intensities in rings.

    The middle is the pixel farthest from the edge. The border of the image is not an edge, so an object that fills
    the image is NaN. A pixel's ring follows from its distance to the middle, along steps inside the object, divided by
    that plus its distance to the edge. Pixels without a path to the middle do not count.
    """
    return regions.each(_radial, len(image), image, row=_ROW).view(np.float64)


RADIAL_DISTRIBUTION = Family(name="radial_distribution", features=_features, measure=_measure)


@compiled
def _walk(mask: NDArray[np.uint8], start: int) -> Values:
    """Length of the shortest path inside the mask from a pixel to each other one, in steps of 1 and √2; infinite if
    there is none. No path leads through the mask's margin. A pixel's path is tried again when it became shorter."""
    height, width = mask.shape
    distance = np.full(height * width, np.inf)
    distance[start] = 0
    queue = np.empty(height * width, np.int64)  # a ring: a pixel is in it once at most
    queued = np.zeros(height * width, np.bool_)
    queue[0], first, n = start, 0, 1
    while n:
        pixel = queue[first]
        first = (first + 1) % len(queue)
        n -= 1
        queued[pixel] = False
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                y, x = pixel // width + dy, pixel % width + dx
                if y < 1 or x < 1 or y >= height - 1 or x >= width - 1 or not mask[y, x]:
                    continue
                neighbour = y * width + x
                length = distance[pixel] + (np.sqrt(2.0) if dy and dx else 1.0)
                if length < distance[neighbour]:
                    distance[neighbour] = length
                    if not queued[neighbour]:
                        queue[(first + n) % len(queue)] = neighbour
                        queued[neighbour] = True
                        n += 1
    return distance


@compiled
def _radial(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    _, height, width = volume.shape
    for index in range(len(rows)):
        first = starts[index]
        inside = pixels[first : starts[index + 1]]
        mask, top, left = geometry.box_mask(inside, height, width, 1)
        squared = geometry.squared_distance(mask)
        middle_y = middle_x = farthest = 0
        for pixel in inside:
            y, x = pixel // width - top, pixel % width - left
            if squared[y, x] > farthest:
                farthest, middle_y, middle_x = squared[y, x], y, x
        if farthest >= geometry.FAR:
            continue
        distance = _walk(mask, middle_y * mask.shape[1] + middle_x)
        place = np.full(len(inside), -1, np.int64)  # ring and wedge
        for k in range(len(inside)):
            y, x = inside[k] // width - top, inside[k] % width - left
            length = distance[y * mask.shape[1] + x]
            if length < np.inf:
                ring = int(length / (length + np.sqrt(squared[y, x]) + 0.001) * RINGS)
                dy, dx = y - middle_y, x - middle_x
                place[k] = 8 * ring + (dy > 0) + 2 * (dx > 0) + 4 * (abs(dy) > abs(dx))
        counts = np.zeros((RINGS, 8))
        for k in range(len(inside)):
            if place[k] >= 0:
                counts[place[k] // 8, place[k] % 8] += 1
        for channel in range(len(values)):
            row = rows[index, channel]
            sums = np.zeros((RINGS, 8))
            for k in range(len(inside)):
                if place[k] >= 0:
                    sums[place[k] // 8, place[k] % 8] += values[channel, first + k]
            total = sums.sum()
            for ring in range(RINGS):
                total_ring = n_ring = mean = squares = 0.0
                wedges = 0
                for wedge in range(8):
                    total_ring += sums[ring, wedge]
                    n_ring += counts[ring, wedge]
                    if counts[ring, wedge]:
                        mean += sums[ring, wedge] / counts[ring, wedge]
                        wedges += 1
                if total != 0:
                    row.FracAtD[ring] = total_ring / total
                if not wedges:
                    continue
                row.MeanFrac[ring] = row.FracAtD[ring] / (n_ring / counts.sum())
                mean /= wedges
                for wedge in range(8):
                    if counts[ring, wedge]:
                        squares += (sums[ring, wedge] / counts[ring, wedge] - mean) ** 2
                if mean != 0:
                    row.RadialCV[ring] = np.sqrt(squares / wedges) / mean
