import numpy as np
import pytest
from flow_scenes import slow_flows

from plateflow.flows import flows_from_labels


def blobs(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """Cells of a plane or volume that fill most of it and touch: the nearest of random points, within a radius."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, 1, (count, len(shape))) * shape
    grid = np.stack(np.indices(shape), -1)
    distance = np.sqrt(((grid[..., None, :] - points) ** 2).sum(-1))
    radius = 0.7 * (np.prod(shape) / count) ** (1 / len(shape))
    return np.where(distance.min(-1) < radius, distance.argmin(-1) + 1, 0)


@pytest.mark.parametrize(("shape", "count"), [((60, 75), 12), ((14, 30, 25), 10), ((1, 40, 30), 4)])
def test_equals_the_definition(shape, count):
    labels = blobs(shape, count, seed=1)
    flows = flows_from_labels(labels)
    assert flows.dtype == np.float32
    assert flows.shape == (len(shape), *shape)
    close = np.isclose(flows, slow_flows(labels), atol=1e-6).all(0)
    # Where heat is fed in, the slope can be 0 up to rounding, and its direction is then that of the rounding.
    assert (~close).sum() <= labels.max() // 2


def test_unit_vectors_inside_and_nothing_outside():
    labels = blobs((60, 75), 12, seed=2)
    length = np.sqrt((flows_from_labels(labels) ** 2).sum(0))
    assert (length[labels == 0] == 0).all()
    inside = length[labels > 0]
    # The centre of a symmetric object is the one place without a direction.
    assert (np.isclose(inside, 1, atol=1e-6) | (inside == 0)).all()
    assert (inside == 0).sum() <= labels.max()


def test_an_object_is_alone_in_the_world():
    """Touching neighbours, a huge object elsewhere, and where in the image it lies change no bit of its flow."""
    labels = blobs((90, 90), 15, seed=3)
    flows = flows_from_labels(labels)
    for label in range(1, 16):
        rows, columns = np.nonzero(labels == label)
        if rows.size == 0:
            continue
        box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        alone = np.where(labels[box] == label, 5, 0)
        np.testing.assert_array_equal(flows_from_labels(alone), np.where(alone, flows[(slice(None), *box)], 0))
    padded = np.zeros((400, 200), int)
    padded[7:97, 9:99] = labels
    padded[110:, :] = 16
    np.testing.assert_array_equal(flows_from_labels(padded)[:, 7:97, 9:99], flows)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_gaps_and_types_of_labels_do_not_matter(dtype):
    labels = blobs((40, 50), 6, seed=4)
    numbers = np.random.default_rng(0).permutation(np.iinfo(dtype).max - np.arange(7))[: labels.max() + 1].astype(dtype)
    numbers[0] = 0
    np.testing.assert_array_equal(flows_from_labels(numbers[labels]), flows_from_labels(labels))


def test_edges_of_the_domain():
    assert flows_from_labels(np.zeros((5, 6), int)).sum() == 0
    assert flows_from_labels(np.ones((1, 1), int)).tolist() == [[[0.0]], [[0.0]]]
    row = flows_from_labels(np.ones((1, 7), int))
    assert row[1, 0].tolist() == [1, 1, 1, 0, -1, -1, -1]
    assert flows_from_labels(np.ones((4, 4), int)[::2, ::2]).shape == (2, 2, 2)
    np.testing.assert_array_equal(flows_from_labels(np.full((3, 3), -1)), 0)


def test_refuses_what_is_no_label_image():
    with pytest.raises(ValueError, match="axes YX or ZYX"):
        flows_from_labels(np.zeros((5, 5), np.float32))
    with pytest.raises(ValueError, match="axes YX or ZYX"):
        flows_from_labels(np.zeros(5, int))
