"""The page of a plate: one file with style, scripts and pictures inside; every value is escaped, nothing is fetched."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import numpy as np
from markupsafe import Markup

from plateflow.errors import number_of
from plateflow.installed import user_cache
from plateflow.report import gates, methods, quality, screening, sections, segmentation, wells
from plateflow.report.view import View
from plateflow.state.journal import LEFT_OUT, LeftOut, wells_and_fields
from plateflow.stats.alike import ALIKE
from plateflow.stats.effects import dose_text
from plateflow.stats.reference import in_use, well_values
from plateflow.stats.statistics import summaries_of

SECTIONS: tuple[tuple[str, str, Callable[[View], dict[str, Any]]], ...] = (
    ("plate", "Plate", wells.plate),
    ("wells", "Wells", wells.wells),
    ("left_out", "Left out", sections.left_out),
    ("segmentation", "Segmentation", segmentation.segmentation),
    ("gates", "Cells in the statistics", gates.gates),
    ("controls", "Controls", screening.controls),
    ("positions", "Position effects", screening.positions),
    ("hits", "Hits", screening.hits),
    ("quality", "Image quality", quality.quality),
    ("intensity", "Intensity and illumination", sections.intensity),
    ("methods", "Methods", methods.methods),
    ("resources", "Resource use", sections.resources),
)
"""Of each section the name of its template, its title, and what gathers the values that the template shows."""
USABLE = {"good": "Usable", "warn": "Usable with care", "bad": "Not usable as it is", "empty": "Not usable"}
"""What a plate's level says; `empty`: no well of it is in use."""
SAID = 2
"""Reasons of the controls' grade that the verdict gives; their section gives all."""
PICTURES = "wells"
"""The section that takes longest, and draws no chart: it is made while the others are."""
BY_FRAME = ("controls", "hits", "positions")
"""The sections that are made of each frame by itself, of which a choice on the page shows one, group by group."""


def plate_page(view: View) -> tuple[str, list[str]]:
    """The page of a plate, and the names of the sections that failed; these say so and do not stop the others."""
    with ThreadPoolExecutor(1) as pool:
        beside = {each[0]: pool.submit(_section, view, *each) for each in SECTIONS if each[0] == PICTURES}
        others = {each[0]: _section(view, *each) for each in SECTIONS if each[0] != PICTURES}
    made = [others.get(name) or beside[name].result() for name, *_ in SECTIONS]
    frames = [frame.title for frame in view.frames]
    page = render(
        "page.html.j2", plate=view.plate.name, verdict=verdict(view), sections=made, frames=frames, library=library()
    )
    return page, [section["name"] for section in made if section["error"]]


def _section(view: View, name: str, title: str, gather: Callable[[View], dict[str, Any]]) -> dict[str, str]:
    section = {"name": name, "title": title, "html": "", "error": ""}
    try:
        views = view.shown_together if name in BY_FRAME else [[view]]
        parts = [[(each.group, render(f"{name}.html.j2", **gather(each))) for each in together] for together in views]
        made = [render("groups.html.j2", groups=groups) for groups in parts]
        titles = [frame.title for frame in view.frames]
        section["html"] = render("frames.html.j2", frames=zip(titles, made, strict=True)) if len(made) > 1 else made[0]
    except Exception as error:
        traceback.print_exc()
        section["error"] = f"{type(error).__name__}: {error}"
    return section


def verdict(view: View) -> dict[str, Any]:
    """The first lines of the page: whether the plate can be used and why, and the five figures that matter.

    Returns:
        `level`, `usable`, `line`, `why` (sentences), `look` (see `plate_doubts`), `cards` (number and
        name), `facts`.
    """
    wells, info = view.by_well, view.aggregate.info
    measured = int((~wells["Metadata_State"].isin(LEFT_OUT)).sum())
    flagged = int((wells["Metadata_Flags"].fillna("") != "").sum())
    used = int(in_use(wells).sum())
    level, line = level_of(info, used, view.left_out), "Complete"
    if not used:
        line = nothing_in_use(measured)
    elif view.left_out:
        line = f"Complete, but left out: {wells_and_fields(view.left_out)}"
    look = info.get("segmentation", []) if used else []
    if look:
        line += (", and" if view.left_out else ", but") + " look at the segmentation"
    if measured and flagged:
        line += f"; flagged for review: {number_of(flagged, 'well[s]')}"
    why = info.get("doubts", []) if used else []
    verdicts = [(cut.group, cut.summary["controls"]) for cut in view.cuts]
    grades = list(dict.fromkeys(each["grade"] for _, each in verdicts))
    reasons = dict.fromkeys(
        f"{group}: {screening.in_reason(view, why)}".removeprefix(": ")
        for group, each in verdicts
        if each["grade"] != "good"
        for why in each["reasons"]
    )
    if used:
        why = [*why, f"controls: {', '.join(grades)}" + (f" ({'; '.join(list(reasons)[:SAID])})" if reasons else "")]
    if view.corrected:
        why.append(f"labels of {number_of(view.corrected, 'well[s]')} were corrected by hand")
    sentences = [f"{text[:1].upper()}{text[1:]}." for text in (line, *why)]
    said = {"level": level, "usable": USABLE[level], "line": sentences[0], "why": sentences[1:], "look": look}
    return said | _figures(view, measured, grades)


def nothing_in_use(measured: int) -> str:
    """Why no well is in use, of which so many were measured."""
    return "every field is excluded for its flags" if measured else "no well could be measured"


def level_of(info: Mapping[str, Any], used: int, left_out: Sequence[LeftOut]) -> str:
    """Whether a plate can be used: a key of USABLE.

    Args:
        info: what the stage `aggregate` found.
        used: wells with a field in use.
        left_out: wells and fields that were not measured.
    """
    if not used:
        return "empty"
    look = info.get("segmentation", [])
    if any(doubt["flag"] == "none" for doubt in look):
        return "bad"
    poor = any(each["controls"]["grade"] == "poor" for each in summaries_of(info))
    return "warn" if left_out or look or info.get("doubts") or poor else "good"


def _figures(view: View, measured: int, grades: list[str]) -> dict[str, Any]:
    """The five figures that matter, and what kind of plate it is."""
    wells, frames, rows = view.by_well, view.frames, view.rows.lower()
    in_all = f" in {len(frames)} frames" if len(frames) > 1 else ""
    medians = [float(well_values(frame.wells, view.counts[:1]).median().iloc[0]) for frame in frames]
    known = np.isfinite(medians).any()
    per_field = value_range(np.nanmin(medians), np.nanmax(medians)) if known else "–"
    summaries = [[cut.summary["hits"] for cut in cuts] for cuts in view.shown_together]
    hits = [sum(each["hits"] for each in told) for told in summaries if not all(each["why none"] for each in told)]
    cards = [
        (f"{measured} / {len(wells)}", "wells measured"),
        (f"{int(view.wells[view.counts[0]].sum()):,}", rows + in_all),
        (per_field, f"{rows} per field (median well)"),
        (", ".join(grades), "controls"),
        (value_range(min(hits), max(hits)) if hits else "–", "hits"),  # none called is not none found
    ]
    metadata, channels = view.plate.metadata, view.plate.channels
    facts = [
        f"{math.prod(metadata['format'])}-well plate",
        f"{number_of(len(channels), 'channel[s]')}: {', '.join(channels)}",
    ]
    if metadata.get("pixel_size_um"):
        facts.append(f"{metadata['pixel_size_um'][0]:.4g} µm per pixel")
    facts.append(f"read as {metadata['layout']}")
    n_fields = len(view.qc[["Metadata_Well", "Metadata_Site"]].drop_duplicates())
    facts.append(f"fields used {int(wells['Metadata_FieldsUsed'].sum())} / {n_fields}")
    for name in view.counts[1:]:
        facts.append(f"{name.removeprefix('Count_').lower()}{in_all} {int(view.wells[name].sum()):,}")
    return {"cards": cards, "facts": facts}


def value_range(least: float, most: float) -> str:
    """Of a value that frames differ in, both ends."""
    return " to ".join(dict.fromkeys(f"{value:,.4g}" for value in (least, most)))


def library() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script (0.9 MB), in which nothing may close the script.

    To bundle them takes four seconds, so the script is kept in the user's cache, after a line that is its checksum.
    """
    import vl_convert

    kept = user_cache() / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError):
        checksum, _, script = kept.read_bytes().partition(b"\n")
        if checksum == sha256(script).hexdigest().encode():
            return _closed(script.decode())
    bundle: Any = vl_convert.javascript_bundle  # its stub claims that it needs an argument
    script = bundle().encode()
    new = kept.with_name(f"{kept.name}.{uuid4()}")
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.write_bytes(sha256(script).hexdigest().encode() + b"\n" + script)
            new.replace(kept)
        finally:
            new.unlink(missing_ok=True)  # of a full disk
    return _closed(script.decode())


def _closed(script: str) -> Markup:
    return Markup(script.replace("</script", "<\\/script"))


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("plateflow.report")
    strict: Any = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, **strict)
    environment.filters["dose"] = dose_text
    environment.globals |= {"number_of": number_of, "ALIKE": ALIKE}
    return environment


def render(template: str, **values: Any) -> Markup:
    """A page, or a section of one, which is not escaped again when a page includes it."""
    return Markup(_environment().get_template(template).render(**values))
