"""Treatments against the reference wells: their effects in every feature, on one plate and over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.reference import (
    ROLE,
    centre_and_spread,
    in_use,
    reference_wells,
    stabilised,
    standardise,
    steps_between,
    well_values,
)

if TYPE_CHECKING:
    import pandas as pd

TREATMENT, DOSE, UNIT = "Metadata_treatment", "Metadata_dose", "Metadata_dose_unit"
KEYS = [TREATMENT, DOSE, UNIT]
MEDIAN_VARIANCE, MAD_EFFICIENCY = np.pi / 2, 0.37
"""For normal values: variance of the median over that of the mean, and efficiency of the MAD as a measure of spread
(Rousseeuw & Croux, J Am Stat Assoc 88 (1993) 1273)."""
SIDES = "_Sides"
"""Suffix of the columns of `effect_table` with the number of replicates, and whether they lie on one side."""
STEP = 2**17
"""Values that `pooled` has in work at a time, so that they stay in the processor's cache."""


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


def keys_of(wells: pd.DataFrame) -> pd.DataFrame:
    """KEYS of wells: a name and a unit are "" where there is none, a dose is NaN."""
    return wells.reindex(columns=KEYS).fillna({TREATMENT: "", UNIT: ""}).astype({DOSE: np.float64})


def dose_text(dose: float | None, unit: str | None = "") -> str:
    """A dose as it is shown, with its unit; nothing where there is none."""
    return "" if dose is None or np.isnan(dose) else f"{dose:g} {unit or ''}".rstrip()


def groups_of(wells: pd.DataFrame) -> pd.DataFrame:
    """KEYS of the wells with the role treatment; one without a name is named after its well."""
    treated = wells[wells[ROLE] == "treatment"] if ROLE in wells else wells[:0]
    groups = keys_of(treated)
    groups[TREATMENT] = groups[TREATMENT].where(groups[TREATMENT] != "", "(" + treated["Metadata_Well"] + ")")
    return groups


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
    a standard deviation of the few others says nothing. But counts and shares are compared with negatives, lest a
    treatment that kills every cell is missed: their spread is then the greatest distance of a negative from the mean,
    as rare values are no effects, and at least what steps hide (`steps_between`). Of a whole plate, the rare values are
    the effects.

    SSMD is the mean difference over √(s² + s₀²), with the variances of the replicates and of the reference; for a
    treatment with one well, the reference's variance takes the place of its own (Zhang, J Biomol Screen 16 (2011) 775).

    Args:
        wells: the well table.
        columns: features.
        reference: `negative` or `plate`, see `reference_wells`.
    """
    values = stabilised(well_values(wells, columns), wells)
    compared = reference_wells(wells, reference)
    robust = reference == "plate"
    robust_z = z = standardise(values, compared, robust=True)
    if not robust:
        centre, spread = centre_and_spread(values[compared], robust=False)
        farthest = (values[compared] - centre).abs().max()
        steps = stabilised(steps_between(wells, columns).to_frame().T, wells).iloc[0]
        even = np.maximum(farthest, steps / np.sqrt(12))
        z = (values - centre) / spread.where(robust_z.notna().any(), even)
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


def pooled(rows: pd.DataFrame, z: NDArray[np.float32], sides: NDArray[np.int16], columns: Sequence[str]) -> Effects:
    """The effects of treatments over plates, from the plates' tables of effects: means weighted by replicates.

    Each plate's wells are compared with that plate's own reference, so plates need not be alike. The statistic is
    Stouffer's: each plate's t becomes the normal score of its p-value, and the scores are added, weighted by the
    inverse standard errors (Lipták, Magyar Tud Akad Mat Kutató Int Közl 3 (1958) 171). A t of the mean would call far
    too many hits where plates have few reference wells, as the spread of each plate has an error of its own.

    Args:
        rows: of the plates' `effect_table`, those that are pooled, concatenated; without its features.
        z: their means, rows by features; NaN where a plate has none.
        sides: the columns SIDES, rows by features; 0 where a plate has none.
        columns: features.
    """
    codes, keys = _numbered(rows[KEYS])
    order = np.argsort(codes.to_numpy(), kind="stable")
    starts = np.flatnonzero(np.diff(codes.to_numpy()[order], prepend=-1))
    ordered = rows.iloc[order]
    keys["Replicates"] = np.add.reduceat(ordered["Metadata_Replicates"].to_numpy(), starts)
    plates = np.split(ordered["Metadata_Plate"].to_numpy(object), starts[1:])
    keys["Plates"] = [" ".join(names) for names in plates]
    variance, freedom = (
        ordered[f"Metadata_{name}"].to_numpy(np.float64)[:, None] for name in ("ReferenceVariance", "Freedom")
    )
    shape = len(keys), len(columns)
    total, mean, statistic = (np.empty(shape) for _ in range(3))
    same_side = np.empty(shape, bool)
    width = max(1, STEP // len(rows))
    for step in (slice(start, start + width) for start in range(0, len(columns), width)):
        total[:, step], mean[:, step], statistic[:, step], same_side[:, step] = _pooled(
            z[order, step].astype(np.float64), sides[order, step], variance, freedom, starts
        )
    return Effects(
        keys=keys,
        features=list(columns),
        wells=total,
        mean=mean,
        statistic=statistic,
        freedom=np.broadcast_to(np.inf, shape),
        same_side=same_side,
    )


def _pooled(z: Any, sides: Any, variance: Any, freedom: Any, starts: Any) -> tuple[Any, Any, Any, Any]:
    """Number of replicates, mean, statistic and whether all lie on one side, of the groups of rows from `starts` on."""
    from scipy.special import ndtri, stdtr

    def reduced(ufunc: np.ufunc, values: Any) -> Any:
        return ufunc.reduceat(values, starts, axis=0) if len(starts) < len(values) else values

    def summed(values: Any) -> Any:
        return reduced(np.add, np.where(np.isnan(values), 0, values))

    n = np.abs(sides).astype(np.float64)
    total = summed(n)
    with np.errstate(all="ignore"):
        mean = summed(z * n) / total
        error = np.sqrt(1 / n + variance)
        t = z / error
        tail = stdtr(freedom, -np.abs(t))
        score = -np.sign(t) * ndtri(np.maximum(tail, 1e-300))  # the normal values with the p-values of these t
        weight = np.where(np.isnan(z), np.nan, 1 / error)
        statistic = summed(weight * score) / np.sqrt(summed(weight**2))
    one_side = np.where(n > 0, z * (sides > 0), np.nan)  # 0: a plate's replicates lie on both sides
    least, most = reduced(np.fmin, one_side), reduced(np.fmax, one_side)
    return total, mean, statistic, (least > 0) | (most < 0)


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
    from scipy.special import stdtr

    with np.errstate(all="ignore"):
        return np.asarray(2 * stdtr(effects.freedom, -np.abs(effects.statistic)), np.float64)


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
