"""Treatments against the reference wells: effects, their p-values, false discovery rate, and the ranked list of hits.

A treatment (a name and a dose) is tested in every feature; its p-values are combined by Simes' method, and the false
discovery rate is controlled over treatments. So the list holds for all features at once, and a feature that is there
twice under two names costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.reference import ROLE, in_use, reference_wells, standardise, well_values

if TYPE_CHECKING:
    import pandas as pd

TREATMENT, DOSE = "Metadata_treatment", "Metadata_dose"
KEYS = [TREATMENT, DOSE]
MEDIAN_VARIANCE, MAD_EFFICIENCY = np.pi / 2, 0.37
"""For normal values: variance of the median over that of the mean, and efficiency of the MAD as a measure of spread
(Rousseeuw & Croux, J Am Stat Assoc 88 (1993) 1273)."""
NAMED = 3
"""The most features that the reasons of a hit name."""
SIDES = "_Sides"
"""Suffix of the columns of `effect_table` with the number of replicates, and whether they lie on one side."""


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Treatments by features, in standard deviations of the reference wells.

    Attributes:
        keys: one row per treatment and dose, with Replicates (wells in use) and the names of Wells or Plates.
        features: their names.
        wells: the number of replicates that have a value.
        mean: mean difference from the reference's centre.
        statistic: `mean` over its standard error: Student's t with `freedom` if the treatment has no effect.
        freedom: degrees of freedom of the reference's standard deviation; infinite over several plates.
        same_side: whether all replicates lie on the same side of the reference.
        robust: median of the replicates' robust z; None over several plates.
        ssmd: strictly standardised mean difference; None over several plates.
        reference: by feature, the variance of the reference's centre; None over several plates.
    """

    keys: pd.DataFrame
    features: list[str]
    wells: NDArray[np.float64]
    mean: NDArray[np.float64]
    statistic: NDArray[np.float64]
    freedom: NDArray[np.float64]
    same_side: NDArray[np.bool_]
    robust: NDArray[np.float64] | None = None
    ssmd: NDArray[np.float64] | None = None
    reference: NDArray[np.float64] | None = None


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values (q): the expected fraction of false discoveries among all with this q or less is at most q.

    Benjamini & Hochberg, J R Stat Soc B 57 (1995) 289, as implemented in scipy; NaN is ignored.
    """
    from scipy.stats import false_discovery_control

    q = np.full(len(p), np.nan)
    valid = ~np.isnan(p)
    if valid.any():
        q[valid] = false_discovery_control(p[valid])
    return q


def simes(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """One p-value per row, for the hypothesis that it has no effect at all: the least of n p₍ᵢ₎ / i over its n values.

    Simes, Biometrika 73 (1986) 751. NaN is ignored; a row of NaN is NaN.
    """
    ordered = np.sort(p, axis=1)
    n = np.count_nonzero(~np.isnan(p), axis=1)
    scaled = ordered * n[:, None] / np.arange(1, p.shape[1] + 1)
    return np.fmin.reduce(scaled, axis=1, initial=np.nan)


def groups_of(wells: pd.DataFrame) -> pd.DataFrame:
    """Treatment and dose of the wells with the role treatment; one without a name is named after its well."""
    import pandas as pd

    if ROLE not in wells:
        return pd.DataFrame({TREATMENT: [], DOSE: []}, index=wells.index[:0])
    treated = wells[wells[ROLE] == "treatment"]
    names = treated.get(TREATMENT, pd.Series("", index=treated.index)).fillna("")
    doses = treated.get(DOSE, pd.Series(np.nan, index=treated.index)).astype(np.float64)
    return pd.DataFrame({TREATMENT: names.where(names != "", "(" + treated["Metadata_Well"] + ")"), DOSE: doses})


def _numbered(treated: pd.DataFrame) -> tuple[pd.Series[int], pd.DataFrame]:
    """The number of each row's treatment and dose, in order, and the treatments and doses themselves."""
    codes = treated.groupby(KEYS, dropna=False, sort=True).ngroup()
    keys = treated.assign(_code=codes).drop_duplicates("_code").sort_values("_code")[KEYS].reset_index(drop=True)
    return codes, keys


def treatment_effects(wells: pd.DataFrame, columns: Sequence[str], *, reference: str) -> Effects:
    """The effect of each treatment and dose of a plate.

    Against negative controls (`reference="negative"`), centre and spread are their mean and standard deviation, and
    the test is Student's, with the variance of the negatives for the treatment's wells, too: exact where wells vary
    alike. Against the plate they are its median and MAD, as there are hits among the wells, and the test is Student's
    with the precision that median and MAD have.

    A feature that has one value in half of the reference wells (a MAD of 0) is left out: it is far from normal, and
    a standard deviation of the few others says nothing.

    SSMD is the mean difference over √(s² + s₀²), with the variances of the replicates and of the reference; for a
    treatment with one well, the reference's variance takes the place of its own (Zhang, J Biomol Screen 16 (2011) 775).

    Args:
        wells: the well table.
        columns: features.
        reference: `negative` or `plate`, see `reference_wells`.
    """
    values = well_values(wells, columns)
    compared = reference_wells(wells, reference)
    robust = reference == "plate"
    robust_z = standardise(values, compared, robust=True)
    z = robust_z if robust else standardise(values, compared, robust=False).where(robust_z.notna())
    m = values[compared].count().to_numpy(np.float64)
    groups = groups_of(wells)
    codes, keys = _numbered(groups)
    used = in_use(wells)
    keys["Replicates"] = np.bincount(codes[used[groups.index]], minlength=len(keys))
    names = wells.loc[groups.index, "Metadata_Well"].groupby(codes.to_numpy()).agg(" ".join)
    keys["Wells"] = names.to_numpy() if len(keys) else []

    by_group = z.loc[groups.index].groupby(codes)
    n, mean = by_group.count().to_numpy(np.float64), by_group.mean().to_numpy()
    variance = by_group.var(ddof=1).fillna(1.0).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        reference_variance = (MEDIAN_VARIANCE if robust else 1.0) / m
        statistic = mean / np.sqrt(1 / n + reference_variance)
    return Effects(
        keys=keys,
        features=list(columns),
        wells=n,
        mean=mean,
        statistic=statistic,
        freedom=np.broadcast_to((MAD_EFFICIENCY if robust else 1.0) * (m - 1), n.shape),
        same_side=((by_group.min() > 0) | (by_group.max() < 0)).to_numpy(),
        robust=robust_z.loc[groups.index].groupby(codes).median().to_numpy(),
        ssmd=mean / np.sqrt(1 + variance),
        reference=reference_variance,
    )


def pooled(tables: pd.DataFrame, columns: Sequence[str]) -> Effects:
    """The effects of treatments over plates, from the plates' tables of effects: means weighted by replicates.

    Each plate's wells are compared with that plate's own reference, so plates need not be alike. The statistic is
    Stouffer's: each plate's t becomes the normal score of its p-value, and the scores are added, weighted by the
    inverse standard errors (Lipták, Magyar Tud Akad Mat Kutató Int Közl 3 (1958) 171). A t of the mean would call far
    too many hits where plates have few reference wells, as the spread of each plate has an error of its own.

    Args:
        tables: the `effect_table` of each plate, concatenated.
        columns: features.
    """
    from scipy.special import ndtri, stdtr

    groups, keys = _numbered(tables[KEYS])
    codes = groups.to_numpy()
    keys["Replicates"] = tables["Metadata_Replicates"].groupby(codes).sum().to_numpy()
    keys["Plates"] = tables["Metadata_Plate"].groupby(codes).agg(" ".join).to_numpy()
    z = tables[list(columns)].astype(np.float64)
    sides = tables[[f"{name}{SIDES}" for name in columns]].set_axis(list(columns), axis=1).fillna(0).astype(np.float64)
    n = sides.abs()
    one_side = (z * sides.gt(0)).where(n > 0).groupby(codes)  # 0: a plate's replicates lie on both sides
    total = n.groupby(codes).sum().to_numpy(np.float64)
    with np.errstate(all="ignore"):
        mean = (z * n).groupby(codes).sum().to_numpy() / total
        error = (1 / n).add(tables["Metadata_ReferenceVariance"], axis=0).pow(0.5)
        t = (z / error).to_numpy()
        tail = stdtr(tables["Metadata_Freedom"].to_numpy(np.float64)[:, None], -np.abs(t))
        score = -np.sign(t) * ndtri(np.maximum(tail, 1e-300))  # the normal values with the p-values of these t
        weight = (1 / error).where(z.notna())
        statistic = (weight * score).groupby(codes).sum() / np.sqrt(weight.pow(2).groupby(codes).sum())
    return Effects(
        keys=keys,
        features=list(columns),
        wells=total,
        mean=mean,
        statistic=np.asarray(statistic),
        freedom=np.full(mean.shape, np.inf),
        same_side=((one_side.min() > 0) | (one_side.max() < 0)).to_numpy(),
    )


def effect_table(plate: str, effects: Effects) -> pd.DataFrame:
    """The effects as a table, for the tables over all plates: one row per treatment and dose, two columns per feature.

    The one with the feature's name is the mean; the other, with SIDES, the number of replicates that have a value,
    negative if they do not all lie on one side. ReferenceVariance (the reference wells' part of the variance of the
    mean) and Freedom are those of the features that have a value in every well of the reference. Treatments without a
    name are named after plate and well, so that those of different plates are not pooled.
    """
    import pandas as pd

    variances = [np.inf] if effects.reference is None else effects.reference
    precision = {
        "Metadata_ReferenceVariance": np.min(variances, initial=np.inf),
        "Metadata_Freedom": np.max(effects.freedom, initial=0),
    }
    renamed = effects.keys.rename(columns={name: f"Metadata_{name}" for name in ("Replicates", "Wells")})
    head = renamed.assign(**precision)
    head.insert(0, "Metadata_Plate", plate)
    wells = head["Metadata_Wells"].astype(str)
    head[TREATMENT] = head[TREATMENT].where(head[TREATMENT] != "(" + wells + ")", f"({plate}/" + wells + ")")
    sides = np.where(effects.same_side, effects.wells, -effects.wells).astype(np.int16)
    mean = pd.DataFrame(effects.mean.astype(np.float32), columns=effects.features)
    return head.join(mean).join(pd.DataFrame(sides, columns=[f"{name}{SIDES}" for name in effects.features]))


def p_values(effects: Effects) -> NDArray[np.float64]:
    """Two-sided p-values of every treatment and feature."""
    from scipy.stats import t

    with np.errstate(all="ignore"):
        return np.asarray(2 * t.sf(np.abs(effects.statistic), effects.freedom), np.float64)


def hit_table(effects: Effects, *, fdr: float) -> pd.DataFrame:
    """Treatments, ranked by significance, with the evidence for and against each.

    A hit has a Q of at most `fdr` and all its replicates on one side in its lead feature (the one with the least p).
    Q is Benjamini and Hochberg's over the treatments' P, which is Simes' over the features. Features is the number of
    features whose own q over treatments is at most `fdr`.

    Returns:
        One row per treatment and dose: Rank, Hit, treatment, dose, Replicates, P, Q, Feature (the lead), Z, RobustZ,
        SSMD in it, SameSide, Features, Reasons, and Wells or Plates where the effects have them.
    """
    p = p_values(effects)
    table = effects.keys.copy()
    columns = np.array(effects.features, object)
    table["P"] = simes(p) if p.shape[1] else np.nan
    table["Q"] = benjamini_hochberg(table["P"].to_numpy(np.float64))
    q = np.column_stack([benjamini_hochberg(column) for column in p.T]) if p.size else p
    tested = table["P"].notna().to_numpy()
    lead = np.where(np.isnan(p), np.inf, p).argmin(axis=1) if p.size else np.zeros(len(table), int)
    rows = np.arange(len(table))

    def at_lead(values: NDArray[Any] | None) -> NDArray[Any]:
        if values is None or not p.size:
            return np.full(len(table), np.nan)
        return np.where(tested, values[rows, lead], np.nan)

    table["Feature"] = np.where(tested, columns[lead], "") if p.size else ""
    table["Z"], table["RobustZ"], table["SSMD"] = map(at_lead, (effects.mean, effects.robust, effects.ssmd))
    table["SameSide"] = at_lead(effects.same_side) == 1
    table["Features"] = (q <= fdr).sum(axis=1) if p.size else 0
    table["Hit"] = (table["Q"] <= fdr) & table["SameSide"]
    table["Reasons"] = [
        _reasons(row, effects.mean[i], q[i], columns, fdr) for i, row in enumerate(table.to_dict("records"))
    ]
    order = np.lexsort((-table["Z"].abs().fillna(0), table["P"].fillna(2), table["Q"].fillna(2), ~table["Hit"]))
    table = table.iloc[order].reset_index(drop=True)
    first = ["Hit", *KEYS, "Replicates"]
    table = table[[*first, *(name for name in table if name not in first)]]
    table.insert(0, "Rank", np.arange(1, len(table) + 1))
    return table


def _reasons(row: dict[Any, Any], z: NDArray[np.float64], q: NDArray[np.float64], names: Any, fdr: float) -> str:
    """The evidence for a treatment (its most significant features) and against it."""
    if not row["Replicates"]:
        return "no well of it is in use"
    if np.isnan(row["P"]):
        return "it can't be compared: too few reference wells, or no values"
    order = np.lexsort((-np.abs(z), q))
    significant = [i for i in order if q[i] <= fdr]
    reasons = [f"{names[i]} {z[i]:+.1f} SD (q {q[i]:.1g})" for i in significant[:NAMED]]
    reasons += [f"{len(significant) - NAMED} more features"] * (len(significant) > NAMED)
    reasons += [f"Q {row['Q']:.2g} is above {fdr:g}"] * (row["Q"] > fdr)
    reasons += ["its replicates lie on both sides of the reference"] * (not row["SameSide"])
    reasons += ["one well alone"] * (row["Replicates"] == 1)
    return "; ".join(reasons)


def replicate_agreement(wells: pd.DataFrame, columns: Sequence[str]) -> pd.Series[float]:
    """Intraclass correlation of replicates, by feature: 1 if they are equal, 0 or less if they differ as treatments do.

    ICC(1,1) of Shrout & Fleiss, Psychol Bull 86 (1979) 420, from a one-way analysis of variance, with n₀ in place of n
    for groups of different sizes. NaN unless at least two treatments have two wells or more.
    """
    groups = groups_of(wells)
    values = well_values(wells, columns).loc[groups.index]
    by_group = values.groupby(_numbered(groups)[0])
    n = by_group.count()
    n = n.where(n > 1, 0)
    total, k = n.sum(), (n > 0).sum()
    mean = by_group.mean()
    grand = (mean * n).sum() / total
    between = (n * (mean - grand) ** 2).sum() / (k - 1)
    within = (by_group.var(ddof=1) * (n - 1).clip(lower=0)).sum() / (total - k)
    size = (total - (n**2).sum() / total) / (k - 1)
    return ((between - within) / (between + (size - 1) * within)).where(k > 1)
