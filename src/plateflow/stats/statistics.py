"""A plate's tables of statistics, from its well table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Stats
from plateflow.errors import number_of
from plateflow.paths import PlatePaths
from plateflow.stats import controls, doses, hits, positions
from plateflow.stats.effects import effect_table, treatment_effects
from plateflow.stats.groups import group_columns
from plateflow.stats.over_time import compared
from plateflow.stats.reference import MIN_WELLS, ROLE, by_frame, reference_wells, shares_in, standardise, well_values
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd

NORMALISED = "normalised.parquet"


def write_statistics(
    paths: PlatePaths, wells: pd.DataFrame, medians: list[str], settings: Stats, shape: Sequence[int]
) -> list[dict[str, Any]]:
    """Write normalised.parquet, positions.csv, controls.csv, effects.parquet, hits.csv and doses.csv.

    Every frame is taken by itself, as if the plate had no other, and so is every group of `settings.group_by` in it:
    what one group lacks, such as negative controls, is never taken from another. Groups of nothing but empty wells
    have rows in normalised.parquet alone. What of a time series is compared says `settings.time`.

    Args:
        paths: of the plate.
        wells: the well table.
        medians: its columns of medians; with counts and shares they are the features that are tested.
        settings: of the statistics.
        shape: rows and columns of the plate.

    Returns:
        Of each frame and group the columns that tell it apart and a summary: `controls` (grade, reasons, best
        features), `hits` (how many of how many treatments, or why there are none), `positions` (by effect, how many
        features have it, of how many tested).
    """
    import pandas as pd

    summaries, tables = [], dict[str, list[pd.DataFrame]]()
    groups = group_columns(settings)
    for cut, rows in by_frame(compared(wells, settings.time), groups):
        made, summary = _statistics(paths.plate, rows.reset_index(drop=True), medians, settings, shape)
        made[NORMALISED].index = rows.index
        if has_statistics(rows, groups):
            summaries.append(cut | summary)
        else:
            made = {name: table if name == NORMALISED else table[:0] for name, table in made.items()}
        for name, table in made.items():
            for place, (column, value) in enumerate(cut.items(), 1):
                if column not in table:
                    table.insert(place, column, value)
            tables.setdefault(name, []).append(table)
    for name, parts in tables.items():
        table = pd.concat([part for part in parts if len(part)] or parts[:1])
        write_table(paths.table(name), table.sort_index() if name == NORMALISED else table)
    return summaries


def has_statistics(wells: pd.DataFrame, groups: Sequence[str]) -> bool:
    """Whether a group of wells is more than empty wells, which belong to no cell line."""
    return not groups or ROLE not in wells or bool(wells[ROLE].isin(("negative", "positive", "treatment")).any())


def summaries_of(info: Mapping[str, Any]) -> list[Any]:
    """The summaries of all frames, from the journal's `info`; an earlier version wrote that of the one frame."""
    return info.get("frames") or ([info] if "controls" in info else [])


def _statistics(
    plate: str, wells: pd.DataFrame, medians: list[str], settings: Stats, shape: Sequence[int]
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables of a frame by the names of their files, and its summary."""
    features = [name for name in map(str, wells) if name.startswith("Count_")] + shares_in(wells) + medians
    kind, _, method = settings.normalise.partition(" ")
    reference = reference_wells(wells, kind)
    z = standardise(well_values(wells, features), reference, robust=method == "robust")
    position_table = positions.position_effects(wells, features, (shape[0], shape[1]))
    control_table = controls.control_table(wells, features)
    effects = treatment_effects(wells, features, reference=kind)
    hit_table = hits.hit_table(effects, fdr=settings.fdr)
    hit_table.insert(0, "Metadata_Plate", plate)
    metadata = wells[[name for name in wells if str(name).startswith("Metadata_")]]
    tables = {
        NORMALISED: metadata.join(z.astype(np.float32)),
        "positions.csv": position_table,
        "controls.csv": control_table,
        "effects.parquet": effect_table(plate, effects),
        "hits.csv": hit_table,
        "doses.csv": doses.dose_table(wells, features, effects),
    }
    why_none = ""
    if not len(hit_table):
        why_none = "the plate map names no treatments" if "Metadata_role" in wells else "the plate has no plate map"
        why_none = "the group has no treatments" if settings.group_by else why_none
    elif reference.sum() < MIN_WELLS:
        n = int(reference.sum())
        one, of_what = ("negative control", "") if kind == "negative" else ("well", " of the plate")
        in_use = f"{number_of(n, f'{one}[s]')}{of_what} in use"
        why_none = f"too few wells to compare with: {in_use}, {MIN_WELLS} are needed"
    return tables, {
        "controls": controls.verdict(control_table),
        "hits": {"hits": int(hit_table["Hit"].sum()), "treatments": len(hit_table), "why none": why_none},
        "positions": positions.summary(position_table),
    }
