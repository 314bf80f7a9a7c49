"""Labels as people have drawn them, and those from which they were made: checked, compared object by object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from skimage.measure import label as connected

from plateflow.errors import PlateflowError, number_of
from plateflow.images.canvas import Canvas

Labels = NDArray[np.uint32]
NAMED = 5
"""So many objects are named in a message."""


@dataclass(frozen=True)
class Counts:
    """How many objects are as they were pixel for pixel, have other pixels, are new, or are no more."""

    kept: int = 0
    changed: int = 0
    added: int = 0
    removed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(one + two for one, two in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.removed)

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {what}" for what, n in asdict(self).items())


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Drawn labels with the numbers of the objects that they were.

    Attributes:
        labels: uint32 ([z,] y, x).
        same: the numbers of objects that are as they were, pixel for pixel.
    """

    labels: Labels
    counts: Counts
    same: NDArray[np.uint32]


def checked(drawn: NDArray[Any], outside: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Labels of a canvas, ([z,] y, x), as whole numbers.

    Args:
        outside: where no field lies, (y, x).
        shape: of the canvas.

    Raises:
        PlateflowError: they are no whole numbers from 0 to 2^32 - 1, have another shape, or lie where no field does.
    """
    if drawn.shape != shape:
        raise PlateflowError(
            f"its shape is {drawn.shape}, and that of the image {shape}", why="don't crop or rescale it"
        )
    if drawn.dtype.kind == "f" and not (np.isfinite(drawn).all() and (drawn == np.rint(drawn)).all()):
        raise PlateflowError(f"it holds fractions ({drawn.dtype})", why="labels are whole numbers, 0 is background")
    if drawn.dtype.kind not in "iuf":
        raise PlateflowError(f"it holds {drawn.dtype}, no whole numbers", why="each object needs a number of its own")
    if drawn.size and (drawn.min() < 0 or drawn.max() >= 2**32):
        raise PlateflowError(f"its numbers go from {drawn.min()} to {drawn.max()}", why="labels are 0 to 4294967295")
    labels = drawn.astype(np.int64)
    if n := int(np.count_nonzero(labels[..., outside])):
        y, x = np.argwhere((labels > 0).reshape(-1, *outside.shape).any(axis=0) & outside)[0].tolist()
        raise PlateflowError(f"{n:,} px of objects lie where no field does, as at y {y}, x {x}", why="erase them there")
    return labels


def compared(drawn: NDArray[np.int64] | Labels, base: Labels, first: int) -> Compared:
    """Give drawn objects the numbers of those that they were; new ones get the numbers from `first` on.

    An object is the one with which it shares most, intersection over union, if that is 0.5 or more, and the other has
    no better one: in the order of their overlaps, then of their numbers.
    """
    numbers, index = np.unique(drawn.astype(np.int64), return_inverse=True)
    known, own = np.unique(base.astype(np.int64), return_inverse=True)
    index, own = index.ravel(), own.ravel()
    sizes, base_sizes = np.bincount(index, minlength=len(numbers)), np.bincount(own, minlength=len(known))
    pairs, shared = np.unique(own * len(numbers) + index, return_counts=True)
    old, new = np.divmod(pairs, len(numbers))
    union = base_sizes[old] + sizes[new] - shared
    near = (known[old] > 0) & (numbers[new] > 0) & (2 * shared >= union)
    target = np.zeros(len(numbers), np.uint32)
    taken, same = set[int](), list[int]()
    for k in sorted(np.flatnonzero(near).tolist(), key=lambda k: (-shared[k] / union[k], old[k], new[k])):
        if not target[new[k]] and int(old[k]) not in taken:
            taken.add(int(old[k]))
            target[new[k]] = known[old[k]]
            same += [int(known[old[k]])] * bool(shared[k] == union[k])
    fresh = (target == 0) & (numbers > 0)
    target[fresh] = first + np.arange(np.count_nonzero(fresh))
    counts = Counts(
        kept=len(same),
        changed=len(taken) - len(same),
        added=int(np.count_nonzero(fresh)),
        removed=int(np.count_nonzero(known)) - len(taken),
    )
    return Compared(labels=target[index].reshape(drawn.shape), counts=counts, same=np.array(sorted(same), np.uint32))


def in_one_piece(found: Compared, base: Labels, least_px: int | None) -> tuple[Labels, str]:
    """The labels without objects in more pieces than they had; and what was done, in words.

    Args:
        found: drawn labels, compared with `base`.
        least_px: make pieces objects of their own, and drop those with fewer pixels; None: refuse them.

    Raises:
        PlateflowError: objects are in pieces.
    """
    piece, numbers, sizes = _pieces(found.labels)
    pieces_before = np.bincount(_pieces(base)[1], minlength=1)
    n_pieces = np.bincount(numbers, minlength=1)
    allowed = np.ones(len(n_pieces), np.int64)
    both = min(len(n_pieces), len(pieces_before))
    allowed[:both] = np.maximum(1, pieces_before[:both])
    broken = np.flatnonzero(n_pieces > allowed)
    if not len(broken):
        return found.labels, ""
    if least_px is None:
        named = "; ".join(_places(piece, np.flatnonzero(numbers == each) + 1, sizes) for each in broken[:NAMED])
        more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise PlateflowError(
            f"{number_of(len(broken), 'object[s are| is]')} in pieces: {named}{more}",
            why="erase specks and give parts numbers of their own; or let --split do it: pieces become objects, "
            "and those below min_size_px go",
        )
    target = np.append(np.uint32(0), numbers.astype(np.uint32))  # by piece
    following, dropped = int(numbers.max()) + 1, list[int]()
    for each in broken:
        largest_first = sorted((np.flatnonzero(numbers == each) + 1).tolist(), key=lambda k: (-sizes[k - 1], k))
        for k in largest_first[1:]:
            if sizes[k - 1] < least_px:
                dropped.append(int(sizes[k - 1]))
                target[k] = 0
            else:
                target[k], following = following, following + 1
    made = following - int(numbers.max()) - 1
    apart = number_of(made, "piece[s are objects| is an object]")
    specks = f"{number_of(len(dropped), 'speck[s]')} ({sum(dropped):,} px) dropped"
    return target[piece], f"{number_of(len(broken), 'object[s were| was]')} in pieces: {apart} now, {specks}"


def _pieces(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The connected pieces of objects, corners included: an image of them, and of each its object and its pixels."""
    piece: NDArray[np.int64] = connected(labels, background=0, connectivity=labels.ndim)
    flat, first = np.unique(piece, return_index=True)
    sizes = np.bincount(piece.ravel(), minlength=1)
    return piece, labels.ravel()[first[flat > 0]].astype(np.int64), sizes[flat[flat > 0]]


def _places(piece: NDArray[np.int64], pieces: NDArray[np.int64], sizes: NDArray[np.int64]) -> str:
    """Where the pieces of an object lie, the largest first."""
    told = []
    for each in sorted(pieces.tolist(), key=lambda k: (-sizes[k - 1], k))[:3]:
        y, x = np.argwhere(piece == each)[0][-2:].tolist()
        told.append(f"{sizes[each - 1]:,} px at y {y}, x {x}")
    return " and ".join(told) + (", ..." if len(pieces) > 3 else "")


def object_table(found: Compared, canvas: Canvas, rows: pa.Table) -> pa.Table:
    """The table of a canvas's objects: the rows of those that are as they were, and new ones.

    Flow error and cell probability of objects that people have drawn are NaN: no flow has made them. Their seed is the
    pixel nearest to their centroid.

    Args:
        rows: of the objects of the canvas before, with the columns that `stitch` writes.
    """
    kept = rows.filter(pa.array(np.isin(rows["label"].to_numpy(), found.same)))
    drawn = (found.labels > 0) & ~np.isin(found.labels, found.same)
    places = np.nonzero(drawn)
    numbers, index = np.unique(found.labels[drawn], return_inverse=True)
    areas = np.bincount(index, minlength=len(numbers))
    distance = np.zeros(len(index))
    for axis in places:
        distance += (axis - (np.bincount(index, axis, len(numbers)) / np.maximum(areas, 1))[index]) ** 2
    order = np.lexsort((distance, index))
    nearest = order[np.searchsorted(index[order], np.arange(len(numbers)))] if len(numbers) else order
    seed = [axis[nearest] for axis in places]
    unknown = np.full(len(numbers), np.nan)
    columns = {
        "label": numbers,
        "canvas": np.full(len(numbers), canvas.index),
        "seed_z": np.full(len(numbers), canvas.z) + (seed[0] if canvas.depth else 0),
        "seed_y": seed[-2] + canvas.y,
        "seed_x": seed[-1] + canvas.x,
        "area_px": areas,
        "flow_error": unknown,
        "cell_probability": unknown,
    }
    new = pa.table({each.name: pa.array(columns[each.name], each.type) for each in rows.schema})
    return pa.concat_tables([kept, new]).sort_by("label")
