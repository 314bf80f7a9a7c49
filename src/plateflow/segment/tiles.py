"""The tile plan: which 256 px squares of a canvas the network sees, and how their outputs are weighed.

A pure function of the shape: computed where it is needed, stored nowhere. Two ways to tile: `plateflow`, with as few
tiles as cover the canvas, and `cellpose`, as Cellpose 4 pads, tiles and tapers (`transforms.get_pad_yx`, `make_tiles`,
`average_tiles`). Either can be augmented: tiles then overlap by half, and every second one is shown to the network
upside down, left to right, or both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TILE = 256
OVERLAP = 40
"""Least overlap of neighbouring tiles, to within a px: 1080 px with their frame are five tiles in a row."""
FRAME = 8
"""Width of the black frame around a canvas, px, where its tiles have room for it."""
Tiling = Literal["plateflow", "cellpose"]


def network_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width (px) of a canvas of `shape` (px) on the network's grid."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The tiles along one axis.

    Attributes:
        zeros: px of black before and after the canvas.
        mirrored: px before and after these that are filled with a mirror image.
        starts: first px of each tile, in the padded canvas.
        weights: of a tile's px, (TILE,): above 0, small at its ends.
    """

    zeros: tuple[int, int]
    mirrored: tuple[int, int]
    starts: tuple[int, ...]
    weights: NDArray[np.float64]

    @property
    def before(self) -> int:
        """Px before the canvas."""
        return self.zeros[0] + self.mirrored[0]

    def sums(self) -> NDArray[np.float64]:
        """Sum of the tiles' weights at each px of the padded canvas."""
        total = np.zeros(self.starts[-1] + TILE)
        for start in self.starts:
            total[start : start + TILE] += self.weights
        return total


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """The tiles of a canvas: one at each pair of starts. A tile's weights are the product of those of its axes."""

    y: Axis
    x: Axis
    augment: bool

    def __len__(self) -> int:
        return len(self.y.starts) * len(self.x.starts)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the padded canvas, px."""
        return self.y.starts[-1] + TILE, self.x.starts[-1] + TILE

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Top left corners (y, x) of the tiles in the padded canvas, in raster order."""
        return [(y, x) for y in self.y.starts for x in self.x.starts]

    def flips(self, index: int) -> list[int]:
        """Along which axes of (..., y, x), counted from the end, the network sees tile `index` mirrored."""
        row, column = divmod(index, len(self.x.starts))
        return [axis for axis, odd in ((-2, column % 2), (-1, row % 2)) if self.augment and odd]


def plan_tiles(shape: tuple[int, int], *, tiling: Tiling = "plateflow", augment: bool = False) -> TilePlan:
    """The tiles of a canvas of `shape` px on the network's grid."""
    axis = _axis if tiling == "plateflow" else _cellpose_axis
    return TilePlan(y=axis(shape[0], augment), x=axis(shape[1], augment), augment=augment)


def _axis(length: int, augment: bool) -> Axis:
    """The fewest tiles, evenly spread.

    A black frame tells the network that an object ends at the border: without one it guesses centres beyond it, and the
    object is lost. It is as wide as costs no tile, up to `FRAME`. What a small canvas still lacks to a tile is its
    mirror image, which looks like more of the same.

    A network answers in patches, whose grid shows in its flows. Every second tile begins at an odd px, so that the
    grids of neighbours don't coincide where they are blended, and no tile ends at a line of its neighbour's grid.
    """
    step = TILE // 2 if augment else TILE - OVERLAP
    steps = max(0, -(-(length - TILE) // step))
    frame = min(FRAME, (TILE + steps * step - length) // 2)
    lacking = max(0, TILE - length - 2 * frame)
    odd = (length - TILE - steps) % 2 if steps and frame else 0  # then a px less puts the last tile right
    sides = (lacking // 2, lacking - lacking // 2)
    starts = _spread(length + 2 * frame + lacking - odd, max(steps + 1, 2 if augment else 1))
    return Axis(zeros=(frame, frame - odd), mirrored=sides, starts=starts, weights=_sine())


def _spread(length: int, n: int) -> tuple[int, ...]:
    """First px of n tiles, evenly spread over `length` px, to within a px: of every second one odd."""
    gaps = max(1, n - 1)
    starts = [(2 * i * (length - TILE) + gaps) // (2 * gaps) for i in range(n)]
    return tuple(start - (start + i) % 2 if 0 < i < gaps else start for i, start in enumerate(starts))


def _cellpose_axis(length: int, augment: bool) -> Axis:
    """Padding to a multiple of 16 px with 16 px to spare, and overlaps of a tenth, or of a half if augmented."""
    lacking = -length % 16 if length >= TILE else max(0, TILE - 16 - length)
    padded = length + 16 + lacking
    if augment:
        n = max(2, int(np.ceil(2 * padded / TILE)))
    else:
        n = 1 if padded <= TILE else int(np.ceil(1.2 * padded / TILE))
    starts = tuple(np.linspace(0, padded - TILE, n).astype(int).tolist())
    zeros = (8 + lacking // 2, 8 + lacking - lacking // 2)
    return Axis(zeros=zeros, mirrored=(0, 0), starts=starts, weights=_sigmoid())


@cache
def _sine() -> NDArray[np.float64]:
    """1 inside, falling as a squared sine over the overlap."""
    distance = np.minimum(np.arange(TILE), np.arange(TILE)[::-1]) + 0.5
    return np.sin(np.pi / 2 * np.minimum(distance / OVERLAP, 1.0)) ** 2


@cache
def _sigmoid() -> NDArray[np.float64]:
    """Cellpose's taper: a half 20 px from the end."""
    from_middle = np.abs(np.arange(TILE) - (TILE - 1) / 2)
    return 1 / (1 + np.exp((from_middle - (TILE / 2 - 20)) / 7.5))
