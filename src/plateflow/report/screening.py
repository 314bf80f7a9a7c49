"""Sections on controls, hits and position effects, with their charts: each shows one frame of the plate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.report.charts import ACCENT, INK, ROLE_COLOURS, ROLES, plain, vega
from plateflow.report.view import View
from plateflow.stats.doses import four_parameters
from plateflow.stats.effects import DOSE, TREATMENT, UNIT, dose_text, groups_of, keys_of
from plateflow.stats.positions import EFFECTS
from plateflow.stats.reference import has_role, reference_wells, well_values
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

LISTED, CURVES = 20, 6
"""The most treatments that are listed, and the most curves that are drawn."""
LEVELS = {"good": "good", "marginal": "warn", "poor": "bad", "unknown": "warn"}
HIT, OTHER = "#d9480f", "#adb5bd"


def controls(view: View) -> dict[str, Any]:
    """The verdict with its reasons, the features that separate the controls best, and the wells in the best of them."""
    table, verdict = view.table("controls.csv"), view.summary["controls"]
    best = table[table["ZPrime"].notna()].sort_values("ZPrime", ascending=False).head(LISTED // 2)
    values = well_values(view.wells, verdict["best"])
    shown = has_role(view.wells, *ROLES)
    charts = [_strip(view.wells[shown], values.loc[shown, name], name) for name in verdict["best"]]
    return {"level": LEVELS[verdict["grade"]], **verdict, "rows": records(best), "charts": charts}


def hits(view: View) -> dict[str, Any]:
    """How many treatments are hits or why none is, the list, what the statistics exclude, and dose-response curves."""
    table, curves = view.table("hits.csv"), view.table("doses.csv")
    usable = curves[curves["Flags"] == ""].drop_duplicates("Metadata_treatment").head(CURVES)
    excluded = view.wells[view.wells["Metadata_FieldsExcluded"].fillna("") != ""]
    return {
        "summary": view.summary["hits"],
        "fdr": view.plate.config.stats.fdr,
        "reference": view.plate.config.stats.normalise.split()[0],
        "rows": records(table.head(LISTED)),
        "more": max(len(table) - LISTED, 0),
        "excluded": [
            (row["Metadata_Well"], row["Metadata_FieldsExcluded"].split(","), row["Metadata_Flags"].split(","))
            for row in records(excluded)
        ],
        "rank": _rank(table),
        "curves": [(row, _curve(view.wells, row)) for row in records(usable)],
        "bad_curves": records(curves[curves["Flags"] != ""].head(LISTED)),
    }


def positions(view: View) -> dict[str, Any]:
    """How many features differ by edge, row or column, the strongest effects, and a chart of the first of them."""
    table = view.table("positions.csv")
    strongest = table[table["Found"]].sort_values("Share", ascending=False)
    return {
        "counts": [(effect, *view.summary["positions"][effect]) for effect in EFFECTS],
        "rows": records(strongest.head(LISTED // 2)),
        "reasons": list(dict.fromkeys(reason for reason in table["Reason"] if reason)),
        "chart_spec": _lines(view.wells, strongest["Feature"].iloc[0]) if len(strongest) else None,
    }


def _strip(wells: pd.DataFrame, values: pd.Series[float], name: str) -> dict[str, Any]:
    """One dot per well, by role."""
    import altair as alt

    keys = keys_of(wells)
    what = [f"{name} {dose_text(dose, unit)}".strip() for name, dose, unit in keys.itertuples(index=False)]
    dots = zip(wells["Metadata_Well"], wells["Metadata_role"], what, values, strict=True)
    data = _data(dots, "well role treatment value")
    colour = alt.Color("role:N", scale=alt.Scale(domain=ROLES, range=ROLE_COLOURS), legend=None)
    chart = alt.Chart(data).mark_circle(size=60, opacity=0.7, cursor="pointer")
    chart = chart.transform_calculate(jitter="random() - 0.5").encode(
        x=alt.X("role:N", title=None, sort=ROLES, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("jitter:Q", scale=alt.Scale(domain=[-1, 1])),
        y=alt.Y("value:Q", title=name, scale=alt.Scale(zero=False)),
        color=colour,
        tooltip=["well:N", "role:N", "treatment:N", "value:Q"],
    )
    return vega(chart.properties(width=360, height=230))


def _rank(table: pd.DataFrame) -> dict[str, Any] | None:
    """Effect and false discovery rate of every treatment."""
    import altair as alt

    table = table[table["Q"].notna() & table["Z"].notna()]
    if table.empty:
        return None
    significance = -np.log10(table["Q"].clip(lower=1e-12))
    doses = map(dose_text, table[DOSE], table.get(UNIT, [""] * len(table)))
    names = table[TREATMENT], doses, table["Feature"]
    data = _data(zip(*names, table["Z"], significance, table["Hit"], strict=True), "treatment dose feature z q hit")
    colour = alt.Color(
        "hit:N", scale=alt.Scale(domain=[True, False], range=[HIT, OTHER]), legend=alt.Legend(title="hit")
    )
    chart = alt.Chart(data).mark_circle(size=60, opacity=0.75)
    chart = chart.encode(
        x=alt.X("z:Q", title="effect in its lead feature (SD of the reference)"),
        y=alt.Y("q:Q", title="-log₁₀ Q"),
        color=colour,
        tooltip=[f"{name}:N" for name in ("treatment", "dose", "feature", "z")],
    )
    return vega(chart.properties(width=420, height=250))


def _curve(wells: pd.DataFrame, row: dict[str, Any]) -> dict[str, Any]:
    """A treatment's wells over the dose, with the fitted curve."""
    import altair as alt

    groups = groups_of(wells)
    dose = groups.loc[(groups[TREATMENT] == row[TREATMENT]) & (groups[DOSE] > 0), DOSE]
    values = well_values(wells, [row["Feature"]]).loc[dose.index, row["Feature"]].dropna()
    dose = dose[values.index]
    unit = row.get(UNIT)
    fine = np.geomspace(dose.min(), dose.max(), 60)
    fitted = four_parameters(fine, row["Bottom"], row["Top"], np.log(row["EC50"]), row["Hill"])
    x = alt.X("dose:Q", scale=alt.Scale(type="log"), title=f"dose ({unit})" if unit else "dose")
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    points = alt.Chart(_data(zip(wells.loc[dose.index, "Metadata_Well"], dose, values, strict=True), "well dose value"))
    line = alt.Chart(_data(zip(fine, fitted, strict=True), "dose value")).mark_line(color=ACCENT)
    chart = line.encode(x=x, y=y) + points.mark_circle(size=60, color=INK, cursor="pointer").encode(
        x=x, y=y, tooltip=["well:N", "dose:Q", "value:Q"]
    )
    return vega(chart.properties(width=260, height=170))


def _lines(wells: pd.DataFrame, feature: str) -> dict[str, Any]:
    """Medians of the rows and of the columns of a feature, without positive controls and empty wells."""
    import altair as alt

    table = wells[reference_wells(wells, "plate")]
    values = well_values(table, [feature])[feature]
    panels = []
    for kind in ("Row", "Column"):
        by_line = values.groupby(table[f"Metadata_{kind}"], sort=kind == "Column").median().dropna()  # AA is after Z
        chart = alt.Chart(_data(zip(by_line.index, by_line, strict=True), "line value"))
        x = alt.X("line:O", sort=None, title=kind.lower(), axis=alt.Axis(labelAngle=0))
        y = alt.Y("value:Q", title=f"median of {feature}" if kind == "Row" else None, scale=alt.Scale(zero=False))
        panels.append(chart.mark_line(point=True, color=ACCENT).encode(x=x, y=y).properties(width=360, height=170))
    return vega(alt.hconcat(*panels))


def _data(rows: Iterable[tuple[Any, ...]], names: str) -> Any:
    """Rows as data of Vega."""
    import altair as alt

    keys = names.split()
    return alt.Data(values=[dict(zip(keys, map(plain, row), strict=True)) for row in rows])
