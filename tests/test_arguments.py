"""What the Python API refuses: always a ValueError that names the argument."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plateflow.errors import PlateflowError
from plateflow.features import measure
from plateflow.flows import flow_error, flows_from_labels, follow_flows, labels_from_flows
from plateflow.metrics import average_precision, error_rate, f1
from plateflow.segment import segment_image

LABELS = np.kron(np.eye(2, dtype=np.int32), np.ones((6, 6), np.int32))
FLOW = (5 * flows_from_labels(LABELS)).astype(np.float16)
CALLS: dict[Callable[..., Any], dict[str, Any]] = {
    flows_from_labels: {"labels": LABELS},
    follow_flows: {"flow": FLOW, "cell_mask": LABELS > 0},
    labels_from_flows: {"flow": FLOW, "cell_logit": np.where(LABELS, 1, -1).astype(np.float16)},
    flow_error: {"labels": LABELS, "flow": FLOW},
    segment_image: {"image": np.eye(64)},
    average_precision: {"true": LABELS, "pred": LABELS},
    error_rate: {"true": LABELS, "pred": LABELS},
    f1: {"true": LABELS, "pred": LABELS},
    measure: {
        "image": np.ones((1, 12, 12)),
        "labels": {"Cells": LABELS},
        "channels": ["A"],
        "pixel_size_um": 0.5,
        "families": "location",
    },
}
"""Every function of arrays in the Python API (docs/design.md), and arguments that it takes."""
ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": lambda array: np.ma.masked_array(array, array == array.max()),
    "of objects": lambda array: array.astype(object),
    "of None": lambda array: np.full(array.shape, None),
    "of text": lambda array: array.astype(str),
    "without pixels": lambda array: array[..., :0],
    "of uneven lists": lambda array: [[1, 2], [3]],
    "None": lambda array: None,
}
NOT_WHOLE = [0, -1, 1.5, math.nan, math.inf, "2", None, [3], np.int64(-7)]
NOT_FINITE = [math.nan, math.inf, -math.inf, "0.5", None, [0.1, 0.2], 1j]
NUMBERS: list[tuple[Callable[..., Any], str, list[Any]]] = [
    (follow_flows, "n_steps", NOT_WHOLE),
    (labels_from_flows, "n_steps", NOT_WHOLE),
    (labels_from_flows, "block", [0, -1, 2.5, math.nan]),
    (labels_from_flows, "workers", [0, -1, 2.5, math.nan]),
    (labels_from_flows, "min_size", [-1, 2.5, math.nan, None]),
    (labels_from_flows, "max_size", [0, -1, 2.5, math.inf]),
    (labels_from_flows, "cell_threshold", NOT_FINITE),
    (labels_from_flows, "flow_threshold", [-0.1, *NOT_FINITE]),
    (segment_image, "diameter", [0, -3.0, math.nan, math.inf, "30"]),
    (segment_image, "channels", ["0", 0, [0.5], ["DNA"], [None], [-1]]),
    *[(function, "threshold", [-0.1, 1.1, *NOT_FINITE]) for function in (error_rate, f1)],
    (average_precision, "threshold", [-0.1, 1.1, [0.5, math.nan], [0.5, "x"], None]),
    (measure, "pixel_size_um", [0, 0.0, -1, math.inf, "0.5", None, [0.5, 0], [0.5], [0.5] * 3]),
    (measure, "texture_scales", [[0], [1.5], [3, -1], [math.nan]]),
    (measure, "origin_px", [(1,), (1, 2, 3)]),
    (measure, "outside", [np.zeros((3, 3), bool), np.ma.zeros((12, 12))]),
    (measure, "channels", ["A"]),
    (measure, "labels", [LABELS, {}]),
]


@pytest.mark.parametrize("function", CALLS)
def test_the_good_arguments_are_good(function: Callable[..., Any]) -> None:
    function(**CALLS[function])


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (function, name)
        for function, call in CALLS.items()
        for name, value in call.items()
        if isinstance(value, np.ndarray | dict)
    ],
)
def test_arrays_that_are_none(function: Callable[..., Any], argument: str, kind: str) -> None:
    value = CALLS[function][argument]
    if isinstance(value, dict):
        bad: Any = {name: ARRAYS[kind](array) for name, array in value.items()}
    elif argument in ("true", "pred") and kind in ("of uneven lists", "None"):
        bad = [ARRAYS[kind](value)]
    else:
        bad = ARRAYS[kind](value)
    other = {"true": "pred", "pred": "true"}.get(argument)
    call = CALLS[function] | {argument: bad} | ({other: [value]} if other and isinstance(bad, list) else {})
    with pytest.raises(ValueError, match=argument):
        function(**call)


@pytest.mark.parametrize(
    ("function", "argument", "value"),
    [
        pytest.param(function, argument, value, id=f"{function.__name__}-{argument}-{n}")
        for function, argument, values in NUMBERS
        for n, value in enumerate(values)
    ],
)
def test_numbers_out_of_range(function: Callable[..., Any], argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument) as error:
        function(**CALLS[function] | {argument: value})
    assert isinstance(error.value, PlateflowError)  # so that a command says it without a traceback


def test_a_flow_that_is_not_finite_matters_in_objects_alone() -> None:
    flow = FLOW.copy()
    flow[:, 0, 11] = np.nan
    np.testing.assert_array_equal(flow_error(LABELS, flow), flow_error(LABELS, FLOW))
    flow[0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="flow is NaN or infinite"):
        flow_error(LABELS, flow)


def test_lists_and_whole_floats_are_taken() -> None:
    np.testing.assert_array_equal(flows_from_labels(LABELS.tolist()), flows_from_labels(LABELS))
    np.testing.assert_array_equal(
        follow_flows(FLOW, LABELS > 0, n_steps=20.0), follow_flows(FLOW, LABELS, n_steps=np.int8(20))
    )
    known = measure(**CALLS[measure])
    unknown = measure(**CALLS[measure] | {"pixel_size_um": math.nan})
    assert list(known) == list(unknown)
