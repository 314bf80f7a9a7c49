"""What each job is doing, from the files that it leaves: for `status`, and the last lines of a failed run.

Progress needs no process table and no queue, so any host that sees the results can tell. Of a journal it reads the last
lines, and more only where an attempt failed or goes on: a screen has tens of thousands.
"""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from plateflow.access import denial, explain, obstacles
from plateflow.chain import stages_of
from plateflow.config import Config
from plateflow.files import stat_of
from plateflow.paths import PlatePaths
from plateflow.state.journal import Entry, Journal, ending
from plateflow.state.lease import SILENT_S, read_owner
from plateflow.state.slurm import why_ended

KILLED = "killed: over its memory or its time limit, or its node is gone"
SAID = "plateflow: "
"""Begins the last words of a job that failed by itself, in its log."""
State = Literal["waits", "runs", "silent", "failed", "stale", "done"]
HAS_LOG = ("runs", "silent", "failed")
"""States in which a job's log matters."""


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """A job of a plate.

    Attributes:
        state: waits; runs; silent: no sign of life for 30 s; failed: to be tried again, or given up; stale: came to its
            end, but something else is asked now; done.
        wells: how many the last attempt has finished, where it didn't come to its end.
        failures: attempts that failed since the job last came to its end.
        told: why the last of them failed; empty where it didn't say so itself.
        begun: whether an attempt came so far that its journal tells of it.
        slurm_job: of the last such attempt.
        log: of the last attempt; Snakemake removes it when another begins. A pattern where there is none.
        items: the number of work items in each state, by the last receipt.
        exceptions: the outcomes that aren't ok; None where no receipt tells them, or one of an earlier release.
    """

    stage: str
    job: str
    state: State
    log: Path
    wells: int = 0
    failures: int = 0
    told: str = ""
    begun: bool = True
    slurm_job: str = ""
    items: Mapping[str, int] = field(default_factory=dict)
    exceptions: Sequence[Entry] | None = ()

    @cached_property
    def error(self) -> str:
        """Why the last attempt failed, if it did; asked of logs where it didn't say so itself."""
        return self.told or (self.end() if self.state == "failed" else "")

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


@dataclass(frozen=True, kw_only=True)
class _Summary:
    """What a journal says of its job, in part as `JobProgress`.

    Attributes:
        last: how the last attempt ended; empty: there was none.
        errors: why attempts failed since the job last came to its end. The last attempt may still run: one without an
            end has failed only if another came after it.
    """

    last: str = ""
    wells: int = 0
    slurm_job: str = ""
    errors: Sequence[str] = ()
    exceptions: Sequence[Entry] = ()


NOTHING = _Summary()


def _summary(journal: Path) -> _Summary:
    last = ending(journal)
    if last in ("", "ok"):
        return _Summary(last=last)
    brief = Journal.brief(journal)
    if not (attempts := brief.attempts):
        return _Summary(last=last)
    errors: list[str] = []
    for attempt in attempts:
        if attempt.state == "ok":
            errors.clear()
        elif attempt.state != "open":
            errors.append(attempt.error)
        elif attempt is not attempts[-1]:
            errors.append(KILLED)
    return _Summary(
        last=last,
        wells=len({entry.well for entry in attempts[-1].entries} - {""}),
        slurm_job=attempts[-1].slurm_job,
        errors=errors,
        exceptions=[entry for entry in brief.latest.values() if entry.state != "ok"],
    )


class _Look:
    """The files of a plate at one moment: each folder is listed once."""

    def __init__(self, paths: PlatePaths) -> None:
        self.paths = paths
        self._names: dict[str, dict[str, list[str]]] = {}

    def files(self, folder: str, job: str) -> list[Path]:
        """The files of a job in a folder of the plate: they are named as the job, a point, and more."""
        if folder not in self._names:
            by_job = self._names[folder] = defaultdict(list)
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.paths.root / folder) as entries:
                for name in sorted(entry.name for entry in entries):
                    by_job[name.partition(".")[0]].append(name)
        return [self.paths.root / folder / name for name in self._names[folder].get(job, ())]

    def silence(self, stage: str, job: str) -> float | None:
        """Seconds since the last sign of life of the owner of a job's lease; None where nobody works on it."""
        if self.files("leases", f"{stage}-{job}"):
            with suppress(FileNotFoundError, NotADirectoryError):
                return time.time() - (self.paths.lease(stage, job) / "owner.json").stat().st_mtime
        return None


def _receipt(path: Path) -> tuple[Mapping[str, int], Sequence[Entry] | None]:
    """The number of work items in each state, and the outcomes that aren't ok, as a receipt tells them."""
    try:
        content = json.loads(path.read_text())
        others = content.get("not ok", None if content["states"].keys() - {"ok"} else ())
        return content["states"], None if others is None else [Entry.of(each) for each in others]
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):  # maybe removed just now
        return {}, None


class Progress:
    """Looks at jobs again and again; reads again only the journals that have grown, and keeps a summary of each."""

    def __init__(self, config: Config) -> None:
        self._jobs = {name: [*stage.jobs(config)] for name, stage in stages_of(config).items()}
        self._summaries: dict[Path, tuple[list[int] | None, _Summary]] = {}

    def of(self, paths: PlatePaths, stands: Callable[[str, str], bool] | None = None) -> list[JobProgress]:
        """All jobs of a plate, stage by stage.

        Args:
            stands: tells by stage and job what is done as it is asked now; receipts are read then. Without it a receipt
                counts, whatever was asked: what a run that is under way asks, only its driver knows.
        """
        look = _Look(paths)
        return [self._job(look, stage, job, stands) for stage, jobs in self._jobs.items() for job in jobs]

    def of_job(self, paths: PlatePaths, stage: str, job: str, stands: Callable[[str, str], bool]) -> JobProgress:
        """One job of a plate, as `of` tells all of them."""
        return self._job(_Look(paths), stage, job, stands)

    def _job(self, look: _Look, stage: str, job: str, stands: Callable[[str, str], bool] | None) -> JobProgress:
        paths, done = look.paths, stands is not None and stands(stage, job)
        journals = [] if done else look.files("journal", f"{stage}-{job}")
        said = self._read(journals[0]) if journals else NOTHING
        receipts, errors = look.files(f"receipts/{stage}", job), list(said.errors)
        state: State
        if done:
            state = "done"
        elif (silent := look.silence(stage, job)) is not None:
            state = "silent" if silent > SILENT_S else "runs"
        elif stands is None and said.last in ("", "ok") and receipts:
            state = "done"
        elif stands is not None and (said.last == "ok" or (not said.last and receipts)):
            state = "stale"
        elif said.last == "ok" or (not said.last and not look.files(f"logs/{stage}", job)):
            state = "waits"
        else:
            state = "failed"
            if not errors or not errors[-1]:
                errors.append("")
        exceptions: Sequence[Entry] | None
        items, exceptions = _receipt(receipts[-1]) if stands is not None and receipts else ({}, said.exceptions)
        if said.last == "ok" and not receipts:  # they were withdrawn: what isn't ok is told by the whole journal alone
            exceptions = None
        return JobProgress(
            stage=stage,
            job=job,
            state=state,
            wells=said.wells,
            failures=len(errors),
            told=errors[-1] if errors else "",
            log=paths.latest_log(stage, job) if state in HAS_LOG else paths.log(stage, job, "*"),
            begun=bool(said.last),
            slurm_job=said.slurm_job,
            items=items,
            exceptions=exceptions,
        )

    def _read(self, journal: Path) -> _Summary:
        stamp = stat_of(journal)
        if journal not in self._summaries or self._summaries[journal][0] != stamp:
            self._summaries[journal] = stamp, _summary(journal)
        return self._summaries[journal][1]


def plate_state(jobs: Sequence[JobProgress]) -> Literal["failed", "running", "stale", "to do", "complete"]:
    """What a plate is at, in a word, by all of its jobs: failed where one has, or gives no sign of life."""
    states = {job.state for job in jobs}
    if states & {"failed", "silent"}:
        return "failed"
    if "runs" in states:
        return "running"
    return "stale" if "stale" in states else "to do" if "waits" in states else "complete"


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


DONE = "screen: done"
"""The last line of the log of the job over all plates, where it came to its end."""


def screen_runs(screen: PlatePaths) -> bool:
    """Whether the job over all plates gave a sign of life just now."""
    silent = _Look(screen).silence(screen.plate, screen.plate)
    return silent is not None and silent <= SILENT_S


def screen_failure(screen: PlatePaths, digest: str) -> str:
    """Why the job over all plates, which has no journal, failed or was killed at last; empty if it wasn't.

    For when all plates are done, and no job should run any more; `digest` is of what is asked of it.
    """
    log, owner = screen.log("report", "screen", digest), read_owner(screen.lease(screen.plate, screen.plate))
    slurm_job = owner.slurm_job if owner else ""
    job = JobProgress(stage="report", job=screen.plate, state="failed", failures=1, log=log, slurm_job=slurm_job)
    if not log.is_file() or screen.receipt("report", "screen", digest).is_file() or job.last_line() == DONE:
        return ""
    return f"screen: report: {job.end().removeprefix('screen: report: ')}\n  log: {log}"


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
