"""One job of one stage: what there is to do, who did what, and the receipt at the end.

A stage's module lists its work items with all that each depends on, and has a function that does a batch of them.
Everything else is here, the same for every stage: lease, journal, fingerprints, crashes, items left out, receipt.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from plateflow.asked import PlateAsked, withdraw, write_receipt
from plateflow.chain import STAGES, Stage
from plateflow.config import Config
from plateflow.errors import PlateflowError
from plateflow.files import append_line, digest, read_lines
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.state.journal import Entry, Journal, Key, State, append_outcome, item_key
from plateflow.state.lease import Lease
from plateflow.state.ledger import now, used_so_far
from plateflow.state.requests import record_set_aside, request_number

Data = TypeVar("Data")


class Interrupted(BaseException):  # as KeyboardInterrupt: `except Exception` may not swallow it
    """The job was told to stop, by a signal or because its driver is gone; it goes on from here the next time."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job: a plate, a stage of it, and its name: `plate`, `3`, or of follow `3-0`.

    Attributes:
        digest: of what is asked of it, by which its receipt is named; empty: as the project is when it begins.
    """

    plate: Plate
    stage: Stage
    name: str
    digest: str = ""

    @classmethod
    def of(cls, plate: Plate, stage: str, name: str, digest: str = "") -> Job:
        """A job by the name of its stage.

        Raises:
            PlateflowError: there is no such stage, or it has no such job.
        """
        if stage not in STAGES:
            raise PlateflowError(f"there is no stage {stage!r}", remedy=f"the stages are {', '.join(STAGES)}")
        names = list(STAGES[stage].jobs(plate.config))
        if name not in names:
            raise PlateflowError(
                f"{stage} has no job {name!r}",
                where=plate.name,
                remedy=f"its jobs are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}",
            )
        return cls(plate=plate, stage=STAGES[stage], name=name, digest=digest)

    @property
    def config(self) -> Config:
        """The project's configuration."""
        return self.plate.config

    @property
    def paths(self) -> PlatePaths:
        """The plate's files."""
        return self.plate.paths

    @property
    def slice(self) -> int:
        """The number of the slice of a `follow` job."""
        return int(self.name.partition("-")[2])

    @property
    def wells(self) -> list[str]:
        """The wells of the job's part, in the manifest's order; all of them for the stages that do a whole plate."""
        return self.plate.wells_of(self.stage.name, self.name)

    def parameters(self, label_set: str | None = None) -> dict[str, Any]:
        """The stage's parameters, for one label set or for all."""
        return self.plate.parameters(self.stage.name, label_set)

    def __str__(self) -> str:
        return f"{self.plate.name}: {self.stage.name} {self.name}"


@dataclass(frozen=True, kw_only=True)
class WorkItem(Generic[Data]):
    """What a job does or leaves: a well, a label set of it, a block of that, or (all empty) the plate.

    Attributes:
        depends: what the result depends on, JSON-able, by a name that `plateflow status` shows when it changed:
            "raw files", "parameters", "tile", "model", ...
        upstream: the outcome of an earlier stage that left this item out, if one did.
        data: what the stage wants to carry along; not part of the fingerprint.
    """

    well: str = ""
    label_set: str = ""
    block: int = -1
    depends: Mapping[str, Any] = field(default_factory=dict)
    upstream: Entry | None = None
    data: Data = None  # type: ignore[assignment]

    @property
    def key(self) -> Key:
        """What the item is about."""
        return item_key(self.well, self.label_set, self.block)

    def __str__(self) -> str:
        block = f" block {self.block}" if self.block >= 0 else ""
        return f"{self.well or 'plate'} {self.label_set}{block}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a work item.

    Attributes:
        state: ok, flagged (some fields left out, or a flag), quarantined, missing.
        reason: machine-readable: "truncated", "fields", ...
        detail: one line for people.
        fields: fields left out or flagged, with reasons.
        info: counts and timings worth keeping.
        watch: raw files that were set aside, each with its size and time before it was read (None: it wasn't
            there); a change of one of them asks for the job again.
    """

    state: State = "ok"
    reason: str = ""
    detail: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    watch: list[tuple[str, list[int] | None]] = field(default_factory=list)


Item = WorkItem[Any]
Start = Callable[[Item], None]
Work = Callable[[list[Any], Start], Iterable[tuple[Item, Outcome]]]


def one_by_one(work: Callable[[Any], Outcome]) -> Work:
    """A stage that does its work items one after another."""

    def run(items: list[Item], start: Start) -> Iterator[tuple[Item, Outcome]]:
        for item in items:
            start(item)
            yield item, work(item)

    return run


def run_job(
    job: Job,
    work_items: Callable[[], list[WorkItem[Data]]],
    work: Work,
    *,
    clear: Callable[[Item], None] | None = None,
    results: Callable[[Item], Path] | None = None,
    finish: Callable[[], None] | None = None,
) -> None:
    """Do what there is to do in a job and write its receipt.

    Args:
        work_items: lists what the job does; called once the lease is held, so that nothing changes under it.
        work: does a batch: calls its second argument when it takes an item up, yields each with its outcome. It is
            called only if there is something to do, so it is the place to import torch.
        clear: removes earlier or half-made results of an item that is now left out without work: an earlier stage left
            it out, or it killed its job twice.
        results: the file that the work on an item leaves; an item that wasn't left out and lacks it is done again.
        finish: called before the receipt is written, whether anything was done or not.

    Raises:
        LeaseError: another job holds the lease.
        Interrupted: stopped by a signal, or orphaned.
    """
    stage, paths = job.stage, job.paths
    with Lease(paths.lease(stage.name, job.name), holder=str(job)) as lease, _signals():
        slurm_job = os.environ.get("SLURM_JOB_ID", "")
        begin = {"event": "begin", "at": now(), "host": socket.gethostname(), "slurm_job": slurm_job}
        begun = False
        path = paths.journal(stage.name, job.name)
        try:
            asked = job.digest or PlateAsked(job.plate).digest(stage.name, job.name)
            run = _Run(job, work_items(), lease, results=results)
            # Where an attempt failed with nothing left to do, the next one still records that the job has ended.
            if run.left_out or run.batches or run.open:
                append_line(path, begin)
                begun = True
            if run.left_out or run.batches:
                withdraw(job.plate, stage.name, job.name)
            for item, outcome in run.left_out:
                run.start(item)
                if clear is not None:
                    clear(item)
                run.done(item, outcome)
            for batch in run.batches:
                for item, outcome in work(batch, run.start):
                    run.done(item, outcome)
                    if lease.orphaned.is_set():
                        raise Interrupted("the driver of this job is gone; the job stops between two wells")
            if finish is not None:
                finish()
            run.check()
            entries = [run.latest[item.key] for item in run.items]
            record_set_aside(paths, stage.name, job.name, (watched for entry in entries for watched in entry.watch))
            write_receipt(paths, stage.name, job.name, asked, receipt(job, entries))
            if begun:
                append_line(path, {"event": "end", "done": run.n_done, **used_so_far()})
        except (Exception, Interrupted) as error:
            explained = explain(error, paths)
            if lease.held():
                _record_end(path, explained, None if begun else begin)
            if explained is error:
                raise
            raise explained from error
        print(f"{stage.name} {job.name}: {run.n_done} done, {len(run.items) - run.n_done} already done")


def _record_end(path: Path, error: BaseException, begin: dict[str, Any] | None) -> None:
    """Let the journal say why an attempt ended, if the journal can still be written."""
    why = str(error) if isinstance(error, PlateflowError | Interrupted) else f"{type(error).__name__}: {error}"
    event = "interrupted" if isinstance(error, Interrupted) else "failed"
    with suppress(OSError):  # the job's own error matters, and goes to the driver
        if begin is not None and [*read_lines(path)][-1:] != [begin]:  # it may have come with that very line
            append_line(path, begin)
        append_line(path, {"event": event, "error": why, **used_so_far()})


def explain(error: BaseException, paths: PlatePaths) -> BaseException:
    """What a user can do about a full or read-only disk; any other error as it is."""
    if not isinstance(error, OSError) or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return error
    free = []
    for name, folder in (("results", paths.root), ("scratch", paths.scratch)):
        with suppress(OSError):
            free.append(f"{name} {folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB free")
    return PlateflowError(
        f"can't write: {os.strerror(error.errno)}",
        where=str(error.filename or f"a file of {paths.plate}"),
        why="; ".join(free),
        remedy="make the folder writable again, with room in it (`plateflow plan` says how much), and run `snakemake`",
    )


def receipt(job: Job, entries: list[Entry]) -> dict[str, Any]:
    """The content of a job's receipt. It holds no clock: equal work gives equal bytes."""
    entries = sorted(entries, key=lambda entry: entry.key)
    work = [[*entry.key, entry.fingerprint, entry.state, entry.reason, entry.fields] for entry in entries]
    return {
        "plate": job.plate.name,
        "stage": job.stage.name,
        "job": job.name,
        "work": digest(work),
        "states": dict(sorted(Counter(entry.state for entry in entries).items())),
    }


def dependencies(job: Job, item: Item) -> dict[str, str]:
    """What an item's result depends on, each as a digest; the fingerprint is the digest of them all."""
    upstream = item.upstream and [item.upstream.state, item.upstream.reason, item.upstream.detail]
    number = request_number(job.paths, job.stage.name, item.well)
    values = {**item.depends, "version": job.stage.version, "request": number, "left out before": upstream}
    return {name: digest(value) for name, value in values.items()}


def changes(job: Job, item: Item, entry: Entry | None) -> list[str]:
    """What has changed since an item was done as its entry says; empty where it is up to date."""
    if entry is None:
        return ["never done"]
    if not entry.fingerprint:
        return list(entry.depends)  # left in the middle: what it depends on needn't have changed
    now = dependencies(job, item)
    return [name for name in {**entry.depends, **now} if entry.depends.get(name) != now.get(name)]


class _Run:
    """The work items of one job, sorted into done, left out without work, and batches to do."""

    def __init__(self, job: Job, items: list[Any], lease: Lease, *, results: Callable[[Item], Path] | None) -> None:
        self.job, self.items, self.lease, self.results = job, items, lease, results
        self.path = job.paths.journal(job.stage.name, job.name)
        self.latest = job.plate.outcomes(job.stage.name)
        self.depends = {item.key: dependencies(job, item) for item in items}
        self.fingerprints = {key: digest(value) for key, value in self.depends.items()}
        self.n_done = 0
        self._started: dict[Key, float] = {}
        self._last = 0.0  # pooled items overlap: each counts the time since the one before
        journal = Journal.read(self.path)
        self.open = bool(journal.attempts) and journal.attempts[-1].state != "ok"
        suspects, deaths = journal.in_work(crashed=lease.inherited)
        if lease.inherited:
            append_line(self.path, {"event": "crashed", "keys": suspects, "alone": len(suspects) == 1})
        self.left_out: list[tuple[Item, Outcome]] = []
        self.batches: list[list[Item]] = []
        self._sort([item for item in items if self._stale(item)], {*suspects, *deaths}, deaths)

    def _sort(self, stale: list[Item], suspects: set[Key], deaths: Mapping[Key, int]) -> None:
        """Put items that an earlier stage left out, or that killed their job twice, into `left_out`, others in batches.

        What was in work when the job died is done item by item, last. A job of a whole plate is always alone in work,
        and nothing can go on without it: it fails, and isn't left out.
        """
        pooled: list[Item] = []
        alone: list[list[Item]] = []
        killers: list[tuple[Item, Outcome]] = []
        for item in stale:
            if item.upstream is not None:
                up = item.upstream
                self.left_out.append((item, Outcome(state=up.state, reason=up.reason, detail=up.detail)))
            elif item.well and deaths.get(item.key, 0) >= 2:
                killers.append((item, _crash_outcome(self.job, item)))
            elif item.key in suspects:
                alone.append([item])
            else:
                pooled.append(item)
        self.left_out += killers
        self.batches = ([pooled] if pooled else []) + alone

    def _stale(self, item: Item) -> bool:
        entry = self.latest.get(item.key)
        if entry is None or entry.fingerprint != self.fingerprints[item.key]:
            return True
        return self.results is not None and not entry.left_out and not self.results(item).exists()

    def check(self) -> None:
        """Stop where another job has taken over: none of its work may be cleared or recorded again.

        Raises:
            Interrupted: the lease is lost.
        """
        if not self.lease.held():
            raise Interrupted("another job has taken over, after this one had given no sign of life")

    def start(self, item: Item) -> None:
        self.check()
        self._started[item.key] = time.monotonic()
        append_line(self.path, {"event": "start", "key": item.key, "sequence": self._next(item)})
        print(f"{self.job.stage.name}: {item}", flush=True)

    def done(self, item: Item, outcome: Outcome) -> None:
        self.check()
        clock = time.monotonic()
        entry = Entry(
            well=item.well,
            label_set=item.label_set,
            block=item.block,
            fingerprint=self.fingerprints[item.key],
            depends=self.depends[item.key],
            **vars(outcome),
            sequence=self._next(item),
            seconds=round(clock - max(self._last, self._started.pop(item.key, clock)), 3),
            finished=now(),
        )
        append_outcome(self.path, entry)
        self.latest[item.key] = entry
        self.n_done, self._last = self.n_done + 1, clock
        if outcome.state != "ok":
            print(f"{self.job.stage.name}: {item}: {outcome.state}: {outcome.reason} {outcome.detail}", flush=True)

    def _next(self, item: Item) -> int:
        entry = self.latest.get(item.key)
        return entry.sequence + 1 if entry else 1


def _crash_outcome(job: Job, item: Item) -> Outcome:
    return Outcome(
        state="quarantined",
        reason="crash",
        detail=f"{job.stage.name} died twice while {item} was alone in work; see the log "
        f"{job.paths.log(job.stage.name, job.name, '*')}, then `plateflow retry {job.plate.name}/{item.well}`",
    )


class _signals:
    """Turns SIGTERM and SIGINT into `Interrupted`, so that the journal says that the job was told to stop."""

    def __enter__(self) -> None:
        self.old = {number: signal.signal(number, self._raise) for number in (signal.SIGTERM, signal.SIGINT)}

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    @staticmethod
    def _raise(number: int, _frame: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")


def left_out_upstream(entries: Iterable[Entry]) -> Entry | None:
    """Of the outcomes that a work item depends on, the first that leaves it out."""
    return next((entry for entry in entries if entry.left_out), None)
