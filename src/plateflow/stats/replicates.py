"""How far plates with the same treatments agree: the correlation of their treatments' profiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.effects import KEYS, TREATMENT

if TYPE_CHECKING:
    import pandas as pd

SHARED = 3
"""Treatments that two plates must have in common."""
FEATURES, LEAST = 200, 10
"""The most features of a profile, evenly spaced among all; and the fewest that tell anything."""
BOUND = 10.0
"""Standard deviations beyond which an effect is no greater, lest one feature decide."""
SHIFTS = 20
"""Other treatments that each is compared with."""
NULL = 0.95
"""The quantile of correlations of different treatments above which replicates agree."""
PAIRS = 2_000
"""The most pairs of plates, those nearest in the order of the sheet first."""


def replicate_table(
    heads: pd.DataFrame, read: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]], n_features: int
) -> pd.DataFrame:
    """Correlations of replicates, one row per pair of plates that share treatments, in one frame.

    A profile is what a treatment and dose do on a plate: its mean effects, in standard deviations of that plate's
    reference wells. Two plates' profiles of a treatment are correlated (Pearson, over the features that both plates
    have), and so are those of different treatments, which tell what chance, and what all treatments have in common,
    gives. A treatment replicates if its correlation is above that of 95 % of the different ones: the "percent
    replicating" of Way et al., Cell Syst 13 (2022) 911, by pair of plates.

    Args:
        heads: rows of the plates' effects: KEYS, Metadata_Plate, Metadata_Replicates, and `_plate` and `_row`, the
            numbers by which `read` knows them.
        read: gives the mean effects of rows of one plate, (row, feature), NaN where there is none.
        n_features: how many features that is.

    Returns:
        Metadata_Plate and OtherPlate; Treatments that both have in use; Correlation, the median of the same treatments;
        Null, that of different ones, and NullHigh, their 95th percentile, NaN where there are none; Replicating, the
        share of treatments above that.
    """
    import pandas as pd
    from scipy.sparse import csr_array

    heads = heads[heads["Metadata_Replicates"] > 0]
    heads = heads.assign(_code=heads.groupby(KEYS, dropna=False).ngroup()).drop_duplicates(["_plate", "_code"])
    names = heads.drop_duplicates("_plate").set_index("_plate")["Metadata_Plate"]
    columns = ["Metadata_Plate", "OtherPlate", "Treatments", "Correlation", "Null", "NullHigh", "Replicating"]
    if heads.empty or n_features < LEAST:
        return pd.DataFrame(columns=columns)
    has = csr_array((np.ones(len(heads)), (heads["_plate"], heads["_code"])))
    one, other = ((has @ has.T) >= SHARED).nonzero()
    later = one < other
    pairs = sorted(zip(one[later].tolist(), other[later].tolist(), strict=True), key=lambda pair: pair[1] - pair[0])
    needed = {number for pair in pairs[:PAIRS] for number in pair}
    chosen = np.unique(np.linspace(0, n_features - 1, min(n_features, FEATURES)).astype(int))
    held: dict[Any, tuple[pd.DataFrame, NDArray[np.float32]]] = {}
    for number, rows in heads.groupby("_plate"):
        if number in needed:
            mean = read(rows["_plate"].to_numpy(), rows["_row"].to_numpy())[:, chosen]
            held[number] = rows, np.clip(mean, -BOUND, BOUND)
    found = []
    for one, other in pairs[:PAIRS]:
        row = _agreement(held[one], held[other])
        if row:
            found.append({"Metadata_Plate": names[one], "OtherPlate": names[other], **row})
    return pd.DataFrame(found, columns=columns)


def _agreement(one: tuple[pd.DataFrame, Any], other: tuple[pd.DataFrame, Any]) -> dict[str, float]:
    """What `replicate_table` says of two plates; nothing where too few treatments or features can be compared."""
    mine, yours = (rows["_code"].to_numpy() for rows, _ in (one, other))
    _, here, there = np.intersect1d(mine, yours, assume_unique=True, return_indices=True)
    a, b, treatments = one[1][here], other[1][there], one[0][TREATMENT].to_numpy()[here]
    known = np.isfinite(a) & np.isfinite(b)
    told = known.sum(axis=1) >= max(LEAST, known.any(axis=0).sum() / 2)  # a treatment without cells has hardly a value
    features = known[told].all(axis=0)
    if told.sum() < SHARED or features.sum() < LEAST:
        return {}
    a, b = (_unit(values[told][:, features]) for values in (a, b))
    same = (a * b).sum(axis=1)
    different = [
        (a * np.roll(b, shift, axis=0)).sum(axis=1)[treatments[told] != np.roll(treatments[told], shift)]
        for shift in range(1, min(len(a), SHIFTS + 1))
    ]
    null = np.concatenate(different)
    null = null[np.isfinite(null)]
    same = same[np.isfinite(same)]
    if not len(same):
        return {}
    high = float(np.quantile(null, NULL)) if len(null) else np.nan
    return {
        "Treatments": len(same),
        "Correlation": float(np.median(same)),
        "Null": float(np.median(null)) if len(null) else np.nan,
        "NullHigh": high,
        "Replicating": float((same > high).mean()) if len(null) else np.nan,
    }


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows with mean 0 and length 1, of which products are correlations; NaN where all values are the same."""
    centred = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(length > 0, length, np.nan), np.float64)
