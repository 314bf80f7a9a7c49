"""Following as Cellpose 4 does it (``compat="cellpose"``), for those who must reproduce older results.

Its paths are float32 in coordinates of -1 to 1 over the image, and its sampling takes those for another convention: at
pixel p of L it reads the flow at ``p * L / (L - 1) - 0.5``, so half a pixel off at the borders, where it finds half the
flow or none. End positions are truncated. So paths depend on the size of the image and on the rounding of float32, but
not on the window they are followed in.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows.blocks import Bits, half_values

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
    at, step, weight = np.empty(3, np.float32), np.empty(3, np.float32), np.empty((3, 2), np.float32)
    low, pixel = np.empty(3, np.int64), np.empty(3, np.int64)
    for i in range(starts.shape[1]):
        for a in range(skip, 3):
            at[a] = np.float32(starts[a, i] + origin[a]) / span[a] * two - one
        gone = False
        for _ in range(n_steps):
            for a in range(skip, 3):
                where = (at[a] + one) * np.float32(canvas[a] * 0.5) - half
                below = np.floor(where)
                low[a] = np.int64(below)
                weight[a, 1] = where - below
                weight[a, 0] = one - weight[a, 1]
                step[a] = 0
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
            for a in range(skip, 3):
                at[a] = min(max(at[a] + step[a], -one), one)
        escaped[i] = gone
        ends[0, i] = 0
        for a in range(skip, 3):
            ends[a, i] = np.int32((at[a] + one) * half * span[a]) - origin[a]
