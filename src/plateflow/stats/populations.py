"""What the page says of filters and populations: how many cells, and counted histograms with their thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config.rules import Condition
from plateflow.stats.gates import Decision, Mask

BINS, BEYOND = 60, 0.002
"""Bins of a histogram, and the share of the values at either end that it leaves out."""
GROUPS = {"negative": "negative controls", "positive": "positive controls"}
OTHERS = "other wells"
"""What wells are called by their role in the plate map."""


def described(decision: Decision, roles: Mapping[str, str]) -> dict[str, Any]:
    """What aggregate's journal keeps of a decision for the page.

    Args:
        roles: by well, its role in the plate map.

    Returns:
        `rows` in fields in use, how many of these are `counted` and `included`; `rules`: each with its name, what it
        asks, how many rows `failed`, and whether such are `counted`; `populations`: each with its name, what it asks,
        why it isn't told, and by group of wells how many cells are in it, of how many; `charts`: each `of` a filter or
        a population, its column, whether bins are even in `logarithms`, `edges` (first and last), by group the `counts`
        of its bins, `lines` (thresholds), and the `fit` of a cell cycle; `unknown_border`: see `Gates`.
    """
    gates, cells, wells = decision.gates, decision.cells, decision.wells
    groups = {well: GROUPS.get(roles.get(well, ""), OTHERS) for well in wells}
    names = [name for name in (*GROUPS.values(), OTHERS) if name in groups.values()]
    included = {well: own.included & cells.used[well] for well, own in wells.items()}

    def total(rows: Mapping[str, Mask]) -> int:
        return sum(int(each.sum()) for each in rows.values())

    rules = [
        {
            "name": rule.name,
            "asks": " and ".join(map(str, rule.conditions)),
            "failed": total({well: own.failed[rule.name] & cells.used[well] for well, own in wells.items()}),
            "counted": rule.counted,
        }
        for rule in gates.rules
    ]
    found: dict[str, Any] = {
        "rows": total(cells.used),
        "counted": total({well: own.counted & cells.used[well] for well, own in wells.items()}),
        "included": total(included),
        "rules": rules,
        "unknown_border": gates.unknown_border,
        "populations": [],
        "charts": [],
    }

    def shares(name: str) -> dict[str, list[int]]:
        by_group = {group: [0, 0] for group in names}
        for well, own in wells.items():
            judged = own.members[name][included[well]]
            by_group[groups[well]][0] += int((judged == 1).sum())
            by_group[groups[well]][1] += int((~np.isnan(judged)).sum())
        return by_group

    def chart(of: str, column: str, rows: Mapping[str, Mask], lines: list[Any], fit: Any = None) -> None:
        values = {group: cells.of(column, [well for well in wells if groups[well] == group], rows) for group in names}
        counted = _counted(values, logarithms=gates.logarithms(column))
        if counted:
            fit = fit or {}
            found["charts"].append({"of": of, "column": column, **counted, "lines": lines, "fit": fit})

    for rule in gates.rules:
        if rule.key != "border":
            lines = _lines(decision, rule.conditions, "filter")
            chart(f"filter {rule.name}", rule.conditions[0].column, cells.used, lines)
    for title, population in gates.populations.items():
        own = [name for name in gates.names if name == title or name.startswith(f"{title}_")]
        asks = population if isinstance(population, str) else " and ".join(map(str, population))
        whys = [why for what, why in decision.why.items() if what.partition(",")[0] == f"the population {title}"]
        why = "; ".join(whys)
        for name in own:
            found["populations"].append({"name": name, "asks": asks, "why": why, "cells": shares(name)})
        if isinstance(population, str):
            fit = decision.frozen.get(f"cell cycle: {population}", {}).get("value")
            limits = [["from G1 on", "G1"], ["from S on", "S"], ["from G2/M on", "G2/M"], ["end of G2/M", "end"]]
            lines = [[*line, value] for line, value in zip(limits, fit["limits"], strict=True)] if fit else []
            chart(f"population {title}", population, included, lines, fit)
            continue
        for column in dict.fromkeys(condition.column for condition in population):
            conditions = [condition for condition in population if condition.column == column]
            chart(f"population {title}", column, included, _lines(decision, conditions, "population"))
    return found


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
