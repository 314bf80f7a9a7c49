"""CUDA kernels that make labels, with the arithmetic that the CPU has (`scalar`): bit for bit the same.

A thread takes a pixel, or a block of threads an object. All that threads add up is integers, so that no order shows.
Imported where labels are made on CUDA, and with numba's simulator: numba.cuda costs a second.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, cuda, float64, int32, int64
from numba.cuda.core import config as cuda_config

from plateflow.compiled import kept
from plateflow.flows.blocks import NOT_FINITE
from plateflow.flows.follow import follow_path
from plateflow.flows.scalar import (
    ERROR_ONE,
    diffusion_steps,
    is_greater,
    nearest_pixel,
    product,
    rounded_mean,
    squared_error,
    sum3,
    sum7,
)
from plateflow.flows.seeds import BASIN_COUNT, REACH, SEED_COUNT
from plateflow.flows.targets import SHARE_2D, SHARE_3D, slope

_settings: Any = config
SIMULATED = bool(_settings.ENABLE_CUDASIM)
# Kernels are kept where other compiled functions are (`compiled`). Small canvases use little of a device: no warnings.
cuda_config.CACHE_DIR = _settings.CACHE_DIR
cuda_config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
# Memory is freed 200 arrays at a time, those of some ten canvases, or once a hundredth of the device's is to be freed:
# each time the driver waits for all that the device has to do, and so for the network's batches beside these kernels.
cuda_config.CUDA_DEALLOCS_COUNT, cuda_config.CUDA_DEALLOCS_RATIO = 200, 0.01
# Boxes of up to this many pixels, with their border, have their heat in memory that is shared by a block of threads.
NEAR = 1600
_WINDOW = 2 * REACH + 1
_NEIGHBOURHOOD = _WINDOW**3
_FAR = 1 << 62

if SIMULATED:

    def _on_processors(function: Callable[..., Any]) -> Callable[..., Any]:
        """Call a compiled function with the arrays that the simulator's stand for."""
        plain = lambda value: value._item._ary if hasattr(value, "_item") else value  # noqa: E731
        return lambda *arguments: function(*map(plain, arguments))

    follow_path, slope = _on_processors(follow_path), _on_processors(slope)
else:
    from numba.cuda import libdevice
    from numba.cuda.extending import overload

    @overload(product, strict=False)
    def _product_on_cuda(a: Any, b: Any) -> Any:
        return lambda a, b: libdevice.dmul_rn(a, b)  # noqa: PLW0108 - a function to be compiled, not a stub


def _kernel(function: Callable[..., Any]) -> Any:
    return kept(cuda.jit, function)


@_kernel
def quantise(flow, logit, table, above, steps, count, owner, wrong):
    """Fill integer steps, ``(Z, Y, X, D)`` with 0 behind the last pixel of each axis; clear the two canvases."""
    x, y, z = cuda.grid(3)
    depth, height, width = logit.shape
    if z >= steps.shape[0] or y > height or x > width:
        return
    inside = z < depth and y < height and x < width
    cell, finite = 0, True
    if inside:
        cell = above[logit[z, y, x]]
        finite = cell != 2
        count[(z * height + y) * width + x] = 0
        owner[(z * height + y) * width + x] = 0
    for c in range(flow.shape[0]):
        value = 0
        if inside:
            value = table[flow[c, z, y, x]]
            if value == NOT_FINITE:
                finite = False
        steps[z, y, x, c] = value if cell == 1 else 0
    if not finite:
        wrong[0] = 1


@_kernel
def follow(steps, logit, above, n_steps, plain_steps, ends, count):
    """Follow the path of each cell pixel: its end, as a flat pixel (-1 for the others), is stored and counted."""
    x, y, z = cuda.grid(3)
    depth, height, width = logit.shape
    if z >= depth or y >= height or x >= width:
        return
    start = (z * height + y) * width + x
    if above[logit[z, y, x]] != 1:
        ends[start] = -1
        return
    ndim = steps.shape[3]
    row = steps.shape[2] * ndim
    z_last, y_last, x_last = (depth - 1) << 12, (height - 1) << 12, (width - 1) << 12
    axes = (
        (int64(0), int64(z_last), int64(z_last)),
        (int64(0), int64(y_last), int64(y_last)),
        (int64(0), int64(x_last), int64(x_last)),
    )
    z, y, x, _ = follow_path(plain_steps, row, steps.shape[1] * row, ndim, n_steps, (z, y, x), axes)
    end = (nearest_pixel(z) * height + nearest_pixel(y)) * width + nearest_pixel(x)
    ends[start] = end
    cuda.atomic.add(count, end, 1)


@_kernel
def find_seeds(count, shape, n, seeds):
    """List the pixels that have the greatest count of their neighbourhood, in any order."""
    x, y, z = cuda.grid(3)
    depth, height, width = shape
    if z >= depth or y >= height or x >= width:
        return
    pixel = (z * height + y) * width + x
    here = count[pixel]
    if here <= SEED_COUNT:
        return
    for other_z in range(max(z - 2, 0), min(z + 3, depth)):
        for other_y in range(max(y - 2, 0), min(y + 3, height)):
            for other_x in range(max(x - 2, 0), min(x + 3, width)):
                other = (other_z * height + other_y) * width + other_x
                if is_greater(count[other], other, here, pixel):
                    return
    seeds[cuda.atomic.add(n, 0, 1)] = pixel


@_kernel
def take(count, seeds, counts):
    """Look the counts of seeds up."""
    i = cuda.grid(1)
    if i < seeds.size:
        counts[i] = count[seeds[i]]


@_kernel
def claim(count, shape, seeds, owner):
    """Grow a seed, by a block of threads, over its neighbours with enough endpoints; the greatest claim counts."""
    # When each pixel of the seed's neighbourhood was reached: 1 is the seed, 0 not yet.
    reached = cuda.shared.array(_NEIGHBOURHOOD, int32)
    depth, height, width = shape
    number = cuda.blockIdx.x
    seed = seeds[number]
    layers = 1 if depth == 1 else _WINDOW
    first_z = seed // (height * width) - layers // 2
    first_y, first_x = seed // width % height - REACH, seed % width - REACH
    size = layers * _WINDOW * _WINDOW
    for k in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        reached[k] = 1 if k == size // 2 else 0
    cuda.syncthreads()
    for step in range(1, REACH + 1):
        for k in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            near_z, near_y, near_x = k // (_WINDOW * _WINDOW), k // _WINDOW % _WINDOW, k % _WINDOW
            z, y, x = first_z + near_z, first_y + near_y, first_x + near_x
            if reached[k] != 0 or z < 0 or y < 0 or x < 0 or z >= depth or y >= height or x >= width:
                continue
            if count[(z * height + y) * width + x] <= BASIN_COUNT:
                continue
            beside = False
            for other_z in range(max(near_z - 1, 0), min(near_z + 2, layers)):
                for other_y in range(max(near_y - 1, 0), min(near_y + 2, _WINDOW)):
                    for other_x in range(max(near_x - 1, 0), min(near_x + 2, _WINDOW)):
                        when = reached[(other_z * _WINDOW + other_y) * _WINDOW + other_x]
                        beside = beside or (0 < when <= step)  # not those that this step reaches
            if beside:
                reached[k] = step + 1
        cuda.syncthreads()
    for k in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        if reached[k] != 0:
            z = first_z + k // (_WINDOW * _WINDOW)
            y, x = first_y + k // _WINDOW % _WINDOW, first_x + k % _WINDOW
            cuda.atomic.max(owner, (z * height + y) * width + x, number + 1)


@_kernel
def paint(ends, owner, numbers, labels, area, boxes):
    """Label each pixel by the number of its path's owner; count the pixels of objects and grow their boxes."""
    x, y, z = cuda.grid(3)
    depth, height, width = labels.shape
    if z >= depth or y >= height or x >= width:
        return
    end = ends[(z * height + y) * width + x]
    label = 0 if end < 0 else numbers[owner[end]]
    labels[z, y, x] = label
    if label > 0:
        cuda.atomic.add(area, label - 1, 1)
        # What a box was at some earlier time suffices to see that it needn't grow: it never shrinks.
        box = boxes[label - 1]
        if z < box[0]:
            cuda.atomic.min(boxes, (label - 1, 0), z)
        if z + 1 > box[1]:
            cuda.atomic.max(boxes, (label - 1, 1), z + 1)
        if y < box[2]:
            cuda.atomic.min(boxes, (label - 1, 2), y)
        if y + 1 > box[3]:
            cuda.atomic.max(boxes, (label - 1, 3), y + 1)
        if x < box[4]:
            cuda.atomic.min(boxes, (label - 1, 4), x)
        if x + 1 > box[5]:
            cuda.atomic.max(boxes, (label - 1, 5), x + 1)


@_kernel
def measure(labels, flow, logit, values, probability, objects, boxes, areas, lists, pixels, places, scratch, check,
            sums, holes):  # fmt: skip
    """Measure an object by a block of threads: sums of errors (with ``check``) and probabilities; has it holes?

    Args:
        labels, flow, logit: ``(Z, Y, X)``; the others as bits of float16, which ``values`` and ``probability`` look up.
        objects: the index of each block's object.
        boxes, areas: of all objects.
        lists: where the list of each block's pixels starts in ``pixels``.
        places: where the heat of each block's object lies in ``scratch``, twice; only if the box is too large for NEAR.
        sums: for each object whole part and rest of the errors, and probability (`flow_error`).
        holes: 1 for each object that has some.
    """
    near = cuda.shared.array((2, NEAR), float64)
    # Pixels in the list, sums of their z, y, x, the smallest distance from their middle, and the pixel that has it.
    shared = cuda.shared.array(6, int64)
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    i = objects[cuda.blockIdx.x]
    z0, z1, y0, y1, x0, x1 = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], boxes[i, 4], boxes[i, 5]
    depth, height, width = z1 - z0, y1 - y0, x1 - x0
    ndim = flow.shape[0]
    # The box has a border of one pixel, in three dimensions along z as well.
    border = 1 if ndim == 3 else 0
    row = width + 2
    plane = (height + 2) * row
    size = plane * (depth + 2 * border)
    at = places[cuda.blockIdx.x]
    heat, other = near[0], near[1]
    if size > NEAR:
        heat, other = scratch[at : at + size], scratch[at + size : at + 2 * size]
    area = areas[i]
    listed = lists[cuda.blockIdx.x]

    for p in range(thread, size, threads):
        heat[p], other[p] = 0.0, 0.0
    for k in range(thread, 6, threads):
        shared[k] = 0 if k < 4 else _FAR
    cuda.syncthreads()
    sum_z, sum_y, sum_x, chance = int64(0), int64(0), int64(0), int64(0)
    for q in range(thread, depth * height * width, threads):
        z, y, x = q // (height * width), q // width % height, q % width
        if labels[z0 + z, y0 + y, x0 + x] == i + 1:
            pixels[listed + cuda.atomic.add(shared, 0, 1)] = (z + border) * plane + (y + 1) * row + x + 1
            sum_z, sum_y, sum_x = sum_z + z, sum_y + y, sum_x + x
            chance += probability[logit[z0 + z, y0 + y, x0 + x]]
    cuda.atomic.add(shared, 1, sum_z)
    cuda.atomic.add(shared, 2, sum_y)
    cuda.atomic.add(shared, 3, sum_x)
    cuda.atomic.add(sums, (i, 2), chance)
    cuda.syncthreads()

    if check:
        # Heat comes in at the pixel that is nearest to the rounded centre of mass: the first in raster order.
        centre_z, centre_y = rounded_mean(shared[1], area), rounded_mean(shared[2], area)
        centre_x = rounded_mean(shared[3], area)
        for turn in range(2):
            least = int64(_FAR)
            for k in range(thread, area, threads):
                p = pixels[listed + k]
                z, y, x = p // plane - border, p % plane // row - 1, p % row - 1
                distance = (z - centre_z) ** 2 + (y - centre_y) ** 2 + (x - centre_x) ** 2
                if turn == 0:
                    least = min(least, distance)
                elif distance == shared[4]:
                    least = min(least, p)
            cuda.atomic.min(shared, 4 + turn, least)
            cuda.syncthreads()
        # Unsigned, as in `follow_path`: no check for negative indices.
        source, steps = np.uint64(shared[5]), diffusion_steps(depth, height, width, ndim)
        one, up, far = np.uint64(1), np.uint64(row), np.uint64(plane)
        if thread == 0:
            heat[source] = 1.0
        cuda.syncthreads()
        for step in range(1, steps + 1):
            for k in range(thread, area, threads):
                here = np.uint64(pixels[listed + k])
                if ndim == 3:
                    total = sum7(
                        heat[here], heat[here - one], heat[here + one],
                        heat[here - up], heat[here + up], heat[here - far], heat[here + far],
                    )  # fmt: skip
                    warmth = product(total, SHARE_3D)
                else:
                    above, below = here - up, here + up
                    total = sum3(
                        sum3(heat[above - one], heat[above], heat[above + one]),
                        sum3(heat[here - one], heat[here], heat[here + one]),
                        sum3(heat[below - one], heat[below], heat[below + one]),
                    )
                    warmth = product(total, SHARE_2D)
                if here == source and step < steps:
                    warmth += 1.0
                other[here] = warmth
            heat, other = other, heat
            cuda.syncthreads()
        whole, part = int64(0), int64(0)
        for k in range(thread, area, threads):
            p = int64(pixels[listed + k])
            z, y, x = z0 + p // plane - border, y0 + p % plane // row - 1, x0 + p % row - 1
            dz, dy, dx = slope(heat, p, row, plane, ndim)
            if ndim == 3:
                dz -= float64(values[flow[0, z, y, x]]) / 5.0
            dy -= float64(values[flow[ndim - 2, z, y, x]]) / 5.0
            dx -= float64(values[flow[ndim - 1, z, y, x]]) / 5.0
            error = squared_error(dz, dy, dx)
            whole += error >> 32
            part += error & (ERROR_ONE - 1)
        cuda.atomic.add(sums, (i, 0), whole)
        cuda.atomic.add(sums, (i, 1), part)

    # A hole is what the border doesn't reach through pixels that aren't the object's. Here 1 is reached, 2 the object.
    if area == depth * height * width:
        return
    cuda.syncthreads()
    for p in range(thread, size, threads):
        heat[p] = 1.0
    cuda.syncthreads()
    for q in range(thread, depth * height * width, threads):
        z, y, x = q // (height * width), q // width % height, q % width
        mine = labels[z0 + z, y0 + y, x0 + x] == i + 1
        heat[(z + border) * plane + (y + 1) * row + x + 1] = 2.0 if mine else 0.0
    cuda.syncthreads()
    changed = 1
    while changed != 0:
        changed = 0
        for p in range(thread, size, threads):
            if heat[p] == 0.0:
                beside = heat[p - 1] == 1.0 or heat[p + 1] == 1.0 or heat[p - row] == 1.0 or heat[p + row] == 1.0
                if ndim == 3:
                    beside = beside or heat[p - plane] == 1.0 or heat[p + plane] == 1.0
                if beside:
                    heat[p] = 1.0
                    changed = 1
        changed = cuda.syncthreads_or(changed)
    for p in range(thread, size, threads):
        if heat[p] == 0.0:
            holes[i] = 1
