"""Dose response: a four-parameter curve through a treatment's wells, its EC50 with interval, and its faults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.hits import DOSE, TREATMENT, Effects, groups_of, p_values
from plateflow.stats.normalise import has_role, well_values

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]

MIN_DOSES = 5
"""Doses that a curve of four parameters needs to be more than a line through its points."""
FEATURES = 10
"""Features a treatment that are fitted, at most: of each compartment's families the one in which a dose is surest."""
HILL = (0.1, 10.0)
WIDE = 10.0
"""An EC50 whose interval is wider than this factor to either side isn't known."""
LEVEL = 0.01


@dataclass(frozen=True, kw_only=True)
class Curve:
    """bottom + (top - bottom) / (1 + (EC50 / dose)^hill), `bottom` being the response without the compound.

    Attributes:
        ec50: in the plate map's unit of dose.
        ec50_interval: 95 %, from the covariance of log EC50 and Student's t.
        bottom, top, hill: the other parameters.
        r_squared: part of the variance that the curve explains.
        p: of the F test against no response at all.
        flags: what is wrong; empty where the curve can be used.
    """

    ec50: float
    ec50_interval: tuple[float, float]
    bottom: float
    top: float
    hill: float
    r_squared: float
    p: float
    flags: tuple[str, ...]


def four_parameters(dose: Values, bottom: float, top: float, log_ec50: float, hill: float) -> Values:
    """The curve's value at each dose; at dose 0 it is `bottom`."""
    with np.errstate(divide="ignore"):
        return bottom + (top - bottom) / (1 + np.exp(hill * (log_ec50 - np.log(dose))))


def fit_curve(dose: Values, response: Values) -> Curve:
    """Least squares of the four-parameter logistic (Hill) curve; it rises or falls, the Hill slope is positive.

    Sebaugh, Guidelines for accurate EC50/IC50 estimation, Pharm Stat 10 (2011) 128, whose rule that doses lie on both
    sides of the EC50 is the flag "outside the doses". Flags:

    - "not fitted": no convergence, or fewer than MIN_DOSES doses; everything else is NaN
    - "no response": the F test against a constant has p above LEVEL
    - "outside the doses": the EC50 is below the lowest or above the highest dose
    - "imprecise": the interval of the EC50 is wider than the factor WIDE to a side
    - "another shape": with replicates, the doses' means are off the curve by more than replicates differ (F test of
      lack of fit, p below LEVEL)

    Args:
        dose: at least 0; zero is the response without the compound.
        response: of the same wells.
    """
    from scipy.optimize import curve_fit
    from scipy.stats import f as f_distribution
    from scipy.stats import t

    known = ~(np.isnan(dose) | np.isnan(response))
    dose, response = dose[known], response[known]
    positive = np.unique(dose[dose > 0])
    nothing = float("nan")
    unfitted = Curve(
        ec50=nothing,
        ec50_interval=(nothing, nothing),
        bottom=nothing,
        top=nothing,
        hill=nothing,
        r_squared=nothing,
        p=nothing,
        flags=("not fitted",),
    )
    scale = float(np.ptp(response)) if len(response) else 0.0
    if len(positive) < MIN_DOSES or scale == 0:
        return unfitted
    levels, group = np.unique(dose, return_inverse=True)
    means = np.bincount(group, response) / np.bincount(group)
    first, last = means[0], means[-1]
    half = positive[np.abs(means[levels > 0] - (first + last) / 2).argmin()]
    bounds = (first - 3 * scale, last - 3 * scale, np.log(positive[0] / 1e3), HILL[0])
    upper = (first + 3 * scale, last + 3 * scale, np.log(positive[-1] * 1e3), HILL[1])
    try:
        best, covariance = curve_fit(
            four_parameters, dose, response, p0=(first, last, np.log(half), 1.0), bounds=(bounds, upper), max_nfev=400
        )
    except RuntimeError:
        return unfitted
    left = float(((response - four_parameters(dose, *best)) ** 2).sum())
    whole = float(((response - response.mean()) ** 2).sum())
    free = len(response) - 4
    p = float(f_distribution.sf((whole - left) / 3 / (left / free), 3, free)) if left > 0 else 0.0
    error = float(np.sqrt(covariance[2, 2])) * float(t.ppf(0.975, free))
    low, high = np.exp(np.clip([best[2] - error, best[2] + error], -700, 700))  # a flat curve's is anything
    ec50 = float(np.exp(best[2]))
    pure = float(((response - means[group]) ** 2).sum())
    spare, lacking = len(response) - len(levels), len(levels) - 4
    lack = 1.0
    if spare > 0 and lacking > 0 and pure > 0:
        lack = float(f_distribution.sf(max(left - pure, 0) / lacking / (pure / spare), lacking, spare))
    flags = {
        "no response": p > LEVEL,
        "outside the doses": not positive[0] <= ec50 <= positive[-1],
        "imprecise": not high <= WIDE * ec50,
        "another shape": lack < LEVEL,
    }
    return Curve(
        ec50=ec50,
        ec50_interval=(float(low), float(high)),
        bottom=float(best[0]),
        top=float(best[1]),
        hill=float(best[3]),
        r_squared=1 - left / whole,
        p=p,
        flags=tuple(name for name, raised in flags.items() if raised),
    )


def dose_table(wells: pd.DataFrame, columns: list[str], effects: Effects) -> pd.DataFrame:
    """Curves of every treatment that has MIN_DOSES doses, in the features in which it is surest, one a family.

    The negative controls of the plate are each treatment's dose 0. Wells whose dose is below 0 are in no curve: it is
    a logarithm, or stands for none (LINCS writes -666).

    Returns:
        one row a treatment and feature: Doses, Wells, EC50, EC50Low, EC50High, Bottom, Top, Hill, RSquared, P, Flags.
    """
    import pandas as pd

    groups = groups_of(wells)
    values = well_values(wells, columns)
    negatives = values[has_role(wells, "negative")]
    least = pd.DataFrame(p_values(effects), columns=columns).groupby(effects.keys[TREATMENT].to_numpy()).min()
    rows: list[dict[str, Any]] = []
    for name, treated in groups[~(groups[DOSE] < 0)].groupby(TREATMENT, sort=True):
        doses = treated[DOSE].to_numpy(np.float64)
        n_doses = len(np.unique(doses[doses > 0]))
        if n_doses < MIN_DOSES:
            continue
        surest = least.loc[[name]].iloc[0].dropna().sort_values(kind="stable")
        families = ["_".join(str(feature).split("_")[:2]) for feature in surest.index]
        for feature in surest[~pd.Index(families).duplicated()].index[:FEATURES]:
            response = np.concatenate([negatives[feature], values.loc[treated.index, feature]])
            curve = fit_curve(np.concatenate([np.zeros(len(negatives)), doses]), response)
            rows.append(
                {
                    TREATMENT: name,
                    "Feature": feature,
                    "Doses": n_doses,
                    "Wells": int(values.loc[treated.index, feature].count()),
                    "EC50": curve.ec50,
                    "EC50Low": curve.ec50_interval[0],
                    "EC50High": curve.ec50_interval[1],
                    "Bottom": curve.bottom,
                    "Top": curve.top,
                    "Hill": curve.hill,
                    "RSquared": curve.r_squared,
                    "P": curve.p,
                    "Flags": ", ".join(curve.flags),
                }
            )
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return table


COLUMNS = [TREATMENT, "Feature", "Doses", "Wells", "EC50", "EC50Low", "EC50High", "Bottom", "Top"]
COLUMNS += ["Hill", "RSquared", "P", "Flags"]
