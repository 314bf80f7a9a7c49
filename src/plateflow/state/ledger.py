"""What was spent: one row per attempt at a job, from journals, Snakemake's benchmark files and SLURM's accounting.

A journal says when an attempt began, what it did, and what it had used by each outcome and by its end. One that was
killed says nothing at its end: all then runs to its last finished work item; the accounting may know its time better.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plateflow.chain import STAGES
from plateflow.files import mapped_bytes, write_atomic
from plateflow.paths import PlatePaths
from plateflow.state.journal import Attempt, Entry, Journal
from plateflow.state.lease import read_owner

if TYPE_CHECKING:
    import pandas as pd

USED = ("cpu_s", "peak_mb", "read_mb", "written_mb")


def attempts(paths: PlatePaths) -> list[dict[str, Any]]:
    """All attempts at the jobs of a plate except those that still run.

    Returns:
        dicts with `plate, stage, job, attempt` (from 1), `began` (ISO 8601), `state` (ok | failed | interrupted |
        killed), `mode`: how (see `_mode`), `units`: work items finished in it, `share`: of the stage's work for this
        plate, `objects` (where labels were made), `tiles` (infer), `seconds`: wall time, as long as the job is known
        to have lasted, `start_s`: from the script's start to the first finished work item, less that item's own time,
        `cpu_s, peak_mb, read_mb, written_mb` (see `Meter`; None where nothing told them), `gpus`, `gpu_s`, `gpu_mb`:
        the most of a GPU's memory that was in use (None without one), `host, slurm_job`.
    """
    try:
        wells = max(1, len(json.loads(paths.metadata.read_text())["wells"]))
    except FileNotFoundError:
        return []
    rows = [row for stage in STAGES for path in paths.journals(stage) for row in _of_journal(paths, stage, path, wells)]
    _ask_accounting(rows)
    for row in rows:
        row["gpu_s"] = row["seconds"] * row["gpus"]
    return rows


def write_ledger(paths: PlatePaths, rows: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """Write ledger.parquet of a plate, or of the screen with the `rows` of all plates, and return it."""
    import pandas as pd

    table = pd.DataFrame(attempts(paths) if rows is None else rows)
    if len(table):
        write_atomic(paths.table("ledger.parquet"), table.to_parquet(index=False))
    return table


def _of_journal(paths: PlatePaths, stage: str, path: Path, wells: int) -> Iterator[dict[str, Any]]:
    """A row per attempt that a journal tells of, but the last one while it runs: while its job's lease is held."""
    job = path.stem.removeprefix(f"{stage}-")
    attempts = Journal.read(path).attempts
    for attempt in attempts:
        if not attempt.number:
            continue
        owner = read_owner(paths.lease(stage, job)) if attempt.state == "open" and attempt is attempts[-1] else None
        if owner is None or owner.alive() is False:
            yield _row(paths, stage, job, attempt, wells)


def _row(paths: PlatePaths, stage: str, job: str, attempt: Attempt, wells: int) -> dict[str, Any]:
    entries = attempt.entries
    ended = attempt.ended or max((entry.finished for entry in entries), default=attempt.began)
    benchmarks = [_benchmark(path, attempt.ended) for path in paths.benchmarks(stage, job) if attempt.ended]
    label_sets = {entry.label_set for entry in entries}
    items = {(entry.well, entry.label_set) for entry in entries}
    whole_plate = not any(entry.well for entry in entries)
    first = min(entries, key=lambda entry: entry.finished, default=None)
    on_gpu = stage == "infer" and any(entry.info.get("device", "cpu") != "cpu" for entry in entries)
    return {
        "plate": paths.plate,
        "stage": stage,
        "job": job,
        "attempt": attempt.number,
        "began": attempt.began,
        "state": "killed" if attempt.state == "open" else attempt.state,
        "host": attempt.host,
        "slurm_job": attempt.slurm_job,
        **{key: attempt.used.get(key) for key in USED},
        "units": len(entries),
        "share": (1.0 if whole_plate else len(items) / (wells * len(label_sets))) if entries else 0.0,
        "mode": _mode(stage, entries),
        "objects": sum(entry.info.get("objects", 0) for entry in entries) if stage in ("infer", "stitch") else 0,
        "tiles": sum(entry.info.get("tiles", 0) for entry in entries),
        "seconds": round(max(*benchmarks, 0.0, _time(ended) - _time(attempt.began)), 3),
        "start_s": round(_time(first.finished) - _time(attempt.began) - first.seconds, 3) if first else None,
        "gpus": int(on_gpu),
        "gpu_mb": max((entry.info["gpu_mb"] for entry in entries if "gpu_mb" in entry.info), default=None),
    }


def _mode(stage: str, entries: list[Entry]) -> str:
    """Which of its ways a stage went, as `estimate` has rates of them: `infer` with "labels", `stitch` from the "ends"
    of paths that `follow` left.
    """
    if stage == "infer" and any("objects" in entry.info for entry in entries):
        return "labels"
    return "ends" if stage == "stitch" and not any(entry.info.get("followed") for entry in entries) else ""


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _benchmark(path: Path, ended: str) -> float:
    """Seconds of the whole job by Snakemake's benchmark; 0 where that file isn't of the attempt that ended then."""
    try:
        header, values = (line.split("\t") for line in path.read_text().splitlines()[:2])
        return float(values[header.index("s")]) if 0 <= path.stat().st_mtime - _time(ended) <= 30 else 0.0
    except (OSError, ValueError):
        return 0.0


def _ask_accounting(rows: list[dict[str, Any]]) -> None:
    """Replace the time of jobs that SLURM knows by that of their allocation, and its GPUs by those it was given."""
    jobs = sorted({row["slurm_job"] for row in rows if row["slurm_job"]})
    if not jobs or not shutil.which("sacct"):
        return
    command = ["sacct", "-X", "-n", "-P", "-o", "JobIDRaw,ElapsedRaw,AllocTRES", "-j", ",".join(jobs)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return  # no accounting here
    accounts = {line.split("|")[0]: line.split("|")[1:] for line in result.stdout.splitlines() if line.count("|") == 2}
    for row in rows:
        elapsed, granted = accounts.get(row["slurm_job"], ("", ""))
        if elapsed.isdigit():
            row["seconds"] = max(row["seconds"], float(elapsed))
            gpus = [item.partition("=")[2] for item in granted.split(",") if item.startswith("gres/gpu=")]
            row["gpus"] = int(gpus[0]) if gpus else row["gpus"]


class Meter:
    """What this process uses, from a job's begin on: the one definition of the bytes that are read and written.

    `read_mb` and `written_mb` (10^6 bytes) are what the system gave in calls like read() and took in calls like
    write(), of all threads and of the children that have ended, whatever was behind: a disk, a share, the cache of
    either, a pipe (rchar and wchar of /proc/self/io); and what was touched of mapped files, of which the system keeps
    no count (`files.count_mapped`). So what is read twice counts twice, and what a job imports counts, too.
    `cpu_s` and `peak_mb`, of the resident memory, are of the process since it began, so with Python's own start.
    """

    def __init__(self) -> None:
        self._before = _moved()

    def used(self) -> dict[str, Any]:
        """`cpu_s`, `peak_mb`, `read_mb`, `written_mb` so far; without what the system doesn't tell."""
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        used: dict[str, Any] = {"cpu_s": round(sum(u.ru_utime + u.ru_stime for u in usages), 2)}
        # Not ru_maxrss: after a fork that holds what the parent had.
        peak = _lines("/proc/self/status").get("VmHWM")
        if peak:
            used["peak_mb"] = round(int(peak.split()[0]) * 1024 / 1e6, 1)
        now = _moved() if self._before else {}
        return used | {name: round((amount - self._before[name]) / 1e6, 2) for name, amount in now.items()}


def _moved() -> dict[str, int]:
    """Bytes that this process has read and written since it began; empty where the system doesn't tell (macOS)."""
    counters, mapped = _lines("/proc/self/io"), mapped_bytes()
    keys = {"read_mb": "rchar", "written_mb": "wchar"}
    if not counters.keys() >= set(keys.values()):
        return {}
    return {name: int(counters[key]) + mapped[name] for name, key in keys.items()}


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _lines(path: str) -> dict[str, str]:
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
