"""The page of a plate: one file with style, scripts and pictures inside; every value is escaped, nothing is fetched."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from markupsafe import Markup

from plateflow.errors import number_of
from plateflow.report import methods, quality, screening, sections, segmentation
from plateflow.report.view import View
from plateflow.state.journal import LEFT_OUT, wells_and_fields
from plateflow.stats.effects import dose_text
from plateflow.stats.reference import well_values

SECTIONS: tuple[tuple[str, str, Callable[[View], dict[str, Any]]], ...] = (
    ("plate", "Plate", sections.plate),
    ("wells", "Wells", sections.wells),
    ("left_out", "Left out", sections.left_out),
    ("segmentation", "Segmentation", segmentation.segmentation),
    ("controls", "Controls", screening.controls),
    ("positions", "Position effects", screening.positions),
    ("hits", "Hits", screening.hits),
    ("quality", "Image quality", quality.quality),
    ("intensity", "Intensity and illumination", sections.intensity),
    ("methods", "Methods", methods.methods),
    ("resources", "Resource use", sections.resources),
)
"""Of each section the name of its template, its title, and what gathers the values that the template shows."""
BY_FRAME = ("controls", "hits", "positions")
"""The sections that are made of each frame by itself; a choice on the page shows one."""


def plate_page(view: View) -> tuple[str, list[str]]:
    """The page of a plate, and the names of the sections that failed; these say so and do not stop the others."""
    import vl_convert

    made = [_section(view, *section) for section in SECTIONS]
    bundle: Any = vl_convert.javascript_bundle  # its stub claims that it needs an argument
    # Vega, Vega-Lite and vega-embed as one script (0.9 MB), in which nothing may close the script.
    library = Markup(bundle().replace("</script", "<\\/script"))
    frames = [frame.title for frame in view.frames]
    page = render(
        "page.html.j2", plate=view.plate.name, verdict=verdict(view), sections=made, frames=frames, library=library
    )
    return page, [section["name"] for section in made if section["error"]]


def _section(view: View, name: str, title: str, gather: Callable[[View], dict[str, Any]]) -> dict[str, str]:
    section = {"name": name, "title": title, "html": "", "error": ""}
    try:
        views = view.frames if name in BY_FRAME else [view]
        parts = [(each.title, render(f"{name}.html.j2", **gather(each))) for each in views]
        section["html"] = render("frames.html.j2", frames=parts) if len(parts) > 1 else parts[0][1]
    except Exception as error:
        traceback.print_exc()
        section["error"] = f"{type(error).__name__}: {error}"
    return section


def verdict(view: View) -> dict[str, Any]:
    """The first lines of the page: whether the plate is complete, and the numbers that matter.

    Returns:
        `level` (good, warn, bad), `line`, `look` (see `plate_doubts`), `cards` (number and name), `facts`.
    """
    wells, frames = view.by_well, view.frames
    n_fields = len(view.qc[["Metadata_Well", "Metadata_Site"]].drop_duplicates())
    measured = int((~wells["Metadata_State"].isin(LEFT_OUT)).sum())
    flagged = int((wells["Metadata_Flags"].fillna("") != "").sum())
    if not measured:
        level, line = "bad", "No well could be measured"
    elif view.left_out:
        level, line = "warn", f"Complete, but left out: {wells_and_fields(view.left_out)}"
    else:
        level, line = "good", "Complete"
    look = view.aggregate.info.get("segmentation", []) if measured else []
    if look:
        line += (", and" if view.left_out else ", but") + " look at the segmentation"
        level = "bad" if any(doubt["flag"] == "none" for doubt in look) else "warn"
    if measured and flagged:
        line += f"; flagged for review: {number_of(flagged, 'well[s]')}"
    doubts = view.aggregate.info.get("doubts", [])
    if measured and doubts:
        level = "warn"
    cards = [(f"{measured} / {len(wells)}", "wells measured")]
    cards.append((f"{int(wells['Metadata_FieldsUsed'].sum())} / {n_fields}", "fields used"))
    in_all = f" in {len(frames)} frames" if len(frames) > 1 else ""
    for name in view.counts:
        cards.append((f"{int(view.wells[name].sum()):,}", name.removeprefix("Count_").lower() + in_all))
    medians = [float(well_values(frame.wells, view.counts[:1]).median().iloc[0]) for frame in frames]
    if np.isfinite(medians).any():
        cards.append(
            (value_range(np.nanmin(medians), np.nanmax(medians)), f"{view.rows.lower()} per field (median well)")
        )
    summaries = [frame.summary for frame in frames]
    cards.append((", ".join(dict.fromkeys(each["controls"]["grade"] for each in summaries)), "controls"))
    hits = [each["hits"]["hits"] for each in summaries if not each["hits"]["why none"]]
    cards.append((value_range(min(hits), max(hits)) if hits else "–", "hits"))  # none called is not none found
    metadata, channels = view.plate.metadata, view.plate.channels
    facts = [
        f"{math.prod(metadata['format'])}-well plate",
        f"{number_of(len(channels), 'channel[s]')}: {', '.join(channels)}",
    ]
    if metadata.get("pixel_size_um"):
        facts.append(f"{metadata['pixel_size_um'][0]:.4g} µm per pixel")
    facts.append(f"read as {metadata['layout']}")
    line = " ".join(f"{text[:1].upper()}{text[1:]}." for text in [line, *doubts])
    return {"level": level, "line": line, "look": look, "cards": cards, "facts": facts}


def value_range(least: float, most: float) -> str:
    """Of a value that frames differ in, both ends."""
    return " to ".join(dict.fromkeys(f"{value:,.4g}" for value in (least, most)))


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("plateflow.report")
    strict: Any = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, **strict)
    environment.filters["dose"] = dose_text
    environment.globals["number_of"] = number_of
    return environment


def render(template: str, **values: Any) -> Markup:
    """A page, or a section of one, which is not escaped again when a page includes it."""
    return Markup(_environment().get_template(template).render(**values))
