"""Flow fields of label images: what the network is trained on, and what the flow error compares with.

The method is Cellpose's (Stringer et al., Nature Methods 2021): heat is fed into the centre of an object, diffuses
inside it, and the flow is the direction of its gradient. Two things differ on purpose. The number of steps follows from
each object's own box, so that an object's flow doesn't depend on what else is in the image; and the gradient takes what
lies outside the object as 0, so that nothing leaks between labels that touch.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.arguments import pixels
from plateflow.compiled import compiled
from plateflow.flows.scalar import diffusion_steps, direction, product, rounded_mean, sum3, sum7

Labels = NDArray[np.int32]
Boxes = NDArray[np.int64]
Floats = NDArray[np.float64]

# What a pixel keeps of the heat of itself and its 8 neighbours, 6 in three dimensions.
SHARE_2D, SHARE_3D = 1.0 / 9.0, 1.0 / 7.0
# What one pass of the diffusion keeps in the first-level cache: rows are updated in strips of about this many pixels.
_STRIP = 1024


def flows_from_labels(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Compute the flow field that leads from every pixel of an object to its centre.

    Args:
        labels: label image, axes ``YX`` or ``ZYX``, integers; 0 and below is outside, gaps between labels are allowed.

    Returns:
        Array of shape ``(D, *labels.shape)``, order ``[dz,] dy, dx``: unit vectors in pixels; 0 outside the objects and
        where the heat doesn't reach (pieces of an object that aren't connected to its centre).

    Raises:
        ValueError: the labels aren't integers in two or three dimensions, have a mask, or no pixel.
    """
    compact, boxes = compact_labels(pixels("labels", labels))
    out = np.zeros((compact.ndim, *compact.shape), np.float32)
    volume = as_volume(compact)
    _targets(volume, boxes, compact.ndim, out.reshape(compact.ndim, *volume.shape))
    return out


def as_volume(array: NDArray[Any]) -> NDArray[Any]:
    """Give a ``YX`` array a z axis of length one: compiled code takes three axes only."""
    return array if array.ndim == 3 else array.reshape(1, *array.shape)


def compact_labels(labels: NDArray[Any]) -> tuple[Labels, Boxes]:
    """Return labels as contiguous int32 and the boxes of their objects.

    Labels much larger than the image are renumbered in ascending order.

    Raises:
        ValueError: the labels aren't integers in two or three dimensions.
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
    return compact, find_boxes(as_volume(compact), top)


@compiled
def find_boxes(labels: Labels, top: int) -> Boxes:
    """Find the box of each label 1..top: ``z0, z1, y0, y1, x0, x1``, the second exclusive; 0 where there is none."""
    boxes = np.zeros((top, 6), np.int64)
    grow_boxes(labels, 0, labels.shape[1], boxes)
    return boxes


@compiled
def grow_boxes(labels: Labels, first: int, last: int, boxes: Boxes) -> None:
    """Grow the boxes of labels to include their pixels in the rows from ``first`` to before ``last``."""
    for z in range(labels.shape[0]):
        for y in range(first, last):
            for x in range(labels.shape[2]):
                label = labels[z, y, x]
                if label > 0:
                    box = boxes[label - 1]
                    if box[1] == 0:
                        box[0], box[1], box[2], box[3], box[4], box[5] = z, z + 1, y, y + 1, x, x + 1
                    else:
                        box[0] = min(box[0], z)
                        box[1] = max(box[1], z + 1)
                        box[2] = min(box[2], y)
                        box[3] = max(box[3], y + 1)
                        box[4] = min(box[4], x)
                        box[5] = max(box[5], x + 1)


@compiled
def diffuse(
    labels: Labels, label: int, box: NDArray[np.int64], ndim: int, buffer: Floats
) -> tuple[Floats, Floats, int, int, int]:
    """Let heat diffuse in one object, for as many steps as its box requires (Cellpose's numbers, even in 3D).

    Returns heat and weight (above 0 inside the object) of its box with a border of one pixel, flat, in ``buffer``; the
    index of the box's first pixel in them; and the distances between rows and between planes.
    """
    z0, z1, y0, y1, x0, x1 = box
    row = x1 - x0 + 2
    plane = (y1 - y0 + 2) * row
    border = 1 if ndim == 3 else 0
    size = plane * (z1 - z0 + 2 * border)
    heat, other, weight = buffer[0, :size], buffer[1, :size], buffer[2, :size]
    buffer[:, :size] = 0.0
    share = SHARE_3D if ndim == 3 else SHARE_2D
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
    centre_z, centre_y, centre_x = rounded_mean(sum_z, area), rounded_mean(sum_y, area), rounded_mean(sum_x, area)
    nearest, source = -1, 0
    for z in range(z1 - z0):
        for y in range(y1 - y0):
            base = (z + border) * plane + (y + 1) * row + 1
            for x in range(x1 - x0):
                if weight[base + x] > 0.0:
                    d = (z - centre_z) ** 2 + (y - centre_y) ** 2 + (x - centre_x) ** 2
                    if nearest < 0 or d < nearest:
                        nearest, source = d, base + x
    steps = diffusion_steps(z1 - z0, y1 - y0, x1 - x0, ndim)
    if ndim == 3:
        for _ in range(steps // 2):
            _diffuse_cross(heat, other, weight, row, plane, source)
            _diffuse_cross(other, heat, weight, row, plane, source)
    else:
        _diffuse_square(heat, other, weight, row, source, steps)
    return heat, weight, border * plane + row + 1, row, plane


@compiled(inline="always")
def slope(heat: Floats, p: int, row: int, plane: int, ndim: int) -> tuple[float, float, float]:
    """Direction ``dz, dy, dx`` in which the heat grows at ``p``, a unit vector; 0 where it is flat."""
    dy = heat[p + row] - heat[p - row]
    dx = heat[p + 1] - heat[p - 1]
    dz = heat[p + plane] - heat[p - plane] if ndim == 3 else 0.0
    return direction(dz, dy, dx)


@compiled
def _diffuse_square(heat: Floats, sums: Floats, weight: Floats, row: int, source: int, steps: int) -> None:
    """Average over 3 x 3 pixels, ``steps`` times, in place.

    Rows are laid end to end: sums that run over a row's end only reach border pixels, whose weight is 0. A strip is
    updated when the sums of the next one are there, so that both are still in cache.
    """
    n = heat.size
    strip = max(1, _STRIP // row) * row
    for _ in range(steps):
        heat[source] += 1.0
        summed = 0
        first = row
        while first < n - row:
            last = min(first + strip, n - row)
            upto = min(last + row, n)
            if summed == 0:
                sums[0] = heat[0] + heat[1]
                summed = 1
            _sum3(heat[summed - 1 : upto - 1], heat[summed:upto], heat[summed + 1 : upto + 1], sums[summed:upto])
            summed = upto
            _weigh3(
                sums[first - row : last - row],
                sums[first:last],
                sums[first + row : last + row],
                weight[first:last],
                heat[first:last],
            )
            first = last


@compiled(inline="always")
def _sum3(a: Floats, b: Floats, c: Floats, out: Floats) -> None:
    for i in range(min(out.size, c.size)):
        out[i] = sum3(a[i], b[i], c[i])


@compiled(inline="always")
def _weigh3(a: Floats, b: Floats, c: Floats, weight: Floats, out: Floats) -> None:
    for i in range(out.size):
        out[i] = product(sum3(a[i], b[i], c[i]), weight[i])


@compiled
def _diffuse_cross(old: Floats, new: Floats, weight: Floats, row: int, plane: int, source: int) -> None:
    """Average over a voxel and its six neighbours, once."""
    old[source] += 1.0
    n = old.size - 2 * plane
    centre, left, right = old[plane : plane + n], old[plane - 1 : plane - 1 + n], old[plane + 1 : plane + 1 + n]
    up, down = old[plane - row : plane - row + n], old[plane + row : plane + row + n]
    above, below = old[:n], old[2 * plane : 2 * plane + n]
    share, out = weight[plane : plane + n], new[plane : plane + n]
    for i in range(n):
        out[i] = product(sum7(centre[i], left[i], right[i], up[i], down[i], above[i], below[i]), share[i])


@compiled
def scratch_buffer(boxes: Boxes, ndim: int) -> Floats:
    """Allocate what ``diffuse`` needs for the largest of these boxes."""
    largest = 0
    for z0, z1, y0, y1, x0, x1 in boxes:
        depth = z1 - z0 + 2 if ndim == 3 else 1
        largest = max(largest, depth * (y1 - y0 + 2) * (x1 - x0 + 2))
    return np.empty((3, largest), np.float64)


@compiled
def _targets(labels: Labels, boxes: Boxes, ndim: int, out: NDArray[np.float32]) -> None:
    """Write the unit vectors of all objects into ``out``, ``(D, Z, Y, X)``."""
    buffer = scratch_buffer(boxes, ndim)
    for i in range(len(boxes)):
        z0, z1, y0, y1, x0, x1 = boxes[i]
        if z1 == 0:
            continue
        heat, weight, first, row, plane = diffuse(labels, i + 1, boxes[i], ndim, buffer)
        for z in range(z0, z1):
            for y in range(y0, y1):
                base = first + (z - z0) * plane + (y - y0) * row - x0
                for x in range(x0, x1):
                    if weight[base + x] > 0.0:
                        dz, dy, dx = slope(heat, base + x, row, plane, ndim)
                        out[ndim - 2, z, y, x] = dy
                        out[ndim - 1, z, y, x] = dx
                        if ndim == 3:
                            out[0, z, y, x] = dz
