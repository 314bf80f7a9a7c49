"""Which object of one label set belongs to which of another: one sparse count of the pixels that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features.feature import Regions, Values


@dataclass(frozen=True, kw_only=True)
class Matches:
    """For each row object, in rising order of its label, what belongs to it of another set.

    Attributes:
        index: which of the other objects is its match, counted in rising order of their labels; -1 without one.
        score: pixels that it shares with its match, over the pixels of the smaller of the two; NaN without one.
        children: how many of the other objects have it as their parent.
        parent: which of the other objects is its parent; -1 without one.
        siblings: how many row objects have the same parent, itself included; 0 without a parent.
        orphans: how many of the other objects have neither parent nor child among the rows.
    """

    index: NDArray[np.int64]
    score: Values
    children: NDArray[np.int64]
    parent: NDArray[np.int64]
    siblings: NDArray[np.int64]
    orphans: int


def match(rows: Regions, others: Regions) -> Matches:
    """Match objects of another set to row objects by largest overlap; linear in the pixels.

    Of two objects that overlap, the one with fewer pixels can be the child of the other, and is if it shares more
    pixels with that one than with any other. A row takes, of its children and parents, the one that it shares most
    pixels with: a nucleus is counted in one cell alone, while two nuclei in one cell both have that cell. Ties go to
    the smaller label.
    """
    lookup = np.zeros(int(others.volume.max(initial=0)) + 1, np.int64)
    lookup[others.volume.ravel()[others.pixels[others.starts[:-1]]]] = np.arange(len(others.numbers))
    row, other, shared = _shared_pixels(rows.pixels, rows.starts, others.volume.ravel(), lookup, len(others.numbers))
    other_is_child = others.areas[other] <= rows.areas[row]
    kept = np.where(other_is_child, _largest(other, row, shared), _largest(row, other, shared))
    row, other, shared, other_is_child = row[kept], other[kept], shared[kept], other_is_child[kept]
    best = _largest(row, other, shared)
    index = np.full(len(rows.numbers), -1, np.int64)
    index[row[best]] = other[best]
    score = np.full(len(index), np.nan)
    score[row[best]] = shared[best] / np.minimum(rows.areas[row[best]], others.areas[other[best]])
    parent = np.full(len(index), -1, np.int64)
    parent[row[~other_is_child]] = other[~other_is_child]
    families = np.bincount(parent[parent >= 0], minlength=len(others.numbers))
    return Matches(
        index=index,
        score=score,
        children=np.bincount(row[other_is_child], minlength=len(index)),
        parent=parent,
        siblings=np.where(parent >= 0, np.append(families, 0)[parent], 0),
        orphans=len(others.numbers) - len(np.unique(other)),
    )


def kinds(matches: Matches, rows: str, others: str) -> NDArray[np.object_]:
    """Of each row: one_to_one; multinucleate (other sets than nuclei: several); anucleate, orphan or none."""
    several = "multinucleate" if "Nuclei" in (rows, others) else "several"
    none = "anucleate" if others == "Nuclei" else "orphan" if rows == "Nuclei" else "none"
    found = np.where(np.maximum(matches.children, matches.siblings) > 1, several, "one_to_one").astype(object)
    found[matches.index < 0] = none
    return found


def _largest(of: NDArray[np.int64], among: NDArray[np.int64], shared: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs are the largest overlap of their first object; ties go to the smaller second one."""
    order = np.lexsort((among, -shared, of))
    chosen = np.zeros(len(of), bool)
    chosen[order[np.unique(of[order], return_index=True)[1]]] = True
    return chosen


@njit(cache=True, nogil=True)
def _shared_pixels(
    pixels: NDArray[np.int32],
    starts: NDArray[np.int64],
    others: NDArray[np.int32],
    lookup: NDArray[np.int64],
    n_others: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, other and count of every pair of objects that share pixels."""
    rows, columns, counts = np.empty(1024, np.int64), np.empty(1024, np.int64), np.empty(1024, np.int64)
    place = np.full(n_others, -1, np.int64)
    n = 0
    for index in range(len(starts) - 1):
        begin = n
        for pixel in pixels[starts[index] : starts[index + 1]]:
            if others[pixel] <= 0:
                continue
            other = lookup[others[pixel]]
            if place[other] < begin:
                if n == len(rows):
                    rows = np.append(rows, np.empty(n, np.int64))
                    columns = np.append(columns, np.empty(n, np.int64))
                    counts = np.append(counts, np.empty(n, np.int64))
                rows[n], columns[n], counts[n] = index, other, 0
                place[other] = n
                n += 1
            counts[place[other]] += 1
    return rows[:n], columns[:n], counts[:n]
