"""What jobs are at, from the files that they leave: for `status --watch`, and for the last lines of a failed run.

Progress asks for no process and no queue, so that any host that sees the results can tell.
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
from plateflow.files import read_lines
from plateflow.paths import PlatePaths
from plateflow.state.lease import SILENT_S, read_owner

KILLED = "killed: over its memory or its time limit, or its node is gone"
State = Literal["waits", "runs", "silent", "failed", "done"]


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """A job of a plate.

    Attributes:
        state: waits; runs; silent: no sign of life for 30 s; failed: to be tried again, or given up; done.
        wells: finished in the present attempt, or the last.
        failures: attempts that failed since the job last came to its end.
        error: why the last of them failed.
        log: of the last attempt; Snakemake removes it when another begins.
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


class Progress:
    """Looks at jobs again and again; reads again only the journals that grew."""

    def __init__(self, config: Config) -> None:
        self._jobs = {name: [*stage.jobs(config)] for name, stage in STAGES.items()}
        self._known: dict[Path, tuple[tuple[int, int], _History]] = {}

    def of(self, paths: PlatePaths) -> list[JobProgress]:
        """All jobs of a plate, stage by stage."""
        return [self._job(paths, stage, job) for stage, jobs in self._jobs.items() for job in jobs]

    def _job(self, paths: PlatePaths, stage: str, job: str) -> JobProgress:
        history, log = self._history(paths.journal(stage, job)), paths.log(stage, job)
        failures, error = history.failures, history.error
        state: State
        try:
            silent = time.time() - (paths.lease(stage, job) / "owner.json").stat().st_mtime > SILENT_S
            state = "silent" if silent else "runs"
        except (FileNotFoundError, NotADirectoryError):  # no lease, so nobody works on it
            if paths.receipt(stage, job).exists():  # Snakemake removes it when an attempt begins, and when it fails
                state, failures, error = "done", 0, ""
            elif history.last == "end" or (history.last == "" and not log.exists()):
                state = "waits"  # for both the failures are 0
            else:
                state = "failed"
                if not error:
                    failures, error = failures + 1, KILLED if history.last else ""
        return JobProgress(
            stage=stage, job=job, state=state, wells=history.wells, failures=failures, error=error, log=log
        )

    def _history(self, journal: Path) -> _History:
        try:
            stat = journal.stat()
        except (FileNotFoundError, NotADirectoryError):
            return _History()
        stamp, known = (stat.st_size, stat.st_mtime_ns), self._known.get(journal)
        if known is None or known[0] != stamp:
            known = self._known[journal] = (stamp, _History.read(journal))
        return known[1]


@dataclass(frozen=True)
class _History:
    """What a journal says since the job last came to its end."""

    last: str = ""
    wells: int = 0
    failures: int = 0
    error: str = ""

    @classmethod
    def read(cls, journal: Path) -> _History:
        last, wells, failures, error = "", set[str](), 0, ""
        for line in read_lines(journal):
            event = line.get("event", "")
            if event == "done":
                wells.add(line["well"])
            elif event == "end":
                failures, error = 0, ""
            elif event in {"failed", "interrupted"}:
                failures, error = failures + 1, line.get("error", "")
            elif event == "begin":
                wells = set()
                if last in {"begin", "start", "done"}:
                    failures, error = failures + 1, KILLED
            if event != "crashed":  # said by the attempt that comes after, before it begins
                last = event
        return cls(last, len(wells - {""}), failures, error)


def failure_lines(config: Config, plates: list[PlatePaths]) -> list[str]:
    """What can't go on, one paragraph each: jobs that failed or died, and folders that can't be written.

    For the end of a run, when no job should run any more.
    """
    progress = Progress(config)
    found: list[str] = []
    for paths in plates:
        try:
            found += _folder_lines(paths)
            found += [line for job in progress.of(paths) for line in _job_lines(paths, job)]
        except OSError as error:
            found.append(f"{paths.plate}: can't be looked at: {error}")
    return found


def _folder_lines(paths: PlatePaths) -> Iterator[str]:
    for folder in (paths.root, paths.scratch):
        if folder.is_dir():
            if not os.access(folder, os.W_OK):
                yield f"{paths.plate}: {folder} can't be written: read-only, or not yours"
            elif shutil.disk_usage(folder).free < 1e6:
                yield f"{paths.plate}: {folder} is full"


def _job_lines(paths: PlatePaths, job: JobProgress) -> Iterator[str]:
    why = job.error or job.last_line() or "no word of why"
    if job.state == "runs":
        owner = read_owner(paths.lease(job.stage, job.job))
        if owner is not None and owner.alive() is True:
            return
        why = f"{KILLED}; or still at it ({owner})"
    elif job.state == "silent":
        why = KILLED
    elif job.state != "failed":
        return
    tries = f" ({job.failures} attempts)" if job.failures > 1 else ""
    yield f"{paths.plate}: {job.stage} {job.job}{tries}: {why}\n  log: {job.log}"
