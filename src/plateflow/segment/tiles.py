"""The tile plan: which 256 px squares of a canvas the network sees, and how their outputs are weighed.

A pure function of the shape: computed where it is needed, stored nowhere.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

TILE = 256
OVERLAP = 40
"""Least overlap of neighbouring tiles, px: 1080 px with their frame are five tiles in a row."""
FRAME = 8
"""Width of the black frame around a canvas, px, where its tiles have room for it."""


def network_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width (px) of a canvas of `shape` (px) on the network's grid."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def frame(length: int) -> int:
    """Pixels of black frame on either side of an axis: up to `FRAME`, and never so many that they cost a tile."""
    steps = len(tile_starts(length)) - 1
    room = TILE + steps * (TILE - OVERLAP) - length
    return min(FRAME, room // 2)


def tile_starts(length: int) -> list[int]:
    """First pixels of the fewest tiles that cover `length` px with `OVERLAP` or more, evenly spread; one if it fits."""
    if length <= TILE:
        return [0]
    steps = -(-(length - TILE) // (TILE - OVERLAP))
    return [(2 * i * (length - TILE) + steps) // (2 * steps) for i in range(steps + 1)]


def tile_plan(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Top left corners (y, x) of the tiles of a canvas of `shape` px on the network's grid, in raster order."""
    return [(y, x) for y in tile_starts(shape[0]) for x in tile_starts(shape[1])]


@cache
def ramp() -> NDArray[np.float64]:
    """Weights along one edge of a tile, (TILE,): 1 inside, falling as a squared sine over the overlap, above 0."""
    distance = np.minimum(np.arange(TILE), np.arange(TILE)[::-1]) + 0.5
    return np.sin(np.pi / 2 * np.minimum(distance / OVERLAP, 1.0)) ** 2


def weight_sum(length: int) -> NDArray[np.float64]:
    """Sum over the tiles of `ramp` along one axis of a canvas, (max(length, TILE),).

    The weight of a tile is the product of its ramps, and tiles lie in rows and columns: so the sum over all tiles is
    the product of the sums along the axes.
    """
    total = np.zeros(max(length, TILE))
    for start in tile_starts(length):
        total[start : start + TILE] += ramp()
    return total
