"""Following the flow: from every cell pixel to the pixel where its path ends, in integers.

Positions and steps have 12 fractional bits. A step is interpolated linearly along x, then y, then z, each time as
``a + (((b - a) * f + 2048) >> 12)``, and the position is kept within the canvas; so where a path ends depends on the
flow field alone, not on the region in which it is followed. A path that leaves its region is followed again in a larger
one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.arguments import pixels, whole
from plateflow.compiled import compiled
from plateflow.errors import ArgumentError
from plateflow.flows.blocks import (
    NOT_FINITE,
    ONE,
    Bits,
    Block,
    FlowField,
    Points,
    Region,
    as_field,
    cell_table,
    step_table,
    with_z,
)
from plateflow.flows.scalar import mix, mix4, moved, nearest_pixel

CHANNELS = ("dz", "dy", "dx", "cell logit")
# Pixels that are read beyond a core at first, by dimensions.
HALO = {2: 64, 3: 24}


def follow_flows(flow: NDArray[Any], cell_mask: NDArray[np.bool_], *, n_steps: int = 200) -> Points:
    """Follow the flow from every pixel of a mask.

    Args:
        flow: flow field in network units (5 x pixels per step), ``(D, *space)``, order ``[dz,] dy, dx``; rounded to
            float16. It counts as 0 outside the mask.
        cell_mask: pixels to start from, ``(*space)``.

    Returns:
        End pixels, int32 ``(D, n)``, in raster order of the mask.

    Raises:
        ValueError: shapes or types don't fit, the flow is NaN or infinite anywhere (the message gives the place), an
            array has a mask or no pixel, or there is no step.
    """
    flow, cell_mask = pixels("flow", flow), np.asarray(pixels("cell_mask", cell_mask))
    if cell_mask.dtype.kind not in "biu" or cell_mask.shape != flow.shape[1:]:
        raise ArgumentError(
            f"cell_mask must be boolean, with the shape of a flow, {tuple(flow.shape[1:])}; "
            f"got {cell_mask.dtype} of shape {cell_mask.shape}"
        )
    n_steps = whole("n_steps", n_steps, least=1)
    field = FlowField(flow, (cell_mask != 0).astype(np.float16))
    canvas = Block(0, tuple(slice(0, size) for size in field.shape))
    return follow_block(field, canvas, n_steps=n_steps, cell_threshold=0.5)


def follow_block(flow: Any, block: Block, *, n_steps: int, cell_threshold: float) -> Points:
    """Follow the flow from every cell pixel of one block of a canvas.

    Only the core and a halo are read, and more where a path leads further.

    Args:
        flow: the canvas's flow field ``(D + 1, *space)``, order ``[dz,] dy, dx, cell logit``; numpy, memmap or zarr.
        cell_threshold: logit above which a pixel is cell.

    Returns:
        End pixels in canvas coordinates, int32 ``(D, n)``, in raster order of the cell pixels in the block's core.

    Raises:
        ValueError: as `follow_flows`.
    """
    field = as_field(flow)
    canvas = np.array(field.volume)
    core_start, core_stop = np.array([(axis.start, axis.stop) for axis in with_z(block.core)]).T
    halo = HALO[field.ndim]
    endpoints = starts = np.empty((3, 0), np.int32)
    pending = None
    while pending is None or pending.size:
        low, high = np.maximum(core_start - halo, 0), np.minimum(core_stop + halo, canvas)
        region = _slices(low, high)
        steps, cells = _quantise_region(field.read(region), region, cell_threshold)
        if pending is None:
            core_cells = cells[_slices(core_start - low, core_stop - low)]
            starts = _list_cells(core_cells) + core_start[:, None].astype(np.int32)
            endpoints = np.empty_like(starts)
            pending = np.arange(starts.shape[1])
        origin = low[:, None].astype(np.int32)
        local = (starts if pending.size == starts.shape[1] else starts[:, pending]) - origin
        reached, escaped = np.empty_like(local), np.empty(pending.size, np.bool_)
        # Bounds of positions in the region, by axis: the canvas's first and last, and the region's last. Between two
        # pixels both are needed, so a region's last pixel can be reached only if it is the canvas's last.
        first, last = -low * ONE, (canvas - 1 - low) * ONE
        bounds = np.stack([first, last, np.where(high == canvas, last, (high - 1 - low) * ONE - 1)], 1)
        _follow(steps.reshape(-1), np.array(steps.shape), local, bounds, field.ndim, n_steps, reached, escaped)
        endpoints[:, pending] = reached + origin
        pending = pending[escaped]
        halo *= 2
    return endpoints[3 - field.ndim :]


def block_starts(flow: Any, block: Block, *, cell_threshold: float) -> Points:
    """Where the paths of a block start, int32 ``(D, n)``, canvas coordinates: its cell pixels, as `follow_block` lists
    them. Of the flow field only the logits of the core are read."""
    field, core = as_field(flow), with_z(block.core)
    cells = cell_table(float(cell_threshold))[field.read_logit(core)] == 1
    first = np.array([[axis.start] for axis in core], np.int32)
    return (_list_cells(cells.view(np.uint8)) + first)[3 - field.ndim :]


def _slices(start: NDArray[np.int64], stop: NDArray[np.int64]) -> Region:
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))


def _quantise_region(bits: Bits, region: Region, threshold: float) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Make a region's integer steps ``(Z, Y, X, D)``, with a pixel of 0 behind the last of each axis, and its cells."""
    ndim = bits.shape[0] - 1
    depth, height, width = bits.shape[1:]
    steps = np.zeros((depth + 1, height + 1, width + 1, ndim), np.int16)
    cells = np.empty((depth, height, width), np.uint8)
    if not _quantise(bits, step_table(), cell_table(float(threshold)), steps, cells):
        raise not_finite(bits, region)
    return steps, cells


def not_finite(bits: Bits, region: Region) -> ArgumentError:
    """What is said of the bits ``(D + 1, Z, Y, X)`` of a region in which a value is NaN or infinite."""
    ndim = bits.shape[0] - 1
    channel, *pixel = np.argwhere(~np.isfinite(bits.view(np.float16)))[0]
    place = [f"{axis} = {p + r.start}" for axis, p, r in zip("zyx", pixel, region, strict=True)]
    return ArgumentError(
        f"the flow field isn't finite: {CHANNELS[3 - ndim + channel]} is NaN or infinite at "
        f"{', '.join(place[3 - ndim :])}. Labels made from it would be wrong; run the network again on this image."
    )


@compiled
def _quantise(
    bits: Bits, table: NDArray[np.int16], above: NDArray[np.uint8], steps: NDArray[np.int16], cells: NDArray[np.uint8]
) -> bool:
    """Fill steps and cells; return whether all values are finite."""
    ndim = bits.shape[0] - 1
    finite = True
    for z in range(bits.shape[1]):
        for y in range(bits.shape[2]):
            for x in range(bits.shape[3]):
                cell = above[bits[ndim, z, y, x]]
                cells[z, y, x] = cell
                finite &= cell != 2
                for c in range(ndim):
                    value = table[bits[c, z, y, x]]
                    finite &= value != NOT_FINITE
                    steps[z, y, x, c] = value if cell == 1 else 0
    return finite


@compiled
def _list_cells(cells: NDArray[np.uint8]) -> Points:
    """List the cell pixels of a region, ``(3, n)``, in raster order."""
    points = np.empty((3, np.count_nonzero(cells)), np.int32)
    i = 0
    for z in range(cells.shape[0]):
        for y in range(cells.shape[1]):
            for x in range(cells.shape[2]):
                if cells[z, y, x]:
                    points[0, i], points[1, i], points[2, i] = z, y, x
                    i += 1
    return points


@compiled(inline="always")
def _mixed(steps: NDArray[np.int16], at: Any, right: Any, below: Any, fy: Any, fx: Any) -> Any:
    """Mix one component between four pixels of a plane."""
    return mix4(
        np.int64(steps[at]),
        np.int64(steps[at + right]),
        np.int64(steps[at + below]),
        np.int64(steps[at + below + right]),
        fy,
        fx,
    )


@compiled(inline="always")
def follow_path(
    steps: NDArray[np.int16], row: Any, plane: Any, ndim: int, n_steps: int, start: Any, axes: Any
) -> tuple[Any, Any, Any, bool]:
    """Follow the path from a pixel within a region; return its end, z, y, x in 1/4096 pixel, and whether it leaves.

    A state seen before means a cycle: then only the remainder of the steps modulo its period is walked, which is exact.
    States are remembered at growing intervals, so that a cycle is found whatever its period.

    Args:
        steps: of the region, flat; ``row`` and ``plane`` are the distances in it between rows and planes.
        ndim: dimensions of the canvas, and how many integers each pixel has.
        start: pixel z, y, x.
        axes: for z, y, x the bounds of positions: the canvas's first and last, and the region's last.
    """
    # Unsigned indices avoid the check for negative ones, which would take a fifth of the time.
    right, below, behind = np.uint64(ndim), np.uint64(row), np.uint64(plane)
    one = np.uint64(1)
    (z_low, z_high, z_last), (y_low, y_high, y_last), (x_low, x_high, x_last) = axes
    z_first, y_first, x_first = max(z_low, 0), max(y_low, 0), max(x_low, 0)
    z, y, x = np.int64(start[0]) << 12, np.int64(start[1]) << 12, np.int64(start[2]) << 12
    old_z, old_y, old_x = z, y, x
    left, done, remembered, remember = n_steps, 0, 0, 8
    gone = False
    while left > 0:
        fy, fx = y & 4095, x & 4095
        if ndim == 2:
            at = np.uint64((y >> 12) * row + (x >> 12) * 2)
            step_y = _mixed(steps, at, right, below, fy, fx)
            step_x = _mixed(steps, at + one, right, below, fy, fx)
        else:
            fz = z & 4095
            at = np.uint64((z >> 12) * plane + (y >> 12) * row + (x >> 12) * 3)
            far = at + behind
            step_z = mix(_mixed(steps, at, right, below, fy, fx), _mixed(steps, far, right, below, fy, fx), fz)
            at, far = at + one, far + one
            step_y = mix(_mixed(steps, at, right, below, fy, fx), _mixed(steps, far, right, below, fy, fx), fz)
            at, far = at + one, far + one
            step_x = mix(_mixed(steps, at, right, below, fy, fx), _mixed(steps, far, right, below, fy, fx), fz)
            z = moved(z, step_z, z_low, z_high)
        y = moved(y, step_y, y_low, y_high)
        x = moved(x, step_x, x_low, x_high)
        gone = y < y_first or y > y_last or x < x_first or x > x_last or z < z_first or z > z_last
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
    return z, y, x, gone


@compiled
def _follow(
    steps: NDArray[np.int16],
    shape: NDArray[np.int64],
    starts: Points,
    bounds: NDArray[np.int64],
    ndim: int,
    n_steps: int,
    endpoints: Points,
    escaped: NDArray[np.bool_],
) -> None:
    """Follow every start ``(3, n)`` within a region (all in its coordinates); mark those that leave it."""
    row, plane = shape[2] * ndim, shape[1] * shape[2] * ndim
    axes = (
        (bounds[0, 0], bounds[0, 1], bounds[0, 2]),
        (bounds[1, 0], bounds[1, 1], bounds[1, 2]),
        (bounds[2, 0], bounds[2, 1], bounds[2, 2]),
    )
    for i in range(starts.shape[1]):
        z, y, x, gone = follow_path(steps, row, plane, ndim, n_steps, (starts[0, i], starts[1, i], starts[2, i]), axes)
        escaped[i] = gone
        endpoints[0, i], endpoints[1, i], endpoints[2, i] = nearest_pixel(z), nearest_pixel(y), nearest_pixel(x)
