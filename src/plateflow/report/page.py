"""The page of a plate: one file with style, scripts and pictures inside; every value is escaped, nothing is fetched."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from markupsafe import Markup

from plateflow.report import screening, sections
from plateflow.report.view import View
from plateflow.state.journal import LEFT_OUT

SECTIONS: tuple[tuple[str, str, Callable[[View], dict[str, Any]]], ...] = (
    ("plate", "Plate", sections.plate),
    ("controls", "Controls", screening.controls),
    ("hits", "Hits", screening.hits),
    ("positions", "Position effects", screening.positions),
    ("wells", "Wells", sections.wells),
    ("left_out", "Left out", sections.left_out),
    ("flags", "Flags", sections.flags),
    ("intensity", "Intensity and illumination", sections.intensity),
    ("methods", "Methods", sections.methods),
    ("resources", "Resource use", sections.resources),
)
"""Of each section the name of its template, its title, and what gathers the values that the template shows."""


def plate_page(view: View) -> tuple[str, list[str]]:
    """The page of a plate, and the names of the sections that failed; these say so and do not stop the others."""
    import vl_convert

    made = [_section(view, *section) for section in SECTIONS]
    bundle: Any = vl_convert.javascript_bundle  # its stub claims that it needs an argument
    # Vega, Vega-Lite and vega-embed as one script (0.9 MB), in which nothing may close the script.
    library = Markup(bundle().replace("</script", "<\\/script"))
    page = render("page.html.j2", plate=view.plate.name, verdict=verdict(view), sections=made, library=library)
    return page, [section["name"] for section in made if section["error"]]


def _section(view: View, name: str, title: str, gather: Callable[[View], dict[str, Any]]) -> dict[str, str]:
    section = {"name": name, "title": title, "html": "", "error": ""}
    try:
        section["html"] = render(f"{name}.html.j2", **gather(view))
    except Exception as error:
        traceback.print_exc()
        section["error"] = f"{type(error).__name__}: {error}"
    return section


def verdict(view: View) -> dict[str, Any]:
    """The first lines of the page: whether the plate is complete, and the numbers that matter.

    Returns:
        `level` (good, warn, bad), `line`, `cards` (number and name), `facts`.
    """
    wells = view.wells
    n_fields = len(view.qc[["Metadata_Well", "Metadata_Site"]].drop_duplicates())
    measured = int((~wells["Metadata_State"].isin(LEFT_OUT)).sum())
    flagged = int((wells["Metadata_Flags"].fillna("") != "").sum())
    if not measured:
        level, line = "bad", "No well could be measured"
    elif view.left_out:
        fields = sum(bool(item.field) for item in view.left_out)
        parts = _number(len(view.left_out) - fields, "well"), _number(fields, "field")
        level, line = "warn", f"Complete, but left out: {' and '.join(filter(None, parts))}"
    else:
        level, line = "good", "Complete"
    if measured and flagged:
        line += f"; flagged for review: {_number(flagged, 'well')}"
    doubts = view.aggregate.info["doubts"]
    if measured and doubts:
        level = "warn"
    cards = [(f"{measured} / {len(wells)}", "wells measured")]
    cards.append((f"{int(wells['Metadata_FieldsUsed'].sum())} / {n_fields}", "fields used"))
    cards += [(f"{int(wells[name].sum()):,}", name.removeprefix("Count_").lower()) for name in view.counts]
    median = float(wells[view.counts[0]].dropna().median())
    if np.isfinite(median):
        cards.append((f"{median:,.0f}", f"{view.rows.lower()} per well (median)"))
    cards.append((view.aggregate.info["controls"]["grade"], "controls"))
    cards.append((str(view.aggregate.info["hits"]["hits"]), "hits"))
    metadata, channels = view.plate.metadata, view.plate.channels
    facts = [f"{math.prod(metadata['format'])}-well plate", f"{len(channels)} channels: {', '.join(channels)}"]
    if metadata.get("pixel_size_um"):
        facts.append(f"{metadata['pixel_size_um'][0]:.4g} µm per pixel")
    facts.append(f"read as {metadata['layout']}")
    line = " ".join(f"{text[:1].upper()}{text[1:]}." for text in [line, *doubts])
    return {"level": level, "line": line, "cards": cards, "facts": facts}


def _number(n: int, noun: str) -> str:
    return "" if not n else f"{n} {noun}" if n == 1 else f"{n} {noun}s"


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("plateflow.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> Markup:
    """A page, or a section of one, which is not escaped again when a page includes it."""
    return Markup(_environment().get_template(template).render(**values))
