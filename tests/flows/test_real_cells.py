"""Real cells, 2D and 3D: what people drew comes back from its true flows, whole and by blocks."""

import subprocess
import sys

import numpy as np
import pytest
import tifffile

from plateflow.flows import flows_from_labels, labels_from_flows
from plateflow.metrics import average_precision

STACKS = [
    "cells3d/train/qcanet_mouse_embryo/labels/8_cell_stage.tif",
    "cells3d/val/qcanet_mouse_embryo/labels/16_cell_stage.tif",
    "cells3d/train/stardist_demo3d/labels/img3d.tif",
]


@pytest.mark.parametrize("path", STACKS)
def test_stacks_come_back_from_their_true_flows(test_data, path):
    labels = tifffile.imread(test_data / path)
    assert labels.ndim == 3
    flow = 5 * flows_from_labels(labels)
    logit = np.where(labels > 0, np.float32(5), np.float32(-5))
    uncut = labels_from_flows(flow, logit)
    assert average_precision(labels, uncut, 0.5)[0] >= 0.9
    for block in (20, 45):
        np.testing.assert_array_equal(labels_from_flows(flow, logit, block=block, workers=2), uncut)


def test_planes_come_back_from_their_true_flows(test_data):
    paths = sorted((test_data / "cells2d" / "val").glob("*/labels/*.tif"))[::12]
    assert paths
    true, pred = [], []
    for path in paths:
        labels = tifffile.imread(path)
        if labels.ndim != 2:
            continue
        true.append(labels)
        logit = np.where(labels > 0, np.float32(5), np.float32(-5))
        pred.append(labels_from_flows(5 * flows_from_labels(labels), logit, min_size=1))
        np.testing.assert_array_equal(
            labels_from_flows(5 * flows_from_labels(labels), logit, min_size=1, block=100), pred[-1]
        )
    _, tp, fp, fn = average_precision(true, pred, 0.5)
    assert tp.sum() / (tp + fp + fn).sum() >= 0.95


def test_an_import_compiles_nothing():
    code = (
        "import numba.core.dispatcher as d; d.Dispatcher.compile = None\n"
        "import sys, plateflow.flows, plateflow.metrics\n"
        "assert 'torch' not in sys.modules and 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
