"""The section on the cells that statistics use: what rules leave out, and populations with their thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from plateflow.features.words import in_words
from plateflow.report import small
from plateflow.report.charts import ACCENT, INK, vega
from plateflow.report.view import View
from plateflow.stats.cell_cycle import CellCycle
from plateflow.stats.gates import ROWS_EXCLUDED_BY, ROWS_INCLUDED
from plateflow.stats.reference import FRAME
from plateflow.tables import records


def gates(view: View) -> dict[str, Any]:
    """How many cells enter the statistics, by rule and by well; populations, their shares, histograms with lines."""
    found = view.aggregate.info.get("gates")
    if found is None:  # of an earlier version, which left no cell out
        return {"found": None}
    wells = view.wells
    by_well = wells[wells[ROWS_EXCLUDED_BY].fillna("") != ""]
    rows, columns = view.plate.metadata["format"]
    maps: dict[str, Mapping[str, float]] = {}
    if len(view.frames) == 1:
        names = dict.fromkeys(each["name"] for each in found["populations"])
        maps = {
            f"share of {name.replace('_', ' ')}": dict(zip(wells["Metadata_Well"], wells[f"Share_{name}"], strict=True))
            for name in names
        }
    kinds = [name for name in small.GROUPS if any(name in each["cells"] for each in found["populations"])]
    return {
        "found": found,
        "rows": view.rows.lower(),
        "by_well": records(by_well[["Metadata_Well", *_frames(view), ROWS_INCLUDED, ROWS_EXCLUDED_BY]]),
        "frame": dict(zip(_frames(view), ("Time point", "Plane"), strict=False)),
        "kinds": kinds,
        "populations": [each | {"shares": list(_shares(each["cells"], kinds))} for each in found["populations"]],
        "charts": [(each, _histogram(view, each)) for each in found["charts"]],
        "map": small.well_map(maps, (rows, columns)),
    }


def _frames(view: View) -> list[str]:
    return [name for name in FRAME if name in view.wells] if len(view.frames) > 1 else []


def _shares(cells: Mapping[str, Mapping[str, Any]], kinds: list[str]) -> Iterator[dict[str, Any] | None]:
    """Of each kind of wells the share of its cells, and median and range of its wells'; None where none is judged."""
    for kind in kinds:
        found = cells.get(kind, {"of": 0})
        if not found["of"]:
            yield None
            continue
        wells = found["wells"]
        ends = (float(np.median(wells)), min(wells), max(wells), len(wells)) if wells else None
        yield {"of": found["of"], "share": found["n"] / found["of"], "wells": ends}


def _histogram(view: View, counted: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of each group's cells per bin, with the thresholds as lines, and the fit of a cell cycle."""
    import altair as alt

    first, last = counted["edges"]
    n = len(next(iter(counted["counts"].values())))
    edges = np.geomspace(first, last, n + 1) if counted["logarithms"] else np.linspace(first, last, n + 1)
    steps = []
    for group, counts in counted["counts"].items():
        share = np.array(counts) / max(sum(counts), 1)
        steps += [(group, start, part) for start, part in zip(edges, [*share, share[-1]], strict=True)]
    groups = list(counted["counts"])
    kind: dict[str, Any] = {"type": "log"} if counted["logarithms"] else {"zero": False}
    scale = alt.Scale(nice=False, domain=[first, last], **kind)
    x = alt.X("from:Q", title=in_words(counted["column"], view.plate.channels), scale=scale)
    x = x.axis(format=".3~r", labelOverlap=True)
    y = alt.Y("share:Q", title="share of cells", axis=alt.Axis(format="%"))
    colour = alt.Color(
        "group:N",
        scale=alt.Scale(domain=groups, range=[small.GROUPS[name] for name in groups]),
        legend=alt.Legend(title=None, orient="top"),
    )
    base = alt.Chart(small.data_of(steps, "group from share")).mark_line(interpolate="step-after", strokeWidth=2)
    layers = [base.encode(x=x, y=y, color=colour, tooltip=["group:N", alt.Tooltip("share:Q", format=".1%")])]
    if counted["fit"]:
        layers.append(_fit(counted["fit"], edges).encode(x=x, y=y, detail="phase:N"))
    lines = alt.Chart(small.data_of(counted["lines"], "asks threshold from"))
    shown = [alt.Tooltip("asks:N", title="threshold"), alt.Tooltip("from:Q", title="at", format=".4~g")]
    layers.append(lines.mark_rule(clip=True, color=INK, strokeDash=[5, 3], size=1.5).encode(x=x, tooltip=shown))
    layers.append(
        lines.mark_text(clip=True, align="left", baseline="top", dx=4, fontSize=10, color=INK).encode(
            x=x, y=alt.value(2), text="threshold:N"
        )
    )
    return vega(alt.layer(*layers).properties(width=360, height=200))


def _fit(fit: Mapping[str, Any], edges: Any) -> Any:
    """The fitted phases, as shares of all cells per bin."""
    import altair as alt

    cycle = CellCycle(**{name: fit[name] for name in ("g1", "octaves", "width", "shares")})
    fine = np.linspace(np.log2(edges[0]), np.log2(edges[-1]), 300)
    bins = np.log2(edges[1] / edges[0])
    densities = cycle.densities(fine) * bins
    curves = dict(zip(("G1", "S", "G2/M"), densities, strict=True)) | {"together": densities.sum(axis=0)}
    rows = [(phase, 2**x, y) for phase, curve in curves.items() for x, y in zip(fine, curve, strict=True)]
    return alt.Chart(small.data_of(rows, "phase from share")).mark_line(color=ACCENT, strokeWidth=1.2)
