"""Following the flow: from every cell pixel to the pixel where its path ends, in integers.

Positions have 12 fractional bits, and so have steps. A step is interpolated linearly along x, then y, then z, each time
as ``a + (((b - a) * f + 2048) >> 12)``, and the position is kept within the canvas; so where a path ends depends on
the flow field alone, not on the window it is followed in. A path that leaves its window is followed again in a larger
one.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows.blocks import ONE, Bits, Block, FlowField, cell_table, refuse, step_table
from plateflow.flows.peer import follow_cellpose

__all__ = ["follow_block", "follow_flows"]

Points = NDArray[np.int32]
HALO = {2: 64, 3: 24}


def follow_flows(flow: NDArray[Any], cell_mask: NDArray[np.bool_], *, n_steps: int = 200) -> Points:
    """Follow the flow from every pixel of a mask.

    Parameters
    ----------
    flow
        Flow field in network units (5 x pixels a step), ``(D, *space)``, order ``[dz,] dy, dx``; rounded to float16.
        It counts as 0 outside the mask.
    cell_mask
        Pixels to start from, ``(*space)``.
    n_steps
        Steps that each path has.

    Returns
    -------
    End pixels, int32 ``(D, n)``, in raster order of the mask.

    Raises
    ------
    ValueError
        If shapes don't fit, or the flow is NaN or infinite anywhere (the message names the place).
    """
    field = FlowField(flow, np.asarray(cell_mask).astype(np.float16))
    whole = Block(0, tuple(slice(0, size) for size in field.shape))
    return follow_core(field, whole, n_steps=n_steps, cell_threshold=0.5)


def follow_block(
    flow: Any,
    block: Block,
    *,
    n_steps: int,
    cell_threshold: float,
    compat: str | None = None,
) -> Points:
    """Follow the flow from every cell pixel of one block of a canvas.

    Parameters
    ----------
    flow
        The canvas's flow field ``(D + 1, *space)``, order ``[dz,] dy, dx, cell logit``; numpy, memmap or zarr. Only the
        core and a halo are read, and more where a path leads further.
    block
        One of :func:`plan_blocks`.
    n_steps, cell_threshold
        Steps a path has; the logit above which a pixel is cell.
    compat
        ``"cellpose"`` samples the flow as Cellpose 4 does.

    Returns
    -------
    End pixels in canvas coordinates, int32 ``(D, n)``, in raster order of the cell pixels in the block's core.
    """
    return follow_core(FlowField(flow), block, n_steps=n_steps, cell_threshold=cell_threshold, compat=compat)


def follow_core(
    field: FlowField,
    block: Block,
    *,
    n_steps: int,
    cell_threshold: float,
    compat: str | None = None,
) -> Points:
    """Do what :func:`follow_block` says."""
    ndim, canvas = field.ndim, field.volume
    core = (slice(0, 1),) * (3 - ndim) + block.core
    halo = HALO[ndim]
    ends = starts = np.empty((3, 0), np.int32)
    left = None
    while left is None or left.size:
        window = tuple(slice(max(c.start - halo, 0), min(c.stop + halo, n)) for c, n in zip(core, canvas, strict=True))
        origin = np.array([[w.start] for w in window], np.int32)
        bits = field.read(window[3 - ndim :])
        steps, cells = _quantise_window(bits, window, cell_threshold)
        if left is None:
            inside = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(core, window, strict=True))
            starts = _list_cells(cells[inside]) + np.array([[c.start] for c in core], np.int32)
            ends = np.empty_like(starts)
            left = np.arange(starts.shape[1])
        local = (starts if left.size == starts.shape[1] else starts[:, left]) - origin
        limits = _limits(window, canvas)
        if compat == "cellpose":
            found, escaped = follow_cellpose(bits, cells, local, origin, canvas, n_steps)
        else:
            found, escaped = np.empty_like(local), np.empty(left.size, np.bool_)
            _follow(steps.reshape(-1), np.array(steps.shape), local, limits, ndim, n_steps, found, escaped)
        ends[:, left] = found + origin
        left = left[escaped]
        halo *= 2
    return ends[3 - ndim :]


def _quantise_window(
    bits: Bits, window: tuple[slice, ...], threshold: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Make a window's integer steps ``(Z, Y, X, D)``, with a pixel of 0 behind the last of each axis, and its cells."""
    ndim = bits.shape[0] - 1
    depth, height, width = bits.shape[1:]
    steps = np.zeros((depth + 1, height + 1, width + 1, ndim), np.int16)
    cells = np.empty((depth, height, width), np.uint8)
    bad = _quantise(bits, step_table(), cell_table(float(threshold)), steps, cells)
    if bad >= 0:
        channel, *pixel = (int(i) for i in np.unravel_index(bad, bits.shape))
        raise refuse(channel, [p + w.start for p, w in zip(pixel, window, strict=True)], ndim)
    return steps, cells


def _limits(window: tuple[slice, ...], canvas: tuple[int, ...]) -> NDArray[np.int64]:
    """Bounds of positions relative to a window, a row an axis: the canvas's first and last, and the last known."""
    rows = []
    for w, size in zip(window, canvas, strict=True):
        last = (size - 1 - w.start) * ONE
        # Between two pixels both are needed, so the last pixel of a window is known only if it is the canvas's last.
        rows.append((-w.start * ONE, last, last if w.stop == size else (w.stop - 1 - w.start) * ONE - 1))
    return np.array(rows, np.int64)


@njit(cache=True, nogil=True)
def _quantise(
    bits: Bits,
    table: NDArray[np.int16],
    above: NDArray[np.uint8],
    steps: NDArray[np.int16],
    cells: NDArray[np.uint8],
) -> int:
    """Fill steps and cells; return the flat index of the first value that isn't finite, or -1."""
    ndim = bits.shape[0] - 1
    bad = -1
    for z in range(bits.shape[1]):
        for y in range(bits.shape[2]):
            for x in range(bits.shape[3]):
                cell = above[bits[ndim, z, y, x]]
                cells[z, y, x] = cell
                wrong = cell == 2
                for c in range(ndim):
                    value = table[bits[c, z, y, x]]
                    wrong |= value == -32768
                    steps[z, y, x, c] = value if cell == 1 else 0
                if wrong:
                    for c in range(ndim + 1):
                        finite = cell != 2 if c == ndim else table[bits[c, z, y, x]] != -32768
                        if not finite:
                            place = ((c * bits.shape[1] + z) * bits.shape[2] + y) * bits.shape[3] + x
                            bad = place if bad < 0 else min(bad, place)
    return bad


@njit(cache=True, nogil=True)
def _list_cells(cells: NDArray[np.uint8]) -> Points:
    """List the cell pixels of a window, ``(3, n)``, in raster order."""
    count = 0
    for z in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            for x in range(cells.shape[2]):
                count += cells[z, y, x]
    points = np.empty((3, count), np.int32)
    i = 0
    for z in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            for x in range(cells.shape[2]):
                if cells[z, y, x]:
                    points[0, i], points[1, i], points[2, i] = z, y, x
                    i += 1
    return points


@njit(cache=True, nogil=True, inline="always")
def _mix(a: Any, b: Any, f: Any) -> Any:
    return a + (((b - a) * f + 2048) >> 12)


@njit(cache=True, nogil=True, inline="always")
def _mix4(steps: NDArray[np.int16], at: Any, right: Any, below: Any, fy: Any, fx: Any) -> Any:
    """Mix one component between four pixels of a plane."""
    top = _mix(np.int64(steps[at]), np.int64(steps[at + right]), fx)
    bottom = _mix(np.int64(steps[at + below]), np.int64(steps[at + below + right]), fx)
    return _mix(top, bottom, fy)


@njit(cache=True, nogil=True)
def _follow(
    steps: NDArray[np.int16],
    shape: NDArray[np.int64],
    starts: Points,
    limits: NDArray[np.int64],
    ndim: int,
    n_steps: int,
    ends: Points,
    escaped: NDArray[np.bool_],
) -> None:
    """Follow every start ``(3, n)`` within a window (all in its coordinates); those that leave it are marked.

    A state seen before means a cycle: then only what is left of the steps modulo its period is walked, which is exact.
    States are remembered at growing intervals, so that a cycle is found whatever its period.
    """
    # Unsigned indices spare the check for negative ones, which would be a fifth of the time.
    row, plane = shape[2] * ndim, shape[1] * shape[2] * ndim
    right, below, behind = np.uint64(ndim), np.uint64(row), np.uint64(plane)
    one = np.uint64(1)
    z_low, z_high, z_known = limits[0]
    y_low, y_high, y_known = limits[1]
    x_low, x_high, x_known = limits[2]
    z_first, y_first, x_first = max(z_low, 0), max(y_low, 0), max(x_low, 0)
    for i in range(starts.shape[1]):
        z, y, x = np.int64(starts[0, i]) << 12, np.int64(starts[1, i]) << 12, np.int64(starts[2, i]) << 12
        old_z, old_y, old_x = z, y, x
        left, done, remembered, remember = n_steps, 0, 0, 8
        gone = False
        while left > 0:
            fy, fx = y & 4095, x & 4095
            if ndim == 2:
                at = np.uint64((y >> 12) * row + (x >> 12) * 2)
                step_y = _mix4(steps, at, right, below, fy, fx)
                step_x = _mix4(steps, at + one, right, below, fy, fx)
            else:
                fz = z & 4095
                at = np.uint64((z >> 12) * plane + (y >> 12) * row + (x >> 12) * 3)
                far = at + behind
                step_z = _mix(_mix4(steps, at, right, below, fy, fx), _mix4(steps, far, right, below, fy, fx), fz)
                at, far = at + one, far + one
                step_y = _mix(_mix4(steps, at, right, below, fy, fx), _mix4(steps, far, right, below, fy, fx), fz)
                at, far = at + one, far + one
                step_x = _mix(_mix4(steps, at, right, below, fy, fx), _mix4(steps, far, right, below, fy, fx), fz)
                z = min(max(z + step_z, z_low), z_high)
            y = min(max(y + step_y, y_low), y_high)
            x = min(max(x + step_x, x_low), x_high)
            gone = y < y_first or y > y_known or x < x_first or x > x_known or z < z_first or z > z_known
            if gone:
                break
            left -= 1
            done += 1
            if y == old_y and x == old_x and z == old_z:
                left %= done - remembered
            elif done == remember:
                old_z, old_y, old_x = z, y, x
                remembered = done
                remember += max(8, done >> 2)
        escaped[i] = gone
        ends[0, i], ends[1, i], ends[2, i] = (z + 2048) >> 12, (y + 2048) >> 12, (x + 2048) >> 12
