"""Exactness in three dimensions, on volumes of several blocks along every axis."""

import numpy as np
import pytest
from flow_scenes import draw_cells, draw_flow, draw_labels, slow_labels

from plateflow.flows import (
    cut_blocks,
    finish,
    follow,
    follow_block,
    follow_flows,
    labels_from_endpoints,
    labels_from_flows,
    segment_flow,
)


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells with noisy flows, and the labels in one piece."""
    flow, logit = draw_flow(draw_cells((44, 90, 100), 4), 4)
    uncut = labels_from_flows(flow, logit, block=200, workers=1)
    assert uncut.max() >= 20
    return flow, logit, uncut


def test_a_volume_is_as_its_definition_says():
    flow, logit = draw_flow(draw_cells((30, 44, 40), 1, count=12), 1)
    labels = labels_from_flows(flow, logit, block=16)
    assert labels.max() >= 5
    np.testing.assert_array_equal(labels, slow_labels(flow, logit))


@pytest.mark.parametrize("block", [15, 24, 33, 64, 1000])
def test_neither_blocks_nor_order_nor_workers_nor_slices_show(scene, block):
    flow, logit, uncut = scene
    for workers in (1, 2, 5, 8):
        np.testing.assert_array_equal(labels_from_flows(flow, logit, block=block, workers=workers), uncut)
    field, blocks = np.concatenate([flow, logit[None]]), cut_blocks(logit.shape, block)
    for slices in (1, 2, 6):
        stored = {}
        for part in reversed(range(slices)):
            for k in np.random.default_rng(slices).permutation(blocks[part::slices]):
                stored[k.index] = follow_block(field, k, n_steps=200, cell_threshold=0.0)
        labels, objects = labels_from_endpoints(
            stored.__getitem__, field, block=block, cell_threshold=0.0, flow_threshold=0.4, min_size=15
        )
        np.testing.assert_array_equal(labels, uncut)
        assert objects.seed.shape == (uncut.max(), 3)
        np.testing.assert_array_equal(objects.area, np.bincount(uncut.ravel())[1:])


@pytest.mark.parametrize("shape", [(44, 90, 100), (300, 400)])
def test_labels_in_a_file_are_the_same(tmp_path, shape, monkeypatch):
    """Only a few pages of a file are in memory at a time; here bands are small, so that there are many of them."""
    flow, logit = draw_flow(draw_labels(shape, 5), 5)
    field = np.concatenate([flow, logit[None]])
    np.save(tmp_path / "flow.npy", field)
    endpoints = [follow_block(field, one, n_steps=200, cell_threshold=0.0) for one in cut_blocks(shape, 50)]
    options = {"block": 50, "cell_threshold": 0.0, "flow_threshold": 0.4, "min_size": 15}
    expected, objects = labels_from_endpoints(endpoints, field, **options)
    assert expected.max() > 10
    monkeypatch.setattr(finish, "_BAND", 30 * shape[-1])
    out = np.memmap(tmp_path / "labels", np.uint32, "w+", shape=shape)
    stored = np.load(tmp_path / "flow.npy", mmap_mode="r")
    labels, again = labels_from_endpoints(endpoints, stored, out=out, first=1001, workers=2, **options)
    assert labels is out
    np.testing.assert_array_equal(np.asarray(labels), np.where(expected > 0, expected + 1000, 0))
    np.testing.assert_array_equal(again.label, objects.label + 1000)
    for name in ("seed", "area", "flow_error", "cell_probability"):
        np.testing.assert_array_equal(getattr(again, name), getattr(objects, name))
    at_once = np.memmap(tmp_path / "at once", np.uint32, "w+", shape=shape)
    _, same = segment_flow(stored, n_steps=200, out=at_once, first=1001, **options)
    np.testing.assert_array_equal(at_once, out)
    for name in ("label", "seed", "area", "flow_error", "cell_probability", "dropped"):
        np.testing.assert_array_equal(getattr(same, name), getattr(again, name))


def test_an_object_larger_than_its_blocks():
    labels = np.zeros((50, 70, 80), np.int32)
    labels[5:46, 8:60, 10:75] = 1
    middle = np.array([25, 34, 42])[:, None, None, None]
    away = middle - np.indices(labels.shape)
    flow = (5 * away / np.maximum(np.sqrt((away**2).sum(0)), 1) * (labels > 0)).astype(np.float16)
    logit = np.where(labels > 0, 5, -5).astype(np.float16)
    uncut = labels_from_flows(flow, logit, flow_threshold=0)
    np.testing.assert_array_equal(uncut, labels)
    np.testing.assert_array_equal(labels_from_flows(flow, logit, flow_threshold=0, block=16, workers=3), uncut)


def test_a_helix_leaves_every_halo(monkeypatch):
    """Round and up through the whole volume: a path of some 900 px, far beyond its block."""
    monkeypatch.setattr(follow, "HALO", {2: 3, 3: 3})
    shape = (36, 36, 36)
    _, y, x = np.indices(shape) - 17.5
    radius = np.hypot(y, x) + 1e-6
    flow = 4.5 * np.stack([0 * x + 0.05, (x - 0.01 * y) / radius, (-y - 0.01 * x) / radius])
    field = np.concatenate([flow, np.ones((1, *shape))]).astype(np.float16)
    uncut = follow_flows(field[:3], field[3] > 0, n_steps=1000).reshape(3, *shape)
    assert (uncut[0] == 35).all(), "up to the last plane"
    for block in cut_blocks(shape, 12)[::4]:
        endpoints = follow_block(field, block, n_steps=1000, cell_threshold=0.0)
        np.testing.assert_array_equal(endpoints, uncut[(slice(None), *block.core)].reshape(3, -1))
