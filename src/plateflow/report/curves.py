"""Curves over time of a plate with several time points: counts, and whatever feature the plate map shows."""

from __future__ import annotations

from typing import Any

from plateflow.report.charts import ROLE_COLOURS, ROLES, group_label, vega
from plateflow.report.view import View
from plateflow.stats.groups import group_columns
from plateflow.stats.reference import FRAME, ROLE
from plateflow.tables import records

LINES, CONTROLS = 12, 4
"""The most curves of a chart, and those of them that controls take at most."""
COLOURS = ("#2f9e77", "#a678c0", "#b8860b", "#17a2b8", "#c2185b", "#7d8894", "#8c564b", "#5c6bc0")
"""Of the curves after the first negative and the first positive control, which have their roles' colours."""


def over_time(view: View, features: list[list[str]]) -> dict[str, Any]:
    """Charts of the median and the quartiles of the wells of each control and treatment over the time points.

    The page's script puts in the values, which it holds for the plate map. Where planes are apart, too, they are those
    of the plane that is chosen.

    Args:
        view: of the plate.
        features: column and words of each that the page holds, in its order.

    Returns:
        `charts`: words ("" for the feature that the map shows) and specification of each, none for a plate of one time
        point or without a map; `drawn` of `treatments`, the first by their false discovery rate.
    """
    frames = [[frame.frame.get(name, 0) for name in FRAME] for frame in view.frames]
    by = group_columns(view.plate.config.stats)
    times = sorted({int(time) for time, _ in frames})
    if len(times) < 2 or ROLE not in view.wells or not features:
        return {"charts": [], "drawn": 0, "treatments": 0}
    wells = [(row, group_label(row, by)) for row in records(view.by_well.filter(like="Metadata_"))]
    of_role = {
        role: list(dict.fromkeys(label for row, label in wells if row[ROLE] == role))
        for role in ROLES
        if role != "empty"
    }
    ranked = view.table("hits.csv").sort_values("Q", kind="stable")
    first = dict.fromkeys(group_label(row | {ROLE: "treatment"}, by) for row in records(ranked))
    order = [label for label in first if label in of_role["treatment"]]
    order += [label for label in of_role["treatment"] if label not in first]
    controls = [of_role[role][: CONTROLS // 2] for role in ("negative", "positive")]
    treated = order[: LINES - sum(map(len, controls))]
    domain = list(dict.fromkeys([*controls[0], *treated, *controls[1]]))
    own = {
        labels[0]: ROLE_COLOURS[ROLES.index(role)] for role, labels in of_role.items() if role != "treatment" and labels
    }
    others = [label for label in domain if label not in own]
    colours = own | {label: COLOURS[n % len(COLOURS)] for n, label in enumerate(others)}
    rows = [{"well": row["Metadata_Well"], "group": label} for row, label in wells if label in colours]
    shown: list[tuple[str, int | None]] = [
        (words, number) for number, (name, words) in enumerate(features) if name.startswith(("Count_", "Share_"))
    ]
    charts = [
        (words, _chart(rows, times, domain, colours) | {"usermeta": {"feature": number, "frames": frames}})
        for words, number in [*shown, ("", None)]
    ]
    return {"charts": charts, "drawn": len(treated), "treatments": len(of_role["treatment"])}


def _chart(rows: list[dict[str, str]], times: list[int], domain: list[str], colours: dict[str, str]) -> dict[str, Any]:
    """Lines of medians, with bands from the lower to the upper quartile."""
    import altair as alt

    base = alt.Chart(alt.Data(values=rows, name="series")).transform_aggregate(
        median="median(value)", low="q1(value)", high="q3(value)", wells="count()", groupby=["group", "time"]
    )
    x = alt.X("time:Q", title="time point", axis=alt.Axis(values=times, format="d", labelOverlap=True))
    legend = alt.Legend(title=None, orient="right", labelLimit=180, symbolOpacity=1)
    scale = alt.Scale(domain=domain, range=[colours[label] for label in domain])
    colour = alt.Color("group:N", scale=scale, legend=legend)
    y = alt.Y("low:Q", title=None, scale=alt.Scale(zero=False))
    numbers = [alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("median", "low", "high")]
    tooltip = [alt.Tooltip("group:N", title="treatment"), alt.Tooltip("time:Q"), *numbers, alt.Tooltip("wells:Q")]
    band = base.mark_area(opacity=0.15).encode(x=x, y=y, y2="high:Q", color=colour)
    line = base.mark_line(point=True).encode(x=x, y=alt.Y("median:Q", title=None), color=colour, tooltip=tooltip)
    return vega(alt.layer(band, line).properties(width=320, height=200))
