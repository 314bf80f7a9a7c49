"""From histograms to the quality table: one row per field and channel."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.images.histograms import PlateCounts, add_fields, intensity_limits, read_histograms
from plateflow.paths import PlatePaths

if TYPE_CHECKING:
    import pandas as pd

PLACE = ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Channel")
NUMBERS = ("Objects", "Clipped", "Background", "Brightness", "Sharpness", "SaturatedFraction")


@dataclass(frozen=True, kw_only=True)
class PlateQuality:
    """Image quality of a plate, from the histograms of the fields that are not left out.

    Attributes:
        fields: one row per field and channel of every well.
        wells: one row per well and channel: Background and Brightness.
        now: by channel, the limits (low, high) that the intensity window would have now.
        used: by channel, the least and the greatest raw value, and the values from which on fields are saturated.
    """

    fields: pd.DataFrame
    wells: pd.DataFrame
    now: dict[str, dict[str, float]]
    used: dict[str, tuple[int, int, list[int]]]


def read_quality(
    paths: PlatePaths,
    fields: Mapping[str, Sequence[str]],
    left_out: Mapping[str, Mapping[str, tuple[str, str]]],
    objects: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]],
    channels: Sequence[str],
    percentiles: tuple[float, float],
    saturated_fraction: float,
) -> PlateQuality:
    """Read the histograms of a plate, one well at a time.

    Args:
        paths: of the plate.
        fields: by well, the names of its fields.
        left_out: by well and field, state and reason of those that are quarantined or missing.
        objects: by well, the number of objects of the rows' label set by field, and of those with saturated pixels.
        channels: names, in order.
        percentiles: of the intensity window.
        saturated_fraction: from which on a field doesn't count in the window.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    wells: list[tuple[str, str, float, float]] = []
    plate: dict[str, PlateCounts] = {}
    used_values: dict[str, tuple[int, int, list[int]]] = {}
    for well, names in fields.items():
        out = left_out.get(well, {})
        used = [name for name in names if name not in out]
        of_field, clipped = objects.get(well, ({}, {}))
        histograms = read_histograms(paths, well) if used else {}
        own = [channel for channel in channels if not used or any((name, channel) in histograms for name in used)]
        for name, channel in itertools.product(names, own):
            row = dict(zip(PLACE, (paths.plate, well, name, channel), strict=True))
            if name in out:
                rows.append(row | dict(zip(("State", "Reason"), out[name], strict=True)))
                continue
            if (name, channel) not in histograms:
                rows.append(row | {"State": "quarantined", "Reason": "no_channel"})
                continue
            histogram = histograms[name, channel]
            low, high = intensity_limits(histogram.counts, percentiles).values()
            rows.append(
                row
                | {"State": "ok", "Reason": "", "Objects": of_field.get(name, 0), "Clipped": clipped.get(name, 0)}
                | {"Background": low, "Brightness": high, "Constant": int((histogram.counts > 0).sum()) == 1}
                | {"Sharpness": histogram.sharpness, "SaturatedFraction": histogram.saturated}
            )
        for channel in own if used else ():
            seen = [histograms[name, channel] for name in used if (name, channel) in histograms]
            total = np.sum([each.counts for each in seen], axis=0)
            low, high = intensity_limits(total, percentiles).values()
            wells.append((well, channel, low, high))
            values = np.flatnonzero(total)
            least, greatest, tops = used_values.get(channel, (values[0], values[-1], []))
            tops += [each.top for each in seen if each.counts[each.top :].any()]
            used_values[channel] = int(min(least, values[0])), int(max(greatest, values[-1])), sorted(set(tops))
        add_fields(plate, {key: each for key, each in histograms.items() if key[0] in used}, saturated_fraction)
    table = pd.DataFrame(rows).reindex(columns=[*PLACE, "State", "Reason", *NUMBERS, "Constant"])
    table = table.astype(dict.fromkeys(NUMBERS, np.float64))
    table["Constant"] = table["Constant"].eq(True)
    columns = ["Metadata_Well", "Metadata_Channel", "Background", "Brightness"]
    return PlateQuality(
        fields=table,
        wells=pd.DataFrame(wells, columns=columns),
        now={channel: intensity_limits(held.counts, percentiles) for channel, held in plate.items()},
        used=used_values,
    )
