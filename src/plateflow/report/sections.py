"""Sections of a plate's page: each function gathers what the template of that name shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from plateflow.chain import STAGES
from plateflow.plates.plate import vendor_flat_field
from plateflow.report import thumbnails
from plateflow.report.view import View
from plateflow.state.ledger import attempts

REMEDIES = {
    "missing": "if it was lost in transfer, copy it again; the next run of snakemake picks it up",
    "crash": "look at the log, then run plateflow retry",
}
RECOPY = "copy the file again from the microscope; the next run of snakemake processes this well alone"


def left_out(view: View) -> dict[str, Any]:
    """What was left out, and why."""
    items = [asdict(item) | {"remedy": REMEDIES.get(item.reason.partition(",")[0], RECOPY)} for item in view.left_out]
    return {"items": items, "disagreements": view.plate.metadata["disagreements"]}


def intensity(view: View) -> dict[str, Any]:
    """The frozen intensity window of each channel, its limits as they would be now, and the illumination profile."""
    from plateflow.images.window import DRIFTED, load_window

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
        "drifted": DRIFTED,
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
        and written (MB), None where no attempt tells; `total`, `failed`: the same of all, and of unsuccessful attempts;
        `cells`;
        `cells_gpu_h`: cells per GPU hour, None without a GPU; `cells_cpu_h`: cells per CPU hour.
    """
    rows = list(rows)
    stages, total = {row["stage"] for row in rows}, _sums(rows)
    return {
        "stages": [{"stage": s, **_sums([row for row in rows if row["stage"] == s])} for s in STAGES if s in stages],
        "total": total,
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
