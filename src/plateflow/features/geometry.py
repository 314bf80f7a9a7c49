"""Compiled geometry of one object in its box: mask, distance to the edge, convex hull, enclosing circle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled

FAR = 1 << 40
"""A squared distance larger than any in an image."""


@compiled
def box_mask(pixels: NDArray[np.int32], height: int, width: int, pad: int) -> tuple[NDArray[np.uint8], int, int]:
    """Mask of an object in its box with a margin of one pixel, and the y and x of its corner.

    The margin is 0 inside the image and `pad` outside it: 1 if the image's border does not count as an edge.
    """
    y0, x0, y1, x1 = height, width, 0, 0
    for pixel in pixels:
        y, x = pixel // width, pixel % width
        y0, y1, x0, x1 = min(y0, y), max(y1, y), min(x0, x), max(x1, x)
    mask = np.zeros((y1 - y0 + 3, x1 - x0 + 3), np.uint8)
    for y in range(mask.shape[0]):
        mask[y, 0] = pad if x0 == 0 else 0
        mask[y, -1] = pad if x1 == width - 1 else 0
    for x in range(mask.shape[1]):
        mask[0, x] = pad if y0 == 0 else mask[0, x]
        mask[-1, x] = pad if y1 == height - 1 else mask[-1, x]
    for pixel in pixels:
        mask[pixel // width - y0 + 1, pixel % width - x0 + 1] = 1
    return mask, y0 - 1, x0 - 1


@compiled
def squared_distance(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Squared distance of every pixel to the nearest 0 of the mask; at least FAR if there is none."""
    height, width = mask.shape
    column = np.empty((height, width), np.int64)
    for x in range(width):
        run = 1 << 20
        for y in range(height):
            run = run + 1 if mask[y, x] else 0
            column[y, x] = run
        run = 1 << 20
        for y in range(height - 1, -1, -1):
            run = run + 1 if mask[y, x] else 0
            column[y, x] = min(column[y, x], run)
    out = np.zeros((height, width), np.int64)
    for y in range(height):
        for x in range(width):
            best = column[y, x] ** 2
            step = 1
            while step * step < best and step < width:
                if x >= step:
                    best = min(best, column[y, x - step] ** 2 + step * step)
                if x + step < width:
                    best = min(best, column[y, x + step] ** 2 + step * step)
                step += 1
            out[y, x] = best
    return out


@compiled
def row_spans(mask: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last x of every row, FAR and -FAR if it is empty. The margin is ignored."""
    height, width = mask.shape
    low, high = np.full(height, FAR, np.int64), np.full(height, -FAR, np.int64)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if mask[y, x]:
                low[y] = min(low[y], x)
                high[y] = max(high[y], x)
    return low, high


@compiled
def chain(sides: NDArray[np.int64], sign: int) -> NDArray[np.int64]:
    """Rows of the corners of one side of the convex hull, from above, given each row's first x (sign 1) or last (-1).

    Exact, because in integers.
    """
    kept = np.empty(len(sides), np.int64)
    n = 0
    for row in range(len(sides)):
        if abs(sides[row]) == FAR:
            continue
        while n > 1:
            a, b = kept[n - 2], kept[n - 1]
            if sign * ((sides[b] - sides[a]) * (row - a) - (sides[row] - sides[a]) * (b - a)) < 0:
                break
            n -= 1
        kept[n] = row
        n += 1
    return kept[:n]


@compiled
def convex_area(low: NDArray[np.int64], high: NDArray[np.int64]) -> int:
    """Number of pixels whose centre lies in or on the convex hull of the midpoints of the object's pixel sides.

    As in scikit-image's convex_hull_image, but exact: coordinates are doubled, so that midpoints are integers.
    """
    rows = len(low)
    left, right = np.full(2 * rows + 1, FAR, np.int64), np.full(2 * rows + 1, -FAR, np.int64)
    for y in range(rows):
        if low[y] != FAR:
            for half in range(3):
                margin = half == 1
                left[2 * y + half] = min(left[2 * y + half], 2 * low[y] - margin)
                right[2 * y + half] = max(right[2 * y + half], 2 * high[y] + margin)
    area = 0
    lefts, rights = chain(left, 1), chain(right, -1)
    i = j = 0
    for row in range(lefts[0], lefts[-1] + 1):
        while i < len(lefts) - 2 and lefts[i + 1] < row:
            i += 1
        while j < len(rights) - 2 and rights[j + 1] < row:
            j += 1
        if row % 2:
            a, b = lefts[i], lefts[i + 1]
            first = -((-(left[a] * (b - a) + (left[b] - left[a]) * (row - a))) // (2 * (b - a)))
            a, b = rights[j], rights[j + 1]
            last = (right[a] * (b - a) + (right[b] - right[a]) * (row - a)) // (2 * (b - a))
            area += last - first + 1
    return area


@compiled
def hull(low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
    """Corners y, x of the convex hull of the pixels' centres, in order around it."""
    lefts, rights = chain(low, 1), chain(high, -1)
    corners = np.empty((len(lefts) + len(rights), 2))
    n = 0
    for row in lefts:
        corners[n, 0], corners[n, 1] = row, low[row]
        n += 1
    for k in range(len(rights) - 1, -1, -1):
        row, x = rights[k], high[rights[k]]
        if (corners[n - 1, 0] == row and corners[n - 1, 1] == x) or (corners[0, 0] == row and corners[0, 1] == x):
            continue
        corners[n, 0], corners[n, 1] = row, x
        n += 1
    return corners[:n]


@compiled
def feret(corners: NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest distance between two parallel lines that enclose the hull."""
    n = len(corners)
    longest, shortest = 0.0, np.inf
    for i in range(n):
        k = (i + 1) % n
        dy, dx = corners[k, 0] - corners[i, 0], corners[k, 1] - corners[i, 1]
        length = np.sqrt(dy * dy + dx * dx)
        width = 0.0
        for j in range(n):
            ey, ex = corners[j, 0] - corners[i, 0], corners[j, 1] - corners[i, 1]
            longest = max(longest, ey * ey + ex * ex)
            width = max(width, abs(dy * ex - dx * ey))
        if length > 0:
            shortest = min(shortest, width / length)
    return (0.0 if n < 3 else shortest), np.sqrt(longest)


@compiled
def enclosing_circle(corners: NDArray[np.float64]) -> tuple[float, float, float]:
    """Centre y, x and radius of the smallest circle around points (Welzl 1991, in its iterative form)."""
    y, x, radius = corners[0, 0], corners[0, 1], 0.0
    for i in range(1, len(corners)):
        if _within(corners[i], y, x, radius):
            continue
        y, x, radius = corners[i, 0], corners[i, 1], 0.0
        for j in range(i):
            if _within(corners[j], y, x, radius):
                continue
            y, x = (corners[i, 0] + corners[j, 0]) / 2, (corners[i, 1] + corners[j, 1]) / 2
            radius = np.sqrt((corners[i, 0] - y) ** 2 + (corners[i, 1] - x) ** 2)
            for k in range(j):
                if not _within(corners[k], y, x, radius):
                    y, x, radius = _through(corners[i], corners[j], corners[k])
    return y, x, radius


@compiled
def _within(point: NDArray[np.float64], y: float, x: float, radius: float) -> Any:
    return (point[0] - y) ** 2 + (point[1] - x) ** 2 <= radius * radius * (1 + 1e-12)


@compiled
def _through(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> tuple[float, float, float]:
    """Centre y, x and radius of the circle through three points."""
    by, bx, cy, cx = b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1]
    cross = 2 * (by * cx - bx * cy)
    bb, cc = by * by + bx * bx, cy * cy + cx * cx
    y, x = (bb * cx - cc * bx) / cross, (cc * by - bb * cy) / cross
    return a[0] + y, a[1] + x, np.sqrt(y * y + x * x)
