"""From painted labels to the final ones: objects are measured, dropped, filled and numbered."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from plateflow.flows import quality
from plateflow.flows.blocks import let_go
from plateflow.flows.targets import Labels, as_volume, grow_boxes

# Rows are worked on in bands of at most so many pixels.
_BAND = 1 << 22
# What Cellpose takes for too large, as a share of the canvas.
_CELLPOSE_LARGEST = 0.4


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of a canvas in the order of their labels 1..n; arrays with an entry for each."""

    label: NDArray[np.uint32]
    seed: NDArray[np.int64]  # (n, D), canvas coordinates
    area: NDArray[np.int64]  # pixels, filled holes among them
    flow_error: NDArray[np.float64]  # NaN if the check is off
    cell_probability: NDArray[np.float64]  # mean over the pixels that lead to the seed


def finish(
    out: NDArray[np.uint32],
    seed: NDArray[np.int64],
    area: NDArray[np.int64],
    measure: Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]],
    flow_threshold: float,
    min_size: int,
    max_size: int | None,
    cellpose: bool,
    workers: int,
    first: int = 1,
) -> tuple[NDArray[np.uint32], Objects]:
    """Drop what is too large or wrong, fill holes, drop what is too small, and number, in place.

    ``measure`` gives the flow errors (NaN without the check) and cell probabilities of the objects kept so far, from
    their boxes.
    """
    ndim = out.ndim
    labels = as_labels(out)
    depth, height, width = labels.shape
    bands = [*range(0, height, max(1, min(256, _BAND // (depth * width)))), height]
    boxes = np.zeros((seed.size, 6), np.int64)
    for band in pairwise(bands):
        grow_boxes(labels, *band, boxes)
        let_go(out)
    if cellpose:
        max_size = int(_CELLPOSE_LARGEST * out.size)
    kept = area > 0
    if max_size is not None:
        kept &= area <= max_size
    check = flow_threshold is not None and flow_threshold > 0 and not (cellpose and ndim == 3)
    errors, probability = measure(boxes, kept, check)
    if check:
        kept &= ~(errors > flow_threshold)
    if cellpose:
        kept &= area >= min_size
    for some in _by_number(~kept & (area > 0)):
        quality.clear(labels, boxes, some)
        let_go(out)
    if cellpose:
        quality.fill_holes(labels, boxes, np.flatnonzero(kept), ndim, True, area)
    else:

        def have_holes(some: NDArray[np.int64]) -> NDArray[np.int64]:
            found = some[quality.have_holes(labels, boxes, some, ndim, area)]
            let_go(out)
            return found

        holed = np.concatenate([kept[:0].nonzero()[0], *each(have_holes, _by_number(kept), workers)])
        # Where holes lie in each other the smallest object wins, then the first in raster order: it comes last.
        for i in holed[np.lexsort((-holed, -area[holed]))]:
            quality.fill_holes(labels, boxes, np.array([i]), ndim, False, area)
            let_go(out)
    kept &= area >= max(min_size, 1)

    numbers = np.zeros(seed.size + 1, np.int32)
    numbers[1:][kept] = np.arange(first, first + kept.sum())

    def renumber(band: tuple[int, int]) -> None:
        quality.renumber(labels[:, slice(*band)], numbers)
        let_go(out)

    list(each(renumber, pairwise(bands), workers))
    return out, Objects(
        label=np.arange(first, first + kept.sum(), dtype=np.uint32),
        seed=np.stack(np.unravel_index(seed[kept], out.shape), -1),
        area=area[kept],
        flow_error=errors[kept],
        cell_probability=probability[kept],
    )


def as_labels(out: NDArray[np.uint32]) -> Labels:
    """The labels in work: int32, always with a z axis, a plain array whatever holds it."""
    return as_volume(np.asarray(out).view(np.int32))


def _by_number(which: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Indices of objects, a few at a time: they lie near each other, as they are in raster order."""
    chosen = np.flatnonzero(which)
    return np.array_split(chosen, -(-chosen.size // 512)) if chosen.size else []


def each(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``work`` of each item in order, from threads if there are several workers."""
    items = list(items)
    if workers <= 1 or len(items) < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(work, items)
