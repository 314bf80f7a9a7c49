"""What each job is doing, from the files that it leaves: for `status --watch`, and the last lines of a failed run.

Progress needs no process table and no queue, so any host that sees the results can tell.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plateflow.chain import STAGES
from plateflow.config import Config
from plateflow.files import read_lines, stat_of
from plateflow.paths import PlatePaths
from plateflow.state.journal import Attempt, Journal
from plateflow.state.lease import SILENT_S, read_owner

KILLED = "killed: over its memory or its time limit, or its node is gone"
State = Literal["waits", "runs", "silent", "failed", "done"]


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """A job of a plate.

    Attributes:
        state: waits; runs; silent: no sign of life for 30 s; failed: to be tried again, or given up; done.
        wells: how many the current attempt, or the last one, has finished.
        failures: attempts that failed since the job last came to its end.
        error: why the last of them failed.
        log: of the last attempt; Snakemake removes it when another begins. A pattern where there is none.
    """

    stage: str
    job: str
    state: State
    wells: int
    failures: int
    error: str
    log: Path

    def last_line(self) -> str:
        """The last line of the log, as far as there is one."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


_Summary = tuple[str, int, list[str]]


def _summary(attempts: list[Attempt]) -> _Summary:
    """What a journal says of its job.

    Returns:
        how the last attempt ended (empty: there was none); how many wells it finished; and why attempts failed since
        the job last came to its end. The last attempt may still run: one without an end has failed only if another
        came after it.
    """
    errors: list[str] = []
    for attempt in attempts:
        if attempt.state == "ok":
            errors.clear()
        elif attempt.state != "open":
            errors.append(attempt.error)
        elif attempt is not attempts[-1]:
            errors.append(KILLED)
    if not attempts:
        return "", 0, errors
    return attempts[-1].state, len({entry.well for entry in attempts[-1].entries} - {""}), errors


class Progress:
    """Looks at jobs again and again; reads again only the journals that have grown, and keeps a summary of each."""

    def __init__(self, config: Config) -> None:
        self._jobs = {name: [*stage.jobs(config)] for name, stage in STAGES.items()}
        self._summaries: dict[Path, tuple[list[int] | None, _Summary]] = {}

    def of(self, paths: PlatePaths) -> list[JobProgress]:
        """All jobs of a plate, stage by stage."""
        return [self._job(paths, stage, job) for stage, jobs in self._jobs.items() for job in jobs]

    def _job(self, paths: PlatePaths, stage: str, job: str) -> JobProgress:
        (last, wells, errors), log = self._read(paths.journal(stage, job)), paths.latest_log(stage, job)
        state: State
        try:
            silent = time.time() - (paths.lease(stage, job) / "owner.json").stat().st_mtime > SILENT_S
            state = "silent" if silent else "runs"
        except (FileNotFoundError, NotADirectoryError):  # no lease, so nobody works on it
            # Of whatever was asked before: what is asked of it next, only the driver knows.
            if last in ("", "ok") and paths.receipts(stage, job):
                state, errors = "done", []
            elif last == "ok" or (not last and not log.exists()):
                state = "waits"
            else:
                state = "failed"
                if not errors or not errors[-1]:
                    errors = [*errors, KILLED if last else ""]
        error = errors[-1] if errors else ""
        return JobProgress(stage=stage, job=job, state=state, wells=wells, failures=len(errors), error=error, log=log)

    def _read(self, journal: Path) -> _Summary:
        stamp = stat_of(journal)
        if journal not in self._summaries or self._summaries[journal][0] != stamp:
            self._summaries[journal] = stamp, _summary(Journal(read_lines(journal)).attempts)
        return self._summaries[journal][1]


def failure_lines(config: Config, plates: list[PlatePaths]) -> list[str]:
    """What can't go on, one paragraph each: jobs that failed or died, and folders that can't be written.

    For the end of a run, when no job should run any more.
    """
    progress = Progress(config)
    lines: list[str] = []
    for paths in plates:
        try:
            lines += _folder_lines(paths)
            lines += [line for job in progress.of(paths) for line in _job_lines(paths, job)]
        except OSError as error:
            lines.append(f"{paths.plate}: cannot be read: {error}")
    return lines


def _folder_lines(paths: PlatePaths) -> Iterator[str]:
    for folder in (paths.root, paths.scratch):
        if folder.is_dir():
            if not os.access(folder, os.W_OK):
                yield f"{paths.plate}: {folder} can't be written: read-only, or not yours"
            elif shutil.disk_usage(folder).free < 1e6:
                yield f"{paths.plate}: {folder} is full"


def _job_lines(paths: PlatePaths, job: JobProgress) -> Iterator[str]:
    why = job.error or job.last_line() or "the reason is not known"
    if job.state == "runs":
        owner = read_owner(paths.lease(job.stage, job.job))
        if owner is not None and owner.alive() is True:
            return
        why = f"{KILLED}; or still running ({owner})"
    elif job.state == "silent":
        why = KILLED
    elif job.state != "failed":
        return
    tries = f" ({job.failures} attempts)" if job.failures > 1 else ""
    yield f"{paths.plate}: {job.stage} {job.job}{tries}: {why}\n  log: {job.log}"
