"""How well labels and flow field agree, one object at a time in its box: flow error and cell probability."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.arguments import pixels
from plateflow.compiled import compiled
from plateflow.errors import ArgumentError
from plateflow.flows.blocks import Bits
from plateflow.flows.scalar import ERROR_ONE, PROBABILITY_ONE, squared_error
from plateflow.flows.targets import Boxes, Floats, Labels, as_volume, compact_labels, diffuse, scratch_buffer, slope


def flow_error(labels: NDArray[Any], flow: NDArray[Any]) -> Floats:
    """Compare a flow field with the one that the labels themselves would have (Cellpose's flow error).

    Args:
        labels: label image, axes ``YX`` or ``ZYX``; objects of one pixel or more, gaps between labels are allowed.
        flow: flow field in network units (5 x the unit target), ``(D, *labels.shape)``, order ``[dz,] dy, dx``.

    Returns:
        For each label 1..max the mean over its pixels of the squared distance between ``flow / 5`` and its own unit
        target (`flows_from_labels`); NaN where there is no such label. Sums are float64 in raster order.

    Raises:
        ValueError: the shapes don't fit, the labels aren't integers in two or three dimensions, the flow isn't finite
            in an object, or an array has a mask or no pixel.
    """
    labels, flow = np.asarray(pixels("labels", labels)), np.asarray(pixels("flow", flow))
    top = int(labels.max(initial=0))
    compact, boxes = compact_labels(labels)
    if flow.shape != (compact.ndim, *compact.shape):
        raise ValueError(f"flow must have the shape {(compact.ndim, *compact.shape)} of these labels; got {flow.shape}")
    if flow.dtype == np.float16:
        flow = flow.astype(np.float32)
    volume = as_volume(compact)
    if not (np.isfinite(flow).all() or np.isfinite(flow[:, compact > 0]).all()):
        raise ArgumentError("flow is NaN or infinite in an object")
    sums, numbers = np.zeros((len(boxes), 3), np.int64), np.arange(1, len(boxes) + 1)
    sum_errors(volume, boxes, numbers, compact.ndim, flow.reshape(len(flow), *volume.shape), sums)
    errors = mean_errors(sums, np.bincount(compact[compact > 0], minlength=len(boxes) + 1)[1:])
    if top == len(errors):
        return errors
    spread = np.full(top, np.nan)  # the labels were renumbered
    spread[np.unique(labels[labels > 0]).astype(np.int64) - 1] = errors
    return spread


def mean_errors(sums: NDArray[np.int64], area: NDArray[np.int64]) -> Floats:
    """Flow errors of objects, by their sums ``(n, 3)`` (`sum_errors`) and pixels; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        return (sums[:, 0] + sums[:, 1] / ERROR_ONE) / area


def mean_probabilities(sums: NDArray[np.int64], area: NDArray[np.int64]) -> Floats:
    """Cell probabilities of objects, by their sums ``(n, 3)`` and pixels; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        return sums[:, 2] / PROBABILITY_ONE / area


@compiled
def sum_errors(
    labels: Labels, boxes: Boxes, numbers: NDArray[np.int64], ndim: int, flow: Any, sums: NDArray[np.int64]
) -> None:
    """Sum the squared errors of the objects with these numbers and boxes, all in the coordinates of ``labels``.

    Of each pixel's the first column of ``sums`` gets the whole part, the second the rest, in units of 2**-32.
    """
    buffer = scratch_buffer(boxes, ndim)
    for i in range(len(boxes)):
        z0, z1, y0, y1, x0, x1 = boxes[i]
        if z1 == 0:
            continue
        heat, weight, first, row, plane = diffuse(labels, numbers[i], boxes[i], ndim, buffer)
        whole, part = 0, 0
        for z in range(z0, z1):
            for y in range(y0, y1):
                base = first + (z - z0) * plane + (y - y0) * row - x0
                for x in range(x0, x1):
                    if weight[base + x] > 0.0:
                        dz, dy, dx = slope(heat, base + x, row, plane, ndim)
                        error = squared_error(
                            dz - np.float64(flow[0, z, y, x]) / 5.0 if ndim == 3 else 0.0,
                            dy - np.float64(flow[ndim - 2, z, y, x]) / 5.0,
                            dx - np.float64(flow[ndim - 1, z, y, x]) / 5.0,
                        )
                        whole += error >> 32
                        part += error & (ERROR_ONE - 1)
        sums[i, 0], sums[i, 1] = whole, part


@compiled
def sum_probabilities(
    labels: Labels,
    boxes: Boxes,
    numbers: NDArray[np.int64],
    logit: Bits,
    table: NDArray[np.int32],
    sums: NDArray[np.int64],
) -> None:
    """Sum the logistic function (``table``, by the bits of the float16 logit) over objects: the sums' third column."""
    for i in range(len(boxes)):
        z0, z1, y0, y1, x0, x1 = boxes[i]
        total = 0
        for z in range(z0, z1):
            for y in range(y0, y1):
                for x in range(x0, x1):
                    if labels[z, y, x] == numbers[i]:
                        total += table[logit[z, y, x]]
        sums[i, 2] = total
