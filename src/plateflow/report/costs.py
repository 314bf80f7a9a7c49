"""The section on what a plate cost: by stage, by cell, and what was spent on attempts that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from plateflow.chain import STAGES
from plateflow.state.ledger import attempts

if TYPE_CHECKING:
    from plateflow.report.sections import View


def costs(view: View) -> dict[str, Any]:
    """The section; the report itself isn't counted: it still runs."""
    rows = [row for row in attempts(view.plate.paths) if row["stage"] != "report"]
    return summary(rows, cells=int(view.wells[view.counts[0]].sum()))


def summary(rows: Iterable[Mapping[str, Any]], *, cells: int) -> dict[str, Any]:
    """What the template shows of a ledger's rows.

    Returns:
        `stages`: each with attempts, failed ones, seconds on the GPU, of processors, and by the clock, peak memory
        (MB), bytes read and written (MB); `failed`: what the attempts cost that didn't end well; `cells`;
        `cells_gpu_h`: cells an hour of GPU, or None where there was none; `cells_cpu_h` likewise of processors.
    """
    rows = list(rows)
    stages = [
        {"stage": stage, **_sums([row for row in rows if row["stage"] == stage])}
        for stage in STAGES
        if any(row["stage"] == stage for row in rows)
    ]
    whole = _sums(rows)
    return {
        "stages": stages,
        "failed": _sums([row for row in rows if row["state"] != "ok"]),
        "cells": cells,
        "cells_gpu_h": cells / (whole["gpu_s"] / 3600) if whole["gpu_s"] else None,
        "cells_cpu_h": cells / (whole["cpu_s"] / 3600) if whole["cpu_s"] else None,
    }


def _sums(rows: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "attempts": len(rows),
        "not_ok": sum(row["state"] != "ok" for row in rows),
        "peak_mb": max((row["peak_mb"] or 0.0 for row in rows), default=0.0),
    } | {key: sum(row[key] or 0.0 for row in rows) for key in ("gpu_s", "cpu_s", "seconds", "read_mb", "written_mb")}
