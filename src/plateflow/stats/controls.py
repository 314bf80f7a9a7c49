"""How well a plate's controls separate: Z', SSMD and their robust forms, signal to background, CV; and the verdict."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.stats.hits import TREATMENT, benjamini_hochberg, replicate_agreement
from plateflow.stats.normalise import MIN_WELLS, ROLE, centre_and_spread, has_role, well_values

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.01
"""A feature counts in the verdict if the controls' means differ in Welch's test at this false discovery rate: among a
thousand features, three wells a control lie close together in one or the other by chance."""
GRADES = ((0.5, "good"), (0.0, "marginal"), (-np.inf, "poor"))
"""Zhang, Chung & Oldenburg: an excellent assay has Z' of at least 0.5; from 0 on controls' 3 SD bands don't overlap."""


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
    """Statistics of the controls: one row a feature and treatment among the positive controls.

    Without positive controls there is one row a feature, of the negatives alone; one whose wells are all out of use has
    its rows, with the Reason. ReplicateICC is `replicate_agreement`
    of the treatments. What can't be computed is NaN, with the Reason.
    """
    import pandas as pd
    from scipy.stats import ttest_ind

    values = well_values(wells, columns)
    negatives = values[has_role(wells, "negative")]
    is_positive = has_role(wells, "positive")
    agreement = replicate_agreement(wells, columns)
    named = TREATMENT in wells and ROLE in wells
    names = wells.loc[wells[ROLE] == "positive", TREATMENT] if named else pd.Series(dtype=object)
    found = []
    for name in sorted(names.unique()) or [""]:
        positives = values[is_positive & (wells[TREATMENT] == name)] if len(names) else values.iloc[:0]
        mean = [centre_and_spread(part, robust=False) for part in (negatives, positives)]
        median = [centre_and_spread(part, robust=True) for part in (negatives, positives)]
        p = np.full(len(columns), np.nan)
        if min(len(negatives), len(positives)) >= MIN_WELLS:
            with warnings.catch_warnings():  # of features that are the same in all wells
                warnings.simplefilter("ignore", RuntimeWarning)
                p = ttest_ind(positives, negatives, equal_var=False, nan_policy="omit").pvalue
        table = pd.DataFrame(
            {
                "Feature": list(columns),
                "Positive": name,
                "Negatives": negatives.count().to_numpy(),
                "Positives": positives.count().to_numpy(),
                "NegativeMean": mean[0][0].to_numpy(),
                "NegativeSD": mean[0][1].to_numpy(),
                "NegativeCV": (mean[0][1] / mean[0][0].abs()).to_numpy(),
                "PositiveMean": mean[1][0].to_numpy(),
                "PositiveSD": mean[1][1].to_numpy(),
                "PositiveCV": (mean[1][1] / mean[1][0].abs()).to_numpy(),
                "ZPrime": z_prime(*mean).to_numpy(),
                "RobustZPrime": z_prime(*median).to_numpy(),
                "SSMD": ssmd(*mean).to_numpy(),
                "RobustSSMD": ssmd(*median).to_numpy(),
                "SignalToBackground": (mean[1][0] / mean[0][0]).to_numpy(),
                "Q": benjamini_hochberg(np.asarray(p, np.float64)),
            }
        )
        few = [f"{n} {kind} controls" for n, kind in ((len(negatives), "negative"), (len(positives), "positive"))]
        few = [text for text in few if int(text.split()[0]) < MIN_WELLS]
        table["Reason"] = f"too few wells: {' and '.join(few)}; {MIN_WELLS} are needed" if few else ""
        lacking = (table["Reason"] == "") & table["ZPrime"].isna()
        table.loc[lacking, "Reason"] = "values are missing, or all the same"
        found.append(table)
    result = pd.concat(found, ignore_index=True)
    result["ReplicateICC"] = result["Feature"].map(agreement)
    result.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return result


def verdict(controls: pd.DataFrame) -> dict[str, Any]:
    """What the controls say of the plate: grade, reasons, and the feature that separates each positive control best.

    Each positive control has the grade of its best feature; the plate has the worst of them, "unknown" where none
    can be judged. Of many features the best is a little better by chance than it would be if done again.
    """
    grades, reasons, best = [], [], []
    for name in controls["Positive"].unique():
        table = controls[controls["Positive"] == name]
        title = f"positive control {name}" if name else "positive controls"
        told = table["Reason"].iloc[0] if len(table) else ""
        sure = table[(table["Q"] <= LEVEL) & table["ZPrime"].notna() & table["RobustZPrime"].notna()]
        if table["ZPrime"].isna().all():
            reasons.append(f"{title}: {told}")
            continue
        if sure.empty:
            grades.append("poor")
            reasons.append(f"{title}: it differs from the negative controls in no feature")
            continue
        top = sure.iloc[int(sure["ZPrime"].argmax())]
        grade = next(grade for least, grade in GRADES if top["ZPrime"] >= least)
        grades.append(grade)
        best.append(str(top["Feature"]))
        reasons.append(
            f"{title}: {grade}; {int((sure['ZPrime'] >= 0.5).sum())} of {len(table)} features have Z' of at least 0.5; "
            f"best {top['Feature']} (Z' {top['ZPrime']:.2f}, robust {top['RobustZPrime']:.2f}, SSMD {top['SSMD']:.1f})"
        )
    order = [grade for _, grade in GRADES]
    worst = max(grades, key=order.index) if grades else "unknown"
    return {"grade": worst, "reasons": reasons, "best": list(dict.fromkeys(best))}
