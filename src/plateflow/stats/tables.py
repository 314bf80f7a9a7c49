"""A plate's tables of statistics, from its well table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Stats
from plateflow.files import write_atomic
from plateflow.paths import PlatePaths
from plateflow.stats import controls, doses, hits, positions
from plateflow.stats.normalise import MIN_WELLS, normalise, reference_wells, well_values
from plateflow.tables import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd


def write_statistics(
    paths: PlatePaths, wells: pd.DataFrame, medians: list[str], settings: Stats, shape: Sequence[int]
) -> dict[str, Any]:
    """Write normalised.parquet, positions.csv, controls.csv, effects.parquet, hits.csv and doses.csv.

    Args:
        paths: of the plate.
        wells: the well table.
        medians: its columns of medians; with the counts they are what is tested.
        settings: of the statistics.
        shape: rows and columns of the plate.

    Returns:
        what they come to: `controls` (grade, reasons, best features), `hits` (how many of how many treatments, or
        why there is none), `positions` (how many features have an effect of the edge, of rows, of columns).
    """
    features = [str(name) for name in wells if str(name).startswith("Count_")] + medians
    which, _, how = settings.normalise.partition(" ")
    reference = reference_wells(wells, which)
    z = normalise(well_values(wells, features), reference, robust=how == "robust")
    metadata = wells[[name for name in wells if str(name).startswith("Metadata_")]]
    write_table(paths, "normalised.parquet", metadata.join(z.astype(np.float32)))
    placed = positions.position_effects(wells, features, (shape[0], shape[1]))
    write_table(paths, "positions.csv", placed)
    separated = controls.control_table(wells, features)
    write_table(paths, "controls.csv", separated)
    effects = hits.treatment_effects(wells, features, reference=which)
    write_table(paths, "effects.parquet", hits.effect_table(paths.plate, effects))
    ranked = hits.hit_table(effects, fdr=settings.fdr)
    ranked.insert(0, "Metadata_Plate", paths.plate)
    write_table(paths, "hits.csv", ranked)
    write_table(paths, "doses.csv", doses.dose_table(wells, features, effects))

    why = ""
    if not len(ranked):
        why = "the plate map names no treatments" if "Metadata_role" in wells else "the plate has no plate map"
    elif reference.sum() < MIN_WELLS:
        kind = "negative controls" if which == "negative" else "wells of the plate"
        why = f"too few wells to compare with: {reference.sum()} {kind} in use, {MIN_WELLS} are needed"
    effects_found = placed[placed["Found"]].groupby("Effect")["Feature"].count()
    tested = placed[placed["P"].notna()].groupby("Effect")["Feature"].count()
    return {
        "controls": controls.verdict(separated),
        "hits": {"hits": int(ranked["Hit"].sum()), "treatments": len(ranked), "why none": why},
        "positions": {
            effect: [int(effects_found.get(effect, 0)), int(tested.get(effect, 0))] for effect in positions.EFFECTS
        },
    }


def write_table(paths: PlatePaths, name: str, table: pd.DataFrame) -> None:
    """Write a table of the plate, as its name's ending says."""
    csv = name.endswith(".csv")
    write_atomic(
        paths.table(name), table.to_csv(index=False, float_format="%.7g").encode() if csv else parquet_bytes(table)
    )
