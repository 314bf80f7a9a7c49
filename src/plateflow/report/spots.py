"""Spots on a plate's page: how many there are, the threshold and where it comes from, and the histogram of quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plateflow.chain import SPOTS
from plateflow.features.spots import BINS, DEVIATIONS
from plateflow.report import small
from plateflow.report.charts import ACCENT, INK, vega
from plateflow.report.view import View


def spots(view: View) -> list[dict[str, Any]]:
    """Of each set of spots: `name, channel, within, spots, objects, threshold` (a sentence), `chart` and `map`."""
    found, shown = view.aggregate.info.get(SPOTS, {}), []
    for name, settings in view.plate.config.spots.items():
        each = found[name]
        least = each.get("threshold") if settings.threshold == "auto" else settings.threshold
        shown.append(
            {"name": name, "channel": settings.channel, "within": settings.within}
            | {key: each[key] for key in ("spots", "objects")}
            | {"threshold": _in_words(each, least), "chart": _quality(each["quality"], least)}
            | {"map": small.well_map({f"{name} per object": each["wells"]}, tuple(view.plate.metadata["format"]))}
        )
    return shown


def _in_words(found: dict[str, Any], threshold: float | None) -> str:
    if threshold is None:
        return "No well shows what their threshold could be taken from."
    if "deviation" not in found:
        return f"A spot's quality is at least {threshold:.4g}, as configured."
    return (
        f"A spot's quality is at least {threshold:.4g}: the response of the background ({found['background']:.3g}) and "
        f"{DEVIATIONS:g} of its standard deviations ({found['deviation']:.3g}), from {found['fields']} fields over the "
        "plate, kept with the intensity window."
    )


def _quality(counts: Sequence[int], threshold: float | None) -> dict[str, Any] | None:
    """The histogram of the quality of all maxima in objects, with the threshold as a line; None without any."""
    import altair as alt

    if threshold is None or not any(counts):
        return None
    rows = [(start * threshold, n) for start, n in zip(BINS, [*counts, 0], strict=True)]
    x = alt.X("from:Q", title="quality of maxima", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(tickCount=4))
    y = alt.Y("n:Q", title="maxima", scale=alt.Scale(type="symlog"), axis=alt.Axis(tickCount=4))
    tips = [alt.Tooltip("from:Q", title="from", format=".3~r"), alt.Tooltip("n:Q", title="maxima")]
    steps = alt.Chart(small.data_of(rows, "from n")).mark_line(interpolate="step-after", strokeWidth=2, color=INK)
    line = alt.Chart(small.data_of([(threshold,)], "from")).mark_rule(color=ACCENT, strokeWidth=2).encode(x="from:Q")
    return vega(alt.layer(steps.encode(x=x, y=y, tooltip=tips), line).properties(width=260, height=160))
