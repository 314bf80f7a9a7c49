"""How well a plate's controls separate: Z', SSMD and their robust forms, signal to background, CV; and the verdict."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.stats.effects import DOSE, TREATMENT, replicate_agreement
from plateflow.stats.hits import benjamini_hochberg
from plateflow.stats.reference import MIN_WELLS, ROLE, centre_and_spread, has_role, well_values

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.01
"""A feature counts in the verdict if the controls' means differ in Welch's test at this false discovery rate: among a
thousand features, three wells per control lie close together in some by chance."""
GRADES = ((0.5, "good"), (0.0, "marginal"), (-np.inf, "poor"))
"""Zhang, Chung & Oldenburg: an excellent assay has Z' of at least 0.5; from 0 the controls' 3 SD bands do not meet."""


def z_prime(negative: tuple[Any, Any], positive: tuple[Any, Any]) -> Any:
    """1 - 3 (s₊ + s₋) / |m₊ - m₋|, of each control's centre m and spread s; with median and MAD it is the robust Z'.

    Zhang, Chung & Oldenburg, J Biomol Screen 4 (1999) 67.
    """
    return 1 - 3 * (positive[1] + negative[1]) / abs(positive[0] - negative[0])


def ssmd(negative: tuple[Any, Any], positive: tuple[Any, Any]) -> Any:
    """Strictly standardised mean difference, (m₊ - m₋) / √(s₊² + s₋²); with median and MAD it is the robust one.

    Zhang, Genomics 89 (2007) 552: the plug-in estimate, of independent groups.
    """
    return (positive[0] - negative[0]) / np.sqrt(positive[1] ** 2 + negative[1] ** 2)


def control_table(wells: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Statistics of the controls: one row per feature, positive control and dose of it.

    Without positive controls there is one row per feature, of the negatives alone. ReplicateICC is the
    `replicate_agreement` of the treatments. What cannot be computed is NaN, with the Reason; a positive control
    without a well in use has its rows, too. A control without any spread, as one that kills every cell, has a Z' as
    long as the other has one.
    """
    import pandas as pd
    from scipy.stats import ttest_ind

    values = well_values(wells, columns)
    negatives = values[has_role(wells, "negative")]
    is_positive = has_role(wells, "positive")
    agreement = replicate_agreement(wells, columns)
    tables = []
    for name, dose, index in _positives(wells):
        positives = values[is_positive & wells.index.isin(index)]
        both = negatives, positives
        mean, median = (_spreads(both, robust=robust) for robust in (False, True))
        p = np.full(len(columns), np.nan)
        if min(map(len, both)) >= MIN_WELLS:
            with warnings.catch_warnings():  # about features with one value in all wells
                warnings.simplefilter("ignore", RuntimeWarning)
                p = ttest_ind(positives, negatives, equal_var=False, nan_policy="omit").pvalue
        table = pd.DataFrame(
            {"Positive": name, "PositiveDose": dose, "Negatives": negatives.count(), "Positives": positives.count()}
        )
        for kind, (centre, spread) in zip(("Negative", "Positive"), mean, strict=True):
            table = table.assign(**{f"{kind}Mean": centre, f"{kind}SD": spread, f"{kind}CV": spread / centre.abs()})
        table = table.assign(ZPrime=z_prime(*mean), RobustZPrime=z_prime(*median))
        table = table.assign(SSMD=ssmd(*mean), RobustSSMD=ssmd(*median), SignalToBackground=mean[1][0] / mean[0][0])
        table = table.assign(Q=benjamini_hochberg(np.asarray(p, np.float64))).rename_axis("Feature").reset_index()
        numbers = zip(both, ("negative", "positive"), strict=True)
        few = [f"{len(controls)} {kind} controls" for controls, kind in numbers if len(controls) < MIN_WELLS]
        table["Reason"] = f"too few wells: {' and '.join(few)}; {MIN_WELLS} are needed" if few else ""
        unknown = (table["Reason"] == "") & table["ZPrime"].isna()
        table.loc[unknown, "Reason"] = "values are missing, or all the same"
        tables.append(table)
    result = pd.concat(tables, ignore_index=True)
    result["ReplicateICC"] = result["Feature"].map(agreement)
    result.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return result


def _positives(wells: pd.DataFrame) -> list[tuple[Any, Any, Any]]:
    """Name, dose (NaN where there is none) and index of each positive control's wells; one of no wells without any."""
    chosen = wells[wells[ROLE] == "positive"] if ROLE in wells else wells[:0]
    named = chosen.reindex(columns=[TREATMENT, DOSE]).fillna({TREATMENT: ""}).astype({DOSE: np.float64})
    groups = named.groupby([TREATMENT, DOSE], dropna=False, sort=True)
    return [(name, dose, group.index) for (name, dose), group in groups] or [("", np.nan, chosen.index)]


def _spreads(both: tuple[pd.DataFrame, pd.DataFrame], *, robust: bool) -> list[tuple[Any, Any]]:
    """Centre and spread of negative and positive controls; of one without any spread it is 0, if the other has one."""
    (low, narrow), (high, wide) = (centre_and_spread(controls, robust=robust) for controls in both)
    return [
        (low, narrow.where(narrow.notna() | wide.isna() | low.isna(), 0)),
        (high, wide.where(wide.notna() | narrow.isna() | high.isna(), 0)),
    ]


def verdict(controls: pd.DataFrame) -> dict[str, Any]:
    """Verdict of the controls on the plate: grade, reasons, and the feature that separates each positive control best.

    Each positive control has the grade of its best feature, at the dose at which it is best; the plate has the worst of
    these grades, "unknown" if none can be judged. The best of many features is a little better than it would be in a
    repetition.

    Args:
        controls: of `control_table`.

    Returns:
        `grade`, `reasons` (one per positive control and dose), `best` (features).
    """
    order = [grade for _, grade in GRADES]
    grades, reasons, best = dict[Any, str](), [], []
    for (name, dose), table in controls.groupby(["Positive", "PositiveDose"], dropna=False, sort=False):
        several = controls.loc[controls["Positive"] == name, "PositiveDose"].nunique(dropna=False) > 1
        title = f"positive control {name}{f' {dose:g}' * several}" if name else "positive controls"
        judged = table[table["ZPrime"].notna()]
        if judged.empty:
            reasons.append(f"{title}: {table['Reason'].iloc[0]}")
            continue
        separate = judged[judged["Q"] <= LEVEL]
        top = (judged if separate.empty else separate).sort_values("ZPrime", ascending=False, kind="stable").iloc[0]
        numbers = f"Z' {top['ZPrime']:.2f}"
        numbers += "".join(
            f", {word} {top[column]:.{digits}f}"
            for word, column, digits in (("robust", "RobustZPrime", 2), ("SSMD", "SSMD", 1))
            if np.isfinite(top[column])
        )
        if separate.empty:
            grade = "poor"
            reasons.append(
                f"{title}: it differs from the negative controls in no feature at a false discovery rate of "
                f"{LEVEL:.0%}; nearest {top['Feature']} ({numbers}, q {top['Q']:.2g})"
            )
        else:
            grade = next(grade for least, grade in GRADES if top["ZPrime"] >= least)
            best.append(str(top["Feature"]))
            excellent = int((separate["ZPrime"] >= 0.5).sum())
            reasons.append(
                f"{title}: {grade}; {excellent} of {len(judged)} features have Z' of at least 0.5; "
                f"best {top['Feature']} ({numbers})"
            )
        grades[name] = min(grade, grades.get(name, grade), key=order.index)
    worst = max(grades.values(), key=order.index) if grades else "unknown"
    return {"grade": worst, "reasons": reasons, "best": list(dict.fromkeys(best))}
