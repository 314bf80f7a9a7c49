"""Wells by how well their segmentation can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plateflow.state.journal import LEFT_OUT
from plateflow.stats.segmentation import COLUMNS

if TYPE_CHECKING:
    import pandas as pd


def worst_first(wells: pd.DataFrame) -> list[str]:
    """The wells that were measured, those whose segmentation is most doubtful first.

    The doubt of a well is the greatest of its shares, over label sets: of what is bright in no object, of objects
    without a partner, of objects that the flow check dropped (`stats.segmentation`).

    Args:
        wells: the well table.
    """
    measured = wells[~wells["Metadata_State"].isin(LEFT_OUT)].drop_duplicates("Metadata_Well")
    endings = tuple(f"_{COLUMNS[flag]}" for flag in ("uncovered", "unmatched", "flow_check"))
    shares = [name for name in measured if str(name).startswith("Metadata_") and str(name).endswith(endings)]
    doubt = measured[shares].max(axis=1).fillna(0) if shares else measured["Metadata_FieldsUsed"] * 0
    order = np.lexsort((measured["Metadata_Well"], -doubt.to_numpy(float)))
    return measured["Metadata_Well"].iloc[order].tolist()
