"""The tile layout: which 256 px squares of a canvas the network sees, and how their outputs are weighted.

A pure function of the shape, computed where it is needed and stored nowhere: as few tiles as cover the canvas. With
augmentation tiles overlap by half, and every second one is shown to the network flipped vertically, horizontally or
both.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plateflow.segment.grid import OVERLAP, TILE

FRAME = 8
"""Width of the black frame around a canvas, px, where its tiles have space for it."""
_TO_BORDER = np.minimum(np.arange(TILE), np.arange(TILE)[::-1]) + 0.5
TAPER = np.sin(np.pi / 2 * np.minimum(_TO_BORDER / OVERLAP, 1.0)) ** 2
"""Weights of a tile's px: 1 inside, falling as a squared sine over the overlap."""


def network_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width (px) of a canvas of `shape` (px) on the network's grid."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The tiles along one axis.

    Attributes:
        zeros: px of black before and after the canvas.
        mirrored: px before and after these, filled with the mirror image.
        starts: first px of each tile in the padded canvas.
        weights: of a tile's px, (TILE,): above 0, small at both borders.
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
class TileLayout:
    """The tiles of a canvas: one at each pair of starts; a tile's weights are the product of those of its axes."""

    y: Axis
    x: Axis
    augment: bool

    def __len__(self) -> int:
        return len(self.y.starts) * len(self.x.starts)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the padded canvas, px."""
        return self.y.starts[-1] + TILE, self.x.starts[-1] + TILE

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Top left corners (y, x) of the tiles in the padded canvas, in raster order."""
        return [(y, x) for y in self.y.starts for x in self.x.starts]

    def flips(self, index: int) -> list[int]:
        """Axes of (..., y, x), counted from the end, along which the network sees tile `index` mirrored."""
        row, column = divmod(index, len(self.x.starts))
        return [axis for axis, odd in ((-2, column % 2), (-1, row % 2)) if self.augment and odd]


def tile_layout(shape: tuple[int, int], *, augment: bool = False) -> TileLayout:
    """The tiles of a canvas of `shape` px on the network's grid."""
    return TileLayout(y=_axis(shape[0], augment), x=_axis(shape[1], augment), augment=augment)


def _axis(length: int, augment: bool) -> Axis:
    """The fewest tiles, evenly spread.

    A black frame tells the network that an object ends at the border; without one it guesses centres beyond the border,
    and the object is lost. It is as wide as possible without a further tile, up to `FRAME`. A canvas smaller than a
    tile is filled up with its mirror image, which looks like more of the same.

    A network answers in patches, whose grid shows in its flows. Every second tile starts at an odd px, so that the
    grids of neighbours don't coincide where they are blended, and no tile ends on a line of its neighbour's grid.
    """
    step = TILE // 2 if augment else TILE - OVERLAP
    steps = max(0, -(-(length - TILE) // step))
    frame = min(FRAME, (TILE + steps * step - length) // 2)
    lacking = max(0, TILE - length - 2 * frame)
    odd = (length - TILE - steps) % 2 if steps and frame else 0  # one px less gives the last tile the right parity
    sides = (lacking // 2, lacking - lacking // 2)
    n, room = max(steps + 1, 2 if augment else 1), length + 2 * frame + lacking - odd - TILE
    gaps = max(1, n - 1)
    even = [(2 * i * room + gaps) // (2 * gaps) for i in range(n)]
    starts = tuple(start - (start + i) % 2 if 0 < i < gaps else start for i, start in enumerate(even))
    return Axis(zeros=(frame, frame - odd), mirrored=sides, starts=starts, weights=TAPER)


def blending_lines(
    shape: tuple[int, int], scale: float, *, augment: bool = False
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], float]:
    """Where neighbouring tiles of a canvas are blended, in px of the canvas.

    Args:
        shape: of the canvas, px.
        scale: px of the network's grid per px of the canvas.
        augment: as in `tile_layout`.

    Returns:
        The middles of the tiles' overlaps, y and x, and half the width over which outputs are blended.
    """
    small = network_shape(shape, scale)
    layout, lines = tile_layout(small, augment=augment), []
    for axis, size, own in zip((layout.y, layout.x), small, shape, strict=True):
        starts = np.array(axis.starts, float)
        lines.append(((starts[1:] + starts[:-1] + TILE) / 2 - axis.before) * own / size)
    return (lines[0], lines[1]), OVERLAP / 2 / scale
