"""Granularity spectrum of CellProfiler's MeasureGranularity: how much signal each larger erosion removes.

The spectrum belongs to the image, not to objects: it is computed once per channel, at a quarter of the size, and each
step is averaged over the objects of all sets at once. Memory is that of a few quarter-size planes.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from plateflow.compiled import compiled
from plateflow.features.feature import THREADS, Family, Feature, Image, Integers, Pixels, Regions, Values

LENGTH = 16
_EVERY = 4
_RADIUS = 10


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    text = (
        "part, in percent, of the mean intensity that lies in grains taken away by erosion {}, at a quarter of the size"
    )
    return [
        Feature(name=f"Granularity_{step}", unit="%", definition=text.format(step), channel=channel)
        for channel in channels
        for step in range(1, LENGTH + 1)
    ]


def _measure(sets: Sequence[Regions], image: Image) -> list[Values]:
    """Measure spectra; NaN for images below 8 px, which have none, and for objects whose mean is not above 0."""
    from scipy.sparse import csr_array

    size = image.shape[1:]
    tables = [np.full((len(regions.numbers), len(image), LENGTH), np.nan) for regions in sets]
    if min(size) >= 2 * _EVERY and any(len(regions.numbers) for regions in sets):
        small = (size[0] // _EVERY, size[1] // _EVERY)
        entries = [_weights(regions.pixels, regions.starts, size[0], size[1], *small) for regions in sets]
        # Sums over each object of a small plane that is enlarged bilinearly: one sparse product per set.
        sums = [csr_array(e, shape=(len(r.numbers), small[0] * small[1])) for e, r in zip(entries, sets, strict=True)]

        def work(channel: int) -> None:
            plane = image[channel].ravel()
            previous = [regions.mean(plane[regions.pixels]) for regions in sets]
            first = [np.where(mean > 0, mean, np.nan) for mean in previous]
            for step, restored in enumerate(_steps(image[channel])):
                for k, regions in enumerate(sets):
                    current = sums[k] @ restored.ravel() / regions.areas
                    tables[k][:, channel, step] = (previous[k] - current) * 100 / first[k]
                    previous[k] = current

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(len(image))))
    return [table.reshape(len(table), len(image) * LENGTH) for table in tables]


GRANULARITY = Family(name="granularity", features=_features, measure=_measure, together=True)


def _steps(plane: Image) -> Iterator[Values]:
    """The small plane after each erosion, restored as far as the remains of each grain allow."""
    from scipy.ndimage import map_coordinates

    height, width = plane.shape[0] // _EVERY, plane.shape[1] // _EVERY
    small = plane[::_EVERY, ::_EVERY][:height, :width].astype(np.float64)
    # The background is an opening at a quarter of the quarter, with sizes rounded as in CellProfiler.
    background = -_minimum(-_minimum(np.ascontiguousarray(small[::_EVERY, ::_EVERY])))
    y, x = np.mgrid[0:height, 0:width].astype(float)
    y *= (height / _EVERY - 1) / (height - 1)
    x *= (width / _EVERY - 1) / (width - 1)
    small = np.maximum(small - map_coordinates(background, (y, x), order=1), 0)
    eroded, restored = small, small
    for _ in range(LENGTH):
        eroded = _erode(eroded)
        restored = _reconstruct(eroded, restored)
        yield restored


@compiled
def _minimum(image: Values) -> Values:
    """Minimum in a disk around each pixel; the part of the disk outside the image is ignored."""
    height, width = image.shape
    out = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            low = np.inf
            for v in range(max(y - _RADIUS, 0), min(y + _RADIUS + 1, height)):
                reach = int(np.sqrt(_RADIUS * _RADIUS - (v - y) ** 2))
                for u in range(max(x - reach, 0), min(x + reach + 1, width)):
                    low = min(low, image[v, u])
            out[y, x] = low
    return out


@compiled
def _erode(image: Values) -> Values:
    """Minimum of each pixel and its four neighbours."""
    height, width = image.shape
    out = np.empty((height, width))
    for y in range(height):
        up, down = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            low = min(image[y, x], image[up, x], image[down, x])
            out[y, x] = min(low, image[y, max(x - 1, 0)], image[y, min(x + 1, width - 1)])
    return out


@compiled
def _reconstruct(seed: Values, mask: Values) -> Values:
    """Reconstruction by dilation, 4-connected (the hybrid algorithm of Vincent, 1993)."""
    height, width = seed.shape
    out = seed.copy()
    for y in range(height):
        for x in range(width):
            value = out[y, x]
            if y:
                value = max(value, out[y - 1, x])
            if x:
                value = max(value, out[y, x - 1])
            out[y, x] = min(value, mask[y, x])
    queue = np.empty(height * width, np.int64)  # a ring: a pixel is in it once at most
    queued = np.zeros(height * width, np.bool_)
    first = n = 0
    for y in range(height - 1, -1, -1):
        for x in range(width - 1, -1, -1):
            value = out[y, x]
            if y < height - 1:
                value = max(value, out[y + 1, x])
            if x < width - 1:
                value = max(value, out[y, x + 1])
            value = out[y, x] = min(value, mask[y, x])
            if (y < height - 1 and out[y + 1, x] < min(value, mask[y + 1, x])) or (
                x < width - 1 and out[y, x + 1] < min(value, mask[y, x + 1])
            ):
                queue[n] = y * width + x
                queued[y * width + x] = True
                n += 1
    while n:
        pixel = queue[first]
        first = (first + 1) % len(queue)
        n -= 1
        queued[pixel] = False
        y, x = pixel // width, pixel % width
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            v, u = y + dy, x + dx
            if 0 <= v < height and 0 <= u < width and out[v, u] < min(out[y, x], mask[v, u]):
                out[v, u] = min(out[y, x], mask[v, u])
                if not queued[v * width + u]:
                    queue[(first + n) % len(queue)] = v * width + u
                    queued[v * width + u] = True
                    n += 1
    return out


@compiled
def _weights(
    pixels: Pixels, starts: Integers, height: int, width: int, small_height: int, small_width: int
) -> tuple[Values, Integers, Integers]:
    """The weight of each small pixel in each object's sum, as the three arrays of a CSR matrix.

    A pixel that rounding puts beyond the last small one has no weight, as in CellProfiler.
    """
    scale_y, scale_x = (small_height - 1) / (height - 1), (small_width - 1) / (width - 1)
    total = np.zeros(small_height * small_width)
    seen = np.zeros(small_height * small_width, np.bool_)
    data, columns = np.empty(1024), np.empty(1024, np.int64)
    stops = np.zeros(len(starts), np.int64)
    n = 0
    for index in range(len(starts) - 1):
        start = n
        for pixel in pixels[starts[index] : starts[index + 1]]:
            y, x = (pixel // width) * scale_y, (pixel % width) * scale_x
            if y > small_height - 1 or x > small_width - 1:
                continue
            top, left = int(y), int(x)
            part_y, part_x = y - top, x - left
            for corner in range(4):
                down, right = corner // 2, corner % 2
                weight = (part_y if down else 1 - part_y) * (part_x if right else 1 - part_x)
                if weight == 0:
                    continue
                column = (top + down) * small_width + left + right
                if not seen[column]:
                    seen[column] = True
                    if n == len(columns):
                        data = np.append(data, np.empty(n))
                        columns = np.append(columns, np.empty(n, np.int64))
                    columns[n] = column
                    n += 1
                total[column] += weight
        for k in range(start, n):
            data[k] = total[columns[k]]
            total[columns[k]] = 0
            seen[columns[k]] = False
        stops[index + 1] = n
    return data[:n], columns[:n], stops
