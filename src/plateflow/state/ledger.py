"""What was spent: one row an attempt at a job, from the journals, Snakemake's benchmark files and SLURM's accounting.

A journal says when an attempt began, what it did, and, where it came to an end by itself, what it used. One that was
killed says nothing at its end: its time then runs to its last finished unit, unless the accounting knows better.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plateflow.chain import STAGES
from plateflow.files import read_lines, write_atomic
from plateflow.paths import PlatePaths
from plateflow.state.lease import read_owner

if TYPE_CHECKING:
    import pandas as pd

ENDS = {"end": "ok", "failed": "failed", "interrupted": "interrupted"}
USED = ("cpu_s", "peak_mb", "read_mb", "written_mb")


def attempts(paths: PlatePaths) -> list[dict[str, Any]]:
    """All attempts at the jobs of a plate, but those that still run.

    Returns:
        dicts with `plate, stage, job, attempt` (from 1), `began` (ISO 8601), `state` (ok | failed | interrupted |
        killed), `units`: finished in it, `share`: of the stage's work of this plate, `objects` (stitch), `tiles`
        (infer), `seconds`: wall time, as long as the job is known to have lasted, `start_s`: from the script's start
        to the first finished unit, less that unit's own time, `cpu_s, peak_mb, read_mb, written_mb` (None where it was
        killed), `gpus`, `gpu_s`, `host, slurm_job`.
    """
    try:
        wells = max(1, len(json.loads(paths.info.read_text())["wells"]))
    except FileNotFoundError:
        return []
    rows = [row for stage in STAGES for path in paths.journals(stage) for row in _of_journal(paths, stage, path, wells)]
    _ask_accounting(rows)
    for row in rows:
        row["gpu_s"] = row["seconds"] * row["gpus"]
    return rows


def write_ledger(paths: PlatePaths) -> pd.DataFrame:
    """Write ledger.parquet of a plate, and return it."""
    return _write(paths, attempts(paths))


def write_screen_ledger(screen: PlatePaths, plates: Iterable[PlatePaths]) -> list[dict[str, Any]]:
    """Write the ledger over all plates, and return its rows."""
    rows = [row for paths in plates for row in attempts(paths)]
    _write(screen, rows)
    return rows


def _write(paths: PlatePaths, rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(rows)
    if len(table):
        write_atomic(paths.table("ledger.parquet"), table.to_parquet(index=False))
    return table


def _of_journal(paths: PlatePaths, stage: str, path: Path, wells: int) -> Iterator[dict[str, Any]]:
    """The attempts that a journal tells of. Lines before the first beginning are of an earlier release."""
    job = path.stem.removeprefix(f"{stage}-")
    row: dict[str, Any] = {}
    done: list[dict[str, Any]] = []
    number = 0
    lines = list(read_lines(path))
    begun = sum(line.get("event") == "begin" for line in lines)
    for line in [*lines, {"event": "begin"}]:
        event = line.get("event")
        if event == "begin":
            if row and not (row["state"] == "killed" and number == begun and _runs(paths, stage, job)):
                yield _closed(row, done, wells)
            number, done = number + 1, []
            row = {"plate": paths.plate, "stage": stage, "job": job, "attempt": number, "began": line.get("at", "")}
            row |= {
                "state": "killed",
                "ended": "",
                "host": line.get("host", ""),
                "slurm_job": line.get("slurm_job", ""),
            }
            row |= dict.fromkeys(USED)
        elif row and event == "done" and not row["ended"]:
            done.append(line)
        elif row and event in ENDS:
            row |= {"state": ENDS[event], "ended": line.get("at", "")} | {key: line.get(key) for key in USED}
            row["seconds"] = _benchmark(paths.benchmark(stage, job), line.get("at", ""))


def _runs(paths: PlatePaths, stage: str, job: str) -> bool:
    """Whether a job's lease is held: its last attempt isn't over, then."""
    owner = read_owner(paths.lease(stage, job))
    return owner is not None and owner.alive() is not False


def _closed(row: dict[str, Any], done: list[dict[str, Any]], wells: int) -> dict[str, Any]:
    """A row with all that its lines say together."""
    ended = row.pop("ended") or max((line["finished"] for line in done), default=row["began"])
    known = row.pop("seconds", None) or 0.0
    infos = [line["info"] for line in done]
    sets = {line["label_set"] for line in done}
    units = {(line["well"], line["label_set"]) for line in done}
    whole = not any(line["well"] for line in done)
    first = min(done, key=lambda line: line["finished"], default=None)
    on_gpu = row["stage"] == "infer" and any(info.get("device", "cpu") != "cpu" for info in infos)
    return row | {
        "units": len(done),
        "share": (1.0 if whole else len(units) / (wells * len(sets))) if done else 0.0,
        "objects": sum(info.get("objects", 0) for info in infos) if row["stage"] == "stitch" else 0,
        "tiles": sum(info.get("tiles", 0) for info in infos),
        "seconds": round(max(known, _between(row["began"], ended)), 3),
        "start_s": round(_between(row["began"], first["finished"]) - first["seconds"], 3) if first else None,
        "gpus": int(on_gpu),
    }


def _between(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def _benchmark(path: Path, ended: str) -> float | None:
    """Seconds of the whole job by Snakemake's benchmark, if that file is of the attempt that ended then."""
    try:
        written = path.stat().st_mtime
        header, values = (line.split("\t") for line in path.read_text().splitlines()[:2])
        seconds = float(values[header.index("s")])
    except (OSError, ValueError):
        return None
    return seconds if 0 <= written - datetime.fromisoformat(ended).timestamp() <= 30 else None


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
    known = {line.split("|")[0]: line.split("|")[1:] for line in result.stdout.splitlines() if line.count("|") == 2}
    for row in rows:
        elapsed, granted = known.get(row["slurm_job"], ("", ""))
        if elapsed.isdigit():
            row["seconds"] = max(row["seconds"], float(elapsed))
            gpus = [item.partition("=")[2] for item in granted.split(",") if item.startswith("gres/gpu=")]
            row["gpus"] = int(gpus[0]) if gpus else row["gpus"]
