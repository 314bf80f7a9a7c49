"""Which objects are kept, and their pixels: flow error, cell probability, holes. One object at a time, in its box."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows.blocks import Bits
from plateflow.flows.targets import Labels, as_volume, compact_labels, diffuse, room, slope

__all__ = ["flow_error"]

Boxes = NDArray[np.int64]
Floats = NDArray[np.float64]


def flow_error(labels: NDArray[Any], flow: NDArray[Any]) -> Floats:
    """Compare a flow field with the one that the labels themselves would have (Cellpose's flow error).

    Parameters
    ----------
    labels
        Label image, axes ``YX`` or ``ZYX``; objects of one pixel or more, gaps allowed.
    flow
        Flow field in network units (5 x the unit target), ``(D, *labels.shape)``, order ``[dz,] dy, dx``.

    Returns
    -------
    For each label 1..max the mean over its pixels of the squared distance between ``flow / 5`` and its own unit target
    (:func:`plateflow.flows.flows_from_labels`); NaN where there is no such label. Sums are float64 in raster order.
    """
    labels = np.asarray(labels)
    top = int(labels.max(initial=0))
    compact, boxes = compact_labels(labels)
    if flow.shape != (compact.ndim, *compact.shape):
        raise ValueError(f"flow must have the shape {(compact.ndim, *compact.shape)} of these labels; got {flow.shape}")
    if flow.dtype == np.float16:
        flow = flow.astype(np.float32)
    volume = as_volume(compact)
    errors = np.full(len(boxes), np.nan)
    numbers = np.arange(1, len(boxes) + 1)
    measure_errors(volume, boxes, numbers, compact.ndim, flow.reshape(len(flow), *volume.shape), errors)
    if top == len(errors):
        return errors
    spread = np.full(top, np.nan)  # the labels were numbered anew
    spread[np.unique(labels[labels > 0]).astype(np.int64) - 1] = errors
    return spread


@njit(cache=True, nogil=True)
def measure_errors(
    labels: Labels, boxes: Boxes, numbers: NDArray[np.int64], ndim: int, flow: Any, errors: Floats
) -> None:
    """Fill the flow errors of the objects with these numbers and boxes, all in the coordinates of ``labels``."""
    memory = room(boxes, ndim)
    for i in range(len(boxes)):
        z0, z1, y0, y1, x0, x1 = boxes[i]
        if z1 == 0:
            continue
        heat, weight, first, row, plane = diffuse(labels, numbers[i], boxes[i], ndim, 0, memory)
        total, area = 0.0, 0
        for z in range(z0, z1):
            for y in range(y0, y1):
                base = first + (z - z0) * plane + (y - y0) * row - x0
                for x in range(x0, x1):
                    if weight[base + x] > 0.0:
                        dz, dy, dx = slope(heat, base + x, row, plane, ndim)
                        dy -= np.float64(flow[ndim - 2, z, y, x]) / 5.0
                        dx -= np.float64(flow[ndim - 1, z, y, x]) / 5.0
                        if ndim == 3:
                            dz -= np.float64(flow[0, z, y, x]) / 5.0
                        total += dz * dz + dy * dy + dx * dx
                        area += 1
        errors[i] = total / area


@njit(cache=True, nogil=True)
def mean_probability(
    labels: Labels, boxes: Boxes, numbers: NDArray[np.int64], logit: Bits, table: Floats, means: Floats
) -> None:
    """Fill the mean over each object of the logistic function (``table``, by the bits of the float16 logit)."""
    for i in range(len(boxes)):
        box = boxes[i]
        total, area = 0.0, 0
        for z in range(box[0], box[1]):
            for y in range(box[2], box[3]):
                for x in range(box[4], box[5]):
                    if labels[z, y, x] == numbers[i]:
                        total += table[logit[z, y, x]]
                        area += 1
        means[i] = total / max(area, 1)


@njit(cache=True, nogil=True)
def fill_holes(
    labels: Labels, boxes: Boxes, order: NDArray[np.int64], ndim: int, over: bool, area: NDArray[np.int64]
) -> None:
    """Fill the holes of objects in the given order of their indices; later ones win. Areas are brought up to date.

    A filled pixel gets the label's negative: so it stays known as unlabelled for the objects that come after. With
    ``over``, pixels of other objects in a hole are taken too, as Cellpose does.
    """
    known, stack = _flood_memory(boxes, order)
    for i in order:
        label = np.int32(i + 1)
        z0, z1, y0, y1, x0, x1 = boxes[i]
        if not _flood(labels, label, boxes[i], ndim, area[i], known, stack):
            continue
        row = x1 - x0 + 2
        plane = (y1 - y0 + 2) * row
        for z in range(z0, z1):
            for y in range(y0, y1):
                p = (z - z0 + 1) * plane + (y - y0 + 1) * row + 1
                for x in range(x0, x1):
                    old = labels[z, y, x]
                    if not known[p] and (old <= 0 or over):
                        labels[z, y, x] = label if over else -label
                        area[i] += 1
                        if old != 0:
                            area[abs(old) - 1] -= 1
                    p += 1


@njit(cache=True, nogil=True)
def have_holes(
    labels: Labels, boxes: Boxes, some: NDArray[np.int64], ndim: int, area: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say which of some objects, given by their indices, have holes; what was filled in others changes nothing."""
    known, stack = _flood_memory(boxes, some)
    found = np.empty(some.size, np.bool_)
    for k in range(some.size):
        i = some[k]
        found[k] = _flood(labels, np.int32(i + 1), boxes[i], ndim, area[i], known, stack)
    return found


@njit(cache=True, nogil=True)
def _flood_memory(boxes: Boxes, some: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    largest = 0
    for i in some:
        z0, z1, y0, y1, x0, x1 = boxes[i]
        largest = max(largest, (z1 - z0 + 2) * (y1 - y0 + 2) * (x1 - x0 + 2))
    return np.empty(largest, np.bool_), np.empty(largest, np.int64)


@njit(cache=True, nogil=True)
def _flood(
    labels: Labels,
    label: np.int32,
    box: NDArray[np.int64],
    ndim: int,
    area: int,
    known: NDArray[np.bool_],
    stack: NDArray[np.int64],
) -> bool:
    """Whether an object has holes. In its box with a border of one pixel, flat, ``known`` is False in them then."""
    z0, z1, y0, y1, x0, x1 = box
    size = (z1 - z0) * (y1 - y0) * (x1 - x0)
    if size == area:
        return False
    # Known is what is the object, or reached from the rim of the box.
    row = x1 - x0 + 2
    plane = (y1 - y0 + 2) * row
    known[: (z1 - z0 + 2) * plane] = True
    reached, top = area, 0
    for z in range(z0, z1):
        for y in range(y0, y1):
            p = (z - z0 + 1) * plane + (y - y0 + 1) * row + 1
            rim = y == y0 or y == y1 - 1 or (ndim == 3 and (z == z0 or z == z1 - 1))
            for x in range(x0, x1):
                if labels[z, y, x] != label:
                    if rim or x == x0 or x == x1 - 1:
                        stack[top] = p
                        top += 1
                    else:
                        known[p] = False
                p += 1
    while top > 0:
        top -= 1
        p = stack[top]
        reached += 1
        for q in (p - 1, p + 1, p - row, p + row, p - plane, p + plane):
            if not known[q]:
                known[q] = True
                stack[top] = q
                top += 1
    return reached != size


@njit(cache=True, nogil=True)
def clear(labels: Labels, boxes: Boxes, gone: NDArray[np.int64]) -> None:
    """Remove objects by their indices."""
    for i in gone:
        box = boxes[i]
        for z in range(box[0], box[1]):
            for y in range(box[2], box[3]):
                for x in range(box[4], box[5]):
                    if labels[z, y, x] == i + 1:
                        labels[z, y, x] = 0


@njit(cache=True, nogil=True)
def renumber(labels: Labels, numbers: NDArray[np.int32]) -> None:
    """Replace labels (and the negatives that mark filled pixels) by ``numbers[label]``, in place."""
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                labels[z, y, x] = numbers[abs(labels[z, y, x])]
