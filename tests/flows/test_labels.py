import numpy as np
import pytest
from flow_examples import few, seeds, shapes
from flow_scenes import draw_cells, draw_flow, draw_labels, draw_scene, slow_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.errors import ResultsError
from plateflow.flows import (
    cut_blocks,
    flow_error,
    flows_from_labels,
    follow_block,
    labels_from_endpoints,
    labels_from_flows,
)
from plateflow.flows import seeds as seeding
from plateflow.metrics import average_precision


def joined(flow: np.ndarray, logit: np.ndarray) -> np.ndarray:
    return np.concatenate([flow, logit[None]])


def through_endpoints(flow: np.ndarray, logit: np.ndarray, block: int, *, order: int = 0, slices: int = 1, **changed):
    """As the pipeline does it: blocks in any order, dealt to slices, endpoints stored, then labels."""
    field = joined(flow, logit)
    options = {"n_steps": 200, "cell_threshold": 0.0, "flow_threshold": 0.4, "min_size": 15} | changed
    n_steps = options.pop("n_steps")
    stored = {}
    for part in range(slices):
        blocks = cut_blocks(logit.shape, block)[part::slices]
        for i in np.random.default_rng(order).permutation(len(blocks)):
            stored[blocks[i].index] = follow_block(
                field, blocks[i], n_steps=n_steps, cell_threshold=options["cell_threshold"]
            )
    return labels_from_endpoints(stored.__getitem__, field, block=block, **options)


@few
@given(shapes, seeds, st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0, 1, 15, 60]), st.sampled_from([None, 150]))
def test_equals_the_definition(shape, seed, flow_threshold, min_size, max_size):
    flow, logit = draw_scene(shape, seed)
    labels = labels_from_flows(flow, logit, flow_threshold=flow_threshold, min_size=min_size, max_size=max_size)
    expected = slow_labels(flow, logit, flow_threshold=flow_threshold, min_size=min_size, max_size=max_size or np.inf)
    assert labels.dtype == np.uint32
    np.testing.assert_array_equal(labels, expected)


@few
@given(
    shapes,
    seeds,
    st.sampled_from([17, 64, 96, 127, 256, 1000]),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(0, 1000),
)
def test_neither_blocks_nor_order_nor_workers_nor_slices_show(shape, seed, block, workers, slices, order):
    flow, logit = draw_scene(shape, seed)
    block = max(block, 1 + max(shape) // 8)
    uncut = labels_from_flows(flow, logit, workers=1)
    np.testing.assert_array_equal(labels_from_flows(flow, logit, block=block, workers=workers), uncut)
    labels, _ = through_endpoints(flow, logit, block, order=order, slices=slices)
    np.testing.assert_array_equal(labels, uncut)


@pytest.mark.parametrize("block", [64, 96, 127, 256, 1000])
def test_larger_canvases_by_blocks(block):
    flow, logit = draw_flow(draw_labels((500, 430), 9), 9)
    uncut = labels_from_flows(flow, logit, block=600, workers=1)
    assert uncut.max() >= 10
    for workers in (1, 2, 5, 8):
        np.testing.assert_array_equal(labels_from_flows(flow, logit, block=block, workers=workers), uncut)
    expected = through_endpoints(flow, logit, 600)[1]
    for slices in range(1, 7):
        labels, objects = through_endpoints(flow, logit, block, slices=slices)
        np.testing.assert_array_equal(labels, uncut)
        for name in ("label", "seed", "area", "flow_error", "cell_probability"):
            np.testing.assert_array_equal(getattr(objects, name), getattr(expected, name))


def test_an_object_larger_than_its_blocks():
    labels = np.zeros((420, 500), np.int32)
    labels[20:400, 30:470] = 1
    flow = (flows_from_labels(labels) * 5).astype(np.float16)
    logit = np.where(labels > 0, 5, -5).astype(np.float16)
    uncut = labels_from_flows(flow, logit, n_steps=600)
    np.testing.assert_array_equal(uncut, labels)
    np.testing.assert_array_equal(labels_from_flows(flow, logit, n_steps=600, block=64, workers=3), uncut)


@settings(parent=few, max_examples=10)
@given(st.sampled_from([(420, 420), (420, 420), (30, 110, 110)]), seeds)
def test_an_object_is_the_same_in_a_crop(shape, seed):
    """An object and its surroundings, cut out: the same pixels, wherever the crop begins and however large it is."""
    margin = 45 if len(shape) == 2 else 30
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    grid = np.indices(shape)
    for label in range(1, 120):
        centre = random.integers(0, shape)[(slice(None), *(None for _ in shape))]
        labels[((grid - centre) ** 2).sum(0) < random.integers(4, 9) ** 2] = label
    flow, logit = draw_flow(labels, seed)
    uncut = labels_from_flows(flow, logit)
    numbers = np.unique(uncut[uncut > 0])
    assert len(numbers) > 10
    for label in random.choice(numbers, 6, replace=False):
        pixels = np.argwhere(uncut == label)
        starts = np.maximum(pixels.min(0) - margin - random.integers(0, 20, len(shape)), 0)
        stops = pixels.max(0) + 1 + margin + random.integers(0, 20, len(shape))
        crop = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
        cut = labels_from_flows(flow[(slice(None), *crop)], logit[crop])
        number = cut[tuple(pixels[0] - starts)]
        assert number > 0
        np.testing.assert_array_equal(cut == number, uncut[crop] == label)


def point_field(shape, groups):
    """A flow that takes each group of pixels to its target in one step of its own length."""
    flow = np.zeros((2, *shape), np.float16)
    logit = np.full(shape, -1, np.float16)
    for target, pixels in groups:
        for pixel in pixels:
            logit[pixel] = 1
            flow[(slice(None), *pixel)] = 5 * (np.array(target) - pixel)
    return flow, logit


def test_ties_between_seeds():
    """Two pixels where equally many paths end, side by side: the first in raster order is the seed of all."""
    left = [(y, x) for y in (10, 12, 14) for x in (4, 6, 8, 10)]
    right = [(y, x + 8) for y, x in left]
    # Separate pixels so that no path reads a neighbour on its single step.
    flow, logit = point_field((30, 30), [((12, 10), left), ((12, 12), right)])
    labels = labels_from_flows(flow, logit, n_steps=1, flow_threshold=0, min_size=1)
    _, objects = through_endpoints(flow, logit, 7, n_steps=1, flow_threshold=0, min_size=1)
    assert objects.seed.tolist() == [[12, 10]]
    # They lie 2 px apart without a bridge: the second's pixels are in nobody's basin.
    assert (labels > 0).sum() == len(left)


def test_a_pixel_claimed_twice_goes_to_the_greater_seed():
    counts = seeding.EndpointCounts((1, 1, 12), np.arange(12), np.array([0, 20, 3, 3, 4, 3, 3, 30, 3, 3, 3, 1]))
    chosen = seeding.find_seeds(counts)
    assert chosen.tolist() == [1, 7]
    assert seeding.find_basins(counts, chosen).tolist() == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0]


def test_seeds_of_equal_count_within_a_neighbourhood():
    counts = seeding.EndpointCounts((1, 3, 4), np.arange(12), np.array([0, 11, 0, 0, 0, 0, 11, 0, 11, 0, 0, 10]))
    assert seeding.find_seeds(counts).tolist() == [1]


@few
@given(shapes, seeds)
def test_far_endpoints_are_counted_and_found_by_sorting_alike(shape, seed):
    """Endpoints of one block that spread over too large a box take another way, with the same result."""
    flow, logit = draw_scene(shape, seed)
    uncut = labels_from_flows(flow, logit)
    before = seeding._TABLE
    try:
        seeding._TABLE = 1
        np.testing.assert_array_equal(labels_from_flows(flow, logit), uncut)
    finally:
        seeding._TABLE = before


def ring(shape, centre, outer, inner):
    distance = np.hypot(*(np.indices(shape) - np.array(centre)[:, None, None]))
    return (distance <= outer) & (distance >= inner)


def test_holes_of_holes_go_to_the_smallest_object():
    from plateflow.flows import finish
    from plateflow.flows.targets import find_boxes

    labels = np.zeros((1, 60, 60), np.int32)
    labels[0][ring((60, 60), (30, 30), 25, 20)] = 1
    labels[0][ring((60, 60), (30, 30), 14, 9)] = 2
    labels[0, 30, 30] = 3
    area = np.bincount(labels.ravel())[1:]
    filled = labels.copy()
    finish.fill_holes(filled[0].view(np.uint32), find_boxes(labels, 3), np.ones(3, bool), area, 1)
    filled = np.abs(filled)
    distance = np.hypot(*(np.indices((60, 60)) - 30))
    assert (filled[0][(distance < 9) & (labels[0] != 3)] == 2).all()
    assert filled[0, 30, 30] == 3
    assert (filled[0][(distance > 14) & (distance < 20)] == 1).all()
    np.testing.assert_array_equal(area, np.bincount(filled.ravel())[1:])
    # A gap of one pixel at the side opens the ring; one at a corner doesn't (4-connected).
    labels = np.zeros((1, 7, 7), np.int32)
    labels[0, 1:6, 1:6] = 1
    labels[0, 2:5, 2:5] = 0
    for pixel, open_ in (((1, 3), True), ((1, 1), False)):
        image = labels.copy()
        image[(0, *pixel)] = 0
        area = np.bincount(image.ravel())[1:]
        finish.fill_holes(image[0].view(np.uint32), find_boxes(image, 1), np.ones(1, bool), area, 1)
        assert (image[0, 3, 3] == 0) == open_


def test_holes_in_labels_are_filled():
    """Every pixel of a square jumps to its middle; three don't, inside, and one at a corner, where there is no hole."""
    square = [(y, x) for y in range(5, 16) for x in range(5, 16)]
    gaps = [(7, 7), (7, 8), (13, 9), (5, 5)]
    flow, logit = point_field((21, 24), [((10, 10), [p for p in square if p not in gaps])])
    filled, objects = through_endpoints(flow, logit, 8, n_steps=1, flow_threshold=0)
    assert objects.area.tolist() == [120]
    assert filled[5, 5] == 0
    assert (filled[5:16, 5:16] == 1).sum() == 120 == (filled > 0).sum()


@few
@given(shapes, seeds)
def test_objects_say_what_the_labels_are(shape, seed):
    flow, logit = draw_scene(shape, seed)
    labels, objects = through_endpoints(flow, logit, 50)
    n = len(objects.label)
    assert objects.label.tolist() == list(range(1, n + 1))
    assert set(np.unique(labels)) - {0} == set(objects.label.tolist())
    np.testing.assert_array_equal(objects.area, np.bincount(labels.ravel(), minlength=n + 1)[1:])
    assert objects.seed.shape == (n, len(shape))
    raster = np.ravel_multi_index(tuple(objects.seed.T), shape)
    assert (np.diff(raster) > 0).all()
    assert (objects.flow_error <= 0.4).all()
    assert ((objects.cell_probability > 0.5) & (objects.cell_probability <= 1)).all()
    off, unchecked = through_endpoints(flow, logit, 50, flow_threshold=0)
    assert len(unchecked.label) == off.max() >= n
    assert np.isnan(unchecked.flow_error).all()


@few
@given(shapes, seeds)
def test_flow_error_equals_the_definition(shape, seed):
    labels = draw_labels(shape, seed)
    flow, _ = draw_flow(labels, seed)
    away = ((flows_from_labels(labels) - flow.astype(np.float64) / 5) ** 2).sum(0)
    errors = flow_error(labels, flow)
    assert errors.shape == (labels.max(),)
    for label, error in enumerate(errors, 1):
        mask = labels == label
        assert np.isnan(error) if not mask.any() else error == pytest.approx(away[mask].mean(), abs=1e-5)
    np.testing.assert_array_equal(flow_error(labels, flow.astype(np.float32)), errors)
    spread = flow_error(np.where(labels > 0, labels * 1_000_003, 0), flow)
    np.testing.assert_array_equal(spread[1_000_002::1_000_003], errors)


def test_flow_error_of_true_and_opposite_flows():
    labels = draw_cells((120, 120), 5)
    flow = flows_from_labels(labels) * 5
    assert np.nanmax(flow_error(labels, flow)) < 1e-12
    assert np.nanmin(flow_error(labels, -flow)) > 3.8
    with pytest.raises(ValueError, match="must have the shape"):
        flow_error(labels, flow[:1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (1, 1, 1), (1, 1, 40), (2, 30, 30)])
def test_thin_and_full_and_empty_canvases(shape):
    zero = np.zeros((len(shape), *shape), np.float16)
    for logit in (np.full(shape, -1, np.float16), np.full(shape, 1, np.float16)):
        labels = labels_from_flows(zero, logit)
        assert labels.shape == shape
        assert labels.max() == 0  # no path moves, so no pixel gathers more than one
    random = np.random.default_rng(0)
    flow = random.normal(0, 5, zero.shape).astype(np.float16)
    full = np.ones(shape, np.float16)
    np.testing.assert_array_equal(
        labels_from_flows(flow, full, flow_threshold=0), slow_labels(flow, full, flow_threshold=0)
    )


def test_all_pixels_cell_flow_to_one_object():
    y, x = np.indices((40, 50))
    flow = (5 * np.sign(np.stack([20 - y, 25 - x]))).astype(np.float16)
    labels = labels_from_flows(flow, np.ones((40, 50), np.float16), flow_threshold=0)
    assert (labels == 1).all()
    assert labels_from_flows(flow, np.ones((40, 50)), flow_threshold=0, max_size=1999).max() == 0


def test_endpoints_of_something_else_are_refused():
    flow, logit = draw_flow(draw_labels((60, 60), 1), 1)
    field = joined(flow, logit)
    endpoints = [follow_block(field, one, n_steps=9, cell_threshold=0.0) for one in cut_blocks((60, 60), 30)]
    options = {"block": 30, "cell_threshold": 0.0, "flow_threshold": 0.4, "min_size": 15}
    assert labels_from_endpoints(endpoints, field, **options)[0].max() > 0
    with pytest.raises(
        ResultsError, match=r"block 0 aren't those of this flow field\n.*not one end pixel for each cell"
    ):
        labels_from_endpoints([e[:, 1:] for e in endpoints], field, **options)
    for wrong in ([e + 40 for e in endpoints], [e - 100 for e in endpoints], [e[:1] for e in endpoints]):
        with pytest.raises(ResultsError, match="some lie outside the canvas"):
            labels_from_endpoints(wrong, field, **options)
    with pytest.raises(ValueError, match="they must be equal"):
        labels_from_endpoints(endpoints, field, out=np.zeros((60, 61), np.uint32), **options)


@pytest.mark.parametrize("shape", [(400, 400), (32, 100, 100)])
def test_realistic_labels_come_back(shape):
    labels = draw_cells(shape, 0)
    again = labels_from_flows(*draw_flow(labels, 0, noise=0.3))
    ap = average_precision(labels, again, 0.5)[0]
    assert ap >= 0.93
