"""One job of one stage: which units are to do, who did what, and the receipt at the end.

A stage's module makes the list of its units with all that each depends on, and a function that does a batch of them.
Everything else is here, the same for every stage: lease, journal, fingerprints, crashes, left-out units, receipt.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES, Stage, parameters, part_of
from plateflow.config import Config, PlateEntry
from plateflow.errors import PlateflowError
from plateflow.files import append_line, digest, read_lines, write_atomic
from plateflow.paths import PlatePaths
from plateflow.state import usage
from plateflow.state.journal import Entry, Key, State, append_outcome, outcomes
from plateflow.state.lease import Lease
from plateflow.state.requests import request_number, watch


class Interrupted(BaseException):  # as KeyboardInterrupt: `except Exception` may not swallow it
    """The job was told to stop, by a signal or because its driver is gone; it goes on from here the next time."""


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """What a job knows: the configuration, its plate, its stage and its name."""

    config: Config
    entry: PlateEntry
    stage: Stage
    job: str

    @cached_property
    def paths(self) -> PlatePaths:
        """The plate's files."""
        return PlatePaths.of(self.entry.plate, results=self.config.results, scratch=self.config.scratch)

    @property
    def part(self) -> int:
        """The number of the part; for `follow` without the slice."""
        return int(self.job.partition("-")[0])

    @property
    def slice(self) -> int:
        """The number of the slice of a `follow` job."""
        return int(self.job.partition("-")[2])

    @cached_property
    def info(self) -> dict[str, Any]:
        """manifest/plate.json, as ingest wrote it."""
        try:
            return json.loads(self.paths.info.read_text())
        except FileNotFoundError:
            raise PlateflowError(
                "the plate has no manifest",
                where=self.entry.plate,
                remedy="run `snakemake`; ingest makes it",
            ) from None

    def wells(self) -> list[str]:
        """The wells of this job's part, in the manifest's order; for the stages of a plate all of them."""
        wells: list[str] = self.info["wells"]
        if self.stage.scope == "plate":
            return wells
        parts = self.config.parts.gpu if self.stage.scope == "gpu" else self.config.parts.cpu
        return [well for well in wells if part_of(well, parts, self.info["format"][1]) == self.part]

    def upstream(self, stage: str) -> dict[Key, Entry]:
        """The latest outcomes of another stage of this plate."""
        return outcomes(self.paths.journals(stage))

    def parameters(self, label_set: str | None = None) -> dict[str, Any]:
        """The stage's parameters, of one label set or of all."""
        return parameters(self.config, self.stage.name, self.entry, label_set)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Something a job can do or leave: a well, a label set of it, a block of that, or (all empty) the plate.

    Attributes:
        depends: what the result depends on, JSON-able, by a name that `plateflow status` shows when it changed:
            "raw files", "parameters", "tile", "model", ...
        upstream: the outcome of an earlier stage that left this unit out, if one did.
        data: whatever the stage wants to carry along; not part of the fingerprint.
    """

    well: str = ""
    label_set: str = ""
    block: int = -1
    depends: Mapping[str, Any] = field(default_factory=dict)
    upstream: Entry | None = None
    data: Any = None

    @property
    def key(self) -> Key:
        """What the unit is about."""
        return self.well, self.label_set, self.block

    def __str__(self) -> str:
        block = f" block {self.block}" if self.block >= 0 else ""
        return f"{self.well or 'plate'} {self.label_set}{block}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a unit.

    Attributes:
        state: ok, flagged (some fields left out, or a flag), quarantined, missing.
        reason: machine-readable: "truncated", "fields", ...
        detail: one line for people.
        fields: fields left out or flagged, with reasons.
        info: counts and timings worth keeping.
        set_aside: raw files that were set aside, each with its size and time before it was read (None: it wasn't
            there); a change of one of them asks for the job again.
    """

    state: State = "ok"
    reason: str = ""
    detail: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    set_aside: tuple[tuple[str, list[int] | None], ...] = ()


Work = Callable[[list[Unit], Callable[[Unit], None]], Iterable[tuple[Unit, Outcome]]]


def one_by_one(work: Callable[[Unit], Outcome]) -> Work:
    """A stage that does its units one after another."""

    def run(units: list[Unit], start: Callable[[Unit], None]) -> Iterator[tuple[Unit, Outcome]]:
        for unit in units:
            start(unit)
            yield unit, work(unit)

    return run


def run_job(
    context: JobContext,
    units: Callable[[], list[Unit]],
    work: Work,
    *,
    clear: Callable[[Unit], None] | None = None,
    results: Callable[[Unit], Path] | None = None,
    finish: Callable[[list[Entry]], None] | None = None,
) -> None:
    """Do what is to do in a job and write its receipt.

    Args:
        units: makes the job's units; called once the lease is held, so that nothing changes under it.
        work: does a batch: calls its second argument when it takes a unit up, yields each with its outcome. It is
            called only if there is something to do, so it is the place to import torch.
        clear: removes earlier or half-made results of a unit that is now left out without work: an earlier stage left
            it out, or it killed its job twice.
        results: the file that a unit's work leaves; a unit that wasn't left out and lacks it is done again.
        finish: called with the outcomes of all units before the receipt is written, done now or before.

    Raises:
        PlateflowError: another job holds the lease.
        Interrupted: stopped by a signal, or orphaned.
    """
    stage, job, paths = context.stage, context.job, context.paths
    with Lease(paths.lease(stage.name, job), what=f"{paths.plate}: {stage.name} {job}") as lease, _signals():
        began, busy = usage.begun(), False
        journal = paths.journal(stage.name, job)
        try:
            run = _Run(context, units(), lease, results=results)
            # Where an attempt failed with nothing left to do, the next one still tells that the job is at its end.
            if run.left_out or run.batches or run.open:
                append_line(journal, {"event": "begin", **began})
                busy = True
            for unit, outcome in run.left_out:
                run.start(unit)
                if clear is not None:
                    clear(unit)
                run.done(unit, outcome)
            for batch in run.batches:
                for unit, outcome in work(batch, run.start):
                    run.done(unit, outcome)
                    if lease.orphaned.is_set():
                        raise Interrupted("the driver of this job is gone; the job stops between two wells")
            entries = [run.latest[unit.key] for unit in run.units]
            if finish is not None:
                finish(entries)
            run.check()
            watch(paths, stage.name, job, [(file, stat) for entry in entries for file, stat in entry.watch])
            write_atomic(paths.receipt(stage.name, job), receipt(context, entries))
            if busy:
                append_line(journal, {"event": "end", "done": run.n_done, **usage.used()})
        except (Exception, Interrupted) as error:
            told = explained(error, paths)
            if lease.held():
                _tell(journal, told, None if busy else began)
            if told is error:
                raise
            raise told from error
        print(f"{stage.name} {job}: {run.n_done} done, {len(run.units) - run.n_done} already done")


def _tell(journal: Path, error: BaseException, began: dict[str, Any] | None) -> None:
    """Let the journal say why an attempt ended, if the journal can still be written."""
    why = str(error) if isinstance(error, PlateflowError | Interrupted) else f"{type(error).__name__}: {error}"
    event = "interrupted" if isinstance(error, Interrupted) else "failed"
    with suppress(OSError):  # the job's own error matters, and goes to the driver
        begin = {"event": "begin", **(began or {})}
        if began is not None and [*read_lines(journal)][-1:] != [begin]:  # it may have come with that very line
            append_line(journal, begin)
        append_line(journal, {"event": event, "error": why, **usage.used()})


def explained(error: BaseException, paths: PlatePaths) -> BaseException:
    """What a user can do about a full or read-only disk; any other error as it is."""
    if not isinstance(error, OSError) or error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return error
    folders = ("results", paths.root), ("scratch", paths.scratch)
    free = []
    for name, folder in folders:
        with suppress(OSError):
            free.append(f"{name} {folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB free")
    return PlateflowError(
        f"can't write: {os.strerror(error.errno)}",
        where=str(error.filename or f"a file of {paths.plate}"),
        why="; ".join(free),
        remedy="make the folder writable again, with room in it (`plateflow plan` says how much), and run `snakemake`",
    )


def receipt(context: JobContext, entries: list[Entry]) -> bytes:
    """The receipt of a job. It holds no clock: equal work gives equal bytes."""
    entries = sorted(entries, key=lambda entry: entry.key)
    content = {
        "plate": context.entry.plate,
        "stage": context.stage.name,
        "job": context.job,
        "work": digest([[*entry.key, entry.fingerprint, entry.state, entry.reason, entry.fields] for entry in entries]),
        "states": dict(sorted(Counter(entry.state for entry in entries).items())),
        "left_out": [
            {"well": entry.well, "label_set": entry.label_set, "state": entry.state, "reason": entry.reason}
            | ({"fields": entry.fields} if entry.fields else {})
            | {"detail": entry.detail}
            for entry in entries
            if entry.left_out or (entry.reason == "fields" and entry.state == "flagged")
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def depends(context: JobContext, unit: Unit) -> dict[str, str]:
    """What a unit's result depends on, each thing as a digest; the fingerprint is the digest of them all."""
    upstream = unit.upstream and [unit.upstream.state, unit.upstream.reason, unit.upstream.detail]
    asked_for = request_number(context.paths, context.stage.name, unit.well)
    things = {**unit.depends, "version": context.stage.version, "request": asked_for, "left out before": upstream}
    return {name: digest(thing) for name, thing in things.items()}


def changes(context: JobContext, unit: Unit, known: Entry | None) -> list[str]:
    """What has changed since a unit was done; empty where it is up to date."""
    if known is None:
        return ["never done"]
    if not known.fingerprint:
        return list(known.depends)  # left in the middle: what it depends on needn't have changed
    now = depends(context, unit)
    return [name for name in {**known.depends, **now} if known.depends.get(name) != now.get(name)]


class _Run:
    """The units of one job, sorted into done, left out without work, and batches to do."""

    def __init__(
        self, context: JobContext, units: list[Unit], lease: Lease, *, results: Callable[[Unit], Path] | None
    ) -> None:
        self.context, self.units, self.lease, self.results = context, units, lease, results
        crashed = lease.inherited
        self.journal = context.paths.journal(context.stage.name, context.job)
        self.latest = context.upstream(context.stage.name)
        self.depends = {unit.key: depends(context, unit) for unit in units}
        self.fingerprints = {key: digest(value) for key, value in self.depends.items()}
        self.n_done = 0
        self._started: dict[Key, float] = {}
        self._last = 0.0  # units that are pooled overlap: each counts the time since the one before
        lines = list(read_lines(self.journal))
        events = [line.get("event") for line in lines if line.get("event") != "crashed"]
        self.open = events[-1:] not in ([], ["end"])
        suspects, alone = _in_work(lines, crashed=crashed)
        if crashed:
            append_line(self.journal, {"event": "crashed", "keys": suspects, "alone": len(suspects) == 1})
        stale = [unit for unit in units if self._stale(unit)]
        self.left_out = [(unit, _passed_on(unit.upstream)) for unit in stale if unit.upstream is not None]
        todo = [unit for unit in stale if unit.upstream is None]
        # A job of a whole plate is always alone in work, and nothing can go on without it: it fails, it isn't left out.
        for unit in [unit for unit in todo if unit.well and alone[unit.key] >= 2]:
            todo.remove(unit)
            self.left_out.append((unit, _crash_outcome(context, unit)))
        suspect = {tuple(key) for key in suspects} | {key for key, count in alone.items() if count}
        rest = [unit for unit in todo if unit.key not in suspect]
        self.batches = ([rest] if rest else []) + [[unit] for unit in todo if unit.key in suspect]

    def _stale(self, unit: Unit) -> bool:
        known = self.latest.get(unit.key)
        if known is None or known.fingerprint != self.fingerprints[unit.key]:
            return True
        return self.results is not None and not known.left_out and not self.results(unit).exists()

    def check(self) -> None:
        """Stop where another job has taken over: nothing of its work may be cleared or told again.

        Raises:
            Interrupted: the lease is lost.
        """
        if not self.lease.held():
            raise Interrupted("another job has taken over, after this one had given no sign of life")

    def start(self, unit: Unit) -> None:
        self.check()
        self._started[unit.key] = time.monotonic()
        append_line(self.journal, {"event": "start", "key": unit.key, "sequence": self._next(unit)})
        print(f"{self.context.stage.name}: {unit}", flush=True)

    def done(self, unit: Unit, outcome: Outcome) -> None:
        self.check()
        now = time.monotonic()
        entry = Entry(
            well=unit.well,
            label_set=unit.label_set,
            block=unit.block,
            fingerprint=self.fingerprints[unit.key],
            depends=self.depends[unit.key],
            state=outcome.state,
            reason=outcome.reason,
            detail=outcome.detail,
            fields=outcome.fields,
            info=outcome.info,
            watch=list(outcome.set_aside),
            sequence=self._next(unit),
            seconds=round(now - max(self._last, self._started.pop(unit.key, now)), 3),
            finished=usage.now(),
        )
        append_outcome(self.journal, entry)
        self.latest[unit.key] = entry
        self.n_done, self._last = self.n_done + 1, now
        if outcome.state != "ok":
            print(f"{self.context.stage.name}: {unit}: {outcome.state}: {outcome.reason} {outcome.detail}", flush=True)

    def _next(self, unit: Unit) -> int:
        known = self.latest.get(unit.key)
        return known.sequence + 1 if known else 1


def _in_work(lines: list[dict[str, Any]], *, crashed: bool) -> tuple[list[list[Any]], Counter[Key]]:
    """The units that were in work when the last attempt died, and how often each died while alone in work.

    Only deaths without a signal from the user or the scheduler count (`crashed`): then the lease still lay there.
    """
    open_keys: dict[Key, None] = {}
    alone: Counter[Key] = Counter()
    for line in lines:
        match line.get("event"):
            case "start":
                open_keys[tuple(line["key"])] = None
            case "done":
                key = (line["well"], line["label_set"], line["block"])
                open_keys.pop(key, None)
                alone.pop(key, None)
            case "interrupted" | "failed":
                open_keys.clear()
            case "crashed":
                if line["alone"]:
                    alone[tuple(line["keys"][0])] += 1
                open_keys.clear()
    suspects = [list(key) for key in open_keys] if crashed else []
    if len(suspects) == 1:
        alone[next(iter(open_keys))] += 1
    return suspects, alone


def _passed_on(upstream: Entry) -> Outcome:
    return Outcome(state=upstream.state, reason=upstream.reason, detail=upstream.detail)


def _crash_outcome(context: JobContext, unit: Unit) -> Outcome:
    return Outcome(
        state="quarantined",
        reason="crash",
        detail=f"{context.stage.name} died twice while {unit} was alone in work; see the log "
        f"{context.paths.log(context.stage.name, context.job)}, "
        f"then `plateflow retry {context.paths.plate}/{unit.well}`",
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


def upstream_of(unit_entries: Iterable[Entry | None]) -> Entry | None:
    """Of the upstream outcomes of a unit, the first that leaves it out."""
    for entry in unit_entries:
        if entry is not None and entry.left_out:
            return entry
    return None


def job_context(config: dict[str, Any], plate: str, stage: str, job: str) -> JobContext:
    """The context of a job from Snakemake's configuration and wildcards."""
    from plateflow.config import load_config, load_plates

    loaded = load_config(config)
    return JobContext(config=loaded, entry=load_plates(Path(loaded.plates))[plate], stage=STAGES[stage], job=job)


__all__ = ["Interrupted", "JobContext", "Outcome", "Unit", "job_context", "one_by_one", "run_job", "upstream_of"]
