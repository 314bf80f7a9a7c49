"""Which rows of a cell table have partners in another label set, and which are pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Config
from plateflow.features.measure import compartment

if TYPE_CHECKING:
    import pandas as pd


def unmatched_in(table: pd.DataFrame, rows: str, other: str, without_row: Mapping[str, int]) -> dict[str, int]:
    """How many objects of the rows' compartment, and of another one, have no partner there; empty where there are none
    of the others.
    """
    match = table[f"Metadata_Match_{other}"]
    if len(table) and match.isna().all():  # the well has none of the others where it has rows
        return {}
    alone, turned = match.isin(["anucleate", "orphan", "none"]), match.isin([])
    if (rows, other) == ("Cells", "Nuclei"):
        turned = table["Cells_Parent_Nuclei"].notna()
    elif (rows, other) == ("Nuclei", "Cells"):
        turned = table["Nuclei_Children_Cells_Count"] > 0
    others = table.loc[turned, f"{other}_Number_Object_Number"].nunique()
    return {rows: int((alone | turned).sum()), other: without_row.get(other, 0) + others}


def one_to_one(
    table: pd.DataFrame, config: Config, without_row: Mapping[str, int]
) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """The rows of a cell table that have one object of each label set with which the rows' is matched one to one.

    Where such a label set isn't made at all, as a well lacks its channels, rows stay.

    Returns:
        the table, and what the journal keeps: by the other compartment how many rows there were of each kind ("match"),
        and by compartment how many objects have no partner ("unmatched").
    """
    rows, kinds, unmatched = compartment(config.row_label_set), dict[str, dict[str, int]](), dict[str, int]()
    stays = np.ones(len(table), bool)
    for other in map(compartment, config.paired):
        match = table[f"Metadata_Match_{other}"]
        kinds[other] = {str(kind): int(n) for kind, n in match.value_counts().sort_index().items()}
        found = unmatched_in(table, rows, other, without_row)
        unmatched |= {name: max(n, unmatched.get(name, 0)) for name, n in found.items()}
        stays &= (match.isna() | (match == "one_to_one")).to_numpy()
    return table[stays].reset_index(drop=True), {"match": kinds, "unmatched": unmatched} if kinds else {}
