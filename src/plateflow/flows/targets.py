"""Flow fields of label images: what the network is trained on, and what the quality check compares with.

The method is Cellpose's (Stringer et al., Nature Methods 2021): heat is fed into the centre of an object, diffuses
inside it, and the flow is the direction of the gradient. Two things differ on purpose. The number of steps follows each
object's own box, so that an object's flow doesn't depend on what else is in the image; and the gradient takes what lies
outside the object as 0, so that nothing leaks between labels that touch.
"""

# ruff: noqa: PLR0917  (compiled functions take their arguments by position)

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["flows_from_labels"]

Labels = NDArray[np.int32]
# What one pass of the diffusion keeps in the first-level cache: rows are updated in strips of about so many pixels.
_STRIP = 1024


def flows_from_labels(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the flow field that leads from every pixel of an object to its centre.

    Parameters
    ----------
    labels
        Label image, axes ``YX`` or ``ZYX``, integers; 0 (and below) is outside, gaps between labels are allowed.

    Returns
    -------
    Array of shape ``(D, *labels.shape)``, order ``[dz,] dy, dx``: unit vectors in pixels, 0 outside the objects and
    where the heat doesn't reach (pieces of an object that don't hang together with its centre).

    Raises
    ------
    ValueError
        If the labels aren't integers in two or three dimensions.
    """
    compact, boxes = compact_labels(labels)
    out = np.zeros((compact.ndim, *compact.shape), np.float32)
    volume = as_volume(compact)
    _targets(volume, boxes, 0, len(boxes), compact.ndim, out.reshape(compact.ndim, *volume.shape))
    return out


def as_volume(array: NDArray[Any]) -> NDArray[Any]:
    """Give a ``YX`` array a z axis of length one: the compiled code knows three axes only."""
    return array if array.ndim == 3 else array.reshape(1, *array.shape)


def compact_labels(labels: NDArray[Any]) -> tuple[Labels, NDArray[np.int64]]:
    """Return labels as contiguous int32 and the boxes of their objects.

    Boxes have a row for each label 1..max: ``z0, z1, y0, y1, x0, x1`` (ends exclusive), all 0 where there is no such
    label. Labels much larger than the image are numbered anew in ascending order.
    """
    labels = np.ascontiguousarray(labels)
    if labels.ndim not in (2, 3) or labels.dtype.kind not in "iub":
        raise ValueError(
            f"labels must be an integer array with axes YX or ZYX; got {labels.dtype} with shape {labels.shape}"
        )
    top = max(int(labels.max()), 0) if labels.size else 0
    if top > max(labels.size, 1024):
        values, inverse = np.unique(labels, return_inverse=True)
        shift = int(np.count_nonzero(values <= 0)) - 1
        labels = np.maximum(inverse.reshape(labels.shape) - shift, 0)
        top = int(labels.max())
    compact = labels.view(np.int32) if labels.dtype == np.uint32 else labels.astype(np.int32, copy=False)
    return compact, _boxes(as_volume(compact), top)


def each_object(work: Callable[[int, int], None], n: int, workers: int) -> None:
    """Call ``work(first, last)`` on runs of objects that cover ``range(n)``, in threads for several workers."""
    if workers <= 1 or n < 2:
        work(0, n)
        return
    step = max(1, n // (workers * 8))
    starts = range(0, n, step)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda first: work(first, min(first + step, n)), starts))


@njit(cache=True, nogil=True)
def _boxes(labels: Labels, top: int) -> NDArray[np.int64]:
    depth, height, width = labels.shape
    boxes = np.zeros((top, 6), np.int64)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = labels[z, y, x]
                if label > 0:
                    box = boxes[label - 1]
                    if box[1] == 0:
                        box[0], box[1], box[2], box[3], box[4], box[5] = z, z + 1, y, y + 1, x, x + 1
                    else:
                        box[1] = z + 1
                        box[2] = min(box[2], y)
                        box[3] = max(box[3], y + 1)
                        box[4] = min(box[4], x)
                        box[5] = max(box[5], x + 1)
    return boxes


@njit(cache=True, nogil=True)
def _heat(
    labels: Labels,
    label: int,
    box: NDArray[np.int64],
    ndim: int,
    heat: NDArray[np.float64],
    other: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> None:
    """Fill ``heat`` with the heat of one object; a flat array of the object's box with a border of one pixel."""
    z0, z1, y0, y1, x0, x1 = box[0], box[1], box[2], box[3], box[4], box[5]
    row = x1 - x0 + 2
    plane = (y1 - y0 + 2) * row
    heat[:] = 0.0
    other[:] = 0.0
    weight[:] = 0.0
    border = 1 if ndim == 3 else 0
    share = 1.0 / 7.0 if ndim == 3 else 1.0 / 9.0
    area, sum_z, sum_y, sum_x = 0, 0, 0, 0
    for z in range(z0, z1):
        for y in range(y0, y1):
            base = (z - z0 + border) * plane + (y - y0 + 1) * row + 1 - x0
            for x in range(x0, x1):
                if labels[z, y, x] == label:
                    weight[base + x] = share
                    area += 1
                    sum_z += z - z0
                    sum_y += y - y0
                    sum_x += x - x0
    # The pixel of the object that is nearest to its rounded centre of mass: the first in raster order.
    centre_z = (2 * sum_z + area) // (2 * area)
    centre_y = (2 * sum_y + area) // (2 * area)
    centre_x = (2 * sum_x + area) // (2 * area)
    nearest, source = -1, 0
    for z in range(z1 - z0):
        for y in range(y1 - y0):
            base = (z + border) * plane + (y + 1) * row + 1
            for x in range(x1 - x0):
                if weight[base + x] > 0.0:
                    d = (z - centre_z) ** 2 + (y - centre_y) ** 2 + (x - centre_x) ** 2
                    if nearest < 0 or d < nearest:
                        nearest, source = d, base + x
    if ndim == 3:
        steps = 6 * ((z1 - z0) + (y1 - y0) + (x1 - x0) + 3)
        _diffuse_cross(heat, other, weight, row, plane, source, steps)
    else:
        _diffuse_square(heat, other, weight, row, source, 2 * ((y1 - y0) + (x1 - x0) + 2))


@njit(cache=True, nogil=True)
def _diffuse_square(
    heat: NDArray[np.float64],
    sums: NDArray[np.float64],
    weight: NDArray[np.float64],
    row: int,
    source: int,
    steps: int,
) -> None:
    """Average over 3 x 3 pixels, ``steps`` times, in place.

    Rows are laid end to end: sums that run over a row's end only reach border pixels, whose weight is 0. Strips keep
    what is in work in cache: a strip is written when the sums of the next one are known.
    """
    n = heat.size
    strip = max(1, _STRIP // row) * row
    for _ in range(steps):
        heat[source] += 1.0
        known = 0
        first = row
        while first < n - row:
            last = min(first + strip, n - row)
            upto = min(last + row, n)
            count = upto - known
            if known == 0:
                sums[0] = heat[0] + heat[1]
                _sum3(heat[: count - 1], heat[1:count], heat[2 : count + 1], sums[1:count])
            else:
                _sum3(heat[known - 1 : upto - 1], heat[known:upto], heat[known + 1 : upto + 1], sums[known:upto])
            known = upto
            _weigh3(
                sums[first - row : last - row],
                sums[first:last],
                sums[first + row : last + row],
                weight[first:last],
                heat[first:last],
            )
            first = last


@njit(cache=True, nogil=True, inline="always")
def _sum3(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for i in range(min(out.size, c.size)):
        out[i] = a[i] + b[i] + c[i]


@njit(cache=True, nogil=True, inline="always")
def _weigh3(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    c: NDArray[np.float64],
    weight: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    for i in range(out.size):
        out[i] = (a[i] + b[i] + c[i]) * weight[i]


@njit(cache=True, nogil=True)
def _diffuse_cross(
    heat: NDArray[np.float64],
    other: NDArray[np.float64],
    weight: NDArray[np.float64],
    row: int,
    plane: int,
    source: int,
    steps: int,
) -> None:
    """Average over a voxel and its six neighbours, ``steps`` times (an even number); the result is in ``heat``."""
    for _ in range(steps // 2):
        _cross(heat, other, weight, row, plane, source)
        _cross(other, heat, weight, row, plane, source)


@njit(cache=True, nogil=True)
def _cross(
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    weight: NDArray[np.float64],
    row: int,
    plane: int,
    source: int,
) -> None:
    old[source] += 1.0
    n = old.size - 2 * plane
    centre, left, right = old[plane : plane + n], old[plane - 1 : plane - 1 + n], old[plane + 1 : plane + 1 + n]
    up, down = old[plane - row : plane - row + n], old[plane + row : plane + row + n]
    above, below = old[:n], old[2 * plane : 2 * plane + n]
    share, out = weight[plane : plane + n], new[plane : plane + n]
    for i in range(n):
        out[i] = (centre[i] + left[i] + right[i] + up[i] + down[i] + above[i] + below[i]) * share[i]


@njit(cache=True, nogil=True)
def _largest(boxes: NDArray[np.int64], first: int, last: int, ndim: int) -> int:
    largest = 0
    for i in range(first, last):
        box = boxes[i]
        depth = box[1] - box[0] + 2 if ndim == 3 else 1
        largest = max(largest, depth * (box[3] - box[2] + 2) * (box[5] - box[4] + 2))
    return largest


@njit(cache=True, nogil=True)
def _targets(
    labels: Labels, boxes: NDArray[np.int64], first: int, last: int, ndim: int, out: NDArray[np.float32]
) -> None:
    """Write the unit vectors of objects ``first`` to ``last`` into ``out``, ``(D, Z, Y, X)``."""
    memory = np.empty((3, _largest(boxes, first, last, ndim)), np.float64)
    for i in range(first, last):
        box = boxes[i]
        if box[1] == 0:
            continue
        z0, y0, x0 = box[0], box[2], box[4]
        row = box[5] - x0 + 2
        plane = (box[3] - y0 + 2) * row
        border = 1 if ndim == 3 else 0
        size = plane * (box[1] - z0 + 2) if ndim == 3 else plane
        heat = memory[0, :size]
        weight = memory[2, :size]
        _heat(labels, i + 1, box, ndim, heat, memory[1, :size], weight)
        for z in range(z0, box[1]):
            for y in range(y0, box[3]):
                base = (z - z0 + border) * plane + (y - y0 + 1) * row + 1 - x0
                for x in range(x0, box[5]):
                    p = base + x
                    if weight[p] > 0.0:
                        dy = heat[p + row] - heat[p - row]
                        dx = heat[p + 1] - heat[p - 1]
                        dz = heat[p + plane] - heat[p - plane] if ndim == 3 else 0.0
                        length = np.sqrt(dz * dz + dy * dy + dx * dx)
                        if length > 0.0:
                            out[ndim - 2, z, y, x] = dy / length
                            out[ndim - 1, z, y, x] = dx / length
                            if ndim == 3:
                                out[0, z, y, x] = dz / length
