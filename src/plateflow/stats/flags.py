"""Flags of fields and wells, and which fields the statistics of a well use.

`focus`, `saturated`, `clipped` and `empty` belong to a field, `intensity`, `positions` and those of `segmentation` to a
well; a well bears the flags of its fields, and `fields` where some of them were left out. A flag marks what to look at;
the fields that have one of `stats.exclude_flags` are excluded from the well tables. Everything here is compared with
the plate itself, by medians and MADs, so no threshold depends on a camera.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Quality
from plateflow.stats import segmentation
from plateflow.stats.reference import MAD_TO_SD

if TYPE_CHECKING:
    import pandas as pd

FLAGS = {
    "focus": "the field is less sharp than the plate's others",
    "saturated": "many pixels are at the top of the range that the camera uses",
    "clipped": "of many objects, pixels are at the top of that range in a channel: their intensities there are too low",
    "empty": "no object was found, or the image has one value throughout",
    "intensity": "the well's background or brightness is far from the plate's",
    "positions": "the fields' positions can't be trusted: where fields overlap, cells are counted in each",
    "fields": "some fields were left out",
    **segmentation.FLAGS,
}
"""Every flag with its meaning, in the order in which they are shown."""

CLIPPED_SHARE = 0.05
"""Of a field's objects, from which share on with saturated pixels it is flagged: a few mitotic ones may be."""
MIN_COMPARED = 4
"""Values that a comparison needs."""
LEAST_SPREAD = 0.05
"""The least spread of logarithms that is assumed: on the most even plate, a deviation of 5 % is not an outlier."""
SIGNAL = 0.2
"""A field without objects is judged for focus if its contrast is at least this fraction of the plate's: with less,
only haze and dust could be sharp; with more, it has cells that were not found."""


@dataclass(frozen=True, kw_only=True)
class WellFields:
    """The fields of a well by what the statistics make of them.

    Attributes:
        used: names of those that they use.
        left_out: those that are quarantined or missing.
        excluded: those that have a flag of `stats.exclude_flags`.
        flags: of the well, in the order of FLAGS; none where all its fields are left out.
    """

    used: list[str]
    left_out: list[str]
    excluded: list[str]
    flags: list[str]

    def metadata(self) -> dict[str, Any]:
        """What the well table says of them."""
        return {
            "Metadata_Flags": ",".join(self.flags),
            "Metadata_FieldsUsed": len(self.used),
            "Metadata_FieldsLeftOut": ",".join(self.left_out),
            "Metadata_FieldsExcluded": ",".join(self.excluded),
        }


def deviations(values: NDArray[Any], reference: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How many MADs (times 1.4826: standard deviations of normal values) each value is off the reference's median.

    Args:
        values: logarithms.
        reference: which of them the median and the MAD are taken of; values that are not finite never count.

    Returns:
        The deviations; NaN for values that are not finite, and everywhere if the reference has fewer than
        MIN_COMPARED values.
    """
    finite = np.isfinite(values)
    compared = values[reference & finite]
    if len(compared) < MIN_COMPARED:
        return np.full(len(values), np.nan)
    median = np.median(compared)
    spread = max(MAD_TO_SD * float(np.median(np.abs(compared - median))), LEAST_SPREAD)
    return np.where(finite, (values - median) / spread, np.nan)


def field_flags(table: pd.DataFrame, quality: Quality, focus_channels: Sequence[str]) -> pd.DataFrame:
    """Deviations and flags of every field and channel.

    Args:
        table: one row per field and channel, with Metadata_Channel, State, Sharpness (a logarithm, NaN where nothing
            could be sharp), Background and Brightness (percentiles), SaturatedFraction, Constant (bool), Objects
            (of the rows' label set, in the field) and Clipped (those with saturated pixels in any channel): both are
            those of the field, in each of its rows.
        quality: thresholds.
        focus_channels: the channels in which objects are segmented; sharpness is not judged in others.

    Returns:
        The table with SharpnessDeviation and Flags (comma-separated). Sharpness is compared within a channel, with
        the fields that hold objects.
    """
    table = table.copy()
    used = (table["State"] == "ok").to_numpy()
    deviation = np.full(len(table), np.nan)
    for channel in focus_channels:
        in_channel = (table["Metadata_Channel"] == channel).to_numpy()
        with_objects = (used & (table["Objects"] > 0).to_numpy())[in_channel]
        if not with_objects.any():
            continue
        contrast = (table["Brightness"] - table["Background"]).to_numpy()[in_channel]
        judged = with_objects | (contrast >= SIGNAL * np.median(contrast[with_objects]))
        off = deviations(table["Sharpness"].to_numpy()[in_channel], with_objects)
        deviation[in_channel] = np.where(judged, off, np.nan)
    table["SharpnessDeviation"] = np.where(used, deviation, np.nan)
    raised = {
        "focus": table["SharpnessDeviation"] < -quality.focus_mad,
        "saturated": used & (table["SaturatedFraction"] >= quality.saturated_fraction),
        "clipped": used & (table["Clipped"] > 0) & (table["Clipped"] >= CLIPPED_SHARE * table["Objects"]),
        "empty": used & ((table["Objects"] == 0) | table["Constant"]),
    }
    columns = {name: np.asarray(raised[name], bool) for name in FLAGS if name in raised}
    table["Flags"] = [",".join(name for name in columns if columns[name][row]) for row in range(len(table))]
    return table


def wells_off(table: pd.DataFrame, quality: Quality) -> set[str]:
    """The wells whose background or brightness is far from the plate's in some channel.

    Args:
        table: one row per well and channel, with Metadata_Well, Metadata_Channel, Background and Brightness (the low
            and the high percentile of the raw pixels of the fields in use).
        quality: thresholds.
    """
    wells: set[str] = set()
    for _, rows in table.groupby("Metadata_Channel", sort=False):
        for column in ("Background", "Brightness"):
            # A plane may be all 0: 1 is added, which is nothing to a camera's values.
            logs = np.log1p(rows[column].to_numpy(np.float64))
            off = np.abs(deviations(logs, np.ones(len(rows), bool))) > quality.intensity_mad
            wells.update(rows["Metadata_Well"][off])
    return wells


def fields_in_use(
    fields: Mapping[str, Sequence[str]],
    left_out: Mapping[str, Collection[str]],
    qc: pd.DataFrame,
    off: Collection[str],
    exclude: Collection[str],
    others: Mapping[str, Collection[str]] | None = None,
) -> dict[str, WellFields]:
    """Which fields of each well the statistics use, which they do not, and the flags of the well.

    Args:
        fields: by well, the names of its fields.
        left_out: by well, the names of those that are quarantined or missing.
        qc: the quality table, of `field_flags`.
        off: the wells whose intensity is flagged, of `wells_off`: all their fields have this flag.
        exclude: the flags that exclude a field, `stats.exclude_flags`.
        others: by well, flags of it that exclude no field.
    """
    raised: dict[tuple[str, str], set[str]] = {}
    flagged = qc[qc["Flags"] != ""]
    for *place, flags in zip(flagged["Metadata_Well"], flagged["Metadata_Site"], flagged["Flags"], strict=True):
        raised.setdefault((place[0], place[1]), set()).update(flags.split(","))
    wells = {}
    for well, out in left_out.items():
        intensity = {"intensity"} if well in off else set()
        by_field = {name: raised.get((well, name), set()) | intensity for name in fields[well] if name not in out}
        of_well = set().union(*by_field.values()) | ({"fields"} if out and by_field else set())
        of_well |= set((others or {}).get(well, ())) if by_field else set()
        wells[well] = WellFields(
            used=[name for name, flags in by_field.items() if not flags & set(exclude)],
            left_out=list(out),
            excluded=[name for name, flags in by_field.items() if flags & set(exclude)],
            flags=[flag for flag in FLAGS if flag in of_well],
        )
    return wells


def drift(frozen: Sequence[float], now: Sequence[float]) -> float:
    """How far the plate has moved from its frozen intensity window: the larger change of a limit, over its width."""
    return max(abs(now[0] - frozen[0]), abs(now[1] - frozen[1])) / (frozen[1] - frozen[0])
