"""The section on image quality: sharpness, saturation, background and brightness over the plate, and the flags."""

from __future__ import annotations

from typing import Any

import numpy as np

from plateflow.report import small
from plateflow.report.view import View
from plateflow.stats.flags import FLAGS
from plateflow.stats.segmentation import numbers_of
from plateflow.tables import records

MEASURES = {
    "Sharpness": ("sharpness (median field)", "median"),
    "SaturatedFraction": ("saturated pixels (worst field)", "max"),
    "Background": ("background (median field)", "median"),
    "Brightness": ("brightness (median field)", "median"),
}
"""By column of qc.parquet what a map shows of a well's fields, and how they are put together."""
LISTED = 1000
"""The most flagged fields that are listed."""
NUMBERS = {
    "Sharpness": "Sharpness",
    "SharpnessDeviation": "Deviation of sharpness (MADs)",
    "SaturatedFraction": "Saturated fraction",
    "Background": "Background",
    "Brightness": "Brightness",
}
"""Of a flagged field, by column of qc.parquet."""


def quality(view: View) -> dict[str, Any]:
    """Maps of what the histograms tell of each channel, its range over the plate, flags, and the flagged fields."""
    qc = view.qc
    ok, ranges, maps = qc[qc["State"] == "ok"], list[dict[str, Any]](), dict[str, Any]()
    for channel in view.plate.channels:
        own = ok[ok["Metadata_Channel"] == channel]
        wells = own.groupby("Metadata_Well")
        row: dict[str, Any] = {"channel": channel, "fields": len(own), "flagged": int((own["Flags"] != "").sum())}
        for column, (title, how) in MEASURES.items():
            maps[f"{channel}: {title}"] = wells[column].agg(how).to_dict()
            values = own[column].dropna()
            row[column] = [float(end) for end in np.quantile(values, (0, 0.5, 1))] if len(values) else None
        ranges.append(row)
    rows, columns = view.plate.metadata["format"]
    flagged = qc[qc["Flags"] != ""]
    return flags(view) | {
        "map": small.well_map(maps, (rows, columns)),
        "ranges": ranges,
        "fields": records(flagged.head(LISTED)),
        "numbers": {name: title for name, title in NUMBERS.items() if name in qc},
        "more": max(len(flagged) - LISTED, 0),
        "meanings": FLAGS,
    }


def flags(view: View) -> dict[str, Any]:
    """Flags, each with the wells and fields that have it."""
    fields: dict[tuple[str, str], list[str]] = {}
    for row in records(view.qc[view.qc["Flags"] != ""]):
        for flag in row["Flags"].split(","):
            fields.setdefault((row["Metadata_Well"], flag), []).append(row["Metadata_Site"])
    flagged: dict[str, list[str]] = {}
    wells = view.by_well.filter(like="Metadata_")
    for row in records(wells[wells["Metadata_Flags"].fillna("") != ""]):
        well = row["Metadata_Well"]
        for flag in row["Metadata_Flags"].split(","):
            names = row["Metadata_FieldsLeftOut"].split(",") if flag == "fields" else fields.get((well, flag), [])
            more = f"field {', '.join(dict.fromkeys(names))}" if names else ""
            more = more or ", ".join(numbers_of(flag, row, view.judged))
            flagged.setdefault(flag, []).append(well + (f" ({more})" if more else ""))
    return {
        "flags": [(flag, meaning, flagged[flag]) for flag, meaning in FLAGS.items() if flag in flagged],
        "excluding": view.plate.config.stats.exclude_flags,
    }
