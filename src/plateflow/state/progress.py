"""What each job is doing, from the files that it leaves: for `status --watch`, and the last lines of a failed run.

Progress needs no process table and no queue, so any host that sees the results can tell.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from plateflow.access import denial, explain, obstacles
from plateflow.chain import STAGES
from plateflow.config import Config
from plateflow.files import read_lines, stat_of
from plateflow.paths import PlatePaths
from plateflow.state.journal import Attempt, Journal
from plateflow.state.lease import SILENT_S, read_owner
from plateflow.state.slurm import why_ended

KILLED = "killed: over its memory or its time limit, or its node is gone"
SAID = "plateflow: "
"""Begins the last words of a job that failed by itself, in its log."""
State = Literal["waits", "runs", "silent", "failed", "done"]


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """A job of a plate.

    Attributes:
        state: waits; runs; silent: no sign of life for 30 s; failed: to be tried again, or given up; done.
        wells: how many the current attempt, or the last one, has finished.
        failures: attempts that failed since the job last came to its end.
        error: why the last of them failed; empty where it didn't say so itself.
        begun: whether an attempt came so far that its journal tells of it.
        slurm_job: of the last such attempt.
        log: of the last attempt; Snakemake removes it when another begins. A pattern where there is none.
    """

    stage: str
    job: str
    state: State
    wells: int
    failures: int
    error: str
    log: Path
    begun: bool = True
    slurm_job: str = ""

    def last_line(self) -> str:
        """The last line of the log, as far as there is one."""
        return next((line.strip() for line in reversed(self._log_end().split("\n")) if line.strip()), "")

    def end(self) -> str:
        """Why the last attempt ended that its journal doesn't tell of: by its last words in the log, or by SLURM's."""
        _, found, words = self._log_end().rpartition(f"\n{SAID}")
        if found:
            return words.strip()
        if not self.begun:
            return self.last_line() or "the reason is not known"
        reason = why_ended(self.slurm_job) if self.slurm_job else ""
        return f"killed: {reason} (SLURM job {self.slurm_job})" if reason else KILLED

    def _log_end(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                return "\n" + file.read().decode(errors="replace")
        except OSError:
            return ""


_Summary = tuple[str, int, list[str], str]


def _summary(attempts: list[Attempt]) -> _Summary:
    """What a journal says of its job.

    Returns:
        how the last attempt ended (empty: there was none); how many wells it finished; why attempts failed since the
        job last came to its end; and the SLURM job of the last attempt. The last attempt may still run: one without an
        end has failed only if another came after it.
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
        return "", 0, errors, ""
    last = attempts[-1]
    return last.state, len({entry.well for entry in last.entries} - {""}), errors, last.slurm_job


class Progress:
    """Looks at jobs again and again; reads again only the journals that have grown, and keeps a summary of each."""

    def __init__(self, config: Config) -> None:
        self._jobs = {name: [*stage.jobs(config)] for name, stage in STAGES.items()}
        self._summaries: dict[Path, tuple[list[int] | None, _Summary]] = {}

    def of(self, paths: PlatePaths) -> list[JobProgress]:
        """All jobs of a plate, stage by stage."""
        return [self._job(paths, stage, job) for stage, jobs in self._jobs.items() for job in jobs]

    def _job(self, paths: PlatePaths, stage: str, job: str) -> JobProgress:
        (last, wells, errors, slurm_job), log = self._read(paths.journal(stage, job)), paths.latest_log(stage, job)
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
                    errors = [*errors, ""]
        found = JobProgress(
            stage=stage, job=job, state=state, wells=wells, failures=len(errors), error=errors[-1] if errors else "",
            log=log, begun=bool(last), slurm_job=slurm_job,
        )  # fmt: skip
        return replace(found, error=found.end()) if state == "failed" and not found.error else found

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
            lines.append(f"{paths.plate}: cannot be read: {explain(error)}")
    return lines


def _folder_lines(paths: PlatePaths) -> Iterator[str]:
    for folder in (paths.root, paths.scratch):
        if folder.is_dir():
            if places := [*obstacles(folder, depth=0)]:
                yield f"{paths.plate}: {denial(places[0])}"
            elif shutil.disk_usage(folder).free < 1e6:
                yield f"{paths.plate}: {folder} is full"


def _job_lines(paths: PlatePaths, job: JobProgress) -> Iterator[str]:
    why = job.error
    if job.state == "runs":
        owner = read_owner(paths.lease(job.stage, job.job))
        if owner is not None and owner.alive() is True:
            return
        why = f"{job.end()}; or still running ({owner})"
    elif job.state == "silent":
        why = job.end()
    elif job.state != "failed":
        return
    tries = f" ({job.failures} attempts)" if job.failures > 1 else ""
    yield f"{paths.plate}: {job.stage} {job.job}{tries}: {why}\n  log: {job.log}"
