"""A plate's tables of statistics, from its well table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Stats
from plateflow.paths import PlatePaths
from plateflow.stats import controls, doses, hits, positions
from plateflow.stats.effects import effect_table, treatment_effects
from plateflow.stats.reference import MIN_WELLS, reference_wells, standardise, well_values
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd


def write_statistics(
    paths: PlatePaths, wells: pd.DataFrame, medians: list[str], settings: Stats, shape: Sequence[int]
) -> dict[str, Any]:
    """Write normalised.parquet, positions.csv, controls.csv, effects.parquet, hits.csv and doses.csv.

    Args:
        paths: of the plate.
        wells: the well table.
        medians: its columns of medians; with the counts they are the features that are tested.
        settings: of the statistics.
        shape: rows and columns of the plate.

    Returns:
        A summary: `controls` (grade, reasons, best features), `hits` (how many of how many treatments, or why there
        are none), `positions` (by effect, how many features have it, of how many tested).
    """
    features = [str(name) for name in wells if str(name).startswith("Count_")] + medians
    kind, _, method = settings.normalise.partition(" ")
    reference = reference_wells(wells, kind)
    z = standardise(well_values(wells, features), reference, robust=method == "robust")
    position_table = positions.position_effects(wells, features, (shape[0], shape[1]))
    control_table = controls.control_table(wells, features)
    effects = treatment_effects(wells, features, reference=kind)
    hit_table = hits.hit_table(effects, fdr=settings.fdr)
    hit_table.insert(0, "Metadata_Plate", paths.plate)

    metadata = wells[[name for name in wells if str(name).startswith("Metadata_")]]
    write_table(paths.table("normalised.parquet"), metadata.join(z.astype(np.float32)))
    write_table(paths.table("positions.csv"), position_table)
    write_table(paths.table("controls.csv"), control_table)
    write_table(paths.table("effects.parquet"), effect_table(paths.plate, effects))
    write_table(paths.table("hits.csv"), hit_table)
    write_table(paths.table("doses.csv"), doses.dose_table(wells, features, effects))

    why_none = ""
    if not len(hit_table):
        why_none = "the plate map names no treatments" if "Metadata_role" in wells else "the plate has no plate map"
    elif reference.sum() < MIN_WELLS:
        compared = "negative controls" if kind == "negative" else "wells of the plate"
        why_none = f"too few wells to compare with: {reference.sum()} {compared} in use, {MIN_WELLS} are needed"
    return {
        "controls": controls.verdict(control_table),
        "hits": {"hits": int(hit_table["Hit"].sum()), "treatments": len(hit_table), "why none": why_none},
        "positions": positions.summary(position_table),
    }
