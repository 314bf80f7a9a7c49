"""Groups of wells that are compared among themselves: columns of the plate map, such as a cell line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plateflow.config import Stats
from plateflow.config.sections import nearest
from plateflow.errors import ConfigError, number_of
from plateflow.stats.reference import MIN_WELLS
from plateflow.stats.wells import map_column

if TYPE_CHECKING:
    import pandas as pd


def group_columns(stats: Stats) -> list[str]:
    """The columns of the well table by which wells form groups."""
    return [map_column(name) for name in stats.group_by]


def check_groups(stats: Stats, plate_map: pd.DataFrame | None, plate: str) -> None:
    """Check that the plate map has the columns that `stats.group_by` names, with something in them.

    Args:
        stats: the settings.
        plate_map: of the plate; None if it has none.
        plate: its id, for the message.

    Raises:
        ConfigError: a column isn't there, or is empty; suggests the nearest.
    """
    names = [] if plate_map is None else [str(name) for name in plate_map]
    for name in stats.group_by:
        what = f"there is no column {name!r} to group wells by"
        if plate_map is None:
            remedy = "give it one (plate_map in the plate sheet), or take the name out of stats.group_by"
            raise ConfigError(what, where=f"{plate}: stats.group_by", why="the plate has no plate map", remedy=remedy)
        if name not in names:
            remedy = nearest(name, names, "name one of", cutoff=0.5)
            why = "the plate map has no such column"
            raise ConfigError(what, where=f"{plate}: stats.group_by", why=why, remedy=remedy)
        if (plate_map[name].astype(str) == "").all():
            remedy = "fill it in, or take its name out of stats.group_by"
            why = "the column is empty in the plate map"
            raise ConfigError(what, where=f"{plate}: stats.group_by", why=why, remedy=remedy)


def groups_without_hits(plate_map: pd.DataFrame, stats: Stats) -> Iterator[str]:
    """Groups of a plate map that have treated wells, and too few negative controls to compare them with."""
    group_by = [name for name in stats.group_by if name in plate_map]
    if not group_by or not stats.normalise.startswith("negative"):
        return
    for values, wells in plate_map.groupby(group_by):
        negatives = int((wells["role"] == "negative").sum())
        if negatives < MIN_WELLS and ((wells["role"] == "treatment") & (wells["treatment"] != "")).any():
            named = ", ".join(f"{name} {value or '(nothing)'}" for name, value in zip(group_by, values, strict=True))
            yield f"{named} has {number_of(negatives, 'negative control[s]')}: hits need {MIN_WELLS} in each group"
