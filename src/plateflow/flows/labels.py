"""From end pixels to labels: the same labels however the canvas was cut into blocks, and the work among threads."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows import quality, seeds
from plateflow.flows.blocks import (
    Bits,
    Block,
    FlowField,
    cell_table,
    half_values,
    let_go,
    plan_blocks,
    probability_table,
)
from plateflow.flows.finish import Objects, as_labels, each, finish
from plateflow.flows.follow import Points, follow_core
from plateflow.flows.peer import errors_cellpose
from plateflow.flows.targets import Labels

__all__ = ["labels_from_ends", "labels_from_flows"]

# Blocks that labels_from_flows cuts for itself: small enough to stay in cache and to keep every thread busy.
_OWN_BLOCK = {2: 512, 3: 96}


def labels_from_flows(
    flow: NDArray[Any],
    cell_logit: NDArray[Any],
    *,
    block: int | None = None,
    workers: int | None = None,
    device: Any = "cpu",
    n_steps: int = 200,
    cell_threshold: float = 0.0,
    flow_threshold: float = 0.4,
    min_size: int = 15,
    max_size: int | None = None,
    compat: str | None = None,
) -> NDArray[np.uint32]:
    """Turn a flow field into labels.

    Parameters
    ----------
    flow, cell_logit
        Flow field in network units (5 x pixels a step), ``(D, *space)``, order ``[dz,] dy, dx``, and logits
        ``(*space)``; numpy, memmap or zarr. Both are rounded to float16 first.
    block, workers
        Edge of the blocks in pixels, and threads (default: one a processor). They change no pixel of the result.
    device
        ``"cpu"``, the only one so far.
    n_steps
        Steps of a path.
    cell_threshold
        Pixels whose logit is above belong to objects.
    flow_threshold
        Objects whose flow error is above are dropped; 0 switches the check off.
    min_size, max_size
        Objects with fewer pixels (holes filled), or more (before), are dropped; ``None`` is no limit.
    compat
        ``"cellpose"`` follows the conventions of Cellpose 4, dependence on the size of the image included.

    Returns
    -------
    Labels 1..n in raster order of the seeds, uint32, 0 outside.

    Raises
    ------
    ValueError
        If shapes don't fit, a value is NaN or infinite (the message names the place), or the device isn't the CPU.
    """
    if str(device) != "cpu":
        raise ValueError(f'labels are made on the CPU only so far; device must be "cpu", got {device!r}')
    field = FlowField(flow, cell_logit)
    compat = _check_compat(compat)
    blocks = plan_blocks(field.shape, block or _OWN_BLOCK[field.ndim])
    workers = workers or _processors()

    def follow(one: Block) -> Points:
        return follow_core(field, one, n_steps=n_steps, cell_threshold=cell_threshold, compat=compat)

    ends = list(each(follow, blocks, workers))
    labels, _ = _assemble(
        field,
        blocks,
        ends.__getitem__,
        cell_threshold,
        flow_threshold,
        min_size,
        max_size,
        compat,
        workers,
        np.zeros(field.shape, np.uint32),
    )
    return labels


def labels_from_ends(
    ends: Callable[[int], Points] | Sequence[Points],
    flow: Any,
    *,
    shape: Sequence[int],
    block: int,
    n_steps: int,
    cell_threshold: float,
    flow_threshold: float,
    min_size: int,
    max_size: int | None = None,
    compat: str | None = None,
    workers: int = 1,
    first: int = 1,
    out: NDArray[np.uint32] | None = None,
) -> tuple[NDArray[np.uint32], Objects]:
    """Make the labels of a canvas from the end pixels of its blocks.

    Without ``out`` the labels are held in memory, 4 bytes a pixel. With a memmap only a block of them is, or as much as
    the largest object's box, and of ends, flows and objects what blocks and objects need.

    Parameters
    ----------
    ends
        The result of :func:`follow_block` for each of ``plan_blocks(shape, block)``: a sequence, or a function of the
        block's index (it is called twice for each block).
    flow
        The canvas's flow field ``(D + 1, *space)`` with the logit last; numpy, memmap or zarr.
    shape, block, n_steps, cell_threshold, compat
        As the blocks were planned and followed.
    flow_threshold, min_size, max_size
        As :func:`labels_from_flows`.
    workers
        Threads; they change nothing in the result.
    first
        Label of the first object.
    out
        Where to make the labels, uint32 ``shape``, full of 0.

    Returns
    -------
    Labels 1..n (uint32, ``shape``), or from ``first`` on, and what is known of each object.

    Raises
    ------
    ValueError
        If the end pixels aren't those of this flow field and these parameters.
    """
    field = FlowField(flow)
    if tuple(shape) != field.shape:
        raise ValueError(f"the canvas is {tuple(shape)} and its flow field {field.shape}: they must be the same")
    blocks = plan_blocks(shape, block)
    compat = _check_compat(compat)

    def read(index: int) -> Points:
        points = ends(index) if callable(ends) else ends[index]
        core = np.array([[(c.start, c.stop)] for c in blocks[index].core])
        # No path leads further than 7.99 pixels a step: end pixels that lie beyond are those of something else.
        reach = 8 * n_steps + 1
        if len(points) != len(core) or (points < core[..., 0] - reach).any() or (points > core[..., 1] + reach).any():
            raise ValueError(f"the end pixels of block {index} can't be reached from it: follow this canvas again")
        return points

    out = np.zeros(field.shape, np.uint32) if out is None else out
    return _assemble(
        field, blocks, read, cell_threshold, flow_threshold, min_size, max_size, compat, workers, out, first
    )


def _assemble(
    field: FlowField,
    blocks: list[Block],
    ends: Callable[[int], Points],
    cell_threshold: float,
    flow_threshold: float,
    min_size: int,
    max_size: int | None,
    compat: str | None,
    workers: int,
    out: NDArray[np.uint32],
    first: int = 1,
) -> tuple[NDArray[np.uint32], Objects]:
    """Count, find seeds, label, then finish: the steps of the design in their order."""
    canvas = field.volume
    cellpose = compat == "cellpose"
    count = each(lambda one: seeds.count_ends(ends(one.index), canvas), blocks, workers)
    counts = seeds.merge_counts(count, canvas)
    chosen = seeds.find_seeds(counts, ties=cellpose)
    owner = seeds.find_basins(counts, chosen)
    # From here on objects are known by their indices 0..n-1 in raster order of their seeds, and labelled index + 1.
    order = np.argsort(chosen)
    numbers = np.zeros(chosen.size + 1, np.int32)
    numbers[1 + order] = np.arange(1, chosen.size + 1)
    owner = numbers[owner]
    seed = counts.pixels[chosen[order]]

    labels = as_labels(out)
    rows = counts.rows()
    above = cell_table(float(cell_threshold))
    area = np.zeros(seed.size, np.int64)

    def paint(one: Block) -> tuple[int, NDArray[np.int64]]:
        values = seeds.look_up(ends(one.index), counts, rows, owner)
        core = labels[_with_z(one.core)]
        if _paint(field.read_logit(one.core), above, values, core) != values.size:
            raise ValueError(f"block {one.index} has not one end pixel for each cell pixel: follow this canvas again")
        let_go(out)
        # Objects of a block have numbers not far apart: count from the lowest on, not all of the canvas's.
        painted = values[values > 0] - 1
        lowest = int(painted.min(initial=seed.size))
        return lowest, np.bincount(painted - lowest)

    for lowest, part in each(paint, blocks, workers):
        area[lowest : lowest + part.size] += part

    def measure(
        boxes: NDArray[np.int64], kept: NDArray[np.bool_], check: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        errors, probability = _measure(field, blocks, out, boxes, kept, check and not cellpose, workers)
        return errors_cellpose(labels, boxes, kept, field) if check and cellpose else errors, probability

    return finish(out, seed, area, measure, flow_threshold, min_size, max_size, cellpose, workers, first)


def _measure(
    field: FlowField,
    blocks: list[Block],
    out: NDArray[np.uint32],
    boxes: NDArray[np.int64],
    kept: NDArray[np.bool_],
    check: bool,
    workers: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure flow error and cell probability of the kept objects; the rest stays NaN.

    Objects are taken with the block that holds the first corner of their box, so that each window is read once.
    """
    errors, probability = np.full((2, len(boxes)), np.nan)
    ndim, labels = field.ndim, as_labels(out)
    edge = [c.stop - c.start for c in _with_z(blocks[0].core)]
    across = [-(-n // e) for n, e in zip(field.volume, edge, strict=True)]
    home = np.ravel_multi_index(tuple(boxes[:, 2 * a] // edge[a] for a in range(3)), tuple(across))
    indices = np.flatnonzero(kept)
    indices = indices[np.argsort(home[indices], kind="stable")]
    groups = np.split(indices, np.flatnonzero(np.diff(home[indices])) + 1) if indices.size else []

    def measure(group: NDArray[np.int64]) -> None:
        mine = boxes[group]
        low, high = mine[:, ::2].min(0), mine[:, 1::2].max(0)
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        local = mine - np.repeat(low, 2)
        view = labels[window]
        if check:
            bits = field.read(window[3 - ndim :])
            found = np.empty(group.size)
            quality.measure_errors(view, local, group + 1, ndim, half_values()[bits[:ndim]], found)
            errors[group] = found
            logit = bits[ndim]
        else:
            logit = field.read_logit(window[3 - ndim :])
        found = np.empty(group.size)
        quality.mean_probability(view, local, group + 1, logit, probability_table(), found)
        probability[group] = found
        let_go(out)

    list(each(measure, groups, workers))
    return errors, probability


@njit(cache=True, nogil=True)
def _paint(logit: Bits, above: NDArray[np.uint8], values: NDArray[np.int32], labels: Labels) -> int:
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


def _with_z(core: tuple[slice, ...]) -> tuple[slice, ...]:
    return (slice(0, 1),) * (3 - len(core)) + core


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_compat(compat: str | None) -> str | None:
    if compat not in (None, "cellpose"):
        raise ValueError(f'compat is None or "cellpose"; got {compat!r}')
    return compat
