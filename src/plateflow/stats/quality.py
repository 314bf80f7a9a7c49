"""Flags of fields and wells. A flag marks what to look at; `stats.exclude_flags` says which leave a field out of the
well tables.

`focus`, `saturated` and `empty` belong to a field, `intensity` to a well; a well bears the flags of its fields, and
`fields` where some of them were left out. Everything is compared with the plate itself, by medians and MADs, so that
no threshold depends on a camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Quality

if TYPE_CHECKING:
    import pandas as pd

FLAGS = {
    "focus": "the field is less sharp than the plate's others",
    "saturated": "many pixels are at the top of the camera's range",
    "empty": "no object was found, or the image has one value throughout",
    "intensity": "the well's background or brightness is far from the plate's",
    "fields": "some fields were left out",
}
"""Every flag with its meaning, in the order in which they are shown."""

MIN_COMPARED = 4
"""With fewer values there is nothing to compare one with."""
LEAST_SPREAD = 0.05
"""The spread of logarithms that is taken at least: on the evenest plate 5 % isn't far off."""

SIGNAL = 0.2
"""A field without objects is judged for focus if its contrast is this part of the plate's: with less, haze and dust
are all there is to be sharp; with more, there are cells that weren't found."""


def deviations(values: NDArray[Any], reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How many MADs (times 1.4826, a standard deviation of normal values) each value is off the reference's median.

    Args:
        values: logarithms.
        reference: which of them make the median and the MAD; those that aren't finite never do.

    Returns:
        NaN for values that aren't finite, and everywhere where fewer than MIN_COMPARED make the reference.
    """
    finite = np.isfinite(values)
    compared = values[reference & finite]
    if len(compared) < MIN_COMPARED:
        return np.full(len(values), np.nan)
    median = np.median(compared)
    spread = max(1.4826 * float(np.median(np.abs(compared - median))), LEAST_SPREAD)
    return np.where(finite, (values - median) / spread, np.nan)


def field_flags(table: pd.DataFrame, quality: Quality, focus_channels: Sequence[str]) -> pd.DataFrame:
    """Deviations and flags of every field and channel.

    Args:
        table: one row a field and channel, with Metadata_Channel, State, Sharpness (a logarithm, NaN where nothing
            could be sharp), Background and Brightness (percentiles), SaturatedFraction, Constant (bool) and Objects
            (of the rows' label set, in the field).
        quality: thresholds.
        focus_channels: the channels that objects are cut out in; sharpness elsewhere isn't judged.

    Returns:
        the table with SharpnessDeviation and Flags (comma-separated). Sharpness is compared within a channel, with
        the fields that hold objects.
    """
    table = table.copy()
    used = (table["State"] == "ok").to_numpy()
    deviation = np.full(len(table), np.nan)
    for channel in focus_channels:
        here = (table["Metadata_Channel"] == channel).to_numpy()
        with_objects = (used & (table["Objects"] > 0).to_numpy())[here]
        if not with_objects.any():
            continue
        contrast = (table["Brightness"] - table["Background"]).to_numpy()[here]
        judged = with_objects | (contrast >= SIGNAL * np.median(contrast[with_objects]))
        off = deviations(table["Sharpness"].to_numpy()[here], with_objects)
        deviation[here] = np.where(judged, off, np.nan)
    table["SharpnessDeviation"] = np.where(used, deviation, np.nan)
    raised = {
        "focus": table["SharpnessDeviation"] < -quality.focus_mad,
        "saturated": used & (table["SaturatedFraction"] >= quality.saturated_fraction),
        "empty": used & ((table["Objects"] == 0) | table["Constant"]),
    }
    table["Flags"] = join_flags(raised, len(table))
    return table


def wells_off(table: pd.DataFrame, quality: Quality) -> set[str]:
    """The wells whose background or brightness is off the plate's in some channel.

    Args:
        table: one row a well and channel, with Metadata_Well, Metadata_Channel, Background and Brightness (the low
            and the high percentile of the raw pixels of the fields in use).
        quality: thresholds.
    """
    found: set[str] = set()
    for _, rows in table.groupby("Metadata_Channel", sort=False):
        for column in ("Background", "Brightness"):
            # A plane may be all 0: 1 is added, which is nothing to a camera's values.
            logs = np.log1p(rows[column].to_numpy(np.float64))
            off = np.abs(deviations(logs, np.ones(len(rows), bool))) > quality.intensity_mad
            found.update(rows["Metadata_Well"][off])
    return found


def join_flags(raised: dict[str, Any], n: int) -> list[str]:
    """For each of n rows the names of the flags that are raised there, comma-separated, in the order of FLAGS."""
    columns = {name: np.asarray(raised[name], bool) for name in FLAGS if name in raised}
    return [",".join(name for name, column in columns.items() if column[row]) for row in range(n)]


def drift(frozen: Sequence[float], now: Sequence[float]) -> float:
    """How far the plate has moved from its frozen window: the larger change of an end, over the window's width."""
    return max(abs(now[0] - frozen[0]), abs(now[1] - frozen[1])) / (frozen[1] - frozen[0])
