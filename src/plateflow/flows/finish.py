"""From painted labels to the final ones, in place: boxes, holes and numbers.

Labels may lie in a file: bands of rows and boxes of objects are worked on, and their pages released.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.flows.blocks import release_pages
from plateflow.flows.targets import Boxes, Labels, as_volume, grow_boxes

# A band has at most this many pixels.
_BAND = 1 << 22
# Objects in which holes are looked for at a time: close to each other, as they are in raster order.
_GROUP = 512

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Painted:
    """What is known of the objects of a canvas when its labels are painted: 1..n by the raster order of their seeds.

    Attributes:
        seed: flat pixels, ascending.
        area: pixels; 0 if another seed got them all.
        boxes: `targets.find_boxes`.
        sums: of errors and probabilities, ``(n, 3)`` (`flow_error`); 0 for objects that aren't measured.
        holed: whether an object has holes; ``None`` if nobody has looked.
    """

    seed: NDArray[np.int64]
    area: NDArray[np.int64]
    boxes: Boxes
    sums: NDArray[np.int64]
    holed: NDArray[np.bool_] | None


def as_labels(out: NDArray[np.uint32]) -> Labels:
    """The labels while they are made: int32, with a z axis, as a plain array."""
    return as_volume(np.asarray(out).view(np.int32))


def each(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``work`` of each item in order, from threads if there are several workers."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, items)


def find_boxes_by_band(out: NDArray[np.uint32], n: int) -> Boxes:
    """Find the boxes of labels 1..n."""
    boxes = np.zeros((n, 6), np.int64)
    for band in _bands(out):
        grow_boxes(as_labels(out), *band, boxes)
        release_pages(out)
    return boxes


def fill_holes(
    out: NDArray[np.uint32],
    boxes: Boxes,
    kept: NDArray[np.bool_],
    area: NDArray[np.int64],
    workers: int,
    holed: NDArray[np.bool_] | None = None,
) -> None:
    """Fill the holes of the kept objects; their areas are updated.

    Pixels of objects that aren't kept count as unlabelled. Where holes lie in each other the smallest object gets the
    pixels, of equal ones the first in raster order: it comes last.
    """
    labels, objects = as_labels(out), np.flatnonzero(kept)

    def with_holes(group: NDArray[np.int64]) -> NDArray[np.int64]:
        result = group[_have_holes(labels, boxes, group, out.ndim, area)]
        release_pages(out)
        return result

    if holed is None:
        groups = np.array_split(objects, max(1, -(-objects.size // _GROUP)))
        objects = np.concatenate([*each(with_holes, groups, workers)])
    else:  # whoever painted has looked
        objects = objects[holed[objects]]
    for i in objects[np.lexsort((-objects, -area[objects]))]:
        _fill_holes(labels, boxes[i], i, out.ndim, kept, area)
        release_pages(out)


def renumber(out: NDArray[np.uint32], kept: NDArray[np.bool_], first: int, workers: int) -> None:
    """Number the kept objects from ``first`` on, and remove the others."""
    numbers = np.zeros(kept.size + 1, np.int32)
    numbers[1:][kept] = np.arange(first, first + kept.sum())

    def renumber_band(band: tuple[int, int]) -> None:
        _renumber(as_labels(out)[:, slice(*band)], numbers)
        release_pages(out)

    list(each(renumber_band, _bands(out), workers))


def _bands(out: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    depth, height, width = as_labels(out).shape
    return pairwise([*range(0, height, max(1, min(256, _BAND // (depth * width)))), height])


@compiled
def _have_holes(
    labels: Labels, boxes: Boxes, objects: NDArray[np.int64], ndim: int, area: NDArray[np.int64]
) -> NDArray[np.bool_]:
    result = np.empty(objects.size, np.bool_)
    for k in range(objects.size):
        i = objects[k]
        result[k] = _find_holes(labels, boxes[i], i, ndim, area[i]).size > 0
    return result


@compiled
def _fill_holes(
    labels: Labels, box: NDArray[np.int64], i: int, ndim: int, kept: NDArray[np.bool_], area: NDArray[np.int64]
) -> None:
    """Fill the holes of object i.

    A filled pixel gets the label's negative, so that it still counts as unlabelled for the objects that come later.
    """
    holes = _find_holes(labels, box, i, ndim, area[i])
    if holes.size == 0:
        return
    z0, z1, y0, y1, x0, x1 = box
    row = x1 - x0 + 2
    plane = (y1 - y0 + 2) * row
    for z in range(z0, z1):
        for y in range(y0, y1):
            p = (z - z0 + 1) * plane + (y - y0 + 1) * row + 1
            for x in range(x0, x1):
                old = labels[z, y, x]
                if holes[p] and (old <= 0 or not kept[old - 1]):
                    labels[z, y, x] = -(i + 1)
                    area[i] += 1
                    if old != 0:
                        area[abs(old) - 1] -= 1
                p += 1


@compiled
def _find_holes(labels: Labels, box: NDArray[np.int64], i: int, ndim: int, area: int) -> NDArray[np.bool_]:
    """Find the pixels in object i's box, with a border of one pixel, flat, that are in its holes; empty without any.

    A hole is what isn't reached from the rim of the box through pixels that aren't the object's, by their 4 neighbours
    (6 in three dimensions). Filled holes of other objects don't matter.
    """
    z0, z1, y0, y1, x0, x1 = box
    size = (z1 - z0) * (y1 - y0) * (x1 - x0)
    row = x1 - x0 + 2
    plane = (y1 - y0 + 2) * row
    holes = np.zeros((z1 - z0 + 2) * plane if size > area else 0, np.bool_)
    if size == area:
        return holes
    stack = np.empty(size - area, np.int64)
    reached, top = 0, 0
    for z in range(z0, z1):
        for y in range(y0, y1):
            p = (z - z0 + 1) * plane + (y - y0 + 1) * row + 1
            rim = y == y0 or y == y1 - 1 or (ndim == 3 and (z == z0 or z == z1 - 1))
            for x in range(x0, x1):
                if labels[z, y, x] != i + 1:
                    if rim or x == x0 or x == x1 - 1:
                        stack[top] = p
                        top += 1
                    else:
                        holes[p] = True
                p += 1
    while top > 0:
        top -= 1
        p = stack[top]
        reached += 1
        for q in (p - 1, p + 1, p - row, p + row, p - plane, p + plane):
            if holes[q]:
                holes[q] = False
                stack[top] = q
                top += 1
    return holes if reached < size - area else holes[:0]


@compiled
def _renumber(labels: Labels, numbers: NDArray[np.int32]) -> None:
    """Replace labels (and the negatives that mark filled pixels) by ``numbers[label]``, in place."""
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                labels[z, y, x] = numbers[abs(labels[z, y, x])]
