"""Targets, flow error and cell probability on a device: all objects at once, the float64 operations of the CPU's order.

Pixels of all objects lie in one list, those of an object together and in raster order, the objects that need most steps
first: so the pixels where heat still diffuses are the beginning of the list, which gets shorter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows.blocks import probability_table
from plateflow.flows.device.objects import LabelledCanvas
from plateflow.flows.targets import diffusion_steps

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
# Pixels of objects that are worked on together, unless one object has more (about 200 bytes each).
_PIXELS = 1 << 22
# A voxel and its six neighbours, in the order in which they are added.
_CROSS = [(0, 0, 0), (0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0)]


def measure(
    canvas: LabelledCanvas, boxes: NDArray[np.int64], kept: NDArray[np.bool_], check: bool
) -> tuple[Floats, Floats]:
    """Measure flow error (with ``check``) and cell probability of the kept objects; the rest is NaN."""
    import torch

    ndim = canvas.labels.ndim
    values = canvas.values.view(ndim + 1, -1)
    errors, probability = np.full((2, len(boxes)), np.nan)
    indices = _in_order(boxes, np.flatnonzero(kept), ndim)
    pixels, areas = _list_pixels(canvas.labels, indices)
    logit = values[ndim].view(torch.int16)[pixels].int() & 0xFFFF
    terms = torch.from_numpy(probability_table()).to(pixels.device)[logit]
    probability[indices] = _sum(terms, areas) / areas
    if check:
        _measure_errors(canvas.labels, values[:ndim], boxes, indices, pixels, areas, errors)
    return errors, probability


def flow_errors_on(device: Any, labels: NDArray[np.int32], boxes: NDArray[np.int64], flow: NDArray[Any]) -> Floats:
    """Compute the flow errors of all labels, in their order; see :func:`plateflow.flows.flow_error`."""
    import torch

    on_device = torch.tensor(labels, device=device)
    values = torch.tensor(np.ascontiguousarray(flow), device=device).view(labels.ndim, -1)
    errors = np.full(len(boxes), np.nan)
    indices = _in_order(boxes, np.flatnonzero(boxes[:, 1]), labels.ndim)
    _measure_errors(on_device, values, boxes, indices, *_list_pixels(on_device, indices), errors)
    return errors


def flows_on(device: Any, labels: NDArray[np.int32], boxes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the targets of all labels; see :func:`plateflow.flows.flows_from_labels`."""
    import torch

    on_device = torch.tensor(labels, device=device)
    out = torch.zeros((labels.ndim, labels.size), dtype=torch.float32, device=on_device.device)
    indices = _in_order(boxes, np.flatnonzero(boxes[:, 1]), labels.ndim)
    pixels, areas = _list_pixels(on_device, indices)
    for _, mine, units in _slopes(on_device, boxes[indices], pixels, areas):
        out[:, mine] = units.float()
    return out.view(labels.ndim, *labels.shape).cpu().numpy()


def _measure_errors(
    labels: Tensor,
    flow: Tensor,
    boxes: NDArray[np.int64],
    indices: Numbers,
    pixels: Tensor,
    areas: Numbers,
    errors: Floats,
) -> None:
    import torch

    # A tensor, not a number: by a number CUDA multiplies with its reciprocal, which rounds differently.
    five = torch.full((1,), 5.0, dtype=torch.float64, device=labels.device)
    for some, mine, units in _slopes(labels, boxes[indices], pixels, areas):
        away = units - flow[:, mine].double() / five
        errors[indices[some]] = _sum(_add_in_order(away * away), areas[some]) / areas[some]


def _in_order(boxes: NDArray[np.int64], indices: Numbers, ndim: int) -> Numbers:
    """Put the objects that need most steps first."""
    return indices[np.argsort(-_steps(boxes[indices], ndim), kind="stable")]


def _steps(boxes: NDArray[np.int64], ndim: int) -> Numbers:
    return np.asarray(diffusion_steps.py_func(boxes.T, ndim))


def _list_pixels(labels: Tensor, indices: Numbers) -> tuple[Tensor, Numbers]:
    """List the flat pixels of objects, one object after the other and each in raster order; and their areas."""
    import torch

    top = int(indices.max(initial=-1)) + 1
    places = np.full(top + 2, len(indices), np.int32)
    places[indices + 1] = np.arange(len(indices))
    place = torch.from_numpy(places).to(labels.device)[labels.flatten().clamp(0, top + 1)]
    pixels = (place < len(indices)).nonzero()[:, 0]
    place, order = place[pixels].sort(stable=True)
    return pixels[order], torch.bincount(place, minlength=len(indices)).cpu().numpy()


def _slopes(
    labels: Tensor, boxes: NDArray[np.int64], pixels: Tensor, areas: Numbers
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield objects some at a time: which, their flat pixels, and the unit vectors there, ``(D, pixels)``."""
    import torch

    ndim = labels.ndim
    # With a border around the canvas every pixel has all its neighbours.
    wide = [size + 2 for size in labels.shape]
    padded = torch.nn.functional.pad(labels, (1, 1) * ndim).flatten()
    place = torch.zeros_like(padded)
    steps = _steps(boxes, ndim)
    neighbours = list(product((-1, 0, 1), repeat=ndim)) if ndim == 2 else _CROSS
    apart = np.cumprod([1, *wide[:0:-1]])[::-1]
    offsets = torch.tensor(np.array(neighbours) @ apart, device=labels.device)[:, None]
    ends = np.cumsum(areas)
    first = 0
    while first < len(areas):
        start = ends[first] - areas[first]
        last = max(first + 1, int(np.searchsorted(ends, start + _PIXELS, "right")))
        some = slice(first, last)
        mine = pixels[start : ends[last - 1]]
        axes = torch.stack(torch.unravel_index(mine, labels.shape)) + 1
        flat = (axes * torch.tensor(apart[:, None].copy(), device=mine.device)).sum(0)
        place[flat] = torch.arange(len(mine), dtype=torch.int32, device=mine.device)
        # Behind the last pixel lies one that is always cold: what is outside of the object.
        index = torch.stack([torch.where(padded[p] == padded[flat], place[p], len(mine)) for p in flat + offsets])
        heat = _diffuse(index, _find_sources(axes, areas[some]), steps[some], ends[some] - start)
        forward, backward = (
            torch.stack([heat[index[neighbours.index(tuple(row))]] for row in side * np.eye(ndim, dtype=int)])
            for side in (1, -1)
        )
        slope = forward - backward
        length = _sqrt(_add_in_order(slope * slope))
        yield some, mine, torch.where(length > 0, slope / length, 0.0)
        first = last


def _find_sources(axes: Tensor, areas: Numbers) -> Tensor:
    """Find the pixel of each object (an index into the list) that is nearest to its rounded centre of mass."""
    import torch

    area = torch.from_numpy(areas).to(axes.device)
    owner = torch.repeat_interleave(area)
    sums = torch.zeros((len(axes), len(areas)), dtype=torch.int64, device=axes.device).index_add_(1, owner, axes)
    centre = (2 * sums + area) // (2 * area)
    # Of pixels that are as near the first in raster order.
    key = ((axes - centre[:, owner]) ** 2).sum(0) * len(owner) + torch.arange(len(owner), device=axes.device)
    nearest = torch.full_like(area, torch.iinfo(torch.int64).max).scatter_reduce_(0, owner, key, "amin")
    return nearest % len(owner)


def _diffuse(index: Tensor, sources: Tensor, steps: Numbers, ends: Numbers) -> Tensor:
    """Let heat diffuse for as many steps as each object needs; ``index`` has a row a neighbour, in the CPU's order."""
    import torch

    heat = torch.zeros(index.shape[1] + 1, dtype=torch.float64, device=index.device)
    one = torch.ones(len(sources), dtype=torch.float64, device=index.device)
    done = 0
    for upto in np.unique(steps).tolist():
        objects = int(np.count_nonzero(steps >= upto))
        count = int(ends[objects - 1])
        near = index[:, :count].flatten()
        for _ in range(upto - done):
            heat.index_add_(0, sources[:objects], one[:objects])
            values = heat.index_select(0, near).view(len(index), count)
            if len(index) == 9:
                values = _add_in_order(values.view(3, 3, count).transpose(0, 1))
            torch.mul(_add_in_order(values), 1.0 / len(index), out=heat[:count])
        done = upto
    return heat


def _add_in_order(parts: Tensor) -> Tensor:
    """Add along the first axis, from left to right: torch's own sum has another order."""
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _sqrt(values: Tensor) -> Tensor:
    """Take the square root, rounded correctly: CUDA's is, but torch's on the CPU isn't once in 80 times."""
    import torch

    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def _sum(terms: Tensor, areas: Numbers) -> Floats:
    """Sum the terms of each object in raster order."""
    return _sum_runs(terms.cpu().numpy(), areas)


@njit(cache=True, nogil=True)
def _sum_runs(terms: Floats, areas: Numbers) -> Floats:
    sums = np.zeros(len(areas))
    p = 0
    for i in range(len(areas)):
        for _ in range(areas[i]):
            sums[i] += terms[p]
            p += 1
    return sums
