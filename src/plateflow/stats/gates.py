"""Which cells enter counts and medians, and to which populations each belongs.

`rules.gates_of` reads the rules of the configuration; `decide` applies them to the cells of a plate, or of a group of
its wells. Percentiles and fits need all of these; they are frozen: no cell is judged by a number that moves with them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config.rules import Condition
from plateflow.errors import number_of
from plateflow.features.measure import compartment
from plateflow.files import digest
from plateflow.stats import thresholds
from plateflow.stats.cell_cycle import fit_cell_cycle, members_of
from plateflow.stats.reference import HIGH, JUDGED, LOW, SHARE
from plateflow.stats.rules import Gates
from plateflow.stats.thresholds import Undecided

if TYPE_CHECKING:
    import pandas as pd

INCLUDED, EXCLUDED_BY, POPULATION = "Metadata_Included", "Metadata_ExcludedBy", "Metadata_Population_"
"""Columns of the table of a well's gates: whether a row enters medians and shares, by which rules it doesn't, and what
the names of populations begin with."""
KEYS = ("Metadata_Plate", "Metadata_Well", "ObjectNumber")
"""Its columns by which it is joined with the cell table."""
ROWS_INCLUDED, ROWS_EXCLUDED_BY = "Metadata_RowsIncluded", "Metadata_RowsExcludedBy"
"""Of the well table: how many rows are included, and how many are excluded by which rule."""
NORMAL_975 = 1.959963984540054
"""The normal value that 2.5 % exceed."""
MOVED = 0.02
"""A frozen number is a doubt where it and what it would be now part more than this share of the cells that it is of."""
AREAS = ("AreaShape_Area", "AreaShape_Area_um2")
"""Measurements that objects without a row have, too, in their own table."""
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class WellGates:
    """What was decided of a well's cells, row by row of its cell table.

    Attributes:
        counted: in no filter's way; `included`: nor at the border, where that leaves objects out of medians.
        failed: by the names of rules, the rows that fail them.
        members: by population, 1 for its cells and 0 for others; NaN where a value is lacking, or the plate doesn't
            tell.
        objects: by label set that isn't the rows' and has a filter, the numbers of the matches that fail it.
    """

    counted: Mask
    included: Mask
    failed: dict[str, Mask]
    members: dict[str, NDArray[np.float64]]
    objects: dict[str, NDArray[Any]]

    def table(self, keys: pd.DataFrame) -> pd.DataFrame:
        """The table beside the cell table, whose KEYS are given."""
        import pandas as pd

        reasons = pd.Series("", keys.index, dtype=object)
        for name, failed in self.failed.items():
            reasons[failed] = (reasons[failed] + f", {name}").str.removeprefix(", ")
        members = {f"{POPULATION}{name}": _nullable(own) for name, own in self.members.items()}
        decided: dict[str, Any] = {INCLUDED: self.included, EXCLUDED_BY: reasons, **members}
        return keys.assign(**decided)

    def summary(self, own: Mask) -> dict[str, Any]:
        """What the well table says of some rows: how many are included, what went by which rule, shares of those."""
        failed = ", ".join(f"{name} {n}" for name, rows in self.failed.items() if (n := int((rows & own).sum())))
        found: dict[str, Any] = {ROWS_INCLUDED: int((self.included & own).sum()), ROWS_EXCLUDED_BY: failed}
        for name, members in self.members.items():
            judged = members[self.included & own]
            judged = judged[~np.isnan(judged)]
            low, high = wilson(int(judged.sum()), len(judged))
            share = float(judged.mean()) if len(judged) else np.nan
            ends = {f"{SHARE}{name}{end}": value for end, value in ((LOW, low), (HIGH, high), (JUDGED, len(judged)))}
            found |= {f"{SHARE}{name}": share, **ends}
        return found


def _nullable(members: NDArray[np.float64]) -> Any:
    import pandas as pd

    return pd.arrays.BooleanArray(members == 1, np.isnan(members))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share; NaN of nothing. Wilson, J Am Stat Assoc 22 (1927) 209, the score interval."""
    if not n:
        return np.nan, np.nan
    share, z2 = hits / n, NORMAL_975**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_975 / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(float(centre - half), 0.0) if hits else 0.0, min(float(centre + half), 1.0) if hits < n else 1.0


@dataclass(frozen=True, kw_only=True)
class PlateCells:
    """Of each well the columns that decide, row by row, and which rows lie in a field that is in use."""

    values: Mapping[str, Mapping[str, NDArray[np.float32]]]
    used: Mapping[str, Mask]

    def of(self, column: str, wells: Iterable[str], rows: Mapping[str, Mask]) -> NDArray[np.float32]:
        """The values of a column in some rows of some wells."""
        found = [self.values[well][column][rows[well]] for well in wells if well in rows]
        return np.concatenate([np.zeros(0, np.float32), *found])


def read_columns(path: Path, names: Sequence[str], without: Collection[str]) -> tuple[dict[str, Any], Mask]:
    """Some columns of a well's cell table, NaN where it lacks one, and which rows lie in no field of `without`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        present = set(file.schema_arrow.names)
        table = file.read(["Metadata_Site", *(name for name in names if name in present)])
    sites = table["Metadata_Site"].to_numpy().astype(str)
    values = {
        name: table[name].to_numpy() if name in present else np.full(len(sites), np.nan, np.float32) for name in names
    }
    return values, ~np.isin(sites, list(without))


def gate_keys(path: Path) -> pd.DataFrame:
    """The KEYS of a cell table."""
    import pandas as pd

    return pd.read_parquet(path, columns=list(KEYS))


@dataclass(kw_only=True)
class Decision:
    """What was decided of a plate, or of one of its groups.

    Attributes:
        gates: the rules.
        cells: that were judged.
        wells: by well.
        frozen: the numbers, by what they are of: each with `value` (of a cell cycle its fit), `wells` and `cells` (how
            many it was made from), and `made_from`, a digest of all that it follows from by configuration.
        why: by what can't be told, the reason.
        moved: by what was frozen and would be another number now, how far.
    """

    gates: Gates
    cells: PlateCells
    wells: dict[str, WellGates] = field(default_factory=dict)
    frozen: dict[str, dict[str, Any]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)

    def limit(self, condition: Condition, of: str) -> float | None:
        """The number that a condition compares with; None where the plate doesn't tell. `of`: filter or population."""
        if condition.source == "number":
            return condition.value
        known = self.frozen.get(_key(condition, of))
        return None if known is None else float(known["value"])

    @property
    def doubts(self) -> list[str]:
        """What can't be told, and what has moved, with the reason."""
        return [f"{what}: {why}" for what, why in (self.why | self.moved).items()]


def _key(condition: Condition, of: str) -> str:
    return f"{of}: {condition.column} {condition.threshold}"


def decide(
    gates: Gates, cells: PlateCells, negatives: Collection[str], kept: Mapping[str, Mapping[str, Any]], made_from: Any
) -> Decision:
    """Apply the rules to the cells of a plate, or of a group of its wells.

    Percentiles of filters are of all rows in fields in use; those of populations, Otsu's thresholds, mixtures and cell
    cycles of the rows among them that are included. They are of all frames together, so that a share says the same at
    each time.

    Args:
        negatives: the wells of the negative controls, by the plate map.
        kept: numbers that are frozen.
        made_from: what numbers follow from by configuration, besides rules and negatives.
    """
    decision = Decision(gates=gates, cells=cells)
    wells = list(cells.values)

    def freeze(key: str, label: str, column: str, rows: Mapping[str, Mask], source: str, more: Any, make: Any) -> None:
        of = [well for well in wells if well in negatives] if source == "negatives" else wells
        base = digest(made_from, more, sorted(negatives) if source == "negatives" else [])
        values = cells.of(column, of, rows)
        stays = kept[key] if key in kept and kept[key]["made_from"] == base else None
        try:
            if source == "negatives" and not of:
                raise Undecided("there are no negative controls")
            now = {"value": make(values), "wells": len(of), "cells": int(np.isfinite(values).sum()), "made_from": base}
        except Undecided as undecided:
            if stays is None:
                decision.why[label] = str(undecided)
        else:
            if stays is not None and (far := _parted(values, stays["value"], now["value"])) > MOVED:
                then, today = (f"{n['cells']:,} cells of {number_of(n['wells'], 'well[s]')}" for n in (stays, now))
                decision.moved[label] = (
                    f"its number is frozen, from {then}; from the {today} of today it would part {far:.0%} of them "
                    "otherwise (to take it from these: plateflow retry PLATE --stage aggregate)"
                )
            decision.frozen[key] = now
        if stays is not None:
            decision.frozen[key] = dict(stays)

    def freeze_condition(condition: Condition, of: str, rows: Mapping[str, Mask], more: Any, label: str) -> None:
        if condition.source != "number":
            make = _maker(condition, logarithms=gates.logarithms(condition.column))
            key = _key(condition, of)
            if key not in decision.frozen:
                freeze(key, f"{label}, {condition.threshold}", condition.column, rows, condition.source, more, make)

    for rule in gates.rules:
        for condition in rule.conditions:
            freeze_condition(condition, "filter", cells.used, [], f"the filter {rule.name}")
    for well in wells:
        decision.wells[well] = _judge(decision, cells.values[well], len(cells.used[well]))
    included = {well: own.included & cells.used[well] for well, own in decision.wells.items()}
    filters = [[rule.name, *map(str, rule.conditions), rule.counted] for rule in gates.rules]
    numbers = {name: each["value"] for name, each in decision.frozen.items()}
    for title, population in gates.populations.items():
        label = f"the population {title}"
        if isinstance(population, str):
            key = f"cell cycle: {population}"
            freeze(key, label, population, included, "plate", [filters, numbers], _fit)
            limits = decision.frozen[key]["value"]["limits"] if key in decision.frozen else [np.nan] * 4
            for well, own in decision.wells.items():
                dna = cells.values[well][population] if key in decision.frozen else np.full(len(own.counted), np.nan)
                own.members.update({f"{title}_{phase}": each for phase, each in members_of(dna, limits).items()})
            continue
        for condition in population:
            freeze_condition(condition, "population", included, [filters, numbers], label)
        for well, own in decision.wells.items():
            own.members[title] = _members(decision, population, cells.values[well])
    return decision


def _parted(values: NDArray[np.float32], frozen: Any, now: Any) -> float:
    """The share of the values that lie between a number and another, or between the limits of two fits."""
    pairs = zip(*(each["limits"] if isinstance(each, Mapping) else [each] for each in (frozen, now)), strict=True)
    known = np.sort(values[np.isfinite(values)])
    between = [abs(int(np.diff(np.searchsorted(known, pair))[0])) for pair in pairs]
    return max(between) / max(len(known), 1)


def _fit(dna: NDArray[np.float32]) -> dict[str, Any]:
    return fit_cell_cycle(dna).as_json()


def _maker(condition: Condition, *, logarithms: bool) -> Callable[[NDArray[np.float32]], float]:
    if condition.source == "otsu":
        return lambda values: thresholds.otsu(values, logarithms=logarithms)
    if condition.source == "mixture":
        return lambda values: thresholds.mixture(values, logarithms=logarithms)
    return lambda values: thresholds.percentile(values, condition.value)


def _judge(decision: Decision, values: Mapping[str, NDArray[np.float32]], n: int) -> WellGates:
    """Which of the n rows of a well fail which rules; what has no value fails none."""
    gates, failed = decision.gates, dict[str, Mask]()
    counted, included = np.ones(n, bool), np.ones(n, bool)
    of_set: dict[str, Mask] = {name: np.zeros(n, bool) for name in gates.numbers}
    for rule in gates.rules:
        failed[rule.name] = own = np.zeros(n, bool)
        for condition in rule.conditions:
            limit = decision.limit(condition, "filter")
            if limit is not None:
                own |= ~_meets(values[condition.column], condition, limit)
        included &= ~own
        if not rule.counted:
            counted &= ~own
            if rule.label_set in of_set:
                of_set[rule.label_set] |= own
    objects = {name: np.unique(values[gates.numbers[name]][own]) for name, own in of_set.items()}
    return WellGates(counted=counted, included=included, failed=failed, members={}, objects=objects)


def _meets(values: NDArray[np.float32], condition: Condition, limit: float) -> Mask:
    """Which values meet a condition, as tables hold both: 0.9 is no less than 0.9. A missing one meets any."""
    return np.isnan(values) | _COMPARE[condition.comparison](values, np.float32(limit))


def _members(
    decision: Decision, conditions: Sequence[Condition], values: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """1 for rows that meet all conditions, 0 for others; NaN where a value is lacking, or the plate doesn't tell."""
    members = np.ones(len(values[conditions[0].column]))
    for condition in conditions:
        limit, column = decision.limit(condition, "population"), values[condition.column]
        if limit is None:
            return np.full(len(members), np.nan)
        members *= np.where(np.isnan(column), np.nan, _meets(column, condition, limit))
    return members


def fails_by_area(decision: Decision, label_set: str, area_px: NDArray[Any], pixel_um: float) -> Mask:
    """Which objects of a label set fail its filter by their area: what is known of objects that have no row."""
    failed = np.zeros(len(area_px), bool)
    for rule in decision.gates.rules:
        for condition in rule.conditions if rule.label_set == label_set else ():
            whose, _, name = condition.column.partition("_")
            limit = decision.limit(condition, "filter")
            if whose == compartment(label_set) and name in AREAS and limit is not None:  # not of the cytoplasm
                areas = (area_px * (pixel_um**2 if name.endswith("um2") else 1.0)).astype(np.float32)
                failed |= ~_meets(areas, condition, limit)
    return failed
