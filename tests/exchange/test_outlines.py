"""Outlines and what they enclose: there and back for every shape, valid rings, overlaps told."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from plateflow.errors import RawDataError
from plateflow.exchange.outlines import fill, outlines

NUMBERS = [0, 1, 2, 3, 70_000, 2**31 - 1]
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
LABELS = hnp.arrays(np.uint32, SHAPES, elements=st.sampled_from(NUMBERS), fill=st.nothing())
RING_CLOSED_AT_A_CORNER = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint32)
HOLES_AT_A_CORNER = np.pad(np.array([[0, 5], [5, 0]], np.uint32), 2, constant_values=5)


def there_and_back(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return fill(((str(number), polygons) for number, polygons in outlines(labels)), labels.shape)


@settings(deadline=None)
@given(LABELS)
@example(RING_CLOSED_AT_A_CORNER)
@example(HOLES_AT_A_CORNER)
@example(np.full((1, 1), 7, np.uint32))
@example(np.zeros((3, 4), np.uint32))
def test_every_shape_comes_back(labels: NDArray[np.uint32]) -> None:
    np.testing.assert_array_equal(there_and_back(labels), labels)


@settings(deadline=None)
@given(LABELS)
@example(RING_CLOSED_AT_A_CORNER)
@example(HOLES_AT_A_CORNER)
def test_rings_touch_themselves_nowhere_and_areas_are_counts_of_pixels(labels: NDArray[np.uint32]) -> None:
    found = {}
    for number, polygons in outlines(labels):
        for polygon in polygons:
            for n, ring in enumerate(polygon):
                assert len({tuple(point) for point in ring.tolist()}) == len(ring)
                x, y = ring.T
                area = (x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2
                assert (area > 0) == (n == 0)  # the outline first, then holes, the other way round
                steps = np.diff(ring, axis=0, append=ring[:1])
                assert (np.count_nonzero(steps, axis=1) == 1).all()  # along edges of pixels, and a point at each turn
                found[number] = found.get(number, 0) + area
    numbers, counts = np.unique(labels[labels > 0], return_counts=True)
    assert found == dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    assert list(found) == sorted(found)


def test_a_pixel_in_the_corner_lies_between_0_and_1() -> None:
    ((number, [[ring]]),) = outlines(np.array([[9, 0], [0, 0]], np.uint32))
    assert number == 9
    assert {tuple(point) for point in ring.tolist()} == {(0, 0), (1, 0), (1, 1), (0, 1)}


def test_a_piece_that_touches_at_a_corner_is_another_polygon_and_a_hole_belongs_to_its_own() -> None:
    labels = np.zeros((8, 8), np.uint32)
    labels[:3, :3], labels[3:, 3:] = 4, 4
    labels[1, 1] = labels[5, 5] = 0
    ((_, polygons),) = outlines(labels)
    assert [len(polygon) for polygon in polygons] == [2, 2]
    for outline, hole in polygons:
        assert (outline.min(axis=0) < hole.min(axis=0)).all() and (outline.max(axis=0) > hole.max(axis=0)).all()


def box(left: float, top: float, right: float, bottom: float) -> list[list[NDArray[np.float64]]]:
    return [[np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)]]


def test_a_pixel_is_inside_if_its_centre_is_and_a_shared_line_gives_it_to_one() -> None:
    labels = fill([("1", box(0.6, 0, 2.5, 1)), ("2", box(2.5, 0, 4.4, 1))], (2, 6))
    assert labels.tolist() == [[0, 1, 1, 2, 0, 0], [0] * 6]  # centres at 0.5, 1.5, ...; that at 2.5 is the left one's


@settings(deadline=None)
@given(st.floats(1, 9), st.floats(1, 9))
def test_a_cut_gives_each_pixel_to_one_side(left: float, right: float) -> None:
    """As when an object is split by hand: neither a gap nor an overlap along the cut, whatever its angle."""
    upper = [[np.array([(0, 0), (10, 0), (10, right), (0, left)])]]
    lower = [[np.array([(10, 10), (0, 10), (0, left), (10, right)])]]
    assert (fill([("1", upper), ("2", lower)], (10, 10)) > 0).all()


def test_objects_that_overlap_are_named() -> None:
    with pytest.raises(RawDataError, match="1 pair of objects overlaps") as error:
        fill([("17", box(0, 0, 4, 4)), ("23", box(3, 2, 8, 8)), ("5", box(9, 9, 10, 10))], (10, 10))
    assert error.value.why == "17 and 23 (2 px)"


def test_an_object_without_a_pixel_is_named_and_not_lost() -> None:
    with pytest.raises(RawDataError, match="1 object has no pixel") as error:
        fill([("1", box(0, 0, 4, 4)), ("tiny", box(5.6, 5.6, 5.9, 5.9))], (10, 10))
    assert error.value.why == "tiny"
    with pytest.raises(RawDataError, match="2 objects have no pixel"):
        fill([("1", box(20, 20, 30, 30)), ("2", [[np.zeros((2, 2))]])], (10, 10))


def test_names_that_are_no_numbers_or_were_taken_get_numbers_above() -> None:
    drawn = [("7", box(0, 0, 1, 1)), ("7", box(1, 0, 2, 1)), ("", box(2, 0, 3, 1)), ("0012-0034", box(3, 0, 4, 1))]
    assert fill([*drawn, ("9", box(4, 0, 5, 1)), ("²", box(5, 0, 6, 1))], (1, 6)).tolist() == [[7, 10, 11, 12, 9, 13]]


def test_what_reaches_beyond_the_image_is_cut_off() -> None:
    assert (fill([("1", box(-5, -1e9, 2, 1e9))], (3, 4)) == [[1, 1, 0, 0]] * 3).all()
    for far in (np.nan, np.inf, -1e308, 2.0**31):
        with pytest.raises(ValueError, match="is no number, or lies beyond every image"):
            fill([("1", box(0, 0, far, far))], (3, 4))
