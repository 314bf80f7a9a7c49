"""Side by side with Cellpose 4.2.1.1, which `make test` installs (see the Makefile): an independent check.

Labels agree closely; made by the conventions of Cellpose (`cellpose_conventions`) they agree still better, so those
conventions explain the rest of the difference.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

dynamics = pytest.importorskip("cellpose.dynamics", reason="Cellpose isn't installed: make test installs it")
peer_metrics = pytest.importorskip("cellpose.metrics")

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from cellpose_conventions import cellpose_labels  # noqa: E402
from flow_cases import draw_cells, draw_flow  # noqa: E402

from plateflow import metrics  # noqa: E402
from plateflow.flows import flow_error, flows_from_labels, labels_from_flows  # noqa: E402

CASES = {500: (1024, 500), 5000: (1024, 5000)}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    size, count = CASES[request.param]
    labels = draw_cells(size, count)
    flow, logit = draw_flow(labels, flows_from_labels(labels))
    # Both sides get what Plateflow's exactness starts from.
    return labels, flow.astype(np.float16).astype(np.float32), logit.astype(np.float16).astype(np.float32)


def peer_labels(flow, logit, **options):
    return dynamics.resize_and_compute_masks(flow.copy(), logit.copy(), **options).astype(np.int64)


def agreement(one, other):
    ap = metrics.average_precision(one, other, (0.5, 0.9))[0]
    return {"ap50": ap[0], "ap90": ap[1], "pixels": ((one > 0) != (other > 0)).sum() / (one > 0).sum()}


def test_labels_agree_without_the_quality_check(case):
    _, flow, logit = case
    agreed = agreement(peer_labels(flow, logit, flow_threshold=0), labels_from_flows(flow, logit, flow_threshold=0))
    print(agreed)
    assert agreed["ap50"] >= 0.999
    assert agreed["ap90"] >= 0.98


def test_the_peers_conventions_explain_the_rest(case):
    _, flow, logit = case
    peer = peer_labels(flow, logit, flow_threshold=0)
    agreed = agreement(peer, cellpose_labels(flow, logit, flow_threshold=0))
    print(agreed)
    assert agreed["ap90"] >= 0.999


def test_the_peers_conventions_drop_the_same_objects(case):
    """With the quality check, on a case of the reference that the peer can do in a test's time."""
    _, flow, logit = (part[..., :400, :400] for part in case)
    peer = peer_labels(flow, logit, flow_threshold=0.1)
    assert peer.max() < peer_labels(flow, logit, flow_threshold=0).max()
    agreed = agreement(peer, cellpose_labels(flow, logit, flow_threshold=0.1))
    print(peer.max(), agreed)
    assert agreed["ap50"] >= 0.99


def test_labels_agree_in_three_dimensions():
    labels = draw_cells(80, 150, foreground=0.4, ndim=3)
    flow, logit = draw_flow(labels, flows_from_labels(labels))
    flow = flow.astype(np.float16).astype(np.float32)
    peer = peer_labels(flow, logit, do_3D=True)
    assert peer.max() > 100
    agreed = agreement(peer, labels_from_flows(flow, logit, flow_threshold=0))
    print(agreed)
    assert agreed["ap50"] >= 0.98
    closer = agreement(peer, cellpose_labels(flow, logit))
    print(closer)
    assert closer["ap90"] >= 0.98


def separate_squares(shape, edge):
    """Objects of one size with background between them: nothing of the peer's differs by intention."""
    labels = np.zeros(shape, np.int64)
    corners = np.ndindex(*(n // (edge + 3) for n in shape))
    for number, corner in enumerate(corners, 1):
        labels[tuple(slice(c * (edge + 3) + 1, c * (edge + 3) + 1 + edge) for c in corner)] = number
    return labels


@pytest.mark.parametrize(("shape", "edge"), [((100, 120), 9), ((100, 120), 15), ((24, 40, 40), 7)])
def test_targets_and_errors_of_objects_that_are_alone(shape, edge):
    labels = separate_squares(shape, edge)
    peer = dynamics.masks_to_flows_gpu(labels)[0] if len(shape) == 2 else dynamics.masks_to_flows_gpu_3d(labels)
    ours = flows_from_labels(labels)
    far = (np.abs(peer - ours).max(0) > 1e-3) & (labels > 0)
    # The slope is 0 up to rounding at the centre of a symmetric object: its direction is anyone's.
    assert far.sum() <= labels.max()
    if len(shape) == 2:
        flow = (peer * 5 + np.random.default_rng(0).normal(0, 1, peer.shape)).astype(np.float32)
        errors = dynamics.flow_error(labels.astype(np.int32), flow)[0]
        np.testing.assert_allclose(flow_error(labels, flow), errors, atol=2 * 8 / edge**2)
        assert np.abs(flow_error(labels, flow) - errors).mean() < 0.02


def test_metrics_are_the_peers():
    random = np.random.default_rng(0)
    true = draw_cells(256, 100)
    pred = np.roll(true, (2, 3), (0, 1)) * (random.random(true.max() + 1) < 0.9)[np.roll(true, (2, 3), (0, 1))]
    pred[pred % 7 == 1] += 1
    pred = np.unique(pred, return_inverse=True)[1].reshape(pred.shape)
    thresholds = [0.3, 0.5, 0.6, 0.75, 0.9]
    for ours, peers in zip(
        metrics.average_precision(true, pred, thresholds),
        peer_metrics.average_precision(true, pred, thresholds),
        strict=True,
    ):
        np.testing.assert_allclose(ours, peers, rtol=1e-6)
