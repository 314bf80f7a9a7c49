"""What the page over all plates shows from plate to plate: controls, intensity windows, losses, replicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from csv import reader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.features.words import in_words
from plateflow.images.window import DRIFTED
from plateflow.report.charts import ROLE_COLOURS, ROLES, plain, vega
from plateflow.stats.controls import GRADES
from plateflow.stats.reference import FRAME, OVER_TIME, by_frame, frame_title, has_role, well_values
from plateflow.stats.statistics import has_statistics, summaries_of
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

    from plateflow.state.journal import Entry

FOLLOWED = 3
"""Features that are followed over the plates, the count of the rows first."""
CONTROLS = ("negative", "positive")
MANY = 400
"""Points from which on they are drawn smaller."""
COLOURS = ["#3b82d6", "#d9650b", "#a678c0", "#2f9e77", "#b8860b", "#7d8894"]
"""Seen on a light and on a dark page, and told apart by the colour-blind."""
Row = dict[str, Any]
"""A point of a chart: `plate`, `frame` (columns of frame and group; empty: of the whole plate), `series`, `value`."""


def followed(count: str, entries: Sequence[Entry]) -> list[str]:
    """The features that are followed: the count of the rows, and those that separate controls best on most plates."""
    best = Counter(name for entry in entries for each in summaries_of(entry.info) for name in each["controls"]["best"])
    return list(dict.fromkeys([count, *(name for name, _ in best.most_common())]))[:FOLLOWED]


def control_medians(wells: pd.DataFrame, features: Sequence[str], groups: Sequence[str]) -> dict[str, list[Row]]:
    """By feature, the medians of a plate's negative and positive controls, counts per field in use, by frame and group.

    Args:
        wells: rows of the well table with these features, its metadata on use, role and frame.
        features: those of its columns that are followed.
        groups: the columns by which wells form groups.
    """
    found = dict[str, list[Row]]()
    for frame, rows in by_frame(wells, groups):
        if not has_statistics(rows, groups):
            continue
        values = well_values(rows, features)
        for role in CONTROLS:
            for name, value in values[has_role(rows, role)].median().items():
                found.setdefault(str(name), []).append({"frame": frame, "series": role, "value": value})
    return found


def z_primes(path: Path, features: Sequence[str], groups: Sequence[str]) -> list[Row]:
    """Z' of the followed features on a plate, by frame and group: of the control or dose that is separated best."""
    from pyarrow import csv

    text = ("Feature", OVER_TIME, *groups)
    columns = ("ZPrime", *FRAME, *text)
    with path.open(newline="", encoding="utf-8") as file:
        has = next(reader(file))
    options = csv.ConvertOptions(
        include_columns=[name for name in columns if name in has], column_types=dict.fromkeys(text, "string")
    )
    table = csv.read_csv(path, convert_options=options).to_pandas()
    found = []
    for frame, rows in by_frame(table[table["Feature"].isin(features)], groups):
        best = rows.groupby("Feature")["ZPrime"].max()
        found += [{"frame": frame, "series": name, "value": best[name]} for name in features if name in best]
    return found


def replicate_trend(table: pd.DataFrame, groups: Sequence[str]) -> dict[str, list[Row]]:
    """By plate and frame, the medians of its pairs' correlations: of replicates, and the limit of other treatments."""
    found = dict[str, list[Row]]()
    for frame, rows in by_frame(table, groups):
        for row in records(rows):
            for plate in (row["Metadata_Plate"], row["OtherPlate"]):
                for series, name in (("replicates", "Correlation"), ("95 % of other treatments", "NullHigh")):
                    found.setdefault(plate, []).append({"frame": frame, "series": series, "value": row[name]})
    return {plate: list(_medians(rows)) for plate, rows in found.items()}


def _medians(rows: Sequence[Row]) -> Iterator[Row]:
    groups: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        values = groups.setdefault((tuple(row["frame"].items()), row["series"]), [])
        values += [] if row["value"] is None else [row["value"]]
    for (frame, series), values in groups.items():
        yield {"frame": dict(frame), "series": series, "value": float(np.median(values)) if values else None}


def charts(
    plates: Sequence[Mapping[str, Any]], features: Sequence[str], channels: Sequence[str]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Title, remark and specification of each chart that at least two plates have values for.

    Args:
        plates: in the order of the sheet, each with `plate`, `number` and `trends`: rows by the chart's name, which is
            a feature of the controls or one of those below.
        features: that are followed.
        channels: of the plates.
    """
    words = {name: in_words(name, channels) for name in features}
    wanted: list[tuple[str, str, str, dict[str, Any]]] = [
        (name, f"Controls: {words[name]}", "medians of the wells", {"domain": list(CONTROLS)}) for name in features
    ]
    grades = [least for least, _ in GRADES if np.isfinite(least)]
    limits = {"rules": grades, "floor": -1.0, "names": words}
    wanted.append(("Z'", "Z' of the controls", f"good from {max(grades):g}, marginal from {min(grades):g}", limits))
    far = f"in widths of the window; from {DRIFTED:.0%} on it no longer fits the plate"
    wanted.append(("drift", "Drift of the intensity window", far, {"rules": [DRIFTED], "form": ".0%"}))
    wanted.append(("left out", "Wells and fields left out", "share of all", {"form": ".0%"}))
    told = "median correlation of the profiles of a plate's treatments with those on other plates"
    wanted.append(("replicates", "Replicates on other plates", told, {}))
    for name, title, remark, how in wanted:
        rows = [
            {"plate": item["plate"], "number": item["number"], **row}
            for item in plates
            for row in item["trends"].get(name, ())
        ]
        told_of = {row["plate"] for row in rows if row["value"] is not None and np.isfinite(row["value"])}
        if len(told_of) > 1:
            yield title, remark, _chart(title, rows, **how)


def _chart(
    title: str,
    rows: Sequence[Row],
    *,
    domain: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    rules: Sequence[float] = (),
    floor: float | None = None,
    form: str = ".3~g",
) -> dict[str, Any]:
    """Values over the plates, a line per series; the page's choice of a frame is the parameter `frame`."""
    import altair as alt

    names = names or {}
    data = [
        {"plate": row["plate"], "number": row["number"], "frame": frame_title(row["frame"])}
        | {"series": names.get(row["series"], row["series"]), "value": plain(row["value"])}
        for row in rows
    ]
    series = list(domain or dict.fromkeys(row["series"] for row in data))
    roles = [ROLE_COLOURS[ROLES.index(name)] for name in domain]
    colours = alt.Scale(domain=series, range=roles or [COLOURS[n % len(COLOURS)] for n in range(len(series))])
    legend: Any = alt.Legend(title=None, orient="top", labelLimit=400, columns=1 if max(map(len, series)) > 30 else 3)
    legend = legend if len(series) > 1 else None
    numbers = alt.Scale(zero=False, nice=False, padding=8)
    scale = alt.Scale(zero=False) if floor is None else alt.Scale(domainMin=floor, clamp=True)
    place: dict[str, Any] = {
        "x": alt.X("number:Q", title="plate", axis=alt.Axis(tickMinStep=1, format="d"), scale=numbers),
        "y": alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(format=form)),
        "color": alt.Color("series:N", scale=colours, legend=legend),
    }
    shapes = alt.Shape("series:N", scale=alt.Scale(domain=series), legend=legend)
    tooltip = ["plate:N", "series:N", alt.Tooltip("value:Q", format=form)]
    shown = "(!datum.frame || datum.frame == frame) && isValid(datum.value)"
    base = alt.Chart(alt.Data(values=data)).transform_filter(shown)
    lines = base.mark_line(strokeWidth=1, opacity=0.6).encode(**place)
    points = base.mark_point(filled=True, opacity=0.9, size=50 if len(rows) < MANY else 20)
    layers = [lines, points.encode(**place, shape=shapes, tooltip=tooltip)]
    if rules:
        limits = alt.Chart(alt.Data(values=[{"value": value} for value in rules]))
        layers.append(limits.mark_rule(strokeDash=[4, 4], color=COLOURS[-1], aria=False).encode(y=place["y"]))
    chart = alt.layer(*layers)
    chart = chart.add_params(alt.param(name="frame", value=data[0]["frame"]))
    return vega(chart.properties(width=430, height=170, description=f"{title}, plate by plate"))
