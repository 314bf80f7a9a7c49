"""Seeds, basins and labels on a device: the definitions of :mod:`plateflow.flows.seeds`, in dense arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.flows.blocks import ONE, FlowField
from plateflow.flows.device.follow import corner_table, quantise, walk
from plateflow.flows.seeds import BASIN_COUNT, REACH, SEED_COUNT

if TYPE_CHECKING:
    from torch import Tensor

# Pixels of windows around seeds that are looked at together: this bounds the memory.
_WINDOWS = 1 << 23


@dataclass(frozen=True)
class LabelledCanvas:
    """A canvas on a device, its pixels labelled by the number of their seed in raster order."""

    values: Tensor  # float16 (D + 1, *space)
    labels: Tensor  # int32 (*space)
    seeds: NDArray[np.int64]  # flat pixels, ascending
    area: NDArray[np.int64]


def label_on(device: Any, field: FlowField, *, n_steps: int, cell_threshold: float) -> LabelledCanvas:
    """Follow all paths of a canvas, and label its pixels by where they end."""
    import torch

    values = read_on(device, field)
    cells, ends = follow_canvas(values, n_steps, cell_threshold)
    numbers, seeds = find_objects(ends, field.shape)
    labels = torch.zeros(field.shape, dtype=torch.int32, device=values.device)
    labels[cells] = numbers
    area = torch.bincount(numbers, minlength=len(seeds) + 1)[1:]
    return LabelledCanvas(values, labels, seeds, area.cpu().numpy())


def read_on(device: Any, field: FlowField) -> Tensor:
    """Read a whole flow field onto a device, float16 ``(D + 1, *space)``."""
    import torch

    bits = field.read((slice(None),) * field.ndim)
    return torch.tensor(bits.view(np.float16).reshape(-1, *field.shape), device=device)


def follow_canvas(values: Tensor, n_steps: int, cell_threshold: float) -> tuple[Tensor, Tensor]:
    """Return the cell pixels of a canvas, bool ``(*space)``, and the end pixels of their paths, int32 ``(D, n)``."""
    import torch

    steps, cells = quantise(values, cell_threshold)
    space = cells.shape
    padded = torch.nn.functional.pad(steps, (0, 1) * len(space)).movedim(0, -1)
    last = np.array([size - 1 for size in space]) * ONE
    limits = np.stack([np.zeros_like(last), last, last], 1)
    starts = cells.nonzero().T.to(torch.int32, memory_format=torch.contiguous_format)
    return cells, walk(corner_table(padded), space, starts, limits, n_steps)[0]


def find_objects(ends: Tensor, space: Sequence[int]) -> tuple[Tensor, NDArray[np.int64]]:
    """Give each end pixel, ``(D, n)``, the number of the seed whose basin it is in, 0 if there is none.

    Returns the numbers, int32 ``(n,)``, and the seeds 1, 2, ... as flat pixels of the canvas in ascending order.
    """
    flat, count = count_ends(ends, space)
    seeds = find_seeds(count, space)
    numbers = find_basins(count, seeds, space)[flat]
    pixels = np.array(np.unravel_index(seeds.cpu().numpy(), _wide(space))) - REACH
    return numbers, np.ravel_multi_index(tuple(pixels), tuple(space)).astype(np.int64)


def _wide(space: Sequence[int]) -> list[int]:
    """With a border as wide as a basin no window reaches beyond the canvas, and raster order stays what it is."""
    return [size + 2 * REACH for size in space]


def count_ends(ends: Tensor, space: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return where the ends lie in the widened canvas, flat, and how many end at each of its pixels (int32)."""
    import torch

    flat = torch.zeros_like(ends[0], dtype=torch.int64)
    for axis, size in enumerate(_wide(space)):
        flat.mul_(size).add_(ends[axis]).add_(REACH)
    count = torch.zeros(prod(_wide(space)), dtype=torch.int32, device=ends.device)
    return flat, count.scatter_add_(0, flat, torch.ones_like(ends[0]))


def find_seeds(count: Tensor, space: Sequence[int]) -> Tensor:
    """List the pixels with enough end points that are the greatest of their window, ascending."""
    import torch

    offsets = _offsets(space, 2, count).view(-1, 1)
    found = []
    for some in (count > SEED_COUNT).nonzero()[:, 0].split(_WINDOWS // len(offsets)):
        mine, others = count[some], count[some + offsets]
        # Of equal pixels the first in raster order is the greatest.
        beaten = (others > mine) | ((others == mine) & (offsets < 0))
        found.append(some[~beaten.any(0)])
    return torch.cat(found)


def find_basins(count: Tensor, seeds: Tensor, space: Sequence[int]) -> Tensor:
    """Give each pixel of the widened canvas the number (1, 2, ... in raster order) of the greatest seed that claims it.

    Every seed dilates by itself, in its own window; where claims meet the greatest rank stays, in whatever order.
    """
    import torch

    # Ascending: fewer end points first, and of equally many the pixel that comes later in raster order.
    order = (count[seeds].long() * count.numel() - seeds).argsort()
    rank = torch.empty_like(order, dtype=torch.int32)
    rank[order] = torch.arange(1, len(order) + 1, dtype=torch.int32, device=rank.device)
    owner = torch.zeros_like(count)
    offsets = _offsets(space, REACH, count)
    for some, ranks in zip(*(s.split(_WINDOWS // offsets.numel()) for s in (seeds, rank)), strict=True):
        window = offsets[..., None] + some
        enough = count[window] > BASIN_COUNT
        basin = torch.zeros_like(enough)
        basin[(REACH,) * len(space)] = True
        for _ in range(REACH):
            for axis in range(len(space)):
                before, last = basin.clone(), basin.shape[axis] - 1
                basin.narrow(axis, 1, last).logical_or_(before.narrow(axis, 0, last))
                basin.narrow(axis, 0, last).logical_or_(before.narrow(axis, 1, last))
            basin &= enough
        owner.scatter_reduce_(0, window.flatten(), (basin * ranks).flatten(), "amax")
    numbers = torch.zeros(len(order) + 1, dtype=torch.int32, device=rank.device)
    numbers[1:] = order + 1
    return numbers[owner]


def _offsets(space: Sequence[int], reach: int, like: Tensor) -> Tensor:
    """Where the pixels of a window lie from its middle, int64, an axis of ``2 * reach + 1`` for each of the canvas."""
    import torch

    steps = torch.arange(-reach, reach + 1, device=like.device)
    offsets = torch.zeros((), dtype=torch.int64, device=like.device)
    for size in _wide(space):
        offsets = offsets[..., None] * size + steps
    return offsets
