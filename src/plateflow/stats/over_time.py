"""What of a time series is compared: a time point, or a summary of all time points of each well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Stats
from plateflow.errors import ConfigError
from plateflow.stats.reference import COUNT_STEP, FRAME, JUDGED, OVER_TIME, in_use, shares_in
from plateflow.stats.wells import SPREADS

if TYPE_CHECKING:
    import pandas as pd

TIME, PLANE = FRAME
REASON = "Metadata_Reason"


def check_time(stats: Stats, times: int, plate: str) -> None:
    """Check that a plate has what `stats.time` says.

    Args:
        stats: the settings.
        times: number of time points of the plate.
        plate: its id, for the message.

    Raises:
        ConfigError: it lacks the time point, or has one alone, over which nothing can be summarised.
    """
    if isinstance(stats.time, int) and stats.time >= times:
        numbers = f"0 to {times - 1}" if times > 1 else "0"
        why = f"the plate's time points are numbered {numbers}"
        remedy = "choose one of these, or last"
    elif stats.time in ("auc", "slope") and times < 2:
        why, remedy = "the plate has one time point", "set it to each, or give such plates a project of their own"
    else:
        return
    raise ConfigError(f"stats.time is {stats.time}", where=plate, why=why, remedy=remedy)


def compared(wells: pd.DataFrame, time: str | int) -> pd.DataFrame:
    """The rows of the well table that are compared, according to `stats.time`.

    - `each`: all of them; every time point is taken by itself.
    - a number: those of this time point.
    - `last`: those of the plate's last time point.
    - `auc`: one row per well (and plane): the area under its values over the time points, by the trapezoidal rule.
    - `slope`: likewise, the slope of the least-squares line through its values over the time points.

    Time counts in time points: instruments say when planes were taken in few layouts, and the manifest doesn't keep
    it. So both are in units of the feature, times or per time point. Counts are summed up as they are: fields in use
    are the same at all time points. A value that is missing at one time point makes that of the summary NaN, and a
    well that lacks a time point, or isn't in use, is in no statistic (Metadata_FieldsUsed is 0), and says why.

    Returns:
        a table like the well table; of `last`, `auc` and `slope` with OVER_TIME in place of the time point. Of `auc`
        and `slope` it lacks spreads over objects, and COUNT_STEP says what one object more at one time point is worth
        at least.
    """
    import pandas as pd

    if time == "each":
        return wells
    times = np.sort(wells[TIME].unique())
    if isinstance(time, int):
        return wells[wells[TIME] == time].reset_index(drop=True)
    if time == "last":
        return _renamed(wells[wells[TIME] == times[-1]].reset_index(drop=True), time)
    weights = _weights(times, time)
    keys = ["Metadata_Well", *([PLANE] if PLANE in wells else [])]
    numbers = [str(name) for name in wells if not str(name).startswith("Metadata_")]
    spreads = {f"{name}_{spread}" for name in numbers for spread in SPREADS}
    features = [name for name in numbers if name not in spreads]
    places = wells.groupby(keys, sort=False).ngroup().to_numpy()
    first = np.unique(places, return_index=True)[1]
    values = np.full((len(times), len(first), len(features)), np.nan)
    has = np.zeros((len(times), len(first)), bool)
    at = np.searchsorted(times, wells[TIME]), places
    values[at], has[at] = wells[features].to_numpy(np.float64), in_use(wells)
    table = wells.iloc[first].drop(columns=numbers).reset_index(drop=True)
    table = table.join(pd.DataFrame(np.einsum("t,twf->wf", weights, values), columns=features))
    for name in shares_in(wells):
        table[f"{name}{JUDGED}"] = wells.groupby(places)[f"{name}{JUDGED}"].min().to_numpy()
    complete = has.all(axis=0)
    table["Metadata_FieldsUsed"] = np.where(complete, table["Metadata_FieldsUsed"], 0)
    some = has.any(axis=0) & ~complete
    lacking = [", ".join(str(number) for number in times[~each]) for each in has.T]
    said = [f"no {time} over time: not in use at time point {numbers}" for numbers in lacking]
    table[REASON] = np.where(some, said, table.get(REASON, ""))
    table[COUNT_STEP] = np.abs(weights[weights != 0]).min()
    return _renamed(table, time)


def _weights(times: NDArray[np.int64], time: str) -> NDArray[np.float64]:
    """By time point, what a value there adds to the summary: both are linear."""
    if time == "auc":
        gaps = np.diff(times)
        return (np.r_[gaps, 0] + np.r_[0, gaps]) / 2
    centred = times - times.mean()
    return centred / (centred**2).sum()


def _renamed(table: pd.DataFrame, time: str) -> pd.DataFrame:
    """The table with OVER_TIME in place of the time point."""
    return table.rename(columns={TIME: OVER_TIME}).assign(**{OVER_TIME: time})
