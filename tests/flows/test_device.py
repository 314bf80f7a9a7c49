"""The device path of torch equals the compiled code bit for bit: on the CPU always, and on CUDA where there is one."""

import numpy as np
import pytest
import torch
from flow_scenes import draw_cells, draw_flow, draw_labels, draw_scene, few, planes, seeds, shapes, volumes
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.flows import (
    flow_error,
    flows_from_labels,
    follow_block,
    follow_flows,
    labels_from_ends,
    labels_from_flows,
    plan_blocks,
)
from plateflow.flows import labels as labelling
from plateflow.flows import seeds as seeding
from plateflow.flows.blocks import FlowField
from plateflow.flows.device import follow as device_follow
from plateflow.flows.device import label_on, measure
from plateflow.flows.device import objects as device_objects
from plateflow.flows.device import quality as device_quality
from plateflow.flows.targets import as_volume, find_boxes

DEVICES = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
on_devices = pytest.mark.parametrize("device", DEVICES, ids=str)
half = settings(parent=few, max_examples=max(few.max_examples // 2, 1))


@on_devices
@few
@given(shapes, seeds, st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0, 15, 60]), st.sampled_from([None, 150]))
def test_labels(device, shape, seed, flow_threshold, min_size, max_size):
    flow, logit = draw_scene(shape, seed)
    options = {"flow_threshold": flow_threshold, "min_size": min_size, "max_size": max_size}
    found = labels_from_flows(flow, logit, device=device, **options)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, labels_from_flows(flow, logit, **options))


@on_devices
@half
@given(shapes, seeds)
def test_labels_worked_on_in_many_parts(device, shape, seed):
    """What bounds the memory cuts the points, the seeds and the objects into parts: here into tiny ones."""
    flow, logit = draw_scene(shape, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_follow, "_POINTS", 97)
        patch.setattr(device_objects, "_WINDOWS", 3000)
        patch.setattr(device_quality, "_PIXELS", 150)
        found = labels_from_flows(flow, logit, device=device)
    np.testing.assert_array_equal(found, labels_from_flows(flow, logit))


@on_devices
@few
@given(shapes, seeds, st.sampled_from([0, 1, 11, 12, 40, 200, 307]))
def test_ends(device, shape, seed, n_steps):
    flow, logit = draw_scene(shape, seed)
    expected = follow_flows(flow, logit > 0, n_steps=n_steps)
    np.testing.assert_array_equal(follow_flows(flow, logit > 0, n_steps=n_steps, device=device), expected)


@on_devices
@half
@given(shapes, seeds, st.sampled_from([1, 40, 200]))
def test_ends_of_blocks(device, shape, seed, n_steps):
    """Within windows: paths that leave one are followed again in a larger one, on the device too."""
    flow, logit = draw_scene(shape, seed)
    field = np.concatenate([flow, logit[None]])
    options = {"n_steps": n_steps, "cell_threshold": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plateflow.flows.follow.HALO", {2: 5, 3: 3})
        for block in plan_blocks(shape, 1 + max(shape) // 2):
            expected = follow_block(field, block, **options)
            np.testing.assert_array_equal(follow_block(field, block, device=device, **options), expected)


@on_devices
@few
@given(shapes, seeds)
def test_seeds_and_basins(device, shape, seed):
    flow, logit = draw_scene(shape, seed)
    ends = follow_flows(flow, logit > 0)
    check_seeds_and_basins(device, ends, shape)


@on_devices
@few
@given(st.one_of(planes, volumes), seeds)
def test_seeds_and_basins_of_crowds(device, shape, seed):
    """End pixels as no flow makes them: crowded together, with ties everywhere, at the borders too."""
    random = np.random.default_rng(seed)
    size = np.array(shape)[:, None]
    centres = random.integers(0, size, (len(shape), random.integers(1, 12)))
    near = centres[:, random.integers(0, centres.shape[1], 2000)] + random.integers(-6, 7, (len(shape), 2000))
    ends = np.repeat(np.clip(near, 0, size - 1), random.integers(0, 4, 2000) * 3, axis=1).astype(np.int32)
    check_seeds_and_basins(device, ends, shape)


@on_devices
def test_seeds_of_a_large_canvas(device):
    """Counts times pixels beyond 32 bits: which of two seeds that share a basin is greater must not suffer."""
    random = np.random.default_rng(0)
    middle = random.integers(20, 2980, (2, 60)).repeat(2, 1) + np.array([[0, 0] * 60, [0, 4] * 60])
    counts = random.integers(300, 6000, 120)
    bridge = np.concatenate([middle[:, ::2] + [[0], [x]] for x in (1, 2, 3)], 1)
    ends = np.concatenate([middle.repeat(counts, 1), bridge.repeat(3, 1)], 1).astype(np.int32)
    check_seeds_and_basins(device, ends, (3000, 3000))


def check_seeds_and_basins(device: torch.device, ends: np.ndarray, shape: tuple[int, ...]) -> None:
    volume = (1,) * (3 - len(shape)) + shape
    counts = seeding.merge_counts([seeding.count_ends(ends, volume)], volume)
    chosen = seeding.find_seeds(counts)
    owner = seeding.find_basins(counts, chosen)
    expected = np.append(0, np.argsort(np.argsort(chosen)) + 1)[seeding.look_up(ends, counts, counts.rows(), owner)]
    numbers, pixels = device_objects.find_objects(torch.tensor(ends, device=device), shape)
    np.testing.assert_array_equal(pixels, np.sort(counts.pixels[chosen]))
    np.testing.assert_array_equal(numbers.cpu().numpy(), expected)


@on_devices
@few
@given(shapes, seeds, st.sampled_from([np.float16, np.float32, np.float64]))
def test_targets_and_flow_errors(device, shape, seed, dtype):
    labels = draw_labels(shape, seed)
    labels[labels == 2] = 0  # a gap, if there are three
    flow = (draw_flow(labels, seed)[0].astype(np.float64) * 1.1).astype(dtype)
    np.testing.assert_array_equal(flows_from_labels(labels, device=device), flows_from_labels(labels))
    np.testing.assert_array_equal(flow_error(labels, flow, device=device), flow_error(labels, flow))
    far = np.where(labels > 0, labels.astype(np.int64) * 20_011, -1)
    np.testing.assert_array_equal(flow_error(far, flow, device=device), flow_error(far, flow))


@on_devices
@half
@given(shapes, seeds)
def test_errors_and_probabilities_of_objects(device, shape, seed):
    flow, logit = draw_scene(shape, seed)
    field = np.concatenate([flow, logit[None]])
    options = {"n_steps": 200, "cell_threshold": 0.0}
    ends = [follow_block(field, block, **options) for block in plan_blocks(shape, 64)]
    # Nothing is dropped: the objects are all those that have pixels.
    _, objects = labels_from_ends(ends, field, shape=shape, block=64, flow_threshold=1e9, min_size=0, **options)
    canvas = label_on(device, FlowField(flow, logit), **options)
    boxes = find_boxes(as_volume(canvas.labels.cpu().numpy()), len(canvas.seeds))
    kept = canvas.area > 0
    errors, probability = measure(canvas, boxes, kept, True)
    np.testing.assert_array_equal(canvas.seeds[kept], np.ravel_multi_index(tuple(objects.seed.T), shape))
    np.testing.assert_array_equal(errors[kept], objects.flow_error)
    np.testing.assert_array_equal(probability[kept], objects.cell_probability)
    assert np.isnan(errors[~kept]).all()
    unchecked, probability = measure(canvas, boxes, kept, False)
    assert np.isnan(unchecked).all()
    np.testing.assert_array_equal(probability[kept], objects.cell_probability)


@on_devices
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (1, 1, 1), (1, 1, 40), (1, 40, 1), (2, 30, 30)])
def test_thin_and_full_and_empty_canvases(device, shape):
    random = np.random.default_rng(0)
    for logit in (np.full(shape, -1, np.float16), np.full(shape, 1, np.float16)):
        for spread in (0, 5, 200):
            flow = random.normal(0, spread, (len(shape), *shape)).astype(np.float16)
            options = {"flow_threshold": random.choice([0, 0.4, 100]), "min_size": 1}
            found = labels_from_flows(flow, logit, device=device, **options)
            np.testing.assert_array_equal(found, labels_from_flows(flow, logit, **options))
        ones = (logit > 0).astype(np.int32)
        np.testing.assert_array_equal(flows_from_labels(ones, device=device), flows_from_labels(ones))
        np.testing.assert_array_equal(flow_error(ones, flow, device=device), flow_error(ones, flow))


@on_devices
def test_all_pixels_cell_flow_to_one_object(device):
    y, x = np.indices((40, 50))
    flow = (5 * np.sign(np.stack([20 - y, 25 - x]))).astype(np.float16)
    assert (labels_from_flows(flow, np.ones((40, 50)), flow_threshold=0, device=device) == 1).all()
    assert labels_from_flows(flow, np.ones((40, 50)), flow_threshold=0, max_size=1999, device=device).max() == 0


@on_devices
@pytest.mark.parametrize("shape", [(512, 512), (40, 90, 90)])
def test_realistic_cells(device, shape):
    """Objects enough that the step counts of the diffusion have many values."""
    labels = draw_cells(shape, 0, count=400)
    flow, logit = draw_flow(labels, 0, noise=0.3)
    found = labels_from_flows(flow, logit, device=device)
    assert found.max() > 100
    np.testing.assert_array_equal(found, labels_from_flows(flow, logit))


@on_devices
@pytest.mark.parametrize("shape", [(30, 40), (5, 30, 40)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(device, shape, value):
    flow, logit = draw_flow(draw_labels(shape, 1), 1)
    for channel in range(len(shape) + 1):
        field = np.concatenate([flow, logit[None]])
        field[(channel, *(size - 2 for size in shape))] = value
        with pytest.raises(ValueError, match="isn't finite") as expected:
            labels_from_flows(field[:-1], field[-1])
        with pytest.raises(ValueError, match="isn't finite") as found:
            labels_from_flows(field[:-1], field[-1], device=device)
        assert str(found.value) == str(expected.value)


def test_what_is_asked_of_a_device_is_done_there(monkeypatch):
    flow, logit = draw_flow(draw_labels((60, 60), 1), 1)
    expected = labels_from_flows(flow, logit)
    for name in ("follow_core", "_measure"):
        monkeypatch.setattr(labelling, name, lambda *_, **__: pytest.fail("the compiled code ran"))
    np.testing.assert_array_equal(labels_from_flows(flow, logit, device=torch.device("cpu")), expected)
    with pytest.raises(pytest.fail.Exception):
        labels_from_flows(flow, logit)
    with pytest.raises(ValueError, match="on the CPU alone"):
        labels_from_flows(flow, logit, device=torch.device("cpu"), compat="cellpose")
