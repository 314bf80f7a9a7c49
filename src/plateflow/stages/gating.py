"""Filters and populations of a plate, as `aggregate` decides them: its numbers are frozen, its tables written.

Once numbers of the plate are computed (percentiles, thresholds, a fit of the cell cycle) they stay, whatever wells come
or go, as long as the window is frozen and all that they follow from by configuration is the same: `numbers_made_from`,
the rule, and the filters before it. `plateflow retry PLATE --stage aggregate` computes them again. They are in
manifest/gates.json, for people, and in the journal, from which that file is written again where it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from plateflow.chain import stages_of
from plateflow.files import digest, write_json
from plateflow.images.window import load_window
from plateflow.project import Plate
from plateflow.state.journal import PLATE_KEY
from plateflow.state.requests import request_number
from plateflow.stats.gates import Decision, PlateCells, decide, gate_keys, read_columns
from plateflow.stats.populations import described
from plateflow.stats.rules import gates_of
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd

MEASURED_BY = ("infer", "follow", "stitch", "features")
"""The stages whose parameters and versions decide what is measured."""


def numbers_made_from(plate: Plate) -> str:
    """A digest of what the plate's numbers follow from by configuration, whatever wells there are; not of the rules."""
    config, window = plate.config, load_window(plate.paths)
    chain = stages_of(config)
    return digest(
        window.fingerprint(plate.channels),
        [window.content["freeze"], window.content["request"]],
        request_number(plate.paths, "aggregate", ""),
        [[stage, plate.parameters(stage), chain[stage].version] for stage in MEASURED_BY if stage in chain],
        [settings.model for settings in config.segmentation.values()],
        [config.quality.model_dump(), sorted(config.stats.exclude_flags)],
    )


def gate(
    plate: Plate, excluded: Mapping[str, Collection[str]], plate_map: pd.DataFrame | None
) -> tuple[Decision, dict[str, Any]]:
    """Decide which cells of a plate enter statistics, and write it down.

    Args:
        excluded: by measured well, the fields whose cells are left out.
        plate_map: with `well` and `role`.

    Returns:
        The decision, and what the journal keeps of it: `frozen`, `doubts`, and what `described` says.

    Raises:
        ConfigError: as of `gates_of`.
    """
    gates, paths = gates_of(plate.config, plate.channels), plate.paths
    roles = {} if plate_map is None else dict(zip(plate_map["well"], plate_map["role"].fillna(""), strict=True))
    negatives = [well for well, role in roles.items() if role == "negative"]
    read = {well: read_columns(paths.cells(well), gates.needed, without) for well, without in excluded.items()}
    cells = PlateCells(
        values={well: values for well, (values, _) in read.items()},
        used={well: used for well, (_, used) in read.items()},
    )
    decision = decide(gates, cells, negatives, _kept(plate), numbers_made_from(plate))
    for well, own in decision.wells.items():
        write_table(paths.gates(well), own.table(gate_keys(paths.cells(well))))
    if decision.frozen:
        write_json(paths.frozen_gates, decision.frozen)
    return decision, {"frozen": decision.frozen, "doubts": decision.doubts, **described(decision, roles)}


def _kept(plate: Plate) -> Mapping[str, Mapping[str, Any]]:
    """The numbers that an earlier run froze: none as long as the window follows its wells."""
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
