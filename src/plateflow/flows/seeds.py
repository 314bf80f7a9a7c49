"""Seeds and basins: where paths gather, and which end pixels belong to which seed.

End pixels are few (paths converge), so the histogram of a canvas is kept as the sorted list of its pixels that aren't
0; every question is local to a window of it, and no step needs memory for the canvas.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Points = NDArray[np.int32]
Flat = NDArray[np.int64]

# A seed has more end points than this, a pixel of a basin more than that, and a basin reaches so far from its seed.
SEED_COUNT = 10
BASIN_COUNT = 2
REACH = 5
# Ends of a block are counted and looked up in a table of their bounding box, unless paths led so far that it would be
# larger than this many pixels; then by sorting and searching.
_TABLE = 1 << 24


@dataclass(frozen=True)
class EndCounts:
    """How many paths end where: pixels (flat index in the canvas) in ascending order, and their counts."""

    shape: tuple[int, int, int]
    pixels: Flat
    counts: Flat

    def rows(self) -> Flat:
        """Where each row ``(z, y)`` of the canvas starts in the list."""
        depth, height, width = self.shape
        return np.searchsorted(self.pixels, np.arange(depth * height + 1) * width)


def count_ends(ends: Points, shape: tuple[int, int, int]) -> tuple[Flat, Flat]:
    """Count the end pixels of one block, ``(D, n)``: flat pixels in ascending order, counts."""
    if ends.shape[1] == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    points = _three(ends)
    low, high = points.min(1).astype(np.int64), points.max(1).astype(np.int64) + 1
    if (low < 0).any() or (high > shape).any():
        raise ValueError(f"end pixels lie outside their canvas of {shape}: are they of another canvas or run?")
    if np.prod(high - low) > _TABLE:
        return np.unique(_flat(points, shape), return_counts=True)
    table = np.zeros(high - low, np.int32)
    _count(points, low, table)
    where = np.flatnonzero(table)
    local = np.unravel_index(where, table.shape)
    return _flat(np.stack(local) + low[:, None], shape), table.reshape(-1)[where].astype(np.int64)


def merge_counts(parts: Iterable[tuple[Flat, Flat]], shape: tuple[int, int, int]) -> EndCounts:
    """Add up the counts of blocks: an integer sum, so their order doesn't matter."""
    pixels, counts = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(pixels, kind="stable")
    pixels, counts = pixels[order], counts[order]
    first = np.flatnonzero(np.diff(pixels, prepend=-1))
    return EndCounts(shape, pixels[first], np.add.reduceat(counts, first) if first.size else counts)


def find_seeds(ends: EndCounts, *, ties: bool = False) -> NDArray[np.int64]:
    """List the seeds in ascending order of (count, then the smaller z, y, x is greater), as indices into the counts.

    With ``ties``, pixels of equal counts within one window are all seeds, as in Cellpose.
    """
    seeds = np.flatnonzero(_are_greatest(ends.pixels, ends.counts, ends.rows(), np.array(ends.shape), ties))
    return seeds[np.lexsort((-seeds, ends.counts[seeds]))]


def find_basins(ends: EndCounts, seeds: NDArray[np.int64]) -> NDArray[np.int32]:
    """Give each end pixel the number (1, 2, ... in the order of ``seeds``) of the greatest seed that claims it."""
    owner = np.zeros(ends.pixels.size, np.int32)
    _claim(ends.pixels, ends.counts, ends.rows(), np.array(ends.shape), seeds, owner)
    return owner


def look_up(points: Points, ends: EndCounts, rows: Flat, owner: NDArray[np.int32]) -> NDArray[np.int32]:
    """Find the owner of each end pixel ``(D, n)``."""
    if points.shape[1] == 0:
        return np.zeros(0, np.int32)
    points = _three(points)
    low, high = points.min(1).astype(np.int64), points.max(1).astype(np.int64) + 1
    if np.prod(high - low) > _TABLE:
        return owner[np.searchsorted(ends.pixels, _flat(points, ends.shape))]
    found = np.empty(points.shape[1], np.int32)
    table = np.zeros(high - low, np.int32)
    _look_up(points, low, table, ends.pixels, rows, np.array(ends.shape), owner, found)
    return found


def _three(points: Points) -> Points:
    return points if len(points) == 3 else np.concatenate([np.zeros_like(points[:1]), points])


def _flat(points: NDArray[np.integer], shape: tuple[int, int, int]) -> Flat:
    z, y, x = points.astype(np.int64)
    return (z * shape[1] + y) * shape[2] + x


@njit(cache=True, nogil=True)
def _count(points: Points, low: Flat, table: NDArray[np.int32]) -> None:
    for i in range(points.shape[1]):
        table[points[0, i] - low[0], points[1, i] - low[1], points[2, i] - low[2]] += 1


@njit(cache=True, nogil=True)
def _look_up(
    points: Points,
    low: Flat,
    table: NDArray[np.int32],
    pixels: Flat,
    rows: Flat,
    shape: Flat,
    owner: NDArray[np.int32],
    found: NDArray[np.int32],
) -> None:
    for z in range(table.shape[0]):
        for y in range(table.shape[1]):
            row = (z + low[0]) * shape[1] + y + low[1]
            base = row * shape[2] + low[2]
            for k in range(_first(pixels, rows[row], rows[row + 1], base), rows[row + 1]):
                if pixels[k] - base >= table.shape[2]:
                    break
                table[z, y, pixels[k] - base] = owner[k]
    for i in range(points.shape[1]):
        found[i] = table[points[0, i] - low[0], points[1, i] - low[1], points[2, i] - low[2]]


@njit(cache=True, nogil=True)
def _first(pixels: Flat, start: int, stop: int, pixel: int) -> int:
    """Find the first index in ``start..stop`` whose pixel is at least ``pixel``."""
    while start < stop:
        middle = (start + stop) >> 1
        if pixels[middle] < pixel:
            start = middle + 1
        else:
            stop = middle
    return start


@njit(cache=True, nogil=True)
def _are_greatest(pixels: Flat, counts: Flat, rows: Flat, shape: Flat, ties: bool) -> NDArray[np.bool_]:
    depth, height, width = shape
    greatest = counts > SEED_COUNT
    for i in range(pixels.size):
        if not greatest[i]:
            continue
        pixel, count = pixels[i], counts[i]
        z, y, x = pixel // (height * width), pixel // width % height, pixel % width
        for row_z in range(max(z - 2, 0), min(z + 3, depth)):
            for row_y in range(max(y - 2, 0), min(y + 3, height)):
                row = row_z * height + row_y
                base = row * width
                for k in range(_first(pixels, rows[row], rows[row + 1], base + x - 2), rows[row + 1]):
                    if pixels[k] > base + x + 2:
                        break
                    if counts[k] > count or (counts[k] == count and pixels[k] < pixel and not ties):
                        greatest[i] = False
    return greatest


@njit(cache=True, nogil=True)
def _claim(pixels: Flat, counts: Flat, rows: Flat, shape: Flat, seeds: Flat, owner: NDArray[np.int32]) -> None:
    """Grow each seed over its neighbours with enough end points, ``REACH`` times; later seeds are greater and win."""
    depth, height, width = shape
    queue = np.empty((2 * REACH + 1) ** 3, np.int64)
    seen = np.zeros(pixels.size, np.int32)
    for s in range(seeds.size):
        queue[0] = seeds[s]
        seen[seeds[s]] = s + 1
        first, last = 0, 1
        for _ in range(REACH):
            end = last
            for q in range(first, end):
                pixel = pixels[queue[q]]
                z, y, x = pixel // (height * width), pixel // width % height, pixel % width
                for row_z in range(max(z - 1, 0), min(z + 2, depth)):
                    for row_y in range(max(y - 1, 0), min(y + 2, height)):
                        row = row_z * height + row_y
                        base = row * width
                        for k in range(_first(pixels, rows[row], rows[row + 1], base + x - 1), rows[row + 1]):
                            if pixels[k] > base + x + 1:
                                break
                            if seen[k] != s + 1 and counts[k] > BASIN_COUNT:
                                seen[k] = s + 1
                                queue[last] = k
                                last += 1
            first = end
        for q in range(last):
            owner[queue[q]] = s + 1
