"""Sections of a plate's page: each function gathers what the template of that name shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from plateflow.chain import STAGES
from plateflow.plates.plate import vendor_flat_field
from plateflow.report import charts, thumbnails
from plateflow.report.view import View
from plateflow.state.journal import LEFT_OUT
from plateflow.state.ledger import attempts
from plateflow.stats.effects import DOSE, TREATMENT, UNIT, dose_text
from plateflow.stats.reference import by_frame
from plateflow.stats.wells import OWN
from plateflow.tables import records

REMEDIES = {
    "missing": "if it was lost in transfer, copy it again; the next run of snakemake picks it up",
    "crash": "look at the log, then run plateflow retry",
}
RECOPY = "copy the file again from the microscope; the next run of snakemake processes this well alone"
NAMED = 48
"""The most wells that were not acquired that are named."""


def plate(view: View) -> dict[str, Any]:
    """Heat map of the plate, and wells by treatment, for each frame."""
    rows, columns = view.plate.metadata["format"]
    limits = [[view.charted[name].min(), view.charted[name].max()] for name in view.metrics]
    return {
        "metrics": list(enumerate(view.metrics.values())),
        "frames": [
            {
                "title": frame.title,
                "map": charts.plate_map(wells, (rows, columns), view.metrics, limits),
                "groups": charts.groups(wells, view.metrics),
            }
            for frame, (_, wells) in zip(view.frames, by_frame(view.charted), strict=True)
        ],
        "not_acquired": view.not_acquired[:NAMED],
        "more": max(0, len(view.not_acquired) - NAMED),
    }


def wells(view: View) -> dict[str, Any]:
    """One thumbnail per well, with outlines of the objects."""
    config = view.plate.config
    edge = thumbnails.edge_px(len(view.by_well))
    figures = []
    for row, frames in _shown(view):
        figure: dict[str, Any] = {"well": row["Metadata_Well"], "state": row["Metadata_State"], "picture": ""}
        if row["Metadata_State"] not in LEFT_OUT:
            figure["picture"] = thumbnails.thumbnail(view.plate, figure["well"], edge=edge)
        figure["label"] = f"{_text(row.get(TREATMENT))} {dose_text(row.get(DOSE), row.get(UNIT))}".strip()
        figure["count"] = _text(row.get(view.counts[0]))
        figure["facts"] = [(name, text) for name, text in _facts(view, row, frames) if text]
        figures.append(figure)
    names = dict.fromkeys((config.row_label_set, *config.segmentation))
    return {
        "figures": figures,
        "edge": edge,
        "channels": [(name, thumbnails.hex_colour(tint)) for name, tint in thumbnails.channel_tints(config).items()],
        "outlines": [(name, thumbnails.OUTLINES[i % len(thumbnails.OUTLINES)]) for i, name in enumerate(names)],
        "gamma": thumbnails.GAMMA,
        "several": len(view.frames) > 1,
    }


def _shown(view: View) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Of each well the row of the frame that its picture shows (`thumbnails.thumbnail`), and those of all frames."""
    for _, rows in view.charted.groupby("Metadata_Well", sort=False):
        first = next(rows for _, rows in by_frame(rows.drop(columns="Metadata_Z", errors="ignore")))
        yield records(first)[len(first) // 2], records(rows)


def _facts(view: View, row: dict[str, Any], frames: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "state", row["Metadata_State"] + (f" ({row['Metadata_Reason']})" if row["Metadata_Reason"] else "")
    yield "flags", (row["Metadata_Flags"] or "").replace(",", ", ")
    for name, value in row.items():
        if name.startswith("Metadata_") and name.removeprefix("Metadata_") not in OWN:
            yield name.removeprefix("Metadata_"), _text(value)
    yield "fields used", _text(row["Metadata_FieldsUsed"])
    yield "fields left out", (row["Metadata_FieldsLeftOut"] or "").replace(",", ", ")
    yield "fields excluded", (row["Metadata_FieldsExcluded"] or "").replace(",", ", ")
    for column, title in view.metrics.items():
        yield title, "; ".join(_text(frame[column]) for frame in frames)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return "" if value is None else str(value)


def left_out(view: View) -> dict[str, Any]:
    """What was left out, and why."""
    items = [asdict(item) | {"remedy": REMEDIES.get(item.reason.partition(",")[0], RECOPY)} for item in view.left_out]
    return {"items": items, "disagreements": view.plate.metadata["disagreements"]}


def intensity(view: View) -> dict[str, Any]:
    """The frozen intensity window of each channel, its limits as they would be now, and the illumination profile."""
    from plateflow.images.window import load_window

    window, info = load_window(view.plate.paths), view.aggregate.info
    channels = []
    for name in view.plate.channels:
        if name not in info["window now"]:
            continue
        low, high = window.limits(name)
        light = window.lights[name]
        channels.append(
            {"name": name, "low": low, "high": high, "now": info["window now"][name], "drift": info["drift"][name]}
            | {"used": info.get("raw values", {}).get(name)}
            | {"light": light, "picture": "" if light.why else thumbnails.profile_url(light.profile(96, 96))}
        )
    vendor = vendor_flat_field(view.plate.metadata)
    return {
        "channels": channels,
        "settings": view.plate.config.normalise,
        "vendor": vendor,
        "frozen": window.content["freeze"] > 0,
    }


def resources(view: View) -> dict[str, Any]:
    """What the plate took in time and memory, without the report itself, which is still running."""
    rows = [row for row in attempts(view.plate.paths) if row["stage"] != "report"]
    return resource_use(rows, cells=int(view.wells[view.counts[0]].sum()))


def resource_use(rows: Iterable[Mapping[str, Any]], *, cells: int) -> dict[str, Any]:
    """Summary of a ledger's rows.

    Returns:
        `stages`: each with attempts, unsuccessful ones, seconds of GPU, CPU and wall time, peak memory (MB), bytes read
        and written (MB), None where no attempt tells; `failed`: the same of all unsuccessful attempts; `cells`;
        `cells_gpu_h`: cells per GPU hour, None without a GPU; `cells_cpu_h`: cells per CPU hour.
    """
    rows = list(rows)
    stages, total = {row["stage"] for row in rows}, _sums(rows)
    return {
        "stages": [{"stage": s, **_sums([row for row in rows if row["stage"] == s])} for s in STAGES if s in stages],
        "failed": _sums([row for row in rows if row["state"] != "ok"]),
        "cells": cells,
        "cells_gpu_h": cells / (total["gpu_s"] / 3600) if total["gpu_s"] else None,
        "cells_cpu_h": cells / (total["cpu_s"] / 3600) if total["cpu_s"] else None,
    }


def _sums(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over attempts, and the highest memory; None of what none of them tells."""
    sums: dict[str, Any] = {"attempts": len(rows), "not_ok": sum(row["state"] != "ok" for row in rows)}
    for key in ("gpu_s", "cpu_s", "seconds", "read_mb", "written_mb", "peak_mb"):
        told = [row[key] for row in rows if row[key] is not None]
        sums[key] = (max(told) if key == "peak_mb" else sum(told)) if told else None
    return sums
