"""Quantising and following on a device: the integers of :mod:`plateflow.flows.follow`, all points at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.flows.blocks import NOT_FINITE, ONE, cell_table, refuse, step_table

if TYPE_CHECKING:
    from torch import Tensor

# Paths are looked at after so many steps. Where one stands still or goes round with a period that divides this, it has
# the same state after every later look, and the last step is one: it is done. Nearly all periods are 1, 2 or 4.
_ROUND = 12
# Points that are followed together: what is in work (about 150 bytes a point) is bounded, and near a cache's size.
_POINTS = 1 << 20


def quantise(values: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Make a canvas's integer steps, ``(D, *space)``, and its cell pixels from float16 ``(D + 1, *space)``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite (the message names the first place).
    """
    import torch

    ndim = len(values) - 1
    index = values.view(torch.int16).int() & 0xFFFF
    steps = torch.from_numpy(step_table()).to(values.device)[index[:ndim]]
    kind = torch.from_numpy(cell_table(float(threshold))).to(values.device)[index[ndim]]
    bad = torch.cat([steps == NOT_FINITE, (kind == 2)[None]])
    if bad.any():
        channel, *pixel = bad.nonzero()[0].tolist()
        raise refuse(channel, [0] * (3 - ndim) + pixel, ndim)
    cells = kind == 1
    return steps.mul_(cells), cells


def corner_table(padded: Tensor) -> Tensor:
    """Lay the steps at all corners of a pixel side by side: a path reads one row a step.

    ``padded`` is ``(*space, D)`` with one pixel more behind each axis; the rows hold the corners in raster order, and
    the components of each: int16 ``(pixels, 2^D * D)``.
    """
    *wide, ndim = padded.shape
    space = [size - 1 for size in wide]
    table = padded.new_empty((*space, 2**ndim, ndim))
    for i, corner in enumerate(product((0, 1), repeat=ndim)):
        table[..., i, :] = padded[tuple(slice(c, c + size) for c, size in zip(corner, space, strict=True))]
    return table.view(-1, 2**ndim * ndim)


def walk(
    table: Tensor, space: Sequence[int], starts: Tensor, limits: NDArray[np.int64], n_steps: int
) -> tuple[Tensor, Tensor]:
    """Follow starts, int32 ``(D, n)``, within a window of ``space`` pixels with these corners.

    ``limits`` has a row an axis: the least and greatest position of the canvas, and the last one that is known. Returns
    end pixels, and which paths left the window (their ends mean nothing).
    """
    import torch

    if len(table) >= 2**31:
        raise ValueError(f"a window of {len(table)} pixels is too large for a device: cut it into blocks")
    low, high, known = torch.from_numpy(limits.astype(np.int32)).to(table.device).T[:, :, None].contiguous()
    first = low.clamp(min=0)
    half = torch.full((1,), ONE // 2, dtype=torch.int32, device=table.device)
    whole = (limits[:, 0] >= 0).all() and (limits[:, 2] >= limits[:, 1]).all()

    def advance(position: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            if whole:
                position = (position + _interpolate(table, space, position, half)).clamp_(low, high)
            else:
                # A path that has left stays where it came out, and is known by that.
                at = position.clamp(first, known)
                step = _interpolate(table, space, at, half).masked_fill_((at != position).any(0), 0)
                position = (position + step).clamp_(low, high)
        return position

    ends = torch.empty_like(starts)
    for part, found in zip(starts.split(_POINTS, 1), ends.split(_POINTS, 1), strict=True):
        # The first look comes after the remainder, so that every round ends at a multiple of _ROUND before the end.
        position = advance(part * ONE, n_steps % _ROUND)
        found.copy_(position)
        moving = torch.arange(part.shape[1], device=part.device)
        for _ in range(n_steps // _ROUND):
            before, position = position, advance(position, _ROUND)
            found[:, moving] = position
            going = (position != before).any(0).nonzero()[:, 0]
            if len(going) == 0:
                break
            moving, position = moving[going], position[:, going]
    gone = ((ends < first) | (ends > known)).any(0)
    return (ends + ONE // 2) >> 12, gone


def _interpolate(table: Tensor, space: Sequence[int], position: Tensor, half: Tensor) -> Tensor:
    """Mix the steps around each position ``(D, n)``, along x first, then y, then z; ``half`` is 2048, on the device."""
    import torch

    ndim, n = position.shape
    part, pixel = position & (ONE - 1), position >> 12
    row = pixel[0]
    for axis in range(1, ndim):
        row = torch.add(pixel[axis], row, alpha=space[axis])
    values = table.index_select(0, row).T.to(torch.int32, memory_format=torch.contiguous_format)
    rest = ONE - part
    for axis in reversed(range(ndim)):
        # Neighbours in this axis are neighbours in the list of corners: the later axes are mixed already. This is
        # a + (((b - a) * f + 2048) >> 12), in three operations.
        near, far = values.view(2**axis, 2, ndim, n).unbind(1)
        values = torch.addcmul(half, near, rest[axis]).addcmul_(far, part[axis]).bitwise_right_shift_(12)
    return values[0]


def follow_on(
    device: Any, steps: NDArray[np.int16], starts: NDArray[np.int32], limits: NDArray[np.int64], n_steps: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Follow starts ``(3, n)`` within a window of steps ``(Z + 1, Y + 1, X + 1, D)``; see :func:`follow_block`.

    Returns end pixels in the window's coordinates, and which paths left it.
    """
    import torch

    ndim = steps.shape[3]
    skip = 3 - ndim
    padded = torch.from_numpy(steps).to(device)[(0,) * skip]
    space = [size - 1 for size in padded.shape[:-1]]
    points = torch.from_numpy(starts[skip:]).to(device)
    ends, gone = walk(corner_table(padded), space, points, limits[skip:], n_steps)
    found = np.zeros_like(starts)
    found[skip:] = ends.cpu().numpy()
    return found, gone.cpu().numpy()
