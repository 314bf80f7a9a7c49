"""The sections of a plate's page: each gathers what its template shows. One that fails doesn't stop the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.chain import STAGES, parameters
from plateflow.features.measure import compartment
from plateflow.project import Plate
from plateflow.report import charts, costs, screening, thumbnails
from plateflow.report.page import render
from plateflow.state.journal import LEFT_OUT, Entry, LeftOut
from plateflow.stats.flags import FLAGS
from plateflow.stats.wells import OWN
from plateflow.tables import records

if TYPE_CHECKING:
    import pandas as pd

REMEDIES = {
    "missing": "if it was lost on the way, copy it; the next run of snakemake takes it up",
    "crash": "look at the log, then run plateflow retry",
}
RECOPY = "copy the file again from the microscope; the next run of snakemake redoes this well alone"
NAMED = 48
"""Wells that weren't acquired are named up to this many."""
TABLES = (
    *("wells.csv", "wells.parquet", "normalised.parquet", "controls.csv", "positions.csv", "hits.csv", "doses.csv"),
    *("effects.parquet", "qc.parquet", "ledger.parquet", "features.json", "cells/", "plate.zarr/"),
)
PACKAGES = ("plateflow", "torch", "numpy", "scipy", "scikit-image", "zarr", "pandas", "snakemake")


@dataclass(frozen=True, kw_only=True)
class View:
    """A plate as the page sees it.

    Attributes:
        plate: of the project.
        wells: the well table, without the wells that weren't acquired.
        not_acquired: the names of those.
        qc: the quality table.
        aggregate: the outcome of the stage that made them.
    """

    plate: Plate
    wells: pd.DataFrame
    not_acquired: list[str]
    qc: pd.DataFrame
    aggregate: Entry

    @cached_property
    def rows(self) -> str:
        """The compartment that makes the rows."""
        return compartment(self.plate.config.rows)

    @cached_property
    def counts(self) -> list[str]:
        """The columns that count objects, the rows' first."""
        names = [str(name) for name in self.wells if str(name).startswith("Count_")]
        return sorted(names, key=lambda name: name != f"Count_{self.rows}")

    @cached_property
    def shown(self) -> dict[str, str]:
        """What the charts can show."""
        return charts.metrics(self.wells, self.counts, self.rows, self.plate.channels)

    @cached_property
    def left_out(self) -> list[dict[str, Any]]:
        """Wells, and fields of wells that went on without them, each at the stage where it was left out."""
        return [_left_out_row(item) for item in self.plate.left_out()]


def _left_out_row(item: LeftOut) -> dict[str, Any]:
    return {
        "well": item.well,
        "field": item.field,
        "stage": f"{item.stage} of {item.label_set}" if item.label_set else item.stage,
        "state": item.state,
        "reason": item.reason,
        "detail": item.detail,
        "files": item.files,
        "remedy": REMEDIES.get(item.reason, RECOPY),
    }


def verdict(view: View) -> dict[str, Any]:
    """The first lines of the page: whether the plate is complete, and the numbers that matter."""
    wells = view.wells
    states = wells["Metadata_State"].value_counts()
    used = int(wells["Metadata_FieldsUsed"].sum())
    fields = len(view.qc[["Metadata_Well", "Metadata_Site"]].drop_duplicates())
    measured = len(wells) - int(sum(states.get(state, 0) for state in LEFT_OUT))
    flagged = int((wells["Metadata_Flags"].fillna("") != "").sum())
    out = len(view.left_out)
    if not measured:
        level, line = "bad", "Nothing could be measured"
    elif out:
        fields_out = sum(bool(item["field"]) for item in view.left_out)
        parts = [_number(out - fields_out, "well"), _number(fields_out, "field")]
        level, line = "warn", f"Complete, but left out: {' and '.join(part for part in parts if part)}"
    else:
        level, line = "good", "Complete"
    if measured and flagged:
        line += f"; flagged to look at: {_number(flagged, 'well')}"
    cards = [(f"{measured} / {len(wells)}", "wells measured"), (f"{used} / {fields}", "fields used")]
    cards += [(f"{int(wells[name].sum()):,}", name.removeprefix("Count_").lower()) for name in view.counts]
    middle = float(wells[view.counts[0]].dropna().median())
    if np.isfinite(middle):
        cards.append((f"{middle:,.0f}", f"{view.rows.lower()} a well (median)"))
    cards.append((view.aggregate.info["controls"]["grade"], "controls"))
    cards.append((str(view.aggregate.info["hits"]["hits"]), "hits"))
    info = view.plate.metadata
    rows, columns = info["format"]
    facts = [
        f"{rows * columns}-well plate",
        f"{len(info['channels'])} channels: {', '.join(view.plate.channels)}",
    ]
    if info.get("pixel_size_um"):
        facts.append(f"{info['pixel_size_um'][0]:.4g} µm a pixel")
    facts.append(f"read as {info['layout']}")
    return {"level": level, "line": line + ".", "cards": cards, "facts": facts}


def _number(n: int, thing: str) -> str:
    return "" if not n else f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def plate(view: View) -> dict[str, Any]:
    """Heat map of the plate, and wells by treatment."""
    shape = (int(view.plate.metadata["format"][0]), int(view.plate.metadata["format"][1]))
    return {
        "metrics": list(enumerate(view.shown.values())),
        "map": charts.plate_map(view.wells, shape, view.shown),
        "groups": charts.groups(view.wells, view.shown),
        "not_acquired": view.not_acquired[:NAMED],
        "more": max(0, len(view.not_acquired) - NAMED),
    }


def wells(view: View) -> dict[str, Any]:
    """One outlined thumbnail a well."""
    plate = view.plate
    edge = thumbnails.edge_px(len(view.wells))
    figures = []
    for row in records(view.wells):
        figure: dict[str, Any] = {"well": row["Metadata_Well"], "state": row["Metadata_State"], "picture": ""}
        if row["Metadata_State"] not in LEFT_OUT:
            figure["picture"] = thumbnails.thumbnail(plate, figure["well"], edge=edge)
        figure["label"] = " ".join(_text(row.get(f"Metadata_{key}")) for key in ("treatment", "dose")).strip()
        figure["count"] = _text(row[view.counts[0]])
        figure["facts"] = [(name, text) for name, text in _facts(view, row) if text]
        figures.append(figure)
    names = [plate.config.rows, *(name for name in plate.config.segmentation if name != plate.config.rows)]
    return {
        "figures": figures,
        "edge": edge,
        "channels": [
            (name, thumbnails.hex_colour(tint)) for name, tint in thumbnails.channel_tints(plate.config).items()
        ],
        "outlines": [(name, thumbnails.OUTLINES[i % len(thumbnails.OUTLINES)]) for i, name in enumerate(names)],
        "gamma": thumbnails.GAMMA,
    }


def _facts(view: View, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "state", row["Metadata_State"] + (f" ({row['Metadata_Reason']})" if row["Metadata_Reason"] else "")
    yield "flags", (row["Metadata_Flags"] or "").replace(",", ", ")
    for name, value in row.items():
        if name.startswith("Metadata_") and name.removeprefix("Metadata_") not in OWN:
            yield name.removeprefix("Metadata_"), _text(value)
    yield "fields used", _text(row["Metadata_FieldsUsed"])
    yield "fields left out", (row["Metadata_FieldsLeftOut"] or "").replace(",", ", ")
    yield "fields out of the statistics", (row["Metadata_FieldsExcluded"] or "").replace(",", ", ")
    for column, title in view.shown.items():
        yield title, _text(row[column])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return "" if value is None else str(value)


def left_out(view: View) -> dict[str, Any]:
    """What was left out, and why."""
    return {
        "plate": view.plate.name,
        "items": view.left_out,
        "disagreements": view.plate.metadata["disagreements"],
    }


def flags(view: View) -> dict[str, Any]:
    """Flags with the wells and fields that bear them."""
    fields: dict[tuple[str, str], list[str]] = {}
    for row in records(view.qc[view.qc["Flags"] != ""]):
        for flag in row["Flags"].split(","):
            fields.setdefault((row["Metadata_Well"], flag), []).append(row["Metadata_Site"])
    found: dict[str, list[str]] = {}
    for row in records(view.wells[view.wells["Metadata_Flags"].fillna("") != ""]):
        well = row["Metadata_Well"]
        for flag in row["Metadata_Flags"].split(","):
            own = row["Metadata_FieldsLeftOut"].split(",") if flag == "fields" else fields.get((well, flag), [])
            names = f" (field {', '.join(dict.fromkeys(own))})" if own else ""
            found.setdefault(flag, []).append(well + names)
    return {
        "flags": [(flag, meaning, found[flag]) for flag, meaning in FLAGS.items() if flag in found],
        "excluding": view.plate.config.stats.exclude_flags,
    }


def intensity(view: View) -> dict[str, Any]:
    """The frozen window of each channel, what it would be now, and the illumination profile."""
    from plateflow.images.illumination import profile
    from plateflow.images.window import load_window

    window, info = load_window(view.plate.paths), view.aggregate.info
    channels = []
    for name in view.plate.channels:
        if name not in info["window now"]:
            continue
        low, high = window.limits(name)
        light = profile(window.profiles[name], 96, 96)
        item = {"name": name, "low": low, "high": high, "now": info["window now"][name], "drift": info["drift"][name]}
        item |= {"picture": "", "darkest": float(light.min() / light.max())}
        if item["darkest"] < 1:
            item["picture"] = thumbnails.profile_url(light)
        channels.append(item)
    return {"channels": channels, "settings": view.plate.config.normalise}


def methods(view: View) -> dict[str, Any]:
    """Models with their licences, versions, parameters, and where the tables are."""
    config, models = view.plate.config, {}
    for entry in view.plate.outcomes("infer").values():
        if entry.label_set in config.segmentation and entry.info.get("model"):
            models[entry.label_set] = {key: entry.info.get(key, "") for key in ("model", "licence", "sha256", "device")}
    settings = {stage: parameters(config, stage, view.plate.spec) for stage in STAGES}
    return {
        "models": sorted(models.items()),
        "versions": [(name, _version(name)) for name in PACKAGES],
        "settings": [(stage, list(_flat(value))) for stage, value in settings.items() if value],
        "tables": TABLES,
    }


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        elif item is not None:
            yield f"{prefix}{key}", ", ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "not installed"


SECTIONS: tuple[tuple[str, str, Callable[[View], dict[str, Any]]], ...] = (
    ("plate", "Plate", plate),
    ("controls", "Controls", screening.controls),
    ("hits", "Hits", screening.hits),
    ("positions", "Position effects", screening.positions),
    ("wells", "Wells", wells),
    ("left_out", "Left out", left_out),
    ("flags", "Flags", flags),
    ("intensity", "Intensity and illumination", intensity),
    ("methods", "How it was made", methods),
    ("costs", "What it cost", costs.costs),
)


def gather(view: View) -> list[dict[str, str]]:
    """All sections of the page in order: name, title, and html; or the error, where one failed."""
    made = []
    for name, title, make in SECTIONS:
        section = {"name": name, "title": title, "html": "", "error": ""}
        try:
            section["html"] = render(f"{name}.html.j2", **make(view))
        except Exception as error:
            traceback.print_exc()
            section["error"] = f"{type(error).__name__}: {error}"
        made.append(section)
    return made
