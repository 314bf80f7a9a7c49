"""The tile layout: coverage, overlap, frame and weights; also of the tiling that it is compared with."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.segment.tiles import FRAME, OVERLAP, TILE, TileLayout, network_shape, tile_layout

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from cellpose_tiles import cellpose_layout

LAYOUTS = st.sampled_from([tile_layout, cellpose_layout])


@pytest.mark.parametrize(
    ("edge", "tiles", "peer"),
    [(1, 1, 1), (200, 1, 1), (256, 1, 4), (257, 4, 4), (472, 4, 9), (1024, 25, 25), (1080, 25, 36), (2160, 100, 121)],
)
def test_the_layout_wastes_no_tile(edge: int, tiles: int, peer: int) -> None:
    """Tiles of Cellpose: as counted when it ran, see the reference."""
    assert len(tile_layout((edge, edge))) == tiles
    assert len(cellpose_layout((edge, edge))) == peer


@given(length=st.integers(1, 12000))
def test_tiles_cover_the_axis_evenly_with_enough_overlap(length: int) -> None:
    axis = tile_layout((length, 1)).y
    padded = axis.before + length + axis.zeros[1] + axis.mirrored[1]
    assert axis.starts[0] == 0
    assert axis.starts[-1] + TILE == padded
    assert padded == max(TILE, length + sum(axis.zeros))
    steps = np.diff(axis.starts)
    assert (steps <= TILE - OVERLAP + 1).all()
    assert (steps > 0).all()
    if len(axis.starts) > 1:
        assert steps.max() - steps.min() <= 3
        one_less = (TILE - OVERLAP) * (len(axis.starts) - 2) + TILE
        assert one_less < length, "fewer tiles would have done: the frame costs none"


@given(length=st.integers(1, 12000))
def test_the_frame_is_as_wide_as_costs_no_tile(length: int) -> None:
    axis = tile_layout((length, 1)).y
    width, after = axis.zeros
    assert width - after in ((0, 1) if len(axis.starts) > 1 else (0,))
    assert 0 <= width <= FRAME
    if width < FRAME:
        room = TILE + (len(axis.starts) - 1) * (TILE - OVERLAP) - length
        assert width == room // 2


@given(length=st.integers(1, 12000))
def test_the_grids_of_neighbouring_tiles_do_not_coincide(length: int) -> None:
    axis = tile_layout((length, 1)).y
    starts = axis.starts if axis.zeros[0] else axis.starts[:-1]  # without a frame the last tile is where it must be
    assert [start % 2 for start in starts] == [n % 2 for n in range(len(starts))]


def test_usual_fields_have_a_frame() -> None:
    assert [tile_layout((edge, 1)).y.zeros[0] for edge in (200, 256, 1080, 2048, 2160)] == [8, 0, 8, 8, 8]


@settings(max_examples=40)
@given(height=st.integers(1, 900), width=st.integers(1, 900), make=LAYOUTS, augment=st.booleans())
def test_weights_and_places_of_any_layout(
    height: int, width: int, make: Callable[..., TileLayout], augment: bool
) -> None:
    layout = make((height, width), augment=augment)
    assert layout.corners == [(y, x) for y in sorted(layout.y.starts) for x in sorted(layout.x.starts)], (
        "in raster order"
    )
    assert len(layout.corners) == len(layout)
    assert layout.shape[0] >= layout.y.before + height
    assert layout.shape[1] >= layout.x.before + width
    total = np.zeros(layout.shape)
    for y, x in layout.corners:
        total[y : y + TILE, x : x + TILE] += np.outer(layout.y.weights, layout.x.weights)
    assert total.min() > 0
    np.testing.assert_allclose(np.outer(layout.y.sums(), layout.x.sums()), total, rtol=1e-12)


def test_augmented_tiles_overlap_by_half_and_are_mirrored_in_turn() -> None:
    layout = tile_layout((600, 300), augment=True)
    assert max(np.diff(layout.y.starts)) <= TILE // 2
    columns = len(layout.x.starts)
    assert [layout.flips(n) for n in (0, 1, columns, columns + 1)] == [[], [-2], [-1], [-2, -1]]
    small = tile_layout((256, 100), augment=True)
    assert small.corners == [(0, 0)] * 4, "a canvas of one tile is seen in all four ways"
    assert not any(tile_layout((600, 300)).flips(n) for n in range(6))


def test_the_networks_grid_follows_the_scale() -> None:
    assert network_shape((1080, 540), 0.5) == (540, 270)
    assert network_shape((3, 1), 0.1) == (1, 1)
