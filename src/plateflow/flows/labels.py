"""From end pixels to labels: the same labels however the canvas is cut into blocks, and the work among threads."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.arguments import finite, pixels, whole
from plateflow.compiled import compiled
from plateflow.errors import ArgumentError, ResultsError
from plateflow.flows import seeds
from plateflow.flows.blocks import (
    Bits,
    Block,
    FlowField,
    Points,
    as_field,
    cell_table,
    cut_blocks,
    half_values,
    in_device_memory,
    probability_table,
    release_pages,
    to_host,
    with_z,
)
from plateflow.flows.finish import Painted, as_labels, each, fill_holes, find_boxes_by_band, renumber
from plateflow.flows.flow_error import mean_errors, mean_probabilities, sum_errors, sum_probabilities
from plateflow.flows.follow import follow_block
from plateflow.flows.targets import Boxes, Floats, Labels

# Edge of the blocks that labels_from_flows chooses: small enough to stay in cache and to keep all threads busy.
_OWN_BLOCK = {2: 512, 3: 96}


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of a canvas in ascending order of their labels; each array has one entry per object.

    Attributes:
        label: 1..n, or from another first label on.
        seed: ``(n, D)``, canvas coordinates.
        area: pixels, filled holes included.
        flow_error: NaN if the check is off.
        cell_probability: mean over the pixels whose paths lead to the seed.
        dropped: pixels of each of the others that were large enough, but failed the check against the flow.
    """

    label: NDArray[np.uint32]
    seed: NDArray[np.int64]
    area: NDArray[np.int64]
    flow_error: Floats
    cell_probability: Floats
    dropped: NDArray[np.int64]


def labels_from_flows(
    flow: NDArray[Any],
    cell_logit: NDArray[Any],
    *,
    block: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    n_steps: int = 200,
    cell_threshold: float = 0.0,
    flow_threshold: float = 0.4,
    min_size: int = 15,
    max_size: int | None = None,
) -> NDArray[np.uint32]:
    """Turn a flow field into labels.

    Args:
        flow: flow field in network units (5 x pixels per step), ``(D, *space)``, order ``[dz,] dy, dx``; numpy, memmap,
            zarr, or a tensor of torch. Rounded to float16 first. For CUDA, contiguous float16 stays on the device.
        cell_logit: ``(*space)``, like the flow.
        block: edge of the blocks in pixels. It changes no pixel of the result.
        workers: threads (default: one per processor). They change no pixel of the result.
        device: ``"cpu"`` or ``"cuda"``. It changes no pixel of the result. Where there is no such device, or too little
            memory on it, the CPU does it, which is said once.
        n_steps: steps of each path.
        cell_threshold: pixels with a logit above this belong to objects.
        flow_threshold: objects with a flow error above this are dropped; 0 switches the check off.
        min_size: objects with fewer pixels (filled holes included) are dropped.
        max_size: objects with more pixels (before holes are filled) are dropped; ``None`` is no limit.

    Returns:
        Labels 1..n in raster order of the seeds, uint32, 0 outside.

    Raises:
        ValueError: shapes don't fit, a value is NaN or infinite (the message gives the place), an array has a mask, a
            number is out of range, or there is no such device.
    """
    flow, cell_logit = (
        part if in_device_memory(part) else pixels(name, to_host(part))
        for name, part in (("flow", flow), ("cell_logit", cell_logit))
    )
    field = FlowField(flow, cell_logit)
    n_steps, min_size = whole("n_steps", n_steps, least=1), whole("min_size", min_size, least=0)
    block, workers, max_size = (
        value if value is None else whole(name, value, least=1)
        for name, value in (("block", block), ("workers", workers), ("max_size", max_size))
    )
    cell_threshold = finite("cell_threshold", cell_threshold)
    flow_threshold = finite("flow_threshold", flow_threshold, least=0)
    block = block or _OWN_BLOCK[field.ndim]
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    labels, _ = segment_flow(
        field,
        block=block,
        n_steps=n_steps,
        cell_threshold=cell_threshold,
        flow_threshold=flow_threshold,
        min_size=min_size,
        max_size=max_size,
        workers=workers,
        device=device,
    )
    return labels


def segment_flow(
    flow: Any,
    *,
    block: int,
    n_steps: int,
    cell_threshold: float,
    flow_threshold: float,
    min_size: int,
    max_size: int | None = None,
    workers: int = 1,
    device: str = "cpu",
    first: int = 1,
    out: NDArray[np.uint32] | None = None,
) -> tuple[NDArray[np.uint32], Objects]:
    """Make labels and objects of a canvas whose flow field is at hand, in one go.

    The result is that of `follow_block` and `labels_from_endpoints`. Beside flow field and labels, memory holds the end
    pixels (2 D bytes per cell pixel) and, for each worker, a block with its halo. On CUDA the whole canvas is on the
    device, with up to 30 bytes per pixel; one that doesn't fit is done by the CPU.

    Args:
        flow: the canvas's flow field ``(D + 1, *shape)``, order ``[dz,] dy, dx, cell logit``; numpy, memmap, zarr, or a
            tensor of torch.
        block: edge of the blocks that are followed, in pixels. It changes no pixel of the result.
        n_steps: as in `labels_from_flows`, and so are the next six, ``device`` among them.
        first: label of the first object.
        out: where to make the labels, uint32, of the canvas's shape, filled with 0.

    Returns:
        The labels, uint32, and their objects.

    Raises:
        ValueError: shapes don't fit, or the flow field isn't finite (the message gives the place).
    """
    if device not in ("cpu", "cuda"):
        raise ArgumentError(f'device must be "cpu" or "cuda"; got {device!r}')
    field = as_field(flow)
    if device == "cuda":
        from plateflow.flows import device as on_cuda

        out = _out(field, out)
        painted = on_cuda.paint(
            field, out, n_steps=n_steps, cell_threshold=cell_threshold, check=flow_threshold > 0, max_size=max_size
        )
        if painted is not None:
            return _finish(out, painted, flow_threshold, min_size, max_size, first, workers)
    blocks = cut_blocks(field.shape, block)

    def follow(one: Block) -> NDArray[np.signedinteger]:
        offsets = follow_block(field, one, n_steps=n_steps, cell_threshold=cell_threshold) - _corner(one)
        return offsets.astype(np.int16) if np.abs(offsets).max(initial=0) < 1 << 15 else offsets

    offsets = list(each(follow, blocks, workers))
    return labels_from_endpoints(
        lambda index: offsets[index] + _corner(blocks[index]),
        field,
        block=block,
        cell_threshold=cell_threshold,
        flow_threshold=flow_threshold,
        min_size=min_size,
        max_size=max_size,
        workers=workers,
        first=first,
        out=out,
    )


def _corner(block: Block) -> Points:
    """The first pixel of a block, ``(D, 1)``."""
    return np.array([[axis.start] for axis in block.core], np.int32)


def labels_from_endpoints(
    endpoints: Callable[[int], Points] | Sequence[Points],
    flow: Any,
    *,
    block: int,
    cell_threshold: float,
    flow_threshold: float,
    min_size: int,
    max_size: int | None = None,
    workers: int = 1,
    first: int = 1,
    out: NDArray[np.uint32] | None = None,
) -> tuple[NDArray[np.uint32], Objects]:
    """Make the labels of a canvas from the end pixels of its blocks.

    Without ``out`` the labels are held in memory, 4 bytes per pixel. With a memmap only a block of them is, or the box
    of the largest object; of endpoints, flows and objects only what blocks and objects need.

    Args:
        endpoints: the result of `follow_block` for each block of ``cut_blocks(shape, block)``: a sequence, or a
            function of the block's index (called twice per block).
        flow: the canvas's flow field ``(D + 1, *shape)`` with the logit last; numpy, memmap or zarr.
        block: edge of the blocks, as they were cut.
        cell_threshold: as the blocks were followed; the next four as in `labels_from_flows`.
        first: label of the first object.
        out: where to make the labels, uint32, of the canvas's shape, filled with 0.

    Returns:
        The labels, uint32, and their objects.

    Raises:
        ValueError: shapes don't fit.
        ResultsError: the endpoints aren't those of this flow field and these blocks.
    """
    field = as_field(flow)
    out = _out(field, out)
    blocks = cut_blocks(field.shape, block)

    def read(one: Block) -> Points:
        points = endpoints(one.index) if callable(endpoints) else endpoints[one.index]
        if len(points) != field.ndim or points.min(initial=0) < 0 or (points.max(1, initial=0) >= field.shape).any():
            raise _foreign_endpoints(one, f"some lie outside the canvas of {field.shape} pixels")
        return points if field.ndim == 3 else np.concatenate([np.zeros_like(points[:1]), points])

    counted = each(lambda one: seeds.count_endpoints(read(one), field.volume), blocks, workers)
    counts = seeds.merge_counts(counted, field.volume)
    chosen = seeds.find_seeds(counts)
    # From here on objects are known by their indices 0..n-1 in raster order of their seeds, and labelled index + 1.
    order = np.argsort(chosen)
    numbers = np.zeros(chosen.size + 1, np.int32)
    numbers[1 + order] = np.arange(1, chosen.size + 1)
    owner = numbers[seeds.find_basins(counts, chosen)]
    seed = counts.pixels[chosen[order]]

    look_up = partial(seeds.look_up, counts=counts, owner=owner)
    area = _paint(field, blocks, lambda one: look_up(read(one)), cell_threshold, out, seed.size, workers)
    boxes = find_boxes_by_band(out, seed.size)
    measured = np.flatnonzero(_is_measured(area, max_size))
    sums = _measure(field, block, out, boxes, measured, flow_threshold > 0, workers)
    painted = Painted(seed=seed, area=area, boxes=boxes, sums=sums, holed=None)
    return _finish(out, painted, flow_threshold, min_size, max_size, first, workers)


def _out(field: FlowField, out: NDArray[np.uint32] | None) -> NDArray[np.uint32]:
    """Where to make the labels."""
    out = np.zeros(field.shape, np.uint32) if out is None else out
    if out.shape != field.shape:
        raise ValueError(f"the labels have the shape {out.shape} and the flow field {field.shape}: they must be equal")
    return out


def _is_measured(area: NDArray[np.int64], max_size: int | None) -> NDArray[np.bool_]:
    """Which objects are large enough to be one, and no larger than allowed."""
    return (area > 0) & (area <= (np.iinfo(np.int64).max if max_size is None else max_size))


def _finish(
    out: NDArray[np.uint32],
    painted: Painted,
    flow_threshold: float,
    min_size: int,
    max_size: int | None,
    first: int,
    workers: int,
) -> tuple[NDArray[np.uint32], Objects]:
    """Drop, fill and number painted objects, in place."""
    area, kept = painted.area, _is_measured(painted.area, max_size)
    errors, probability = np.full((2, area.size), np.nan)
    if flow_threshold > 0:
        errors[kept] = mean_errors(painted.sums[kept], area[kept])
    probability[kept] = mean_probabilities(painted.sums[kept], area[kept])
    failed = errors > flow_threshold
    dropped = area[failed & (area >= max(min_size, 1))]
    kept &= ~failed
    fill_holes(out, painted.boxes, kept, area, workers, painted.holed)
    kept &= area >= max(min_size, 1)
    renumber(out, kept, first, workers)
    return out, Objects(
        label=np.arange(first, first + kept.sum(), dtype=np.uint32),
        seed=np.stack(np.unravel_index(painted.seed[kept], out.shape), -1),
        area=area[kept],
        flow_error=errors[kept],
        cell_probability=probability[kept],
        dropped=dropped,
    )


def _paint(
    field: FlowField,
    blocks: list[Block],
    look_up: Callable[[Block], NDArray[np.int32]],
    cell_threshold: float,
    out: NDArray[np.uint32],
    n: int,
    workers: int,
) -> NDArray[np.int64]:
    """Label the cell pixels of each block by what ``look_up`` says of its endpoints; return the areas of n objects."""
    labels, above = as_labels(out), cell_table(float(cell_threshold))

    def paint(one: Block) -> tuple[int, NDArray[np.int64]]:
        values, core = look_up(one), with_z(one.core)
        if _paint_core(field.read_logit(core), above, values, labels[core]) != values.size:
            raise _foreign_endpoints(one, "there is not one end pixel for each cell pixel")
        release_pages(out)
        # Objects of a block have numbers close to each other: count from the lowest on, not all of the canvas's.
        painted = values[values > 0] - 1
        lowest = int(painted.min(initial=n))
        return lowest, np.bincount(painted - lowest)

    area = np.zeros(n, np.int64)
    for lowest, part in each(paint, blocks, workers):
        area[lowest : lowest + part.size] += part
    return area


def _measure(
    field: FlowField,
    block: int,
    out: NDArray[np.uint32],
    boxes: Boxes,
    objects: NDArray[np.int64],
    check: bool,
    workers: int,
) -> NDArray[np.int64]:
    """Sum the errors (with ``check``) and probabilities of these objects (`flow_error`).

    Objects are taken with the block that holds the first corner of their box, so that each region is read once.
    """
    sums = np.zeros((len(boxes), 3), np.int64)
    labels = as_labels(out)
    home = np.ravel_multi_index(tuple(boxes[objects, ::2].T // block), field.volume)
    order = np.argsort(home, kind="stable")
    groups = np.split(objects[order], np.flatnonzero(np.diff(home[order])) + 1) if objects.size else []

    def measure(group: NDArray[np.int64]) -> None:
        low, high = boxes[group, ::2].min(0), boxes[group, 1::2].max(0)
        region = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        local = boxes[group] - np.repeat(low, 2)
        values = np.zeros((group.size, 3), np.int64)
        if check:
            bits = field.read(region)
            sum_errors(labels[region], local, group + 1, field.ndim, half_values()[bits[:-1]], values)
            logit = bits[-1]
        else:
            logit = field.read_logit(region)
        sum_probabilities(labels[region], local, group + 1, logit, probability_table(), values)
        sums[group] = values
        release_pages(out)

    list(each(measure, groups, workers))
    return sums


def _foreign_endpoints(block: Block, why: str) -> ResultsError:
    return ResultsError(
        f"the end pixels of block {block.index} aren't those of this flow field",
        why=why,
        remedy="follow this canvas again; in a project: `plateflow retry PLATE/WELL --stage follow`, then `snakemake`",
    )


@compiled
def _paint_core(logit: Bits, above: NDArray[np.uint8], values: NDArray[np.int32], labels: Labels) -> int:
    """Give the cell pixels of a core their values, in raster order; return how many there are."""
    i = 0
    for z in range(logit.shape[0]):
        for y in range(logit.shape[1]):
            for x in range(logit.shape[2]):
                if above[logit[z, y, x]] == 1:
                    if i < values.size:
                        labels[z, y, x] = values[i]
                    i += 1
    return i
