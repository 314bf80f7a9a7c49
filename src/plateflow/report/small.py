"""Small charts that several sections share: histograms, and maps of the plate with a choice of what they show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.paths import parse_well, row_name
from plateflow.report.charts import ACCENT, plain, vega

BINS = 40
BEYOND = 0.005
"""Share of the values at either end that a histogram leaves out, so that a few don't squeeze the rest."""
GROUPS = {"negative controls": "#4263eb", "positive controls": "#e8590c", "other wells": "#868e96", "all wells": ACCENT}
"""The groups of wells that charts compare, with their colours: those of roles."""


def histogram(groups: Mapping[str, NDArray[Any]], title: str) -> dict[str, Any] | None:
    """The share of each group's values per bin, as steps; None without values. The bins are counted here.

    Args:
        groups: values by group of GROUPS.
        title: what they are, with the unit.
    """
    import altair as alt

    groups = {name: values[np.isfinite(values)] for name, values in groups.items()}
    groups = {name: values for name, values in groups.items() if len(values)}
    if not groups:
        return None
    every = np.concatenate(list(groups.values()))
    low, high = (float(end) for end in np.quantile(every, (BEYOND, 1 - BEYOND)))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    rows = []
    for name, values in groups.items():
        share = np.histogram(values, edges)[0] / len(values)
        rows += [(name, start, part) for start, part in zip(edges, [*share, share[-1]], strict=True)]
    colour = alt.Color(
        "group:N",
        scale=alt.Scale(domain=list(groups), range=[GROUPS[name] for name in groups]),
        legend=alt.Legend(title=None, orient="top") if len(groups) > 1 else None,
    )
    chart = alt.Chart(data_of(rows, "group from share")).mark_line(interpolate="step-after", strokeWidth=2)
    chart = chart.encode(
        x=alt.X("from:Q", title=title, scale=alt.Scale(zero=False, nice=False)),
        y=alt.Y("share:Q", title="share of objects", axis=alt.Axis(format="%")),
        color=colour,
        tooltip=["group:N", alt.Tooltip("from:Q", title="from", format=".3~r"), alt.Tooltip("share:Q", format=".1%")],
    )
    return vega(chart.properties(width=260, height=160))


def well_map(shown: Mapping[str, Mapping[str, float]], shape: tuple[int, int]) -> dict[str, Any] | None:
    """A map of the plate that shows one of several numbers, chosen in a list under it; None without any.

    Args:
        shown: by title, a number of each well; those that aren't finite have no place.
        shape: rows and columns of the plate.
    """
    import altair as alt

    shown = {title: wells for title, wells in shown.items() if any(map(np.isfinite, wells.values()))}
    if not shown:
        return None
    data = []
    for well in dict.fromkeys(well for wells in shown.values() for well in wells):
        row, column = parse_well(well)
        numbers = {f"m{k}": plain(float(wells.get(well, np.nan))) for k, wells in enumerate(shown.values())}
        data.append({"well": well, "row": row_name(row), "column": column + 1, **numbers})
    keys = [f"m{k}" for k in range(len(shown))]
    choice = alt.binding_select(options=keys, labels=list(shown), name="Shown ")
    param = alt.param(name="shown", value="m0", bind=choice)
    bar = alt.Legend(title=None, orient="bottom", direction="horizontal", gradientLength=220)
    edge = 22 if shape[1] <= 12 else 15 if shape[1] <= 24 else 9
    chart = alt.Chart(alt.Data(values=data)).transform_calculate(value="datum[shown]")
    chart = chart.transform_filter("isValid(datum.value)").mark_rect(cursor="pointer")
    rows = [row_name(row) for row in range(shape[0])]
    every: dict[str, Any] = {"labelOverlap": True, "domain": False, "ticks": False}
    chart = chart.encode(
        x=alt.X("column:O", title=None, scale=alt.Scale(domain=list(range(1, shape[1] + 1)))).axis(
            orient="top", labelAngle=0, **every
        ),
        y=alt.Y("row:O", title=None, scale=alt.Scale(domain=rows)).axis(**every),
        color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis", zero=False), legend=bar),
        tooltip=["well:N", alt.Tooltip("value:Q", format=".4~r")],
    )
    return vega(chart.add_params(param).properties(width=alt.Step(edge), height=alt.Step(edge)))


def data_of(rows: Iterable[tuple[Any, ...]], names: str) -> Any:
    """Rows as data of Vega."""
    import altair as alt

    keys = names.split()
    return alt.Data(values=[dict(zip(keys, map(plain, row), strict=True)) for row in rows])
