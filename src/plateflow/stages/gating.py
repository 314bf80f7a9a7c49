"""Filters and populations of a plate, as `aggregate` decides them: its numbers are frozen, its tables written.

Groups of wells (`stats.group_by`) are judged each by its own numbers, as they are compared each with its own negatives.
Once numbers are computed (percentiles, thresholds, a fit of the cell cycle) they stay, whatever wells come or go, as
long as the window is frozen and all that they follow from by configuration is the same: `numbers_made_from`, the rule,
and the filters before it. `plateflow retry PLATE --stage aggregate` computes them again. They are in
manifest/gates.json, for people, and in the journal, from which that file is written again where it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from plateflow.chain import stages_of
from plateflow.config import Stats
from plateflow.files import digest, write_json
from plateflow.images.window import load_window
from plateflow.project import Plate
from plateflow.state.journal import PLATE_KEY
from plateflow.state.requests import request_number
from plateflow.stats.gates import Decision, PlateCells, decide, gate_keys, read_columns
from plateflow.stats.populations import described
from plateflow.stats.reference import frame_title
from plateflow.stats.rules import Gates, gates_of
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd

MEASURED_BY = ("infer", "follow", "stitch", "features")
"""The stages whose parameters and versions decide what is measured."""


def numbers_made_from(plate: Plate) -> str:
    """A digest of what the plate's numbers follow from by configuration, whatever wells there are; not of the rules."""
    config, window = plate.config, load_window(plate.paths)
    chain, inferred = stages_of(config), plate.outcomes("infer").values()
    return digest(
        window.fingerprint(plate.channels),
        [window.content["freeze"], window.content["request"]],
        request_number(plate.paths, "aggregate", ""),
        [[stage, plate.parameters(stage), chain[stage].version] for stage in MEASURED_BY if stage in chain],
        sorted({(each.label_set, str(each.info.get("sha256"))) for each in inferred if each.info.get("sha256")}),
        [config.quality.model_dump(), sorted(config.stats.exclude_flags)],
    )


def gate(
    plate: Plate, excluded: Mapping[str, Collection[str]], plate_map: pd.DataFrame | None
) -> tuple[Gates, dict[str, Decision], dict[str, Any]]:
    """Decide which cells of a plate enter statistics, group by group, and write it down.

    Args:
        excluded: by measured well, the fields whose cells are left out.
        plate_map: with `well`, `role` and the columns of `stats.group_by`.

    Returns:
        The rules; by measured well the decision on its group; and what the journal keeps: `frozen` by group, `doubts`,
        and what `described` says.

    Raises:
        ConfigError: as of `gates_of`.
    """
    gates, paths = gates_of(plate.config, plate.channels), plate.paths
    roles = {} if plate_map is None else dict(zip(plate_map["well"], plate_map["role"].fillna(""), strict=True))
    negatives = [well for well, role in roles.items() if role == "negative"]
    read = {well: read_columns(paths.cells(well), gates.needed, without) for well, without in excluded.items()}
    kept, made_from = _kept(plate), numbers_made_from(plate)
    decisions, of_well = dict[str, Decision](), dict[str, Decision]()
    for group, members in _groups(read, plate_map, plate.config.stats).items():
        own = [well for well in members if well in read]
        cells = PlateCells(values={well: read[well][0] for well in own}, used={well: read[well][1] for well in own})
        base = [made_from, sorted(members)] if group else made_from
        decisions[group] = decide(gates, cells, negatives, kept.get(group, {}), base)
        of_well |= dict.fromkeys(own, decisions[group])
    for well, decision in of_well.items():
        write_table(paths.gates(well), decision.wells[well].table(gate_keys(paths.cells(well))))
    frozen = {group: decision.frozen for group, decision in decisions.items() if decision.frozen}
    if frozen:
        write_json(paths.frozen_gates, frozen)
    judged = {group: each for group, each in decisions.items() if not group or _compared(each.wells, roles)}
    doubts = [f"{group}: {line}" if group else line for group, each in judged.items() for line in each.doubts]
    return gates, of_well, {"frozen": frozen, "doubts": doubts, **described(decisions, judged, roles)}


def _groups(wells: Iterable[str], plate_map: pd.DataFrame | None, stats: Stats) -> dict[str, list[str]]:
    """By group, in words, the wells of plate and map; by "" all of them, where there are no groups."""
    if plate_map is None or not stats.group_by:
        return {"": [*wells]}
    named = plate_map.set_index("well")[list(stats.group_by)].fillna("").astype(str)
    others = [well for well in wells if well not in named.index]
    found = dict[str, list[str]]()
    for well, *values in [*named.itertuples(), *((well, *("" for _ in named)) for well in others)]:
        found.setdefault(frame_title(dict(zip(stats.group_by, values, strict=True))), []).append(well)
    return found


def _compared(wells: Iterable[str], roles: Mapping[str, str]) -> bool:
    """Whether these are more than empty wells (`stats.statistics.has_statistics`)."""
    return any(roles.get(well) in ("negative", "positive", "treatment") for well in wells)


def _kept(plate: Plate) -> Mapping[str, Mapping[str, Any]]:
    """By group the numbers that an earlier run froze: none as long as the window follows its wells."""
    if not load_window(plate.paths).content["freeze"]:
        return {}
    entry = plate.outcomes("aggregate").get(PLATE_KEY)
    if entry and "gates" in entry.info:
        frozen: dict[str, dict[str, Any]] = entry.info["gates"]["frozen"]
        return frozen
    try:
        found: dict[str, dict[str, Any]] = json.loads(plate.paths.frozen_gates.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found
