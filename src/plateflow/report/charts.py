"""Charts of the page as Vega-Lite specifications; the page embeds the library once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.stats.effects import DOSE, TREATMENT, UNIT, dose_text
from plateflow.stats.reference import ROLE
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
INK, SOFT, LINE, ACCENT = "var(--ink)", "var(--soft)", "var(--line)", "#d9650b"
"""Colours of the style sheet, in which charts follow the page, light or dark."""
MAX_GROUPS = 40


def group_label(row: Mapping[str, Any], by: Sequence[str]) -> str:
    """What is in a well: the groups of `stats.group_by`, treatment or role, and dose; empty where nothing is said."""
    treatment, dose = (None if row.get(key) is None else row[key] for key in (TREATMENT, DOSE))
    named = (treatment or row.get(ROLE) or "", dose_text(dose, row.get(UNIT)) if dose else "")
    return ", ".join(filter(None, (*(str(row.get(name) or "") for name in by), " ".join(filter(None, named)))))


def groups(wells: pd.DataFrame, by: Sequence[str] = ()) -> dict[str, Any] | None:
    """Wells by group, treatment and dose, negative controls first; None without a plate map, or with 1 or too many.

    The page's script puts in what the plate map shows, as `value` of each well.

    Args:
        wells: a row of each.
        by: the columns by which wells form groups.
    """
    import altair as alt

    if TREATMENT not in wells and ROLE not in wells:
        return None
    data, order = [], {}
    for row in records(wells.filter(like="Metadata_")):
        role, treatment = ("" if row.get(key) is None else str(row[key]) for key in (ROLE, TREATMENT))
        if role == treatment == "":
            continue
        label = group_label(row, by)
        group = [str(row.get(name) or "") for name in by]
        order[label] = (group, ROLES.index(role) if role in ROLES else 1, treatment, row.get(DOSE) or 0.0)
        data.append({"well": row["Metadata_Well"], "role": role, "group": label})
    if not 1 < len(order) <= MAX_GROUPS:
        return None
    x = alt.X("group:N", title=None, sort=sorted(order, key=lambda label: order[label]), axis=alt.Axis(labelAngle=-45))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=data, name="wells")).transform_filter("isValid(datum.value)")
    legend = alt.Legend(title=None, orient="top", columnPadding=6)
    roles = alt.Color("role:N", scale=alt.Scale(domain=ROLES, range=ROLE_COLOURS), legend=legend)
    shapes = alt.Shape("role:N", scale=alt.Scale(domain=ROLES, range=ROLE_SHAPES))
    points = base.mark_point(size=60, opacity=0.8, filled=True, cursor="pointer").encode(
        x=x,
        y=y,
        color=roles,
        shape=shapes,
        tooltip=["well:N", alt.Tooltip("group:N", title="treatment"), alt.Tooltip("told:N", title="value")],
    )
    median = base.mark_tick(thickness=2, size=24, color=INK).encode(x=x, y=alt.Y("median(value):Q", title=None))
    return vega(alt.layer(points, median).properties(width=min(max(280, 44 * len(order)), 620), height=230))


ROLES = ["negative", "treatment", "positive", "empty"]
ROLE_COLOURS = ["#3b82d6", "#7d8894", "#d9650b", "#a678c0"]
"""Colours that are seen on a light and on a dark page, and told apart by the colour-blind; shapes say the same."""
ROLE_SHAPES = ["circle", "square", "triangle-up", "diamond"]


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers rounded, None for those that are not finite."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def vega(chart: Any) -> dict[str, Any]:
    """The specification, without the names that altair numbers, so that the same plate gives the same page."""
    spec: dict[str, Any] = chart.to_dict()
    for view in [spec, *spec.get("layer", [])]:
        view.pop("name", None)
    spec["padding"] = {"left": 16, "right": 16, "top": 5, "bottom": 5}  # fonts may be wider than Vega assumes
    axis: dict[str, Any] = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": 500, "labelSeparation": 6}
    axis |= {"labelColor": SOFT, "titleColor": SOFT, "domainColor": LINE, "tickColor": LINE, "grid": False}
    spec["config"] = {"view": {"stroke": None}, "background": "transparent", "font": FONT, "axis": axis}
    spec["config"] |= {"legend": {"labelFontSize": 11, "labelColor": SOFT, "titleColor": SOFT}, "title": {"color": INK}}
    spec["config"] |= {"header": {"labelColor": SOFT, "titleColor": SOFT}, "text": {"color": INK}}
    return spec
