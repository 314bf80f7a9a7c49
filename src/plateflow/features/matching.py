"""Matching of objects between two label sets, from one sparse count of the pixels that they share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.features.feature import Feature, Integers, Pixels, Regions, Values


@dataclass(frozen=True, kw_only=True)
class Matches:
    """For each row object, in ascending order of its label, what belongs to it in another set.

    Attributes:
        index: which of the other objects is its match, in ascending order of their labels; -1 without one.
        score: number of pixels that it shares with its match over those of the smaller of the two; NaN without one.
        children: number of other objects whose parent it is.
        parent: which of the other objects is its parent; -1 without one.
        siblings: number of row objects with the same parent, itself included; 0 without a parent.
        orphans: number of other objects with neither parent nor child among the rows.
    """

    index: Integers
    score: Values
    children: Integers
    parent: Integers
    siblings: Integers
    orphans: int


def match(rows: Regions, others: Regions) -> Matches:
    """Match objects of another set to row objects by largest overlap; linear in the pixels.

    Of two objects that overlap, the one with fewer pixels is the child of the other if it shares more pixels with it
    than with any other object. The match of a row object is the one among its children and parents with which it
    shares most pixels: a nucleus is counted in one cell only, while two nuclei in one cell both have that cell. Ties
    go to the smaller label.
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
    n_children = np.bincount(parent[parent >= 0], minlength=len(others.numbers))
    return Matches(
        index=index,
        score=score,
        children=np.bincount(row[other_is_child], minlength=len(index)),
        parent=parent,
        siblings=np.where(parent >= 0, np.append(n_children, 0)[parent], 0),
        orphans=len(others.numbers) - len(np.unique(other)),
    )


def match_numbers(rows: Regions, others: Regions) -> Matches:
    """Match objects of another set to row objects by their number, where both sets are made from the same objects.

    They needn't share a pixel, as rings don't with what they lie round. Again the smaller one is the child.
    """
    at = np.minimum(np.searchsorted(others.numbers, rows.numbers), max(len(others.numbers) - 1, 0))
    found = others.numbers[at] == rows.numbers if len(others.numbers) else np.zeros(len(rows.numbers), bool)
    index = np.where(found, at, -1)
    same = rows.labels.ravel()[rows.pixels] == others.labels.ravel()[rows.pixels]
    shared = np.add.reduceat(np.append(same, False).astype(np.int64), rows.starts)[: len(index)]
    areas = np.append(others.areas, 0)[index]
    return Matches(
        index=index,
        score=np.where(found, shared / np.minimum(rows.areas, np.maximum(areas, 1)), np.nan),
        children=(found & (areas <= rows.areas)).astype(np.int64),
        parent=np.where(found & (areas > rows.areas), at, -1),
        siblings=(found & (areas > rows.areas)).astype(np.int64),
        orphans=len(others.numbers) - int(found.sum()),
    )


def match_kinds(matches: Matches, rows: str, others: str) -> NDArray[np.object_]:
    """For each row one_to_one, multinucleate (several if nuclei are not involved), anucleate, orphan or none."""
    several = "multinucleate" if "Nuclei" in (rows, others) else "several"
    none = "anucleate" if others == "Nuclei" else "orphan" if rows == "Nuclei" else "none"
    names = np.where(np.maximum(matches.children, matches.siblings) > 1, several, "one_to_one").astype(object)
    names[matches.index < 0] = none
    return names


_RELATIONS = {
    "Children_{}_Count": "number of {} that belong to this object: smaller, and no other shares more with them",
    "Match_{}_Overlap": "pixels shared with the matching one of {}, over the pixels of the smaller; NaN without",
    "Parent_{}": "label of the larger one of {} that this object belongs to; NaN without one",
}


def relation_features(others: str) -> list[Feature]:
    """The columns of the rows' compartment that describe its relation to another one."""
    return [
        Feature(
            name=name.format(others),
            family="objects",
            unit="1",
            definition=definition.format(others),
            source="Plateflow" if name.startswith("Match") else "CellProfiler",
            kind="number" if name.startswith("Parent") else "measurement",
        )
        for name, definition in _RELATIONS.items()
    ]


def relations(matches: Matches, others: str, numbers: Integers) -> dict[str, Values]:
    """The values of `relation_features`, from the matches and the labels of the other objects."""
    parent = np.append(numbers.astype(np.float64), np.nan)[matches.parent]
    values = matches.children.astype(np.float64), matches.score, parent
    return {name.format(others): value for name, value in zip(_RELATIONS, values, strict=True)}


def _largest(first: Integers, second: Integers, shared: Integers) -> NDArray[np.bool_]:
    """Which pairs are the largest overlap of their first object; ties go to the smaller second one."""
    order = np.lexsort((second, -shared, first))
    chosen = np.zeros(len(first), bool)
    chosen[order[np.unique(first[order], return_index=True)[1]]] = True
    return chosen


@compiled
def _shared_pixels(
    pixels: Pixels, starts: Integers, others: Pixels, lookup: Integers, n_others: int
) -> tuple[Integers, Integers, Integers]:
    """Row, other and count of every pair of objects that share pixels."""
    rows, columns, counts = np.empty(1024, np.int64), np.empty(1024, np.int64), np.empty(1024, np.int64)
    place = np.full(n_others, -1, np.int64)
    n = 0
    for index in range(len(starts) - 1):
        start = n
        for pixel in pixels[starts[index] : starts[index + 1]]:
            if others[pixel] <= 0:
                continue
            other = lookup[others[pixel]]
            if place[other] < start:
                if n == len(rows):
                    rows = np.append(rows, np.empty(n, np.int64))
                    columns = np.append(columns, np.empty(n, np.int64))
                    counts = np.append(counts, np.empty(n, np.int64))
                rows[n], columns[n], counts[n] = index, other, 0
                place[other] = n
                n += 1
            counts[place[other]] += 1
    return rows[:n], columns[:n], counts[:n]
