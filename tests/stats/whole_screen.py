"""The tables over all plates made the obvious way: every effect of every plate in one table, in memory.

What `plateflow.stats.screen` does block by block is compared with this (and timed beside it, bench/screen.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtr
from scipy.stats import false_discovery_control, t

from plateflow.paths import PlatePaths

KEYS = ["Metadata_treatment", "Metadata_dose", "Metadata_dose_unit"]


def write_whole(screen: PlatePaths, plates: Sequence[PlatePaths], *, fdr: float) -> None:
    """Write controls.csv and hits.csv of plates that all have tables."""
    controls = [pd.read_csv(plate.table("controls.csv"), keep_default_na=False, dtype=str) for plate in plates]
    _write(screen.table("controls.csv"), pd.concat(controls, ignore_index=True))
    tables = [pd.read_parquet(plate.table("effects.parquet")) for plate in plates]
    tables = [table for table in tables if len(table)]
    if tables:
        table = pd.concat(tables, ignore_index=True)
        table["Metadata_Time"] = table.get("Metadata_Time", pd.Series(0, table.index)).fillna(0).astype(int)
        hits = []
        for time, rows in table.groupby("Metadata_Time"):
            hits.append(whole_hits(rows.reset_index(drop=True), fdr))
            hits[-1].insert(0, "Metadata_Time", time)
        _write(screen.table("hits.csv"), pd.concat(hits, ignore_index=True))


def _write(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.7g")


def whole_hits(tables: pd.DataFrame, fdr: float) -> pd.DataFrame:
    names = [str(name) for name in tables if not str(name).startswith("Metadata_") and not str(name).endswith("_Sides")]
    codes = tables.groupby(KEYS, dropna=False, sort=True).ngroup().to_numpy()
    table = tables[KEYS].assign(_code=codes).drop_duplicates("_code").sort_values("_code")[KEYS].reset_index(drop=True)
    table["Replicates"] = tables["Metadata_Replicates"].groupby(codes).sum().to_numpy()
    table["Plates"] = tables["Metadata_Plate"].groupby(codes).agg(" ".join).to_numpy()
    mean, statistic, same_side = _pooled(tables, names, codes)
    with np.errstate(all="ignore"):
        p = 2 * t.sf(np.abs(statistic), np.full(mean.shape, np.inf))
        ordered = np.sort(p, axis=1)
        n = np.count_nonzero(~np.isnan(p), axis=1)
        table["P"] = np.fmin.reduce(ordered * n[:, None] / np.arange(1, p.shape[1] + 1), axis=1, initial=np.nan)
    table["Q"] = _q(table["P"].to_numpy())
    q = np.column_stack([_q(column) for column in p.T])
    tested = table["P"].notna().to_numpy()
    lead, rows = np.where(np.isnan(p), np.inf, p).argmin(axis=1), np.arange(len(table))
    table["Feature"] = np.where(tested, np.array(names, object)[lead], "")
    table["Z"], table["RobustZ"], table["SSMD"] = np.where(tested, mean[rows, lead], np.nan), np.nan, np.nan
    table["SameSide"] = tested & same_side[rows, lead]
    table["Features"] = (q <= fdr).sum(axis=1)
    table["Hit"] = (table["Q"] <= fdr) & table["SameSide"]
    rows_of = table.to_dict("records")
    table["Reasons"] = [_reasons(row, mean[i], q[i], names, fdr) for i, row in enumerate(rows_of)]
    order = np.lexsort((-table["Z"].abs().fillna(0), table["P"].fillna(2), table["Q"].fillna(2), ~table["Hit"]))
    table = table.iloc[order].reset_index(drop=True)
    first = ["Hit", *KEYS, "Replicates"]
    table = table[[*first, *(name for name in table if name not in first)]]
    table.insert(0, "Rank", np.arange(1, len(table) + 1))
    return table


def _pooled(tables: pd.DataFrame, names: list[str], codes: Any) -> tuple[Any, Any, Any]:
    z = tables[names].astype(np.float64)
    sides = tables[[f"{name}_Sides" for name in names]].set_axis(names, axis=1).fillna(0).astype(np.float64)
    n = sides.abs()
    one_side = (z * sides.gt(0)).where(n > 0).groupby(codes)
    with np.errstate(all="ignore"):
        mean = (z * n).groupby(codes).sum().to_numpy() / n.groupby(codes).sum().to_numpy()
        error = (1 / n).add(tables["Metadata_ReferenceVariance"], axis=0).pow(0.5)
        t_values = (z / error).to_numpy()
        tail = stdtr(tables["Metadata_Freedom"].to_numpy(np.float64)[:, None], -np.abs(t_values))
        score = -np.sign(t_values) * ndtri(np.maximum(tail, 1e-300))
        weight = (1 / error).where(z.notna())
        statistic = (weight * score).groupby(codes).sum() / np.sqrt(weight.pow(2).groupby(codes).sum())
    return mean, statistic.to_numpy(), ((one_side.min() > 0) | (one_side.max() < 0)).to_numpy()


def _q(p: Any) -> Any:
    q = np.full(len(p), np.nan)
    valid = ~np.isnan(p)
    if valid.any():
        q[valid] = false_discovery_control(p[valid])
    return q


def _reasons(row: dict[Any, Any], z: Any, q: Any, names: list[str], fdr: float) -> str:
    if not row["Replicates"]:
        return "no well of it is in use"
    if np.isnan(row["P"]):
        return "it can't be compared: no values, or too few reference wells, or half of these have one value"
    significant = [i for i in np.lexsort((-np.abs(z), q)) if q[i] <= fdr]
    reasons = [f"{names[i]} {z[i]:+.1f} SD (q {q[i]:.1g})" for i in significant[:3]]
    reasons += [f"{len(significant) - 3} more features"] * (len(significant) > 3)
    reasons += [f"Q {row['Q']:.2g} is above {fdr:g}"] * (row["Q"] > fdr)
    reasons += ["its replicates lie on both sides of the reference"] * (not row["SameSide"])
    reasons += ["one well alone"] * (row["Replicates"] == 1)
    return "; ".join(reasons)
