import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateflow.segment.tiles import FRAME, OVERLAP, TILE, frame, network_shape, ramp, tile_plan, tile_starts, weight_sum


@pytest.mark.parametrize(("edge", "tiles"), [(1, 1), (200, 1), (256, 1), (257, 4), (472, 4), (473, 9), (1080, 25)])
def test_the_plan_wastes_no_tile(edge: int, tiles: int) -> None:
    assert len(tile_plan((edge, edge))) == tiles


@given(length=st.integers(1, 12000))
def test_starts_cover_the_axis_evenly_with_enough_overlap(length: int) -> None:
    starts = tile_starts(length)
    assert starts[0] == 0
    assert starts[-1] + TILE == max(length, TILE)
    steps = np.diff(starts)
    assert (steps <= TILE - OVERLAP).all()
    assert (steps > 0).all()
    if len(starts) > 1:
        assert steps.max() - steps.min() <= 1
        one_less = (TILE - OVERLAP) * (len(starts) - 2) + TILE
        assert one_less < length, "fewer tiles would have done"


@given(height=st.integers(1, 900), width=st.integers(1, 900))
def test_the_plan_is_in_raster_order(height: int, width: int) -> None:
    plan = tile_plan((height, width))
    assert plan == sorted(set(plan))


@given(length=st.integers(1, 3000))
def test_weights_are_positive_everywhere(length: int) -> None:
    total = weight_sum(length)
    assert len(total) == max(length, TILE)
    assert total.min() > 0
    assert (ramp() > 0).all()


def test_the_sum_of_weights_is_the_sum_over_all_tiles() -> None:
    shape = (300, 700)
    total = np.zeros(shape)
    for y, x in tile_plan(shape):
        total[y : y + TILE, x : x + TILE] += np.outer(ramp(), ramp())
    np.testing.assert_allclose(np.outer(weight_sum(300), weight_sum(700)), total, rtol=1e-12)


def test_the_networks_grid_follows_the_scale() -> None:
    assert network_shape((1080, 540), 0.5) == (540, 270)
    assert network_shape((3, 1), 0.1) == (1, 1)


@given(length=st.integers(1, 12000))
def test_the_frame_costs_no_tile(length: int) -> None:
    width = frame(length)
    assert 0 <= width <= FRAME
    assert len(tile_starts(length + 2 * width)) == len(tile_starts(length))
    if width < FRAME:
        assert len(tile_starts(length + 2 * width + 2)) > len(tile_starts(length))


def test_usual_fields_have_a_frame() -> None:
    assert [frame(edge) for edge in (200, 256, 1080, 2048, 2160)] == [8, 0, 8, 8, 8]
