"""What SLURM's queue knows: which jobs of a folder are still there. Only asked where a lease or a lock is in doubt."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Of these a job comes back no more; all else in the queue runs, or will.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job that waits or runs."""

    number: str
    state: str
    rule: str


def jobs_of(folder: Path) -> list[QueuedJob]:
    """The jobs in the queue that were submitted from a folder; none where there is no SLURM, or it doesn't answer."""
    lines = _squeue("-o", "%A|%T|%k|%Z") or []
    rows = [line.split("|", 3) for line in lines if line.count("|") >= 3]
    return [
        QueuedJob(number=number, state=state, rule=comment.removeprefix("rule_").replace("_wildcards_", " "))
        for number, state, comment, place in rows
        if state not in ENDED and Path(place) == folder
    ]


def is_queued(number: str) -> bool | None:
    """Whether a job waits or runs; None where that can't be told."""
    lines = _squeue("-o", "%A|%T")
    if lines is None:
        return None
    states = dict(line.split("|", 1) for line in lines if "|" in line)
    return number in states and states[number] not in ENDED


def cancel(numbers: list[str]) -> None:
    """Ask SLURM to cancel jobs."""
    subprocess.run(["scancel", *numbers], check=False, timeout=60)


def _squeue(*options: str) -> list[str] | None:
    if shutil.which("squeue") is None:
        return None
    try:
        done = subprocess.run(
            ["squeue", "--me", "-h", *options], check=False, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None
