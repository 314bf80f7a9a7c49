"""Dose response: a four-parameter curve through a treatment's wells, its EC50 with an interval, and its flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.effects import DOSE, TREATMENT, UNIT, Effects, groups_of, p_values
from plateflow.stats.reference import has_role, well_values

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]

MIN_DOSES = 5
"""Doses that a curve of four parameters needs to be more than a line through its points."""
FEATURES = 10
"""The most features that are fitted per treatment: of each compartment's families the one with the least p-value."""
HILL = (0.1, 10.0)
SLOPES = (0.5, 1.0, 2.0, 4.0)
"""Hill slopes of the curves that are tried before the fit."""
SLOPE = (0.1, 0.9)
"""Responses between these shares of the way from bottom to top are on the slope of a curve."""
WIDE = 10.0
"""An EC50 whose interval is wider than this factor to either side is not known."""
LEVEL = 0.01
COLUMNS = [TREATMENT, UNIT, "Feature", "Doses", "Wells", "EC50", "EC50Low", "EC50High", "Bottom", "Top"]
COLUMNS += ["Hill", "RSquared", "P", "Flags"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """bottom + (top - bottom) / (1 + (EC50 / dose)^hill), `bottom` being the response without the compound.

    Attributes:
        ec50: in the plate map's unit of dose.
        ec50_interval: 95 %, from the covariance of log EC50 and Student's t. Where no dose lies on the SLOPE, nothing
            tells where between two doses the EC50 is (at the bound of HILL the covariance is too small), and the
            interval reaches to both.
        bottom, top, hill: the other parameters.
        r_squared: fraction of the variance that the curve explains.
        p: of the F test against no response at all.
        flags: what is wrong with it; empty for a usable curve.
    """

    ec50: float = np.nan
    ec50_interval: tuple[float, float] = (np.nan, np.nan)
    bottom: float = np.nan
    top: float = np.nan
    hill: float = np.nan
    r_squared: float = np.nan
    p: float = np.nan
    flags: tuple[str, ...] = ("not fitted",)


def four_parameters(dose: Values, bottom: float, top: float, log_ec50: Any, hill: Any) -> Values:
    """The curve's value at each dose; at dose 0 it is `bottom`."""
    with np.errstate(divide="ignore"):
        return bottom + (top - bottom) / (1 + np.exp(hill * (log_ec50 - np.log(dose))))


def _start(dose: Values, response: Values, positive: Values) -> Values:
    """The best of many curves, from which the fit starts: from a single one it may end beside a better one.

    At a given EC50 and Hill slope, bottom and top are a line through the points.
    """
    log_ec50 = np.linspace(np.log(positive[0]), np.log(positive[-1]), 2 * len(positive))
    tried = np.stack(np.meshgrid(log_ec50, SLOPES), axis=-1).reshape(-1, 2)
    shapes = four_parameters(dose, 0, 1, tried[:, :1], tried[:, 1:])
    centred = shapes - shapes.mean(axis=1, keepdims=True)
    height = centred @ response / (centred**2).sum(axis=1)
    best = int((height * (centred @ response)).argmax())  # by how much a line reduces the sum of squares
    bottom = response.mean() - height[best] * shapes[best].mean()
    return np.array([bottom, bottom + height[best], *tried[best]])


def fit_curve(dose: Values, response: Values) -> Curve:
    """Least squares of the four-parameter logistic (Hill) curve; it rises or falls, the Hill slope is positive.

    Sebaugh, Guidelines for accurate EC50/IC50 estimation, Pharm Stat 10 (2011) 128, whose rule that doses lie on both
    sides of the EC50 is the flag "outside the doses". Flags:

    - "not fitted": no convergence, or fewer than MIN_DOSES doses; everything else is NaN
    - "no response": the F test against a constant has p above LEVEL
    - "outside the doses": the EC50 is below the lowest or above the highest dose
    - "imprecise": the interval of the EC50 is wider than the factor WIDE to one side
    - "another shape": with replicates, the means of the doses are off the curve by more than replicates differ (F test
      for lack of fit, p below LEVEL)

    Args:
        dose: at least 0; zero is the response without the compound.
        response: of the same wells; those without a finite dose and response are left out.
    """
    from scipy.optimize import curve_fit
    from scipy.stats import f as f_distribution
    from scipy.stats import t

    valid = np.isfinite(dose) & np.isfinite(response)
    dose, response = dose[valid], response[valid]
    positive = np.unique(dose[dose > 0])
    scale = float(np.ptp(response)) if len(response) else 0.0
    if len(positive) < MIN_DOSES or scale == 0:
        return Curve()
    # The optimiser's tolerances are absolute, so it is given numbers near 1, whatever the units are.
    offset, unit = float(response.min()), float(np.exp(np.log(positive).mean()))
    dose, positive, response = dose / unit, positive / unit, (response - offset) / scale
    levels, group = np.unique(dose, return_inverse=True)
    means = np.bincount(group, response) / np.bincount(group)
    lower = (means[0] - 3, means[-1] - 3, np.log(positive[0] / 1e3), HILL[0])
    upper = (means[0] + 3, means[-1] + 3, np.log(positive[-1] * 1e3), HILL[1])
    start = _start(dose, response, positive)
    try:
        best, covariance = curve_fit(
            four_parameters, dose, response, p0=np.clip(start, lower, upper), bounds=(lower, upper), max_nfev=400
        )
    except RuntimeError:
        return Curve()
    residual = float(((response - four_parameters(dose, *best)) ** 2).sum())
    total = float(((response - response.mean()) ** 2).sum())
    freedom = len(response) - 4
    p = float(f_distribution.sf((total - residual) / 3 / (residual / freedom), 3, freedom)) if residual > 0 else 0.0
    error = float(np.sqrt(covariance[2, 2])) * float(t.ppf(0.975, freedom))
    ends = [best[2] - error, best[2] + error]
    share = four_parameters(positive, 0, 1, *best[2:])
    if not ((share >= SLOPE[0]) & (share <= SLOPE[1])).any():
        places = np.log(positive)
        ends += [*places[places <= best[2]][-1:], *places[places >= best[2]][:1]]
    log_ec50 = best[2] + np.log(unit)
    low, high = np.exp(np.clip(np.log(unit) + np.array([min(ends), max(ends)]), -700, 700))  # a flat curve can have any
    ec50 = float(np.exp(log_ec50))
    pure = float(((response - means[group]) ** 2).sum())
    pure_freedom, lack_freedom = len(response) - len(levels), len(levels) - 4
    p_fit = 1.0
    if pure_freedom > 0 and lack_freedom > 0 and pure > 0:
        lack = max(residual - pure, 0) / lack_freedom
        p_fit = float(f_distribution.sf(lack / (pure / pure_freedom), lack_freedom, pure_freedom))
    flags = {
        "no response": p > LEVEL,
        "outside the doses": not np.log(positive[0]) <= best[2] <= np.log(positive[-1]),
        "imprecise": not high <= WIDE * ec50,
        "another shape": p_fit < LEVEL,
    }
    return Curve(
        ec50=ec50,
        ec50_interval=(float(low), float(high)),
        bottom=offset + scale * float(best[0]),
        top=offset + scale * float(best[1]),
        hill=float(best[3]),
        r_squared=1 - residual / total,
        p=p,
        flags=tuple(name for name, raised in flags.items() if raised),
    )


def dose_table(wells: pd.DataFrame, columns: list[str], effects: Effects) -> pd.DataFrame:
    """Curves of every treatment with MIN_DOSES doses, in the feature with the least p-value of each family.

    The negative controls of the plate are each treatment's dose 0. Wells with a dose below 0 are in no curve: they
    hold a logarithm, or a placeholder for no dose (LINCS writes -666).

    Returns:
        One row per treatment and feature: the unit of its doses and EC50, Doses and Wells with a value, EC50,
        EC50Low, EC50High, Bottom, Top, Hill, RSquared, P, Flags.
    """
    import pandas as pd

    groups = groups_of(wells)
    values = well_values(wells, columns)
    negatives = values[has_role(wells, "negative")]
    least = pd.DataFrame(p_values(effects), columns=columns).groupby(effects.keys[TREATMENT].to_numpy()).min()
    rows: list[tuple[Any, ...]] = []
    # a well without a dose has no unit, and is in no curve
    for (name, unit), treated in groups[groups[DOSE] >= 0].groupby([TREATMENT, UNIT], sort=True):
        doses = treated[DOSE].to_numpy(np.float64)
        if len(np.unique(doses[doses > 0])) < MIN_DOSES:
            continue
        surest = least.loc[[name]].iloc[0].dropna().sort_values(kind="stable")
        families = ["_".join(str(feature).split("_")[:2]) for feature in surest.index]
        for feature in surest[~pd.Index(families).duplicated()].index[:FEATURES]:
            response = np.concatenate([negatives[feature], values.loc[treated.index, feature]])
            curve = fit_curve(np.concatenate([np.zeros(len(negatives)), doses]), response)
            valued = values.loc[treated.index, feature].notna().to_numpy()
            used = len(np.unique(doses[valued & (doses > 0)])), int(valued.sum())
            parameters = (curve.ec50, *curve.ec50_interval, curve.bottom, curve.top, curve.hill)
            flags = ", ".join(curve.flags)
            rows.append((name, unit, feature, *used, *parameters, curve.r_squared, curve.p, flags))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return table
