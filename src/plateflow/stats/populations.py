"""What the page says of filters and populations: how many cells, and counted histograms with their thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config.rules import BORDER, Condition
from plateflow.stats.gates import Decision, Mask, WellGates
from plateflow.stats.reference import LEAST_JUDGED

BINS, BEYOND = 60, 0.002
"""Bins of a histogram, and the share of the values at either end that it leaves out."""
GROUPS = {"negative": "negative controls", "positive": "positive controls"}
OTHERS = "other wells"
"""What wells are called by their role in the plate map."""


def described(
    decisions: Mapping[str, Decision], judged: Mapping[str, Decision], roles: Mapping[str, str]
) -> dict[str, Any]:
    """What aggregate's journal keeps of decisions for the page.

    Args:
        decisions: by group of wells (`stats.group_by`), "" where there are none; one at least.
        judged: those of which populations and thresholds are shown.
        roles: by well, its role in the plate map.

    Returns:
        `rows` in fields in use, how many of these are `counted` and `included`; `rules`: each with its name, what it
        asks, how many rows `failed`, whether such are `counted`, and why it leaves nothing out where its number isn't
        known; `populations`: each with its name, group, what it asks, why it isn't told, and by kind of wells how many
        cells are in it, of how many, and the shares of its wells; `charts`: each `of` a filter or a population, its
        column, whether bins are even in `logarithms`, `edges` (first and last), by group the `counts`
        of its bins, `lines` (thresholds), and the `fit` of a cell cycle; `unknown_border`: see `Gates`.
    """
    gates = next(iter(decisions.values())).gates
    found: dict[str, Any] = {
        "rows": _total(each.cells.used[well] for each in decisions.values() for well in each.wells),
        "counted": _total(_used(each, well, own.counted) for each, well, own in _wells(decisions)),
        "included": _total(_used(each, well, own.included) for each, well, own in _wells(decisions)),
        "rules": [
            {
                "name": rule.name,
                "asks": " and ".join(map(str, rule.conditions)),
                "failed": _total(_used(each, well, own.failed[rule.name]) for each, well, own in _wells(decisions)),
                "counted": rule.counted,
                "why": _why(judged, f"the filter {rule.name}"),
            }
            for rule in gates.rules
        ],
        "unknown_border": gates.unknown_border,
        "populations": [],
        "charts": [],
    }
    for group, decision in judged.items():
        populations, charts = _of_group(decision, roles)
        found["populations"] += [{"group": group, **each} for each in populations]
        found["charts"] += [{"group": group, **each} for each in charts]
    return found


def _wells(decisions: Mapping[str, Decision]) -> Iterator[tuple[Decision, str, WellGates]]:
    return ((each, well, own) for each in decisions.values() for well, own in each.wells.items())


def _used(decision: Decision, well: str, rows: Mask) -> Mask:
    return rows & decision.cells.used[well]


def _total(rows: Iterable[Mask]) -> int:
    return sum(int(each.sum()) for each in rows)


def _why(decisions: Mapping[str, Decision], what: str) -> str:
    """Why something isn't told, by group where there are some."""
    whys = [(group, why) for group, each in decisions.items() for key, why in each.why.items() if _of(key, what)]
    return "; ".join(f"{group}: {why}" if group else why for group, why in whys)


def _of(key: str, what: str) -> bool:
    return key.partition(",")[0] == what


def _of_group(decision: Decision, roles: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The `populations` and `charts` of a group of wells."""
    gates, cells, wells = decision.gates, decision.cells, decision.wells
    kinds = {well: GROUPS.get(roles.get(well, ""), OTHERS) for well in wells}
    names = [name for name in (*GROUPS.values(), OTHERS) if name in kinds.values()]
    included = {well: _used(decision, well, own.included) for well, own in wells.items()}
    populations, charts = list[dict[str, Any]](), list[dict[str, Any]]()

    def shares(name: str) -> dict[str, dict[str, Any]]:
        by_kind: dict[str, dict[str, Any]] = {kind: {"n": 0, "of": 0, "wells": []} for kind in names}
        for well, own in wells.items():
            judged, of_kind = own.members[name][included[well]], by_kind[kinds[well]]
            n, of = int((judged == 1).sum()), int((~np.isnan(judged)).sum())
            of_kind["n"] += n
            of_kind["of"] += of
            of_kind["wells"] += [round(n / of, 6)] if of >= LEAST_JUDGED else []
        return by_kind

    def chart(of: str, column: str, rows: Mapping[str, Mask], lines: list[Any], fit: Any = None) -> None:
        values = {kind: cells.of(column, [well for well in wells if kinds[well] == kind], rows) for kind in names}
        counted = _counted(values, logarithms=gates.logarithms(column))
        if counted:
            charts.append({"of": of, "column": column, **counted, "lines": lines, "fit": fit or {}})

    for rule in gates.rules:
        if rule.key != BORDER:
            lines = _lines(decision, rule.conditions, "filter")
            chart(f"filter {rule.name}", rule.conditions[0].column, cells.used, lines)
    for title, population in gates.populations.items():
        own = [name for name in gates.names if name == title or name.startswith(f"{title}_")]
        asks = population if isinstance(population, str) else " and ".join(map(str, population))
        why = _why({"": decision}, f"the population {title}")
        populations += [{"name": name, "asks": asks, "why": why, "cells": shares(name)} for name in own]
        if isinstance(population, str):
            fit = decision.frozen.get(f"cell cycle: {population}", {}).get("value")
            limits = [["from G1 on", "G1"], ["from S on", "S"], ["from G2/M on", "G2/M"], ["end of G2/M", "end"]]
            lines = [[*line, value] for line, value in zip(limits, fit["limits"], strict=True)] if fit else []
            chart(f"population {title}", population, included, lines, fit)
            continue
        for column in dict.fromkeys(condition.column for condition in population):
            conditions = [condition for condition in population if condition.column == column]
            chart(f"population {title}", column, included, _lines(decision, conditions, "population"))
    return populations, charts


def _lines(decision: Decision, conditions: Sequence[Condition], of: str) -> list[list[Any]]:
    """Of each condition whose number is known, what it asks, the threshold as it is written, and the number."""
    limits = [(condition, decision.limit(condition, of)) for condition in conditions]
    return [
        [f"{each.comparison} {each.threshold}", each.threshold, limit] for each, limit in limits if limit is not None
    ]


def _counted(values: Mapping[str, NDArray[np.float32]], *, logarithms: bool) -> dict[str, Any]:
    """Counts by group in bins that all share; nothing where no value is finite."""
    scaled = {}
    for group, own in values.items():
        finite = own[np.isfinite(own)].astype(np.float64)
        scaled[group] = np.log(finite[finite > 0]) if logarithms else finite
    every = np.concatenate(list(scaled.values())) if scaled else np.zeros(0)
    if not len(every):
        return {}
    low, high = (float(end) for end in np.quantile(every, (BEYOND, 1 - BEYOND)))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    ends = np.exp(edges[[0, -1]]) if logarithms else edges[[0, -1]]
    counts = {group: np.histogram(own, edges)[0].tolist() for group, own in scaled.items() if len(own)}
    return {"logarithms": logarithms, "edges": ends.tolist(), "counts": counts}
