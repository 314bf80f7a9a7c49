"""Which object of one label set belongs to which of another: one sparse count of the pixels that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Regions


@dataclass(frozen=True, kw_only=True)
class Matches:
    """For each row object, in rising order of its label, what belongs to it of another set.

    Attributes:
        index: which of the other objects is its match, counted in rising order of their labels; -1 without one.
        children: how many of the other objects have it as their parent.
    """

    index: NDArray[np.int64]
    children: NDArray[np.int64]


def match(rows: Regions, others: Regions) -> Matches:
    """Match objects of another set to row objects by largest overlap; linear in the pixels.

    Of two objects that overlap, the one with fewer pixels can be the child of the other, and is if it shares more
    pixels with that one than with any other. A row takes, of its children and parents, the one that it shares most
    pixels with: a nucleus is counted in one cell alone, while two nuclei in one cell both have that cell. Ties go to
    the smaller label.
    """
    inside = np.flatnonzero((rows.labels.ravel() > 0) & (others.labels.ravel() > 0))
    row = np.searchsorted(rows.numbers, rows.labels.ravel()[inside].astype(np.int64))
    other = np.searchsorted(others.numbers, others.labels.ravel()[inside].astype(np.int64))
    pairs, shared = np.unique(row * len(others.numbers) + other, return_counts=True)
    row, other = np.divmod(pairs, max(len(others.numbers), 1))
    other_is_child = others.areas[other] <= rows.areas[row]
    kept = np.where(other_is_child, _largest(other, row, shared), _largest(row, other, shared))
    parents = np.bincount(row[kept & other_is_child], minlength=len(rows.numbers))
    row, other, shared = row[kept], other[kept], shared[kept]
    best = _largest(row, other, shared)
    index = np.full(len(rows.numbers), -1, np.int64)
    index[row[best]] = other[best]
    return Matches(index=index, children=parents)


def _largest(of: NDArray[np.int64], among: NDArray[np.int64], shared: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs are the largest overlap of their first object; ties go to the smaller second one."""
    order = np.lexsort((among, -shared, of))
    chosen = np.zeros(len(of), bool)
    chosen[order[np.unique(of[order], return_index=True)[1]]] = True
    return chosen
