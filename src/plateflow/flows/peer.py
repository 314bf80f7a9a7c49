"""Following and checking as Cellpose 4 does it (``compat="cellpose"``), for those who must reproduce older results.

Its paths are float32 in coordinates of -1 to 1 over the image, and its sampling takes those for another convention: at
pixel p of L it reads the flow at ``p * L / (L - 1) - 0.5``, so half a pixel off at the borders, where it finds half the
flow or none. End positions are truncated. So paths depend on the size of the image and on the rounding of float32, but
not on the window they are followed in. Its flow error lets heat diffuse for as many steps in each object as the largest
of the image needs, and takes slopes across the borders of objects that touch.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows.blocks import Bits, FlowField, half_values
from plateflow.flows.targets import Labels, diffuse, diffusion_steps, room, slope

Points = NDArray[np.int32]


def follow_cellpose(
    bits: Bits, cells: NDArray[np.uint8], starts: Points, origin: Points, canvas: tuple[int, int, int], n_steps: int
) -> tuple[Points, NDArray[np.bool_]]:
    """Follow starts ``(3, n)`` within a window; return end pixels (both in its coordinates), and which left it."""
    ndim = bits.shape[0] - 1
    flow = half_values()[bits[:ndim]] * cells / np.float32(5)
    ends, escaped = np.empty_like(starts), np.empty(starts.shape[1], np.bool_)
    _follow(flow, starts, origin[:, 0].astype(np.int64), np.array(canvas), n_steps, ends, escaped)
    return ends, escaped


def errors_cellpose(
    labels: Labels, boxes: NDArray[np.int64], kept: NDArray[np.bool_], field: FlowField
) -> NDArray[np.float64]:
    """Compute the flow errors of the kept objects of a plane; the whole plane at once."""
    errors = np.full(len(boxes), np.nan)
    indices = np.flatnonzero(kept)
    steps = max((diffusion_steps(box, 2) for box in boxes[indices]), default=0)
    flow = half_values()[field.read((slice(None), slice(None)))[:2, 0]]
    heat = np.zeros((labels.shape[1] + 2, labels.shape[2] + 2))
    _heat_all(labels, boxes, indices, steps, heat)
    _errors(labels, boxes, indices, heat.reshape(-1), flow, errors)
    return errors


@njit(cache=True, nogil=True)
def _heat_all(
    labels: Labels, boxes: NDArray[np.int64], indices: NDArray[np.int64], steps: int, out: NDArray[np.float64]
) -> None:
    memory = room(boxes[indices], 2)
    for i in indices:
        y0, y1, x0, x1 = boxes[i, 2:]
        heat, weight, first, row, _ = diffuse(labels, i + 1, boxes[i], 2, steps, memory)
        for y in range(y0, y1):
            for x in range(x0, x1):
                p = first + (y - y0) * row + x - x0
                if weight[p] > 0.0:
                    out[y + 1, x + 1] = heat[p]


@njit(cache=True, nogil=True)
def _errors(
    labels: Labels,
    boxes: NDArray[np.int64],
    indices: NDArray[np.int64],
    heat: NDArray[np.float64],
    flow: NDArray[np.float32],
    errors: NDArray[np.float64],
) -> None:
    row = labels.shape[2] + 2
    for i in indices:
        total, area = 0.0, 0
        for y in range(boxes[i, 2], boxes[i, 3]):
            for x in range(boxes[i, 4], boxes[i, 5]):
                if labels[0, y, x] == i + 1:
                    _, dy, dx = slope(heat, (y + 1) * row + x + 1, row, 0, 2)
                    dy -= np.float64(flow[0, y, x]) / 5.0
                    dx -= np.float64(flow[1, y, x]) / 5.0
                    total += dy * dy + dx * dx
                    area += 1
        errors[i] = total / area


@njit(cache=True, nogil=True)
def _follow(
    flow: NDArray[np.float32],
    starts: Points,
    origin: NDArray[np.int64],
    canvas: NDArray[np.int64],
    n_steps: int,
    ends: Points,
    escaped: NDArray[np.bool_],
) -> None:
    ndim = flow.shape[0]
    skip = 3 - ndim
    one, two, half = np.float32(1), np.float32(2), np.float32(0.5)
    size = np.array(flow.shape[1:])
    span = np.empty(3, np.float32)
    for a in range(3):
        span[a] = max(canvas[a] - 1, 1)
    at, old, step = np.zeros(3, np.float32), np.zeros(3, np.float32), np.zeros(3, np.float32)
    weight = np.empty((3, 2), np.float32)
    low, pixel = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(starts.shape[1]):
        for a in range(skip, 3):
            at[a] = np.float32(starts[a, i] + origin[a]) / span[a] * two - one
            old[a] = at[a]
        gone = False
        left, done, remembered, remember = n_steps, 0, 0, 8
        while left > 0:
            for a in range(skip, 3):
                where = (at[a] + one) * np.float32(canvas[a] * 0.5) - half
                below = np.floor(where)
                low[a] = np.int64(below)
                weight[a, 1] = where - below
                weight[a, 0] = one - weight[a, 1]
                step[a] = 0
            # Bits of a corner's number say on which side it lies, z first.
            for corner in range(1 << ndim):
                share = one
                zero = False
                for a in range(skip, 3):
                    bit = (corner >> (2 - a)) & 1
                    place = low[a] + bit
                    zero |= place < 0 or place >= canvas[a]
                    share *= weight[a, bit]
                    pixel[a] = place - origin[a]
                if zero:
                    continue
                for a in range(skip, 3):
                    gone |= pixel[a] < 0 or pixel[a] >= size[a]
                if gone:
                    break
                z = pixel[0] if ndim == 3 else 0
                for a in range(skip, 3):
                    step[a] += flow[a - skip, z, pixel[1], pixel[2]] * (two / span[a]) * share
            if gone:
                break
            same = True
            for a in range(skip, 3):
                at[a] = min(max(at[a] + step[a], -one), one)
                same &= at[a] == old[a]
            # As in the integers: a state seen before repeats itself, so only the rest of its cycle is walked.
            left -= 1
            done += 1
            if same:
                left %= done - remembered
            elif done == remember:
                old[:] = at
                remembered = done
                remember += max(8, done >> 2)
        escaped[i] = gone
        ends[0, i] = 0
        for a in range(skip, 3):
            ends[a, i] = min(np.int64((at[a] + one) * half * span[a]), canvas[a] - 1) - origin[a]
