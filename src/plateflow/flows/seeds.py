"""Seeds and basins: where paths gather, and which end pixels belong to which seed.

End pixels are few (paths converge), so the histogram of a canvas is kept as the sorted list of its pixels that aren't
0. Every question is local to a neighbourhood in it, and no step needs memory for the whole canvas.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.flows.blocks import Points
from plateflow.flows.scalar import is_greater

Flat = NDArray[np.int64]
Owner = NDArray[np.int32]

# A seed has more endpoints than SEED_COUNT, each pixel of a basin more than BASIN_COUNT; a basin extends REACH pixels.
SEED_COUNT = 10
BASIN_COUNT = 2
REACH = 5
# Endpoints of a block are counted and looked up in a table of their bounding box, unless paths led so far that it would
# be larger than this many pixels; then by sorting and searching.
_TABLE = 1 << 24


@dataclass(frozen=True)
class EndpointCounts:
    """How many paths end where.

    Attributes:
        shape: of the canvas, ``(Z, Y, X)``.
        pixels: those where a path ends, as flat indices in the canvas, ascending.
        counts: of the paths that end there.
    """

    shape: tuple[int, int, int]
    pixels: Flat
    counts: Flat

    @cached_property
    def rows(self) -> Flat:
        """Where each row ``(z, y)`` of the canvas starts in the list."""
        depth, height, width = self.shape
        return np.searchsorted(self.pixels, np.arange(depth * height + 1) * width)


def count_endpoints(points: Points, shape: tuple[int, int, int]) -> tuple[Flat, Flat]:
    """Count the end pixels ``(3, n)`` of one block of a canvas: flat pixels in ascending order, and their counts."""
    if points.shape[1] == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low, high = _box(points)
    if np.prod(high - low) > _TABLE:
        return np.unique(_flat(points, shape), return_counts=True)
    table = np.zeros(high - low, np.int32)
    _count(points, low, table)
    where = np.flatnonzero(table)
    local = np.unravel_index(where, table.shape)
    return _flat(np.stack(local) + low[:, None], shape), table.reshape(-1)[where].astype(np.int64)


def merge_counts(parts: Iterable[tuple[Flat, Flat]], shape: tuple[int, int, int]) -> EndpointCounts:
    """Add up the counts of blocks: an integer sum, so their order doesn't matter."""
    pixels, counts = (np.concatenate(p) for p in zip(*parts, strict=True))
    order = np.argsort(pixels, kind="stable")
    pixels, counts = pixels[order], counts[order]
    first = np.flatnonzero(np.diff(pixels, prepend=-1))
    return EndpointCounts(shape, pixels[first], np.add.reduceat(counts, first) if first.size else counts)


def find_seeds(counts: EndpointCounts) -> Flat:
    """List the seeds, the least first, as indices into the counts.

    A seed has the greatest count in its neighbourhood of 5 pixels per axis. Of two equal counts the one that comes
    first in raster order is greater.
    """
    seeds = np.flatnonzero(_are_greatest(counts.pixels, counts.counts, counts.rows, np.array(counts.shape)))
    return seeds[np.lexsort((-seeds, counts.counts[seeds]))]


def find_basins(counts: EndpointCounts, seeds: Flat) -> Owner:
    """Give each end pixel the number (1, 2, ... in the order of ``seeds``) of the greatest seed that claims it."""
    owner = np.zeros(counts.pixels.size, np.int32)
    _claim(counts.pixels, counts.counts, counts.rows, np.array(counts.shape), seeds, owner)
    return owner


def look_up(points: Points, counts: EndpointCounts, owner: Owner) -> Owner:
    """Find the owner of each end pixel ``(3, n)``."""
    if points.shape[1] == 0:
        return np.zeros(0, np.int32)
    low, high = _box(points)
    if np.prod(high - low) > _TABLE:
        return owner[np.searchsorted(counts.pixels, _flat(points, counts.shape))]
    values = np.empty(points.shape[1], np.int32)
    table = np.zeros(high - low, np.int32)
    _look_up(points, low, table, counts.pixels, counts.rows, np.array(counts.shape), owner, values)
    return values


def _box(points: Points) -> tuple[Flat, Flat]:
    """The first pixel of the points' bounding box, and the one behind its last."""
    return points.min(1).astype(np.int64), points.max(1).astype(np.int64) + 1


def _flat(points: NDArray[np.integer], shape: tuple[int, int, int]) -> Flat:
    z, y, x = points.astype(np.int64)
    return (z * shape[1] + y) * shape[2] + x


@compiled
def _count(points: Points, low: Flat, table: NDArray[np.int32]) -> None:
    for i in range(points.shape[1]):
        table[points[0, i] - low[0], points[1, i] - low[1], points[2, i] - low[2]] += 1


@compiled
def _look_up(
    points: Points, low: Flat, table: Owner, pixels: Flat, rows: Flat, shape: Flat, owner: Owner, values: Owner
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
        values[i] = table[points[0, i] - low[0], points[1, i] - low[1], points[2, i] - low[2]]


@compiled
def _first(pixels: Flat, start: int, stop: int, pixel: int) -> int:
    """Find the first index in ``start..stop`` whose pixel is at least ``pixel``."""
    while start < stop:
        middle = (start + stop) >> 1
        if pixels[middle] < pixel:
            start = middle + 1
        else:
            stop = middle
    return start


@compiled
def _are_greatest(pixels: Flat, counts: Flat, rows: Flat, shape: Flat) -> NDArray[np.bool_]:
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
                    if is_greater(counts[k], pixels[k], count, pixel):
                        greatest[i] = False
    return greatest


@compiled
def _claim(pixels: Flat, counts: Flat, rows: Flat, shape: Flat, seeds: Flat, owner: Owner) -> None:
    """Grow each seed over its neighbours with enough endpoints, ``REACH`` times; later seeds are greater and win."""
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
