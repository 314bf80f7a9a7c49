"""Matching of objects between two label sets, from one sparse count of the pixels that they share."""

from collections.abc import Mapping
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
        parent: which of the other objects is its parent; -1 without one.
        owner: for each of the other objects, whose child among the rows it is; -1 without one.
    """

    index: Integers
    score: Values
    parent: Integers
    owner: Integers

    @property
    def children(self) -> Integers:
        """By row, the number of other objects whose parent it is."""
        return np.bincount(self.owner[self.owner >= 0], minlength=len(self.index))

    @property
    def siblings(self) -> Integers:
        """By row, the number of row objects with the same parent, itself included; 0 without a parent."""
        n_children = np.bincount(self.parent[self.parent >= 0], minlength=len(self.owner))
        return np.where(self.parent >= 0, np.append(n_children, 0)[self.parent], 0)

    @property
    def orphans(self) -> int:
        """The number of other objects with neither parent nor child among the rows."""
        related = self.owner >= 0
        related[self.parent[self.parent >= 0]] = True
        return int((~related).sum())


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
    parent, owner = np.full(len(index), -1, np.int64), np.full(len(others.numbers), -1, np.int64)
    parent[row[~other_is_child]] = other[~other_is_child]
    owner[other[other_is_child]] = row[other_is_child]
    return Matches(index=index, score=score, parent=parent, owner=owner)


def match_numbers(rows: Regions, others: Regions) -> Matches:
    """Match objects of another set to row objects by their number, where both sets are made from the same objects.

    They needn't share a pixel, as rings don't with what they lie round. Again the smaller one is the child.
    """
    index, owner = _places(rows.numbers, others.numbers), _places(others.numbers, rows.numbers)
    is_child = others.areas <= np.append(rows.areas, 0)[owner]
    parent = np.where(np.append(is_child, True)[index], -1, index)
    return Matches(index=index, score=_overlap(rows, others, index), parent=parent, owner=np.where(is_child, owner, -1))


def match_through(rows: Regions, others: Regions, source: Regions, matched: Matches) -> Matches:
    """Match objects of another set to row objects as those that they are made from, whose numbers they bear.

    Args:
        source: the objects that they are made from.
        matched: these, matched to the rows.
    """
    made, made_from = _places(source.numbers, others.numbers), _places(others.numbers, source.numbers)
    index, parent = (np.append(made, -1)[each] for each in (matched.index, matched.parent))
    owner = np.append(matched.owner, -1)[made_from]
    return Matches(index=index, score=_overlap(rows, others, index), parent=parent, owner=owner)


def _places(numbers: Integers, among: Integers) -> Integers:
    """Where each number is among others, which ascend; -1 where it isn't."""
    at = np.searchsorted(among, numbers)
    return np.where(np.append(among, -1)[at] == numbers, at, -1)


def _overlap(rows: Regions, others: Regions, index: Integers) -> Values:
    """The score of the matches of these indices."""
    wanted = np.repeat(np.append(others.numbers, 0)[index].astype(others.labels.dtype), rows.areas)
    same = others.labels.ravel()[rows.pixels] == wanted
    shared = np.add.reduceat(np.append(same, False).astype(np.int64), rows.starts)[: len(index)]
    areas = np.append(others.areas, 1)[index]
    return np.where(index >= 0, shared / np.minimum(rows.areas, areas), np.nan)


def match_all(regions: Mapping[str, Regions], row_name: str, sources: Mapping[str, str]) -> dict[str, Matches]:
    """By other set, what of it belongs to the rows.

    Args:
        regions: by set, that of the rows among them.
        sources: as of `measure`.
    """
    rows, matches = regions[row_name], dict[str, Matches]()
    first = {name: sources.get(name, name) for name in regions}
    for name in sorted(regions, key=lambda name: first[name] != name):  # what others are made from comes before them
        if name == row_name:
            continue
        if first[name] == first[row_name]:
            matches[name] = match_numbers(rows, regions[name])
        elif first[name] == name:
            matches[name] = match(rows, regions[name])
        else:
            matches[name] = match_through(rows, regions[name], regions[first[name]], matches[first[name]])
    return {name: matches[name] for name in regions if name in matches}


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
