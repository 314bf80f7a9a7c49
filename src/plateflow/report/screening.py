"""Sections on controls, hits and position effects, with their charts: each shows one frame of the plate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.features.words import in_words
from plateflow.report.charts import ACCENT, INK, ROLE_COLOURS, ROLES, vega
from plateflow.report.small import data_of
from plateflow.report.view import View
from plateflow.stats.alike import Alike
from plateflow.stats.doses import four_parameters
from plateflow.stats.effects import DOSE, TREATMENT, UNIT, dose_text, groups_of, keys_of
from plateflow.stats.positions import EFFECTS
from plateflow.stats.reference import has_role, reference_wells, well_values
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

LISTED, CURVES, NAMED = 10, 6, 12
"""The most groups of features that are listed, curves that are drawn, and hits that are named in the volcano plot."""
ROWS = 2000
"""The most treatments that are listed."""
LEVELS = {"good": "good", "marginal": "warn", "poor": "bad", "unknown": "warn"}
HIT, OTHER = "#d9480f", "#adb5bd"


def controls(view: View) -> dict[str, Any]:
    """The verdict with its reasons, the features that separate the controls best, and the wells in the best of them."""
    table, verdict = view.table("controls.csv"), view.summary["controls"]
    ordered = table[table["ZPrime"].notna()].sort_values("ZPrime", ascending=False, kind="stable")
    keys = [name for name in ("Positive", "PositiveDose", "PositiveDoseUnit") if name in ordered]
    best = _listed(view, ordered, [ordered[name].astype(str) for name in keys])
    values = well_values(view.wells, verdict["best"])
    shown = has_role(view.wells, *ROLES)
    wells = view.wells[shown]
    named = _named(view, verdict["best"])
    charts = [(name, words, _strip(wells, values.loc[shown, name])) for name, words in named]
    reasons = [in_reason(view, reason) for reason in verdict["reasons"]]
    shown_as = {"rows": best, "charts": charts, "reasons": reasons}
    return {"level": LEVELS[verdict["grade"]], **verdict, **shown_as}


_FEATURE = re.compile(r"(.*(?:best|nearest) )(.+)( \([^()]*\))")


def in_reason(view: View, reason: str) -> str:
    """A reason of the controls' verdict (`stats.controls`), its feature in words."""
    found = _FEATURE.fullmatch(reason)
    return f"{found[1]}{_words(view, found[2])}{found[3]}" if found and found[2] in view.wells else reason


def hits(view: View) -> dict[str, Any]:
    """How many treatments are hits or why none is, the list, what the statistics exclude, and dose-response curves."""
    table, curves = view.table("hits.csv"), view.table("doses.csv")
    usable = curves[curves["Flags"] == ""].drop_duplicates("Metadata_treatment").head(CURVES)
    unusable = curves[curves["Flags"] != ""]
    excluded = view.wells[view.wells["Metadata_FieldsExcluded"].fillna("") != ""]
    rows = records(table.head(ROWS))
    alike = _alike(view, [*table["Feature"], *(name for row in rows for name, _ in _evidence(view, row["Reasons"]))])
    for row in rows:
        row["Words"] = _words(view, row["Feature"])
        row["Evidence"] = list(_reasons(view, alike, row["Reasons"]))
    leads = table.loc[table["Hit"], "Feature"].value_counts()
    groups = alike.groups([str(name) for name in leads.index])
    return {
        "summary": view.summary["hits"],
        "fdr": view.plate.config.stats.fdr,
        "reference": view.plate.config.stats.normalise.split()[0],
        "rows": rows,
        "more": max(len(table) - ROWS, 0),
        "leads": [
            (name, _words(view, name), int(leads[[name, *others]].sum()), _named(view, others))
            for name, others in groups.items()
        ],
        "excluded": [
            (row["Metadata_Well"], row["Metadata_FieldsExcluded"].split(","), row["Metadata_Flags"].split(","))
            for row in records(excluded)
        ],
        "rank": _volcano(view, table),
        "curves": [(row | {"Words": _words(view, row["Feature"])}, _curve(view.wells, row)) for row in records(usable)],
        "bad_curves": [row | {"Words": _words(view, row["Feature"])} for row in records(unusable.head(2 * LISTED))],
        "more_curves": max(len(unusable) - 2 * LISTED, 0),
    }


def positions(view: View) -> dict[str, Any]:
    """How many features differ by edge, row or column, the strongest effects, and a chart of the first of them."""
    table = view.table("positions.csv")
    strongest = table[table["Found"]].sort_values("Share", ascending=False, kind="stable")
    return {
        "counts": [(effect, *view.summary["positions"][effect]) for effect in EFFECTS],
        "rows": _listed(view, strongest, [strongest["Effect"]]),
        "reasons": list(dict.fromkeys(reason for reason in table["Reason"] if reason)),
        "charts": list(_lines(view, strongest["Feature"].iloc[0])) if len(strongest) else [],
    }


def _words(view: View, name: str) -> str:
    return in_words(name, view.plate.channels) if name else ""


def _named(view: View, names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, _words(view, name)) for name in names]


def _alike(view: View, names: Sequence[str]) -> Alike:
    return Alike(well_values(view.wells, [name for name in dict.fromkeys(names) if name in view.wells]))


def _listed(view: View, table: pd.DataFrame, by: list[Any]) -> list[dict[str, Any]]:
    """The first LISTED rows of a table, best first, whose features say different things; each with those like it."""
    alike = _alike(view, table["Feature"].tolist())
    rows = []
    for _, part in table.groupby(by, sort=False) if by else [((), table)]:
        groups = alike.groups(part["Feature"].tolist(), most=LISTED)
        leaders = part[part["Feature"].isin(groups)].drop_duplicates("Feature")
        rows += [(place, row) for place, row in zip(leaders.index, records(leaders), strict=True)]
        for _, row in rows[-len(leaders) :]:
            row["Words"], row["Like"] = _words(view, row["Feature"]), _named(view, groups[row["Feature"]])
    order = {place: number for number, place in enumerate(table.index)}
    return [row for _, row in sorted(rows, key=lambda each: order[each[0]])][:LISTED]


_EVIDENCE = re.compile(r"(.+)( [+-]\d+\.\d SD \(q [^)]*\))")


def _evidence(view: View, reasons: str) -> Iterator[tuple[str, str]]:
    """The features that a treatment's reasons name (`stats.hits`), each with its effect; no name for other reasons."""
    for reason in reasons.split("; "):
        found = _EVIDENCE.fullmatch(reason)
        yield (found[1], found[2]) if found and found[1] in view.wells else ("", reason)


def _reasons(view: View, alike: Alike, reasons: str) -> Iterator[tuple[str, str, str]]:
    """Column, words and the rest of each reason; of features that say one thing the first, and how many are like it."""
    told = list(_evidence(view, reasons))
    groups = alike.groups([name for name, _ in told if name])
    for name, rest in told:
        if name in groups:
            yield name, _words(view, name), rest + (f", and {len(groups[name])} like it" if groups[name] else "")
        elif not name:
            yield "", "", rest


def _strip(wells: pd.DataFrame, values: pd.Series[float]) -> dict[str, Any]:
    """One dot per well, by role."""
    import altair as alt

    keys = keys_of(wells)
    what = [f"{name} {dose_text(dose, unit)}".strip() for name, dose, unit in keys.itertuples(index=False)]
    dots = zip(wells["Metadata_Well"], wells["Metadata_role"], what, values, strict=True)
    data = data_of(dots, "well role treatment value")
    colour = alt.Color("role:N", scale=alt.Scale(domain=ROLES, range=ROLE_COLOURS), legend=None)
    chart = alt.Chart(data).mark_circle(size=60, opacity=0.7, cursor="pointer")
    chart = chart.transform_calculate(jitter="random() - 0.5").encode(
        x=alt.X("role:N", title=None, sort=ROLES, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("jitter:Q", scale=alt.Scale(domain=[-1, 1])),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=colour,
        tooltip=["well:N", "role:N", "treatment:N", alt.Tooltip("value:Q", format=".4~g")],
    )
    return vega(chart.properties(width=360, height=230))


def _volcano(view: View, table: pd.DataFrame) -> dict[str, Any] | None:
    """Volcano plot: effect against false discovery rate of every treatment and dose; the first hits are named."""
    import altair as alt

    table = table[table["Q"].notna() & table["Z"].notna()]
    if table.empty:
        return None
    significance = -np.log10(table["Q"].clip(lower=1e-12))
    doses = [*map(dose_text, table[DOSE], table.get(UNIT, [""] * len(table)))]
    names = table[TREATMENT], doses, (_words(view, name) for name in table["Feature"])
    titles = [f"{name} {dose}".strip() for name, dose in zip(table[TREATMENT], doses, strict=True)]
    named = np.where(table["Hit"] & (table["Hit"].cumsum() <= NAMED), titles, "")
    kinds = np.where(table["Hit"], "hit", "no hit")
    rows = zip(*names, table["Z"], table["Q"], significance, kinds, named, strict=True)
    base = alt.Chart(data_of(rows, "treatment dose feature z fdr q kind name"))
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=["hit", "no hit"], range=[HIT, OTHER]),
        legend=alt.Legend(title=None, orient="top"),
    )
    place = {
        "x": alt.X("z:Q", title="effect in its lead feature (SD of the reference)"),
        "y": alt.Y("q:Q", title="−log₁₀ of Q"),
    }
    shown = [alt.Tooltip(f"{name}:N") for name in ("treatment", "dose", "feature")]
    shown += [alt.Tooltip("z:Q", title="effect (SD)", format="+.1f"), alt.Tooltip("fdr:Q", title="Q", format=".2~g")]
    dots = base.mark_circle(size=60, opacity=0.75).encode(**place, color=colour, tooltip=shown)
    text = base.transform_filter("datum.name").mark_text(align="left", dx=6, dy=-4, fontSize=11, limit=150)
    limit = alt.Chart(data_of([(-np.log10(view.plate.config.stats.fdr),)], "q"))
    limit = limit.mark_rule(strokeDash=[4, 4], color=OTHER).encode(y="q:Q")
    chart = alt.layer(limit, dots, text.encode(**place, text="name:N", color=alt.value(INK)))
    return vega(chart.properties(width=520, height=300))


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
    points = alt.Chart(
        data_of(zip(wells.loc[dose.index, "Metadata_Well"], dose, values, strict=True), "well dose value")
    )
    line = alt.Chart(data_of(zip(fine, fitted, strict=True), "dose value")).mark_line(color=ACCENT)
    chart = line.encode(x=x, y=y) + points.mark_circle(size=60, color=INK, cursor="pointer").encode(
        x=x, y=y, tooltip=["well:N", "dose:Q", alt.Tooltip("value:Q", format=".4~g")]
    )
    return vega(chart.properties(width=260, height=170))


def _lines(view: View, feature: str) -> Iterator[dict[str, Any]]:
    """Medians of the rows and of the columns of a feature, without positive controls and empty wells."""
    import altair as alt

    table = view.wells[reference_wells(view.wells, "plate")]
    values = well_values(table, [feature])[feature]
    for kind in ("Row", "Column"):
        by_line = values.groupby(table[f"Metadata_{kind}"], sort=kind == "Column").median().dropna()  # AA is after Z
        chart = alt.Chart(data_of(zip(by_line.index, by_line, strict=True), "line value"))
        x = alt.X("line:O", sort=None, title=kind.lower(), axis=alt.Axis(labelAngle=0))
        y = alt.Y("value:Q", title="median of the wells", scale=alt.Scale(zero=False))
        yield vega(chart.mark_line(point=True, color=ACCENT).encode(x=x, y=y).properties(width=360, height=170))
