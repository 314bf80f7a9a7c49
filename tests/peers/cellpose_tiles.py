"""The tiling of Cellpose 4, for comparison: its padding, overlap and taper.

Source: `cellpose.transforms.get_pad_yx`, `make_tiles` and `average_tiles`.
"""

import numpy as np

from plateflow.segment.engine import FlowEngine
from plateflow.segment.tiles import TILE, Axis, TileLayout

FROM_MIDDLE = np.abs(np.arange(TILE) - (TILE - 1) / 2)
TAPER = 1 / (1 + np.exp((FROM_MIDDLE - (TILE / 2 - 20)) / 7.5))
"""One half 20 px from the border of a tile."""


class CellposeTiling(FlowEngine):
    """The engine, with canvases cut into tiles as Cellpose cuts them."""

    def layout(self, shape: tuple[int, int]) -> TileLayout:
        """The tiles of a canvas of `shape` px."""
        return cellpose_layout(shape, augment=self.augment)


def cellpose_layout(shape: tuple[int, int], *, augment: bool = False) -> TileLayout:
    """The tiles of an image of `shape` px."""
    return TileLayout(y=_axis(shape[0], augment), x=_axis(shape[1], augment), augment=augment)


def _axis(length: int, augment: bool) -> Axis:
    """Padding to a multiple of 16 px with 16 px to spare, and overlaps of a tenth, or of a half if augmented."""
    lacking = -length % 16 if length >= TILE else max(0, TILE - 16 - length)
    padded = length + 16 + lacking
    if augment:
        n = max(2, int(np.ceil(2 * padded / TILE)))
    else:
        n = 1 if padded <= TILE else int(np.ceil(1.2 * padded / TILE))
    starts = tuple(np.linspace(0, padded - TILE, n).astype(int).tolist())
    zeros = (8 + lacking // 2, 8 + lacking - lacking // 2)
    return Axis(zeros=zeros, mirrored=(0, 0), starts=starts, weights=TAPER)
