"""Painted and measured labels of a whole canvas, made on a CUDA device; from there on the CPU goes on (`labels`)."""

import warnings
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.flows.blocks import Bits, FlowField, cell_table, half_values, probability_table, step_table
from plateflow.flows.finish import Painted, as_labels
from plateflow.flows.follow import not_finite
from plateflow.flows.seeds import SEED_COUNT

# Threads of a block: over x, y, z of a canvas, and for an object or a seed.
THREADS = (32, 8, 1)
OBJECT_THREADS = 128
# Memory for the heat of objects that are too large for the kernel's own, in float64; a larger object has it for itself.
_SCRATCH = 1 << 26


def paint(
    field: FlowField, out: NDArray[np.uint32], *, n_steps: int, cell_threshold: float, check: bool, max_size: int | None
) -> Painted | None:
    """Paint the labels of a canvas into ``out``, and measure its objects of up to ``max_size`` pixels.

    Returns None where there is no device for it, which is said once; nothing was written then.

    Raises:
        ArgumentError: the flow field isn't finite (the message gives the place).
    """
    try:
        from plateflow.flows import kernels

        result = _paint(kernels, field, out, n_steps, cell_threshold, check, max_size)
    except Exception as error:  # whatever a driver, a compiler or a lack of memory may raise
        _say(f"{type(error).__name__}: {error}".splitlines()[0])
        return None
    if isinstance(result, Painted):
        return result
    raise not_finite(result, tuple(slice(0, size) for size in result.shape[1:]))


@cache
def _say(why: str) -> None:
    warnings.warn(
        f"labels are made on the CPU, with the same result: numba-cuda can't make them on the GPU ({why})",
        RuntimeWarning,
        stacklevel=1,
    )


def _paint(
    kernels: Any,
    field: FlowField,
    out: NDArray[np.uint32],
    n_steps: int,
    cell_threshold: float,
    check: bool,
    max_size: int | None,
) -> Painted | Bits:
    """Do it; the bits of a field that isn't finite come back instead."""
    cuda = kernels.cuda
    labels_out = as_labels(out)
    depth, height, width = shape = labels_out.shape
    pixels, ndim = labels_out.size, out.ndim
    # Bits, steps, and four canvases of int32.
    needed, free = pixels * (2 * (ndim + 1) + 2 * ndim + 16), cuda.current_context().get_memory_info()[0]
    if needed > 0.9 * free or pixels >= 1 << 31:
        raise MemoryError(f"a canvas of {pixels} pixels takes {needed >> 20} MB; {free >> 20} MB are free")

    if _made_here(field.in_device_memory or (), cuda):
        flow, logit = (cuda.as_cuda_array(part).view(np.uint16) for part in field.in_device_memory or ())
        flow, logit = flow.reshape(ndim, *shape), logit.reshape(shape)
    else:
        canvas = tuple(slice(0, size) for size in shape)
        flow, logit = cuda.to_device(field.read_flow(canvas)), cuda.to_device(field.read_logit(canvas))
    step, above = cuda.to_device(step_table()), cuda.to_device(cell_table(float(cell_threshold)))
    probability, values = cuda.to_device(probability_table()), cuda.to_device(half_values())

    def empty(size: Any, kind: Any = np.int32) -> Any:
        return cuda.device_array(size, kind)

    def over(*size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(-(-a // b) for a, b in zip(size[::-1], THREADS, strict=True)), THREADS

    padded = depth + (ndim == 3), height + 1, width + 1
    steps, count, owner, ends = empty((*padded, ndim), np.int16), empty(pixels), empty(pixels), empty(pixels)
    wrong = cuda.to_device(np.zeros(1, np.int32))
    kernels.quantise[over(*padded)](flow, logit, step, above, steps, count, owner, wrong)
    if wrong.copy_to_host()[0]:
        return np.concatenate([flow.copy_to_host(), logit.copy_to_host()[None]])
    kernels.follow[over(*shape)](steps, logit, above, n_steps, steps.reshape(steps.size), ends, count)

    n, listed = cuda.to_device(np.zeros(1, np.int32)), empty(pixels // (SEED_COUNT + 1) + 1)
    kernels.find_seeds[over(*shape)](count, shape, n, listed)
    n_seeds = int(n.copy_to_host()[0])
    if not n_seeds:
        nothing = np.zeros((0, 6), np.int64)
        empty_sums, none = nothing[:, :3], nothing[:, 0]
        return Painted(seed=none, area=none, boxes=nothing, sums=empty_sums, holed=none != 0)
    listed, counts = listed[:n_seeds], empty(n_seeds)
    each = -(-n_seeds // OBJECT_THREADS), OBJECT_THREADS
    kernels.take[each](count, listed, counts)
    seeds = listed.copy_to_host().astype(np.int64)
    # The least first, as `seeds.find_seeds`: of equal counts the last in raster order.
    seeds = seeds[np.lexsort((-seeds, counts.copy_to_host()))]
    kernels.claim[n_seeds, OBJECT_THREADS](count, shape, cuda.to_device(seeds), owner)
    order = np.argsort(seeds)
    numbers = np.zeros(n_seeds + 1, np.int32)
    numbers[1 + order] = np.arange(1, n_seeds + 1)

    labels, area = empty(shape), cuda.to_device(np.zeros(n_seeds, np.int32))
    boxes = cuda.to_device(np.tile(np.array([2**31 - 1, 0] * 3, np.int32), (n_seeds, 1)))
    kernels.paint[over(*shape)](ends, owner, cuda.to_device(numbers), labels, area, boxes)
    areas, box = area.copy_to_host().astype(np.int64), boxes.copy_to_host().astype(np.int64)
    box[areas == 0] = 0
    sums, holes = cuda.to_device(np.zeros((n_seeds, 3), np.int64)), cuda.to_device(np.zeros(n_seeds, np.int32))
    chosen = np.flatnonzero((areas > 0) & (areas <= (max_size or pixels)))
    # Lists of pixels go where the ends were; large objects share the scratch as far as it goes.
    lists = np.cumsum(areas[chosen]) - areas[chosen]
    extent = box[chosen, 1::2] - box[chosen, ::2] + 2
    size = extent[:, 1] * extent[:, 2] * (extent[:, 0] if ndim == 3 else 1)
    if size.max(initial=0) >= 1 << 31:
        raise MemoryError("an object's box has more than 2**31 pixels")
    for part, places, room in _batches(2 * np.where(size > kernels.NEAR, size, 0)):
        kernels.measure[part.stop - part.start, OBJECT_THREADS](
            labels, flow, logit, values, probability, cuda.to_device(chosen[part]), boxes, area,
            cuda.to_device(lists[part]), ends, cuda.to_device(places), empty(max(room, 1), np.float64), check,
            sums, holes,
        )  # fmt: skip
    painted = Painted(
        seed=seeds[order], area=areas, boxes=box, sums=sums.copy_to_host(), holed=holes.copy_to_host() != 0
    )
    labels.copy_to_host(labels_out)
    return painted


def _made_here(parts: tuple[Any, ...], cuda: Any) -> bool:
    """Whether there are arrays in this device's memory that kernels can read; torch's are waited for.

    Kernels run in CUDA's default stream, which doesn't wait for others of torch; and torch, unlike others, doesn't say
    in which one an array is made.
    """
    for tensor in (part for part in parts if hasattr(part, "get_device")):
        if tensor.get_device() != cuda.current_context().device.id:
            return False  # it is copied by way of the host

        import torch

        torch.cuda.current_stream(tensor.device).synchronize()
    return bool(parts)


def _batches(room: NDArray[np.int64]) -> list[tuple[slice, NDArray[np.int64], int]]:
    """Cut objects, of which each needs some room, where it would be too much: which, their places in it, all of it."""
    batches, first = [], 0
    while first < room.size:
        ends = np.cumsum(room[first:])
        last = first + max(1, int(np.searchsorted(ends, max(_SCRATCH, room[first]), "right")))
        batches.append((slice(first, last), (ends - room[first:])[: last - first], int(ends[last - first - 1])))
        first = last
    return batches
