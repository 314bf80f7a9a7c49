"""Charts of the page as Vega-Lite specifications; the page embeds the library once for all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.paths import row_name, well_name
from plateflow.stats.effects import dose_text
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"
INK, FAINT, ACCENT = "#1f2933", "#e4e7eb", "#d9480f"
MAX_GROUPS = 40


def plate_map(
    wells: pd.DataFrame, shape: tuple[int, int], shown: Mapping[str, str], limits: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Heat map of all positions of the plate; wells that were left out are crossed out, those without a value grey.

    Where no well has a value there is no legend.

    Args:
        wells: their rows of `View.charted`, of one frame.
        shape: rows and columns of the plate.
        shown: the metrics.
        limits: of each metric the least and the greatest value on the plate: all frames have the same colours.
    """
    import altair as alt

    rows = {row["Metadata_Well"]: row for row in records(wells)}
    data = []
    for row, column in np.ndindex(shape):
        well = well_name(row, column)
        item: dict[str, Any] = dict.fromkeys(("treatment", "dose", "flags"), "")
        item |= {"well": well, "row": row_name(row), "column": column + 1, "state": "not acquired"}
        if well in rows:
            item |= _well_item(rows[well], shown)
        data.append(item)
    edge = 46 if shape[1] <= 12 else 27 if shape[1] <= 24 else 15
    place = {
        "x": alt.X("column:O", title=None, axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)),
        "y": alt.Y("row:O", title=None, sort=None, axis=alt.Axis(domain=False, ticks=False)),
    }
    tooltip = [alt.Tooltip(f"{key}:N") for key in ("well", "treatment", "dose", "state", "flags")]
    tooltip.append(alt.Tooltip("told:N", title="value"))
    told = "isValid(datum.value) ? format(datum.value, ',.4~r') : '–'"
    base = alt.Chart(alt.Data(values=data)).transform_calculate(value="datum[metric]", told=told)
    tile: dict[str, Any] = {"cornerRadius": 4, "stroke": "white", "strokeWidth": 2, "cursor": "pointer"}
    places = base.mark_rect(**tile, color=FAINT).encode(**place, tooltip=tooltip)
    ends = [{f"m{number}": plain(pair[end]) for number, pair in enumerate(limits)} for end in (0, 1)]
    domain = [alt.ExprRef(f"({json.dumps(end)})[metric]") for end in ends] if limits else alt.Undefined
    scale = alt.Scale(scheme="viridis", zero=False, domain=domain)
    valued = {f"m{number}": int(wells[column].notna().any()) for number, column in enumerate(shown)}
    opacity = alt.ExprRef(f"({json.dumps(valued)})[metric]")
    colour = alt.Color("value:Q", scale=scale)
    colour = colour.legend(title=None, orient="bottom", gradientOpacity=opacity, labelOpacity=opacity)
    tiles = base.transform_filter("isValid(datum.value)").mark_rect(**tile)
    tiles = tiles.encode(**place, tooltip=tooltip, color=colour)
    marks = base.transform_filter("datum.mark")
    marks = marks.mark_text(fontSize=edge * 0.42, fontWeight="bold", color=ACCENT, cursor="pointer")
    marks = marks.encode(**place, tooltip=tooltip, text="mark:N")
    chart = alt.layer(places, tiles, marks).add_params(alt.param(name="metric", value="m0"))
    return vega(chart.properties(width=alt.Step(edge), height=alt.Step(edge)))


def groups(wells: pd.DataFrame, shown: Mapping[str, str]) -> dict[str, Any] | None:
    """Wells by treatment and dose, negative controls first; None without a plate map, or with 1 or too many groups."""
    import altair as alt

    if "Metadata_treatment" not in wells and "Metadata_role" not in wells:
        return None
    data, order = [], {}
    for row in records(wells):
        item = _well_item(row, shown)
        if item["role"] == item["treatment"] == "":
            continue
        dose = row.get("Metadata_dose") or 0.0
        label = " ".join(filter(None, (item["treatment"] or item["role"], item["dose"] if dose else "")))
        rank = ROLES.index(item["role"]) if item["role"] in ROLES else 1
        order[label] = (rank, item["treatment"], dose)
        data.append(item | {"group": label})
    if not 1 < len(order) <= MAX_GROUPS:
        return None
    x = alt.X("group:N", title=None, sort=sorted(order, key=lambda label: order[label]), axis=alt.Axis(labelAngle=-45))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=data)).transform_calculate(value="datum[metric]")
    base = base.transform_filter("isValid(datum.value)")
    roles = alt.Color("role:N", scale=alt.Scale(domain=ROLES, range=ROLE_COLOURS), legend=alt.Legend(title=None))
    points = base.mark_circle(size=70, opacity=0.75, cursor="pointer").encode(
        x=x, y=y, color=roles, tooltip=["well:N", "group:N", "value:Q"]
    )
    median = base.mark_tick(thickness=2, size=24, color=INK).encode(x=x, y=alt.Y("median(value):Q", title=None))
    chart = alt.layer(points, median).add_params(alt.param(name="metric", value="m0"))
    return vega(chart.properties(width=min(max(280, 44 * len(order)), 520), height=230))


ROLES = ["negative", "treatment", "positive", "empty"]
ROLE_COLOURS = ["#4263eb", "#495057", "#e8590c", "#adb5bd"]


def _well_item(row: Mapping[str, Any], shown: Mapping[str, str]) -> dict[str, Any]:
    left_out = row["Metadata_State"] in ("quarantined", "missing")
    item = {"well": row["Metadata_Well"], "state": row["Metadata_State"], "flags": row["Metadata_Flags"] or ""}
    for key in ("role", "treatment"):
        value = row.get(f"Metadata_{key}")
        item[key] = "" if value is None else str(value)
    item["dose"] = dose_text(row.get("Metadata_dose"), row.get("Metadata_dose_unit"))
    for number, column in enumerate(shown):  # names of columns can contain dots and brackets, which Vega would parse
        value = row[column]
        item[f"m{number}"] = None if left_out else plain(value)
    return item | {"mark": "×" if left_out else "•" if item["flags"] else ""}


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers rounded, None for those that are not finite."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def vega(chart: Any) -> dict[str, Any]:
    """The specification, without the names that altair numbers, so that the same plate gives the same page."""
    spec: dict[str, Any] = chart.to_dict()
    for view in [spec, *spec.get("layer", []), *spec.get("hconcat", [])]:
        view.pop("name", None)
    spec["padding"] = {"left": 16, "right": 16, "top": 5, "bottom": 5}  # fonts may be wider than Vega assumes
    spec["config"] = {"view": {"stroke": None}, "font": FONT, "axis": {"labelColor": "#616e7c", "grid": False}}
    return spec
