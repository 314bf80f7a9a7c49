"""Objects made from objects, against slow references: all distances, and one queue over the whole image."""

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.segment import growth
from plateflow.segment.growth import RANGES, UNITS, grow_evenly, grow_through, shows_cells


def nearest(labels: np.ndarray, radius: float, inner: float) -> np.ndarray:
    """In float64, over all pixels of all objects; the smallest number of the nearest ones."""
    places, numbers = np.argwhere(labels).astype(np.float64), labels[labels > 0]
    out = np.zeros_like(labels)
    for y, x in np.ndindex(labels.shape) if len(places) else ():
        distance = np.hypot(*(places - (y, x)).T)
        least = distance.min()
        if inner < least <= radius or (inner < 0 and least == 0):
            out[y, x] = numbers[distance == least].min()
    return out


def cheapest(labels: np.ndarray, image: np.ndarray, cells: np.ndarray, regularisation: float) -> np.ndarray:
    """Dijkstra's algorithm with one queue, by cost and then by number."""
    values = np.rint(np.clip(image, -RANGES, RANGES) * UNITS).astype(np.int64)
    weight, done, out = round(regularisation * UNITS), np.zeros(labels.shape, bool), np.zeros_like(labels)
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]

    def value(y: int, x: int) -> int:
        return int(values[np.clip(y, 0, labels.shape[0] - 1), np.clip(x, 0, labels.shape[1] - 1)])

    queue = [(0, int(labels[y, x]), int(y), int(x)) for y, x in np.argwhere(labels)]
    heapq.heapify(queue)
    while queue:
        cost, number, y, x = heapq.heappop(queue)
        if done[y, x]:
            continue
        done[y, x], out[y, x] = True, number
        for dy, dx in around:
            ny, nx = y + dy, x + dx
            inside = 0 <= ny < labels.shape[0] and 0 <= nx < labels.shape[1]
            if inside and cells[ny, nx] and not done[ny, nx] and not labels[ny, nx]:
                differs = sum(abs(value(y + ay, x + ax) - value(ny + ay, nx + ax)) for ay, ax in around)
                step = round(float(np.sqrt(differs**2 + (abs(dy) + abs(dx)) * weight**2)))
                heapq.heappush(queue, (cost + step, number, ny, nx))
    return out


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with gaps in their numbers, an image with many equal values, and where cells are."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.zeros((height, width), np.uint32)
    for _ in range(draw(st.integers(0, 5))):
        y, x, h, w = rng.integers(0, height), rng.integers(0, width), *rng.integers(1, 5, 2)
        labels[y : y + h, x : x + w] = rng.integers(1, 10)
    image = rng.integers(0, draw(st.integers(1, 4)), labels.shape) / 4.0
    return labels, image, rng.random(labels.shape) < 0.85


@given(scenes(), st.sampled_from([1.0, 2.5, 7.2, 40.0]), st.sampled_from([-1.0, 0.0, 1.0]), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_each_pixel_goes_to_the_nearest_object_for_every_size_of_blocks(scene, radius, inner, block) -> None:
    labels = scene[0]
    inner = -1.0 if inner >= radius else inner
    np.testing.assert_array_equal(
        grow_evenly(labels, radius=radius, inner=inner, block=block), nearest(labels, radius, inner)
    )


@given(scenes(), st.sampled_from([0.001, 0.05, 3.0]), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_each_pixel_goes_by_the_cheapest_way_for_every_size_of_blocks(scene, regularisation, block) -> None:
    labels, image, cells = scene
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "_without_holes", lambda grown: grown)
        grown = grow_through(labels, image, cells, regularisation=regularisation, block=block)
    np.testing.assert_array_equal(grown, cheapest(labels, image, cells, regularisation))


def test_a_distance_that_rounding_puts_below_a_whole_number_counts_as_that() -> None:
    labels = np.zeros((1, 12), np.uint32)
    labels[0, 0] = 4
    um = 0.7
    assert np.count_nonzero(grow_evenly(labels, radius=3 * um / um)) == 4
    assert np.count_nonzero(grow_evenly(labels, radius=np.nextafter(3, 0))) == 4
    assert np.count_nonzero(grow_evenly(labels, radius=2.99)) == 3


def test_the_border_runs_along_the_dark_line_and_with_much_regularisation_in_the_middle() -> None:
    labels = np.zeros((21, 40), np.uint32)
    labels[8:13, 3:6], labels[8:13, 33:36] = 1, 2
    image = np.ones(labels.shape)
    image[:, 25] = 0
    cells = np.ones(labels.shape, bool)
    by_image = grow_through(labels, image, cells, regularisation=0.05)
    assert (by_image[:, :24] == 1).all()
    assert (by_image[:, 28:] == 2).all()
    by_distance = grow_through(labels, image, cells, regularisation=100.0)
    assert (by_distance[10, :20] == 1).all()
    assert (by_distance[10, 20:] == 2).all()


def test_holes_are_filled_unless_two_objects_or_the_border_touch_them() -> None:
    labels = np.zeros((9, 20), np.uint32)
    labels[4, 2], labels[4, 16] = 5, 3
    cells = np.ones(labels.shape, bool)
    cells[2, 2] = cells[4, 9:11] = cells[0, 16] = False  # in one object, between two, at the border
    grown = grow_through(labels, np.zeros(labels.shape), cells, regularisation=1.0)
    assert grown[2, 2] == 5
    assert (grown == 0).sum() == 3
    assert grown[0, 16] == 0


def test_objects_keep_their_pixels_beside_cells_and_where_the_image_is_unknown() -> None:
    labels = np.zeros((6, 8), np.uint32)
    labels[2:4, 2:4] = 7
    image = np.full(labels.shape, np.nan)
    grown = grow_through(labels, image, np.zeros(labels.shape, bool), regularisation=0.05)
    np.testing.assert_array_equal(grown, labels)


def test_only_pixels_that_are_known_tell_where_cells_are() -> None:
    image, inside = np.full((20, 20), 10, np.float32), np.ones((20, 20), bool)
    image[:, 15:], inside[:, 17:] = np.nan, False
    image[5, 5] = 500  # noise in one pixel
    shown = shows_cells(image, 9.9, inside)
    assert shown[:, :15].all()
    assert not shown[:, 15:].any()
    assert not shows_cells(image, 100.0, inside).any(), "its peak is 10 + 490 / 2 pi"
