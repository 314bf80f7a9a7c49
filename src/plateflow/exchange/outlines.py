"""Outlines of objects along the edges of their pixels, and the objects that outlines enclose: there and back exactly.

A point is (x, y) in px from the corner of the image: the pixel in row 0 and column 0 lies between 0 and 1, as in QuPath
and ImageJ. A polygon is a list of rings, its outline first and then its holes; a ring doesn't name its first point
again, and none of those made here touches itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected

from plateflow.compiled import compiled
from plateflow.errors import RawDataError, number_of

Polygon = list[NDArray[np.float64]]
FURTHEST = 2.0**31
"""Coordinates stay below it, so that slopes are finite: an image has fewer px."""
_LISTED = 10
"""Pairs of objects that an error names."""


def outlines(labels: NDArray[np.uint32]) -> Iterator[tuple[int, list[Polygon]]]:
    """The outlines of the objects of labels (y, x), in the order of their numbers: a polygon for each piece of one.

    Pieces are 4-connected: what touches at a corner alone is another polygon, as geometries that are valid have it.
    """
    pieces = connected(labels, connectivity=1, background=0).astype(np.int32)
    points, starts, owners, touching = _trace(np.pad(pieces, 1))
    numbers = np.zeros(pieces.max(initial=0) + 1, np.uint32)
    numbers[pieces] = labels
    polygons: dict[int, Polygon] = {}
    for n, piece in enumerate(owners.tolist()):
        ring = points[starts[n] : starts[n + 1]]
        for simple in _split(ring) if touching[n] else [ring]:
            polygon = polygons.setdefault(piece, [])
            polygon.insert(0 if _area(simple) > 0 else len(polygon), simple.astype(np.float64))
    objects: dict[int, list[Polygon]] = {}
    for piece, polygon in polygons.items():
        objects.setdefault(int(numbers[piece]), []).append(polygon)
    yield from sorted(objects.items())


@compiled
def _trace(
    pieces: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]:
    """The rings around the pieces of a frame (y, x) with a border of 0, each with its piece on the right hand.

    Returns:
        points (n, 2), x and y where a ring turns; where each ring starts; its piece; whether it touches itself.
    """
    height, width = pieces.shape
    edges = 0
    for y in range(1, height):
        for x in range(1, width):
            edges += pieces[y, x] != pieces[y - 1, x]
    # Of each ring half of the sides are horizontal, and each of these has an edge of a pixel of its own.
    points = np.empty((4 * edges, 2), np.int32)
    starts, owners, touching = np.zeros(edges + 1, np.int64), np.empty(edges, np.int32), np.zeros(edges, np.bool_)
    seen = np.zeros(pieces.shape, np.bool_)  # pixels along whose upper edge a ring has come
    n = rings = 0
    for top in range(1, height):
        for left in range(1, width):
            piece = pieces[top, left]
            if piece == 0 or seen[top, left] or pieces[top - 1, left] == piece:
                continue
            y, x, dy, dx = top, left, 0, 1  # a corner of a pixel, and where the ring goes from there
            while True:
                if dx == 1:
                    seen[y, x] = True
                y, x = y + dy, x + dx
                # The pixels ahead, to the right and the left: the corner's own lie at -1 and 0.
                right = pieces[y + (dy - 1 + dx) // 2, x + (dx - 1 - dy) // 2] == piece
                ahead = pieces[y + (dy - 1 - dx) // 2, x + (dx - 1 + dy) // 2] == piece
                if right and not ahead:
                    continue
                points[n, 0], points[n, 1] = x - 1, y - 1  # without the border
                n += 1
                touching[rings] |= ahead and not right
                dy, dx = (-dx, dy) if right else (dx, -dy)
                if y == top and x == left and dx == 1:
                    break
            owners[rings] = piece
            rings += 1
            starts[rings] = n
    return points[:n], starts[: rings + 1], owners[:rings], touching[:rings]


def _split(ring: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    """Rings that don't touch themselves: one that comes to a point again is two."""
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for x, y in ring.tolist():
        if (start := at.get((x, y))) is not None:
            yield np.array(path[start:], np.int32)
            for point in path[start:]:
                del at[point]
            del path[start:]
        at[x, y] = len(path)
        path.append((x, y))
    yield np.array(path, np.int32)


def _area(ring: NDArray[np.int32]) -> float:
    """Positive for an outline, negative for a hole."""
    x, y = ring.T.astype(np.int64)
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)


def fill(objects: Iterable[tuple[str, Sequence[Polygon]]], shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """Labels (y, x) of the objects that outlines enclose: of a pixel whose centre lies in a polygon and in no hole.

    A centre on a line is outside of what lies to the right of it, as in ImageJ, and so in one object alone. Where a
    name is a number that no object before had, it is the object's; the others get the numbers above the greatest.

    Args:
        objects: by their names in the program.
        shape: of the image; what is outside of it is cut off.

    Raises:
        RawDataError: two objects overlap, or one has no pixel: it would be lost.
        ValueError: a coordinate isn't finite, or beyond `FURTHEST`.
    """
    named = list(objects)
    taken: dict[int, int] = {}
    for n, (name, _) in enumerate(named):
        if name.isascii() and name.isdecimal() and 0 < int(name) < 2**31:
            taken.setdefault(int(name), n)
    numbers = {n: number for number, n in taken.items()}
    last = max(taken, default=0)
    labels = np.zeros(shape, np.uint32)
    names: dict[int, str] = {0: ""}
    empty: list[str] = []
    overlaps: dict[tuple[str, str], int] = {}
    for n, (name, polygons) in enumerate(named):
        number = numbers[n] if n in numbers else (last := last + 1)
        names[number], painted = name or f"object {n + 1} without a name", False
        for rings in filter(None, ([ring for ring in polygon if len(ring) > 2] for polygon in polygons)):
            (ys, xs), inside = _pixels(rings, shape)
            part = labels[ys, xs]
            there, counts = np.unique(part[inside & (part > 0) & (part != number)], return_counts=True)
            for other, count in zip(there.tolist(), counts.tolist(), strict=True):
                pair = names[other], names[number]
                overlaps[pair] = overlaps.get(pair, 0) + count
            part[inside] = number
            painted |= bool(inside.any())
        if not painted:
            empty.append(names[number])
    if overlaps:
        pairs = [f"{one} and {other} ({px:,} px)" for (one, other), px in overlaps.items()]
        raise RawDataError(
            f"{number_of(len(pairs), 'pair[s] of objects overlap[|s]')}, and a pixel belongs to one object alone",
            why=", ".join(pairs[:_LISTED]) + ", ..." * (len(pairs) > _LISTED),
            remedy="cut one of each pair back, or merge them",
        )
    if empty:
        raise RawDataError(
            f"{number_of(len(empty), 'object[s have| has] no pixel of the image')}",
            why=", ".join(empty[:_LISTED]) + ", ..." * (len(empty) > _LISTED),
            remedy="remove them",
        )
    return labels


def _pixels(rings: Polygon, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The box of a polygon within the image, and which of its pixels lie in the polygon."""
    points = np.concatenate(rings).astype(np.float64)
    if not (np.abs(points) < FURTHEST).all():
        raise ValueError("a coordinate is no number, or lies beyond every image")
    limits = [(0, size) for size in shape[::-1]]
    low, high = (
        [int(np.clip(value, *limit)) for value, limit in zip(corner, limits, strict=True)]
        for corner in (np.floor(points.min(axis=0)), np.ceil(points.max(axis=0)))
    )
    starts = np.cumsum([0, *map(len, rings)])
    inside = _inside(points, starts, low[1], low[0], high[1] - low[1], high[0] - low[0])
    return (slice(low[1], high[1]), slice(low[0], high[0])), inside


@compiled
def _inside(
    points: NDArray[np.float64], starts: NDArray[np.int64], top: int, left: int, height: int, width: int
) -> NDArray[np.bool_]:
    """Which pixels of a box lie inside of an odd number of rings."""
    flips = np.zeros((height, width + 1), np.bool_)  # where a row goes in or out
    for ring in range(len(starts) - 1):
        before = starts[ring + 1] - 1
        for here in range(starts[ring], starts[ring + 1]):
            x1, y1, x2, y2 = points[before, 0], points[before, 1], points[here, 0], points[here, 1]
            before = here
            if y1 > y2:  # so that the line between two objects is the same for both
                x1, y1, x2, y2 = x2, y2, x1, y1
            first, stop = np.ceil(y1 - top - 0.5), np.ceil(y2 - top - 0.5)
            for row in range(int(max(first, 0.0)), int(min(max(stop, 0.0), height))):
                x = x1 + (row + top + 0.5 - y1) * ((x2 - x1) / (y2 - y1))
                flips[row, int(min(max(np.floor(x - left + 0.5), 0.0), width))] ^= True
    inside = np.zeros((height, width), np.bool_)
    for row in range(height):
        within = False
        for column in range(width):
            within ^= flips[row, column]
            inside[row, column] = within
    return inside
