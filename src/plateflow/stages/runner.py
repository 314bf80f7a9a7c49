"""One job of one stage: what there is to do, who did what, and the receipt at the end.

A stage's module lists its work items with all that each depends on, and has a function that does a batch of them.
Everything else is here, the same for every stage: lease, journal, fingerprints, crashes, items left out, receipt; and
the order in which things reach the disk. The line that says that an item is done is written after all that it vouches
for is durable. That happens behind the next item, in a thread.
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
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from plateflow import access
from plateflow.asked import PlateAsked, withdraw, write_receipt
from plateflow.errors import PlateflowError, ResultsError, is_users
from plateflow.files import Stamp, append_line, digest, read_lines, remove, settle, stamp_of, sweep, take_stamps
from plateflow.paths import PlatePaths
from plateflow.stages.job import Data, Item, Job, Outcome, WorkItem, changes, dependencies
from plateflow.stages.reading import LostFileError, Reading
from plateflow.state.journal import Entry, Journal, Key, append_outcome
from plateflow.state.lease import Lease, Owner
from plateflow.state.ledger import Meter, now
from plateflow.state.requests import lost_sequences, record_lost, record_set_aside


class Interrupted(BaseException):  # as KeyboardInterrupt: `except Exception` may not swallow it
    """The job was told to stop, by a signal or because its driver is gone; it goes on from here the next time."""


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
    owned: Callable[[Item], Iterable[Path]] = lambda _: (),
    clear: Callable[[Item], None] = lambda _: None,
) -> None:
    """Do what there is to do in a job and write its receipt.

    Args:
        work_items: lists what the job does; called once the lease is held, so that nothing changes under it.
        work: does a batch: calls its second argument when it takes an item up, yields each with its outcome. It is
            called only if there is something to do, so it is the place to import torch.
        owned: the files and folders that belong to an item alone: what lies there and isn't written anew is removed
            when the item is done, or left out.
        clear: takes what an item has out of files that aren't its alone, where it is left out.

    Raises:
        LeaseError: another job holds the lease.
        LostFileError: a file that an item reads isn't there any more as it was written; the next run makes it again.
        Interrupted: stopped by a signal, or orphaned.
    """
    stage, paths = job.stage, job.paths
    with Lease(paths.lease(stage.name, job.name), holder=str(job)) as lease, _signals():
        slurm_job = os.environ.get("SLURM_JOB_ID", "")
        begin = {"event": "begin", "at": now(), "host": socket.gethostname(), "slurm_job": slurm_job}
        begun = False
        path = paths.journal(stage.name, job.name)
        run, reading, meter = None, None, Meter()
        take_stamps()  # of an earlier job in this process
        try:
            asked = job.digest or PlateAsked(job.plate).digest(stage.name, job.name)
            reading = Reading(job)
            reading.check_manifest()
            run = _Run(job, work_items(), lease, reading, owned, meter)
            # Where an attempt failed with nothing left to do, the next one still records that the job has ended.
            if run.left_out or run.batches or run.open:
                append_line(path, begin)
                begun = True
            if run.left_out or run.batches:
                withdraw(job.plate, stage.name, job.name)
            for item, outcome in run.left_out:
                run.take_up(item)
                clear(item)
                run.done(item, outcome)
            for batch in run.batches:
                for item, outcome in work(batch, run.start):
                    run.done(item, outcome)
                    if lease.orphaned.is_set():
                        raise Interrupted("the driver of this job is gone; the job stops between two wells")
            run.finish()
            entries = [run.latest[item.key] for item in run.items]
            record_set_aside(paths, stage.name, job.name, (watched for entry in entries for watched in entry.watch))
            settle()  # the receipt relies on what is watched
            write_receipt(paths, stage.name, job.name, asked, receipt(job, entries))
            if begun:
                append_line(path, {"event": "end", "at": now(), "done": run.n_done, **meter.used()})
        except (Exception, Interrupted) as error:
            explained = _explain(error, job, run, reading)
            if lease.held():
                if isinstance(explained, LostFileError):
                    _record_lost(job, explained, run, reading)
                refused = {"refused": attempt_of(job)} if is_users(explained) else {}
                _record_end(path, explained, None if begun else begin, refused | {"at": now(), **meter.used()})
            if explained is error:
                raise
            raise explained from error
        print(f"{stage.name} {job.name}: {run.n_done} done, {len(run.items) - run.n_done} already done")


def _explain(error: BaseException, job: Job, run: _Run | None, reading: Reading | None) -> BaseException:
    """What a user can do about an error; a file that was lost explains whatever came of reading it."""
    if run is not None:
        try:
            run.wait()  # what is done stays done
        except (Exception, Interrupted) as later:
            if isinstance(error, Interrupted):
                error = later
    if isinstance(error, PlateflowError | Interrupted) and type(error) is not ResultsError:
        return error
    explained = explain(error, job.paths)
    if explained is error and reading is not None:
        with suppress(OSError):  # what can't be read now doesn't explain more than the error itself
            return reading.find(run.in_work if run else []) or error
    return explained


def _record_lost(job: Job, error: LostFileError, run: _Run | None, reading: Reading | None) -> None:
    """Record what was lost, and what else the job was to read and has lost: one run shall make all again."""
    with suppress(OSError, ResultsError):  # the error itself goes to the driver
        try:
            n_columns = job.plate.n_columns
        except (ResultsError, ValueError, KeyError):  # the manifest may be what was lost
            n_columns = 0
        known = {stage: lost_sequences(job.paths, stage) for stage in job.stage.reads}  # by an earlier attempt
        to_do = [item for batch in run.batches for item in batch] if run else []
        for lost in (error, *(reading.also_lost(to_do) if reading else ())):
            if known[lost.stage].get(lost.entry.key, 0) < lost.entry.sequence:
                record_lost(job.paths.watch(job.stage.name, job.name), lost.stage, lost.entry, lost.name, n_columns)


def attempt_of(job: Job) -> str:
    """What an attempt is one of: a run, and what it asks of the job; empty without a run."""
    run = Owner.this_process().run
    return f"{run} {job.digest}" if run else ""


def _record_end(path: Path, error: BaseException, begin: dict[str, Any] | None, more: dict[str, Any]) -> None:
    """Let the journal say why an attempt ended, and `more`: what it used; if the journal can still be written.

    With `refused`, as only the user can change it, the run's next attempts end at once (`script`).
    """
    why = str(error) if isinstance(error, PlateflowError | Interrupted) else f"{type(error).__name__}: {error}"
    event = "interrupted" if isinstance(error, Interrupted) else "failed"
    with suppress(OSError):  # the job's own error matters, and goes to the driver
        if begin is not None and [*read_lines(path)][-1:] != [begin]:  # it may have come with that very line
            append_line(path, begin)
        append_line(path, {"event": event, "error": why, **more})


def explain(error: BaseException, paths: PlatePaths) -> BaseException:
    """What a user can do about a full or read-only disk, or another user's files; any other error as it is."""
    if isinstance(error, OSError) and error.errno in {errno.EIO, errno.ESTALE}:
        return PlateflowError(
            f"the disk fails: {os.strerror(error.errno)}",
            where=str(error.filename or f"a file of {paths.plate}"),
            remedy="see to the disk or the share, and run `snakemake`; if it is one file of the results, remove it, "
            f"run `plateflow verify {paths.plate}`, then `snakemake`",
        )
    if not isinstance(error, OSError) or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return access.explain(error)
    free = []
    for name, folder in (("results", paths.root), ("scratch", paths.scratch)):
        with suppress(OSError):
            inodes = os.statvfs(folder)
            none = ", but can hold no more files (no inodes)" if inodes.f_files and not inodes.f_favail else ""
            free.append(f"{name} {folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB free{none}")
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
    told = ("well", "label_set", "block", "state", "reason", "detail", "fields")
    return {
        "plate": job.plate.name,
        "stage": job.stage.name,
        "job": job.name,
        "work": digest(work),
        "states": dict(sorted(Counter(entry.state for entry in entries).items())),
        "not ok": [{name: getattr(entry, name) for name in told} for entry in entries if entry.state != "ok"],
    }


class _Run:
    """The work items of one job, sorted into done, left out without work, and batches to do."""

    def __init__(
        self,
        job: Job,
        items: list[Any],
        lease: Lease,
        reading: Reading,
        owned: Callable[[Item], Iterable[Path]],
        meter: Meter,
    ) -> None:
        self.job, self.items, self.lease, self.reading, self.owned = job, items, lease, reading, owned
        self.meter = meter
        self.path = job.paths.journal(job.stage.name, job.name)
        self.latest = job.plate.outcomes(job.stage.name)
        self.lost = lost_sequences(job.paths, job.stage.name)
        self.n_done = 0
        self._started: dict[Key, float] = {}
        self._items = {item.key: item for item in items}
        self._last = 0.0  # pooled items overlap: each counts the time since the one before
        self._stamps: dict[Path, Stamp] = {}
        self._pool = ThreadPoolExecutor(1)
        self._settling: Future[None] | None = None
        self._recorded: Entry | None = None  # by what is settling
        journal = Journal.read(self.path)
        self.open = bool(journal.attempts) and journal.attempts[-1].state != "ok"
        suspects, deaths = journal.in_work(crashed=lease.inherited)
        if lease.inherited:
            append_line(self.path, {"event": "crashed", "keys": suspects, "alone": len(suspects) == 1})
        self.left_out: list[tuple[Item, Outcome]] = []
        self.batches: list[list[Item]] = []
        stale = [item for item in items if changes(job, item, self.latest.get(item.key), lost=self.lost)]
        self._suspects = {*suspects, *deaths}
        self._sort(stale, self._suspects, deaths)
        for key in sorted(self._items.keys() - {item.key for item in stale}):
            raw = self._items[key].raw
            if raw not in (None, self.latest[key].raw):
                held = journal.latest.get(key)  # in the journal of another part, the old line would win a tie
                is_own = held is not None and held.sequence == self.latest[key].sequence
                sequence = self.latest[key].sequence if is_own else self._next(self._items[key])
                self.latest[key] = replace(self.latest[key], raw=raw, sequence=sequence)
                append_outcome(self.path, self.latest[key])

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
                stage, plate = self.job.stage.name, self.job.plate.name
                log = self.job.paths.log(stage, self.job.name, "*")
                detail = f"{stage} died twice while {item} was alone in work; see the log {log}, then "
                detail += f"`plateflow retry {plate}/{item.well}`"
                killers.append((item, Outcome(state="quarantined", reason="crash", detail=detail)))
            elif item.key in suspects:
                alone.append([item])
            else:
                pooled.append(item)
        self.left_out += killers
        self.batches = ([pooled] if pooled else []) + alone

    def check(self) -> None:
        """Stop where another job has taken over: none of its work may be cleared or recorded again.

        Raises:
            Interrupted: the lease is lost.
        """
        if not self.lease.held():
            raise Interrupted("another job has taken over, after this one had given no sign of life")

    @property
    def in_work(self) -> list[Item]:
        """What was taken up and isn't done."""
        return [self._items[key] for key in self._started]

    def start(self, item: Item) -> None:
        """Take an item up: whatever it has now isn't done any more."""
        self._started[item.key] = time.monotonic()
        self.reading.check(item)
        self.take_up(item)

    def take_up(self, item: Item) -> None:
        """Say in the journal that an item is in work."""
        self.check()
        self._started[item.key] = time.monotonic()
        behind = []  # its work is over, and no cause of what becomes of this item's
        if self._settling is not None and self._recorded is not None:
            if item.key in self._suspects:
                self.wait()
            elif not self._settling.done():
                behind = [self._recorded.key]
        line = {"event": "start", "key": item.key, "sequence": self._next(item)}
        append_line(self.path, line | ({"behind": behind} if behind else {}))
        print(f"{self.job.stage.name}: {item}", flush=True)

    def done(self, item: Item, outcome: Outcome) -> None:
        """Record an outcome, once all of it is durable."""
        self.check()
        clock = time.monotonic()
        depends = dependencies(self.job, replace(item, depends={**item.depends, **outcome.learned}))
        fields = {name: value for name, value in vars(outcome).items() if name not in {"learned", "files"}}
        entry = Entry(
            well=item.well,
            label_set=item.label_set,
            block=item.block,
            fingerprint=digest(depends),
            depends=depends,
            **fields,
            files=self._files(item, outcome),
            sequence=self._next(item),
            seconds=round(clock - max(self._last, self._started.pop(item.key, clock)), 3),
            finished=now(),
        )
        self.wait()
        self._recorded, self._settling = entry, self._pool.submit(self._record, entry, self.meter.used())
        self.latest[item.key] = entry
        self.n_done, self._last = self.n_done + 1, clock
        if outcome.state != "ok":
            print(f"{self.job.stage.name}: {item}: {outcome.state}: {outcome.reason} {outcome.detail}", flush=True)

    def _files(self, item: Item, outcome: Outcome) -> dict[str, Stamp]:
        """The stamps of an item's files; what else lies in its places is removed."""
        self._stamps |= take_stamps()
        files = sorted(self._stamps) if outcome.files is None else outcome.files
        stamps = {path: self._stamps.pop(path) if path in self._stamps else stamp_of(path) for path in files}
        for place in self.owned(item):
            for path in [*place.rglob("*")] if place.is_dir() else [place]:
                if path not in stamps and not path.is_dir():
                    remove(path)
        sweep(stamps)
        return {self.job.paths.key_of(path): stamp for path, stamp in stamps.items()}

    def _record(self, entry: Entry, used: Mapping[str, Any]) -> None:
        settle()
        self.check()
        append_outcome(self.path, entry, used)

    def wait(self) -> None:
        """Wait until the last outcome is recorded.

        Raises:
            OSError: it can't be made durable.
        """
        if self._settling is not None:
            try:
                self._settling.result()
            except Exception:
                self._settling = None
                raise
            self._settling = None

    def finish(self) -> None:
        """Wait for what is behind, and see that nothing was written that no line vouches for."""
        self.wait()
        self.check()
        self._pool.shutdown()
        self._stamps |= take_stamps()
        if self._stamps:
            raise RuntimeError(f"{self.job.stage.name} wrote files that no work item lists: {sorted(self._stamps)[:3]}")

    def _next(self, item: Item) -> int:
        entry = self.latest.get(item.key)
        return max(entry.sequence if entry else 0, self.lost.get(item.key, 0)) + 1


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
