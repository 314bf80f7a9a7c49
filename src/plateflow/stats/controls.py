"""How well a plate's controls separate: Z', SSMD and their robust forms, signal to background, CV; and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.errors import number_of
from plateflow.stats.effects import KEYS, dose_text, keys_of, replicate_agreement
from plateflow.stats.hits import benjamini_hochberg
from plateflow.stats.reference import (
    MIN_WELLS,
    ROLE,
    SAME,
    centre_and_spread,
    has_role,
    stabilised,
    steps_between,
    well_values,
)

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.01
"""A feature counts in the verdict if the controls' means differ in Welch's test at this false discovery rate: among a
thousand features, three wells per control lie close together in some by chance."""
GRADES = ((0.5, "good"), (0.0, "marginal"), (-np.inf, "poor"))
"""Zhang, Chung & Oldenburg: an excellent assay has Z' of at least 0.5; from 0 the controls' 3 SD bands do not meet."""


def control_table(wells: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Statistics of the controls: one row per feature, positive control and dose of it.

    Of the centre m and spread s of each control, ZPrime is 1 - 3 (s₊ + s₋) / |m₊ - m₋| (Zhang, Chung & Oldenburg, J
    Biomol Screen 4 (1999) 67) and SSMD (m₊ - m₋) / √(s₊² + s₋²) (Zhang, Genomics 89 (2007) 552: the plug-in estimate,
    of independent groups); of medians and MADs they are Robust. Q is of Welch's test, of shares of that of angles.
    ReplicateICC is the `replicate_agreement` of the treatments. What cannot be computed is NaN, with the Reason. A
    control without any spread, as one that kills every cell, has a Z' as long as the other has a spread, or another
    centre.

    Without positive controls there is one row per feature, of the negatives alone; a positive control without a well
    in use has its rows, too.
    """
    import pandas as pd

    values = well_values(wells, columns)
    negatives = values[has_role(wells, "negative")]
    is_positive = has_role(wells, "positive")
    agreement = replicate_agreement(wells, columns)
    steps = stabilised(steps_between(wells, columns).to_frame().T, wells).iloc[0]
    tables = []
    for (name, dose, unit), index in positive_controls(wells):
        positives = values[is_positive & wells.index.isin(index)]
        both = negatives, positives
        spreads = {kind: _spreads(both, robust=kind == "Robust") for kind in ("", "Robust")}
        table = pd.DataFrame({"Positive": name, "PositiveDose": dose, "PositiveDoseUnit": unit}, list(columns))
        table = table.assign(Negatives=negatives.count(), Positives=positives.count())
        for kind, (centre, spread) in zip(("Negative", "Positive"), spreads[""], strict=True):
            table = table.assign(**{f"{kind}Mean": centre, f"{kind}SD": spread})
            table[f"{kind}CV"] = _finite(spread / centre.abs())
        for kind, ((low, narrow), (high, wide)) in spreads.items():
            table[f"{kind}ZPrime"] = 1 - 3 * (wide + narrow) / (high - low).abs()
        for kind, ((low, narrow), (high, wide)) in spreads.items():
            table[f"{kind}SSMD"] = _finite((high - low) / np.sqrt(wide**2 + narrow**2))
        table["SignalToBackground"] = _finite(table["PositiveMean"] / table["NegativeMean"])
        angles = stabilised(both[0], wells), stabilised(both[1], wells)
        p = _welch(angles, _spreads(angles, robust=False), steps)
        table["Q"] = benjamini_hochberg(np.asarray(p, np.float64))
        numbers = [(len(controls), kind) for controls, kind in zip(both, ("negative", "positive"), strict=True)]
        few = [number_of(n, f"{kind} control[s]") for n, kind in numbers if n < MIN_WELLS]
        table["Reason"] = f"too few wells: {' and '.join(few)}; {MIN_WELLS} are needed" if few else ""
        unknown = (table["Reason"] == "") & table["ZPrime"].isna()
        table.loc[unknown, "Reason"] = "values are missing, or all the same"
        table["ReplicateICC"] = agreement
        tables.append(table.rename_axis("Feature").reset_index())
    result = pd.concat(tables, ignore_index=True)
    result.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return result


def _finite(values: pd.Series[float]) -> pd.Series[float]:
    return values.where(np.isfinite(values))


def positive_controls(wells: pd.DataFrame) -> list[tuple[Any, Any]]:
    """KEYS (a dose is NaN where there is none) and index of each positive control's wells; of no wells without any."""
    named = keys_of(wells[wells[ROLE] == "positive"] if ROLE in wells else wells[:0])
    groups = named.groupby(KEYS, dropna=False, sort=True)
    return [(keys, group.index) for keys, group in groups] or [(("", np.nan, ""), named.index)]


def _spreads(both: tuple[pd.DataFrame, pd.DataFrame], *, robust: bool) -> list[tuple[Any, Any]]:
    """Centre and spread of negative and positive controls.

    A spread is 0 where all values of a control are the same, and the other has a spread or another centre.
    """
    (low, narrow), (high, wide) = (centre_and_spread(controls, robust=robust) for controls in both)
    apart = (high - low).abs() > SAME * (low.abs() + high.abs())
    told = low.notna() & high.notna() & (narrow.notna() | wide.notna() | apart)
    return [(low, narrow.fillna(0).where(told, narrow)), (high, wide.fillna(0).where(told, wide))]


def _welch(both: tuple[pd.DataFrame, pd.DataFrame], spreads: list[tuple[Any, Any]], steps: pd.Series[float]) -> Any:
    """P-values of Welch's test by feature, NaN with fewer than MIN_WELLS wells in a control.

    Where neither control has any spread, both have the one that steps hide (`steps_between`): three wells that have 2
    neighbours a cell, and three that have 3, are no such evidence as 0 cells and 30.

    Args:
        both: values of negative and positive controls.
        spreads: their centre and spread.
        steps: by feature, between values; the distance of the controls where it is less, or no step is known.
    """
    from scipy.stats import ttest_ind_from_stats

    if min(map(len, both)) < MIN_WELLS:
        return np.full(len(steps), np.nan)
    (low, narrow), (high, wide) = spreads
    step = np.fmin(steps, (high - low).abs()).where((narrow == 0) & (wide == 0), 0)
    n, n_high = (controls.count() for controls in both)
    numbers = (low, narrow + step / np.sqrt(12), n, high, wide + step / np.sqrt(12), n_high)
    with np.errstate(all="ignore"):
        return ttest_ind_from_stats(*map(np.asarray, numbers), equal_var=False).pvalue


def verdict(controls: pd.DataFrame) -> dict[str, Any]:
    """Verdict of the controls on the plate: grade, reasons, and the feature that separates each positive control best.

    Each positive control has the grade of its best feature, at the dose at which it is best; the plate has the worst of
    these grades, "unknown" if none can be judged. Where no feature differs surely, the control is poor, but if some Z'
    is at least 0 for all that, there are too few wells to tell. The best of many features is a little better than it
    would be in a repetition.

    Args:
        controls: of `control_table`.

    Returns:
        `grade`, `reasons` (of each positive control, those of all doses for which they are the same in one), `best`
        (features).
    """
    order = [grade for _, grade in GRADES]
    grades, reasons, best = dict[Any, str](), [], []
    for name, of_control in controls.groupby("Positive", sort=False):
        said = dict[str, list[str]]()
        for _, table in of_control.groupby(["PositiveDose", "PositiveDoseUnit"], dropna=False, sort=False):
            grade, reason, feature = _grade(table)
            dose = dose_text(*table[["PositiveDose", "PositiveDoseUnit"]].iloc[0])
            said.setdefault(reason, []).append(dose or "without a dose")
            if grade in order:
                grades[name] = min(grade, grades.get(name, grade), key=order.index)
            best += [feature] * bool(feature)
        several = sum(map(len, said.values())) > 1
        title = f"positive control {name!s}" if name else "positive controls"
        reasons += [f"{title}{' ' * several}{', '.join(doses) * several}: {why}" for why, doses in said.items()]
    worst = max(grades.values(), key=order.index) if grades else "unknown"
    return {"grade": worst, "reasons": reasons, "best": list(dict.fromkeys(best))}


def _grade(table: pd.DataFrame) -> tuple[str, str, str]:
    """Grade of a positive control at a dose, the reason, and its best feature if it has a sure one."""
    judged = table[table["ZPrime"].notna()]
    if judged.empty:
        return "unknown", table["Reason"].iloc[0], ""
    separate = judged[judged["Q"] <= LEVEL]
    top = (judged if separate.empty else separate).sort_values("ZPrime", ascending=False, kind="stable").iloc[0]
    numbers = ", ".join(
        f"{word} {top[column]:.{digits}f}"
        for word, column, digits in (("Z'", "ZPrime", 2), ("robust", "RobustZPrime", 2), ("SSMD", "SSMD", 1))
        if np.isfinite(top[column])
    )
    if separate.empty:
        few = bool(top["ZPrime"] >= 0)
        reason = "too few wells to tell; " * few + "it differs from the negative controls in no feature at a false "
        reason += f"discovery rate of {LEVEL:.0%}; nearest {top['Feature']} ({numbers}, q {top['Q']:.2g})"
        return "unknown" if few else "poor", reason, ""
    grade = next(grade for least, grade in GRADES if top["ZPrime"] >= least)
    good = GRADES[0][0]
    excellent, all_good = (int((features["ZPrime"] >= good).sum()) for features in (separate, judged))
    more = f", {all_good - excellent} more with q above {LEVEL:.0%}" if all_good > excellent else ""
    reason = f"{grade}; {excellent} of {len(judged)} features have Z' of at least {good:g}{more}; "
    return grade, f"{reason}best {top['Feature']} ({numbers})", str(top["Feature"])
