"""What SLURM's queue and logs know: which jobs are still there, and why one has ended."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Of these a job comes back no more; all else in the queue runs, or will.
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
}  # fmt: skip
LOGS = Path(".snakemake/slurm_logs")
"""Where the plugin keeps the logs of SLURM's jobs, `<rule>/<wildcards>/<job>.log`, unless told otherwise."""
REASONS = {
    r"DUE TO TIME LIMIT": "over its time limit",
    r"DUE TO NODE FAILURE": "its node is gone",
    r"DUE TO PREEMPTION|DUE TO JOB REQUEUE": "SLURM took its node away, to start it again",
    r"(?i)oom.kill|out of memory|exceeded (job |step )?memory limit": "over its memory",
    r"CANCELLED AT": "cancelled",
}
"""What slurmstepd says in a job's log when it ends the job, and what that means; the first that is found counts."""


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job that waits or runs, of any user.

    Attributes:
        folder: from which it was submitted.
        name: of the job; those of Plateflow bear the run id of their driver.
        comment: of those of Plateflow the rule and its wildcards.
    """

    number: str
    state: str
    user: str
    folder: Path
    name: str
    comment: str

    def __str__(self) -> str:
        rule = self.comment.removeprefix("rule_").replace("_wildcards_", " ")
        return f"{self.number} ({rule if rule != self.comment else self.name}, {self.state.lower()})"


def is_here() -> bool:
    """Whether this machine can ask SLURM."""
    return shutil.which("squeue") is not None


def jobs(names: Iterable[str] = ()) -> list[QueuedJob] | None:
    """The jobs, or those of some names, that wait or run, as far as SLURM shows them to this user; None: no answer."""
    lines = squeue("-o", "%A\t%T\t%u\t%Z\t%j\t%k", *([f"--name={','.join(names)}"] if names else ()))
    if lines is None:
        return None
    rows = [line.split("\t") for line in lines if line.count("\t") == 5]
    return [
        QueuedJob(number=number, state=state, user=user, folder=Path(folder), name=name, comment=comment)
        for number, state, user, folder, name, comment in rows
        if state not in ENDED
    ]


def is_queued(number: str, restarts: int | None = None, *, own: bool = True) -> bool | None:
    """Whether a job waits or runs; None where that can't be told.

    Args:
        restarts: how often SLURM had started the job again when it was seen: one that was started again since is over.
        own: whether it is this user's: of others' jobs SLURM may deny that they exist.
    """
    found = _state(number)
    if found is None:
        return None
    state, count = found
    if not state:
        return False if own else None
    return state not in ENDED and (restarts is None or count <= restarts)


@cache
def restarts_of(number: str) -> int | None:
    """How often SLURM has started a job again under its number, which no variable tells its steps; None: unknown."""
    found = _state(number)
    return found[1] if found else None


def _state(number: str) -> tuple[str, int] | None:
    """State and number of restarts of a job, empty and 0 for one that SLURM doesn't know; None without an answer."""
    lines = squeue("-j", number, "-t", "all", "-O", "State:30,RestartCnt:10")
    if lines is None:
        return None
    words = [line.split() for line in lines]  # among which a site may print a notice
    found = [(line[0], int(line[1])) for line in words if len(line) == 2 and line[1].isdigit()]
    return found[0] if found else None if lines else ("", 0)


def cancel(numbers: list[str]) -> None:
    """Ask SLURM to cancel jobs; it says itself what it refuses."""
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["scancel", *numbers], check=False, timeout=60)


def why_ended(number: str) -> str:
    """Why SLURM ended a job of this folder, by the job's log; empty where that doesn't tell."""
    for log in LOGS.glob(f"*/*/{number}.log"):
        text = log.read_text(errors="replace")
        for pattern, reason in REASONS.items():
            if re.search(pattern, text):
                return reason
    return ""


def squeue(*options: str) -> list[str] | None:
    """The lines of an answer, none for a job that SLURM doesn't know; None where there is no answer."""
    if not is_here():
        return None
    try:
        done = subprocess.run(["squeue", "-h", *options], check=False, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return done.stdout.splitlines()
