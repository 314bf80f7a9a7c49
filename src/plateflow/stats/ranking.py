"""Wells by how well their segmentation can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plateflow.state.journal import LEFT_OUT
from plateflow.stats.segmentation import FAR, MOST, columns_of

if TYPE_CHECKING:
    import pandas as pd


def doubts(wells: pd.DataFrame) -> pd.Series[float]:
    """How doubtful the segmentation of each well is that was measured: by well, NaN where too little is there to judge.

    It is the greatest, over label sets, of its shares of what is bright in no object, of objects without a partner and
    of objects that the flow check dropped, and of how far its objects' diameter is from the plate's median, on a scale
    on which MOST is a factor of FAR, so that a number means as much in each (`stats.segmentation`). A tenth of their
    mean decides between wells of about the same doubt.

    Args:
        wells: the well table.
    """
    measured = (
        wells[~wells["Metadata_State"].isin(LEFT_OUT)].drop_duplicates("Metadata_Well").set_index("Metadata_Well")
    )
    columns = columns_of(measured)
    parts = measured[[name for name, flag in columns.items() if flag != "size"]].astype(np.float64)
    for name in (name for name, flag in columns.items() if flag == "size" and measured[name].notna().any()):
        diameter = measured[name].astype(np.float64)
        parts[name] = MOST * np.abs(np.log(diameter / diameter.median())) / np.log(FAR)
    return parts.max(axis=1) + 0.1 * parts.mean(axis=1)


def worst_first(wells: pd.DataFrame) -> list[str]:
    """The wells that were measured, those whose segmentation is most doubtful first (`doubts`).

    Those that can't be judged, as they are blank or have next to no objects, come last.

    Args:
        wells: the well table.
    """
    doubt = doubts(wells)
    order = np.lexsort((doubt.index.to_numpy(), -doubt.to_numpy(), doubt.isna().to_numpy()))
    return [str(well) for well in doubt.index[order]]
