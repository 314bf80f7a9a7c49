"""Sections of a plate's page: each function gathers what the template of that name shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from plateflow.chain import STAGES, label_parameters, stages_of
from plateflow.plates.plate import vendor_flat_field
from plateflow.report import thumbnails
from plateflow.report.view import View, accepted_results
from plateflow.state.ledger import attempts
from plateflow.stats.flags import FLAGS
from plateflow.stats.segmentation import numbers_of
from plateflow.tables import records

REMEDIES = {
    "missing": "if it was lost in transfer, copy it again; the next run of snakemake picks it up",
    "crash": "look at the log, then run plateflow retry",
}
RECOPY = "copy the file again from the microscope; the next run of snakemake processes this well alone"
TABLES = (
    *("wells.csv", "wells.parquet", "normalised.parquet", "controls.csv", "positions.csv", "hits.csv", "doses.csv"),
    *("effects.parquet", "qc.parquet", "ledger.parquet", "features.json", "cells/", "plate.zarr/"),
)
PACKAGES = ("plateflow", "torch", "numpy", "scipy", "scikit-image", "zarr", "pandas", "snakemake")


def left_out(view: View) -> dict[str, Any]:
    """What was left out, and why."""
    items = [asdict(item) | {"remedy": REMEDIES.get(item.reason.partition(",")[0], RECOPY)} for item in view.left_out]
    return {"items": items, "disagreements": view.plate.metadata["disagreements"]}


def flags(view: View) -> dict[str, Any]:
    """Flags, each with the wells and fields that have it."""
    fields: dict[tuple[str, str], list[str]] = {}
    for row in records(view.qc[view.qc["Flags"] != ""]):
        for flag in row["Flags"].split(","):
            fields.setdefault((row["Metadata_Well"], flag), []).append(row["Metadata_Site"])
    flagged: dict[str, list[str]] = {}
    for row in records(view.by_well[view.by_well["Metadata_Flags"].fillna("") != ""]):
        well = row["Metadata_Well"]
        for flag in row["Metadata_Flags"].split(","):
            names = row["Metadata_FieldsLeftOut"].split(",") if flag == "fields" else fields.get((well, flag), [])
            more = f"field {', '.join(dict.fromkeys(names))}" if names else ", ".join(numbers_of(flag, row))
            flagged.setdefault(flag, []).append(well + (f" ({more})" if more else ""))
    return {
        "flags": [(flag, meaning, flagged[flag]) for flag, meaning in FLAGS.items() if flag in flagged],
        "excluding": view.plate.config.stats.exclude_flags,
    }


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


def methods(view: View) -> dict[str, Any]:
    """Models with their licences, versions of the software, what was accepted of earlier ones, parameters, tables."""
    models = {}
    for entry in view.plate.outcomes("infer").values():
        if entry.label_set in view.plate.config.segmentation and entry.info.get("model"):
            models[entry.label_set] = {key: entry.info.get(key, "") for key in ("model", "licence", "sha256", "device")}
    config = view.plate.config  # what decides labels is told, whichever stage makes them
    settings = {
        stage: view.plate.parameters(stage) for stage in STAGES if config.keep_flows or stage in stages_of(config)
    }
    if not config.keep_flows:
        settings["infer"] = {
            name: {**values, **label_parameters(config, name)} for name, values in settings["infer"].items()
        }
    return {
        "models": sorted(models.items()),
        "accepted": accepted_results(view.plate),
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
