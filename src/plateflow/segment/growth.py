"""Objects made from objects: grown evenly, in rings, or through a stain as far as it shows cells. On arrays (y, x).

Distances and costs are integers, and the smaller label wins where two are equal: the result is the same for every size
of blocks. Every object keeps the number of the one that it is made from.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from plateflow.compiled import compiled

BLOCK_PX = 256
"""Edge of the blocks in which a canvas is done: what is held at once beside it is of one block."""
UNITS = 2**16
"""Steps into which the range from the low to the high limit of the window is cut, and in which costs are counted."""
RANGES = 16
"""Values are cut at so many ranges above and below 0, so that no cost is greater than an integer or a float holds."""
FAR = np.iinfo(np.int64).max

Labels = NDArray[np.uint32]


def grow_evenly(labels: Labels, *, radius: float, inner: float = -1.0, block: int = BLOCK_PX) -> Labels:
    """Each pixel goes to the nearest object, where that is nearer than `radius`: CellProfiler's "Distance - N".

    The distance is that of the centres of two pixels, exactly: its square is an integer. Of several nearest objects the
    smallest number wins. Memory grows with a block, linear time in the pixels times the radius at most.

    Args:
        labels: (y, x), 0 is background.
        radius: px.
        inner: px; pixels at most so far from an object stay 0, those of objects, too (0); negative: none do.
        block: px; changes nothing but memory.
    """
    far, near = _squared(radius), -1 if inner < 0 else _squared(inner)
    reach = math.isqrt(far)
    grown = np.zeros_like(labels)
    for top in range(0, labels.shape[0], block):
        for left in range(0, labels.shape[1], block):
            y, x = max(top - reach, 0), max(left - reach, 0)
            part = labels[y : top + block + reach, x : left + block + reach]
            core = grown[top : top + block, left : left + block]
            if part.any():
                _nearest(np.ascontiguousarray(part), top - y, left - x, reach, near, far, core)
    return grown


def reaches(radius: float, inner: float = -1.0) -> bool:
    """Whether pixels that aren't an object's own lie where `grow_evenly` grows to, in px."""
    near, far = max(_squared(inner), 0) if inner >= 0 else 0, _squared(radius)
    return any(
        math.isqrt(square - dy * dy) ** 2 == square - dy * dy
        for square in range(near + 1, far + 1)
        for dy in range(math.isqrt(square) + 1)
    )


def _squared(px: float) -> int:
    """The greatest whole square of a distance that isn't above `px`, which is a quotient and may be off by rounding."""
    return math.floor(px * px * (1 + 1e-9))


@compiled
def _nearest(labels: Labels, top: int, left: int, reach: int, near: int, far: int, out: Labels) -> None:
    """Fill `out`, whose corner is at top, left of `labels`: first along columns, then along rows (Meijster 2000)."""
    height, width = labels.shape
    steps = np.full((out.shape[0], width), reach + 1, np.int32)  # to the nearest object in the same column
    whose = np.zeros((out.shape[0], width), np.uint32)
    for y in range(out.shape[0]):
        for x in range(width):
            for dy in range(reach + 1):
                up, down = np.uint32(0), np.uint32(0)
                if y + top - dy >= 0:
                    up = labels[y + top - dy, x]
                if y + top + dy < height:
                    down = labels[y + top + dy, x]
                if up or down:
                    steps[y, x] = dy
                    whose[y, x] = min(up, down) if up and down else max(up, down)
                    break
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            best, label = np.int64(far) + 1, np.uint32(0)
            for dx in range(reach + 1):
                if dx * dx > best:
                    break
                for side in (-dx, dx):
                    at = x + left + side
                    if at < 0 or at >= width or whose[y, at] == 0:
                        continue
                    square = np.int64(dx) * dx + np.int64(steps[y, at]) * steps[y, at]
                    if square < best or (square == best and label and whose[y, at] < label):
                        best, label = square, whose[y, at]
            if label and best > near:
                out[y, x] = label


def grow_through(
    labels: Labels, image: NDArray[Any], cells: NDArray[np.bool_], *, regularisation: float, block: int = BLOCK_PX
) -> Labels:
    """Objects grown through an image: each pixel of cells goes to the object from which the cheapest way leads to it.

    The method is that of Jones, Carpenter & Golland, Lecture Notes in Computer Science 3765 (2005) 535, as CellProfiler
    has it ("Propagation"): a step between two of 8 neighbours costs the root of D^2 + n r^2, where D is the sum of the
    absolute differences between their 3 x 3 neighbourhoods, n 1 or, diagonally, 2, and r the regularisation. Here costs
    are rounded to 1 / `UNITS`, and of equally cheap ways that of the smaller number wins. Holes in an object are
    filled. Blocks are done again as long as a neighbour changes, so that their size changes nothing.

    Args:
        labels: (y, x), 0 is background; their pixels keep their number, in a cell or not.
        image: (y, x), in which a range of 1 is that from dark to bright.
        cells: (y, x), where cells are.
        regularisation: from 0.001 on.
        block: px.
    """
    values = np.rint(np.clip(np.nan_to_num(image), -RANGES, RANGES) * UNITS).astype(np.int32)
    values = np.pad(values, 2, mode="edge")  # beyond the border of the image its edge goes on
    weight = max(1, round(regularisation * UNITS))
    grown, cost = labels.copy(), np.where(labels > 0, 0, FAR)
    rows, columns = (-(-side // block) for side in labels.shape)
    waiting = dict.fromkeys(((i, j) for i in range(rows) for j in range(columns)), True)  # True: with its own objects
    while waiting:
        i, j = place = next(iter(waiting))
        top, left = i * block, j * block
        steps = _steps(values[top : top + block + 4, left : left + block + 4], weight)
        if _grow_block(steps, cells, grown, cost, top, left, weight, waiting.pop(place)):
            for di, dj in product((-1, 0, 1), repeat=2):
                if (di or dj) and 0 <= i + di < rows and 0 <= j + dj < columns:
                    waiting.setdefault((i + di, j + dj), False)
    return _without_holes(grown)


_DOWN, _RIGHT = (0, 1, 1, 1), (1, -1, 0, 1)
"""The steps to four of the eight neighbours; the others are the same ways back."""


def shows_cells(image: NDArray[np.float32], threshold: float, inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where an image (y, x) is above a threshold, smoothed by a Gaussian of 1 px as CellProfiler does by default: so
    noise makes no specks. Only pixels `inside` count that aren't NaN.
    """
    known = inside & ~np.isnan(image)
    light = ndimage.gaussian_filter(np.where(known, image, 0), 1)
    weight = ndimage.gaussian_filter(known.astype(np.float32), 1)
    return known & (light > threshold * weight)


@compiled
def _steps(values: NDArray[np.int32], weight: int) -> NDArray[np.int32]:
    """What each step costs, (4, y, x) by `_DOWN` and `_RIGHT`, of pixels with 1 px around a block, from 2 px around."""
    height, width = values.shape[0] - 2, values.shape[1] - 2
    steps, of_column = np.zeros((4, height, width), np.int32), np.zeros(width + 2, np.int32)
    for way in range(4):
        down, right = _DOWN[way], _RIGHT[way]
        along = np.float64(down + abs(right)) * weight * weight
        start, stop = max(-right, 0), width - max(right, 0)
        for y in range(height - down):
            for x in range(start, stop + 2):
                of_column[x] = 0
                for dy in range(y, y + 3):
                    of_column[x] += abs(values[dy, x] - values[dy + down, x + right])
            for x in range(start, stop):
                total = of_column[x] + of_column[x + 1] + of_column[x + 2]
                steps[way, y, x] = np.int32(np.rint(np.sqrt(np.float64(total) * total + along)))
    return steps


@compiled
def _grow_block(
    steps: NDArray[np.int32],
    cells: NDArray[np.bool_],
    labels: Labels,
    cost: NDArray[np.int64],
    top: int,
    left: int,
    weight: int,
    first: bool,
) -> bool:
    """Find the cheapest ways within a block, from its objects (`first`) or from what changed round it.

    As no step costs less than `weight`, ways whose costs are the same multiple of it can be gone on with in any order:
    they wait in a ring of such lists, as many as the dearest step needs (Dial, Commun ACM 12 (1969) 632). Those from
    which it all begins are put there when it is their turn.

    Returns whether a pixel at its border has changed; objects, which neighbours see from the start, count for none.
    """
    height, width = steps.shape[1] - 2, steps.shape[2] - 2
    bottom, right = top + height, left + width
    begin, begin_cost = [0][:0], [np.int64(0)][:0]
    changed = False
    for y in range(max(top - 1, 0), min(bottom + 1, labels.shape[0])):
        for x in range(max(left - 1, 0), min(right + 1, labels.shape[1])):
            inside = top <= y < bottom and left <= x < right
            if labels[y, x] == 0 or (inside and not first) or (inside and cost[y, x]):
                continue
            begin.append((y - top + 1) * (width + 2) + x - left + 1)
            begin_cost.append(cost[y, x])
    order = np.argsort(np.array(begin_cost))
    n_lists = int(steps.max()) // weight + 2
    heads = np.full(n_lists, -1, np.int32)
    after, before = np.full(steps[0].size, -1, np.int32), np.full(steps[0].size, -1, np.int32)
    waits = np.zeros(steps[0].size, np.bool_)
    n_waiting, next_begin, turn = 0, 0, np.int64(0)
    while n_waiting or next_begin < len(order):
        if not n_waiting:
            turn = begin_cost[order[next_begin]] // weight
        now = turn % n_lists
        while next_begin < len(order) and begin_cost[order[next_begin]] // weight == turn:
            place = begin[order[next_begin]]
            next_begin += 1
            after[place], before[place], waits[place] = heads[now], -1, True
            if heads[now] >= 0:
                before[heads[now]] = place
            heads[now] = place
            n_waiting += 1
        while heads[now] >= 0:
            place = heads[now]
            heads[now], waits[place] = after[place], False
            if heads[now] >= 0:
                before[heads[now]] = -1
            n_waiting -= 1
            y, x = place // (width + 2), place % (width + 2)
            so_far, label = cost[y + top - 1, x + left - 1], labels[y + top - 1, x + left - 1]
            for way in range(8):
                dy, dx = _DOWN[way % 4], _RIGHT[way % 4]
                if way >= 4:
                    dy, dx = -dy, -dx
                ny, nx = y + dy, x + dx
                if ny < 1 or ny > height or nx < 1 or nx > width:
                    continue
                gy, gx = ny + top - 1, nx + left - 1
                known = cost[gy, gx]
                if known <= so_far or not cells[gy, gx]:
                    continue
                there = so_far + (steps[way, y, x] if way < 4 else steps[way - 4, ny, nx])
                if there > known or (there == known and label >= labels[gy, gx]):
                    continue
                other = ny * (width + 2) + nx
                if waits[other]:  # in another list, or another place of this one
                    if before[other] >= 0:
                        after[before[other]] = after[other]
                    else:
                        heads[known // weight % n_lists] = after[other]
                    if after[other] >= 0:
                        before[after[other]] = before[other]
                    n_waiting -= 1
                cost[gy, gx], labels[gy, gx] = there, label
                last = there // weight % n_lists
                after[other], before[other], waits[other] = heads[last], -1, True
                if heads[last] >= 0:
                    before[heads[last]] = other
                heads[last] = other
                n_waiting += 1
                if ny in (1, height) or nx in (1, width):
                    changed = True
        turn += 1
    return changed


def _without_holes(labels: Labels) -> Labels:
    """The labels with the holes of each object filled: background, 4-connected, that one object alone surrounds."""
    holes, n = ndimage.label(labels == 0)
    if not n:
        return labels
    greatest, least = np.zeros(n + 1, np.uint32), np.full(n + 1, np.iinfo(np.uint32).max, np.uint32)
    _surrounding(holes, labels, greatest, least)
    filled = np.where(greatest == least, greatest, 0).astype(np.uint32)
    filled[0] = 0
    return np.where(holes > 0, filled[holes], labels)


@compiled
def _surrounding(holes: NDArray[np.int32], labels: Labels, greatest: Labels, least: Labels) -> None:
    """Of each piece of background the greatest and the least label beside it; 0 is the least at the image's border."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            piece = holes[y, x]
            if piece == 0:
                continue
            for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                ny, nx = y + dy, x + dx
                if ny < 0 or ny >= height or nx < 0 or nx >= width:
                    least[piece] = 0
                elif holes[ny, nx] == 0:
                    greatest[piece] = max(greatest[piece], labels[ny, nx])
                    least[piece] = min(least[piece], labels[ny, nx])
