"""What there is to do in a plate, why, and what a user does about it: the same for every command that asks."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from plateflow.access import explain
from plateflow.asked import LAST, PlateAsked, Stamps
from plateflow.chain import KEEP_FLOWS, LABEL_KEYS, labels_depend_on, stages_of
from plateflow.config import Config
from plateflow.errors import PlateflowError, ResultsError
from plateflow.files import read_lines
from plateflow.project import Plate
from plateflow.stages import stage_module
from plateflow.stages.job import Job, WorkItem, changes
from plateflow.state.journal import Entry, Journal, Key, LeftOut, last_entries
from plateflow.state.progress import JobProgress, Progress, plate_state
from plateflow.state.requests import changed_files, lost_sequences, watch_lines

NEVER: tuple[str, ...] = ("never done",)
PARTS: tuple[str, ...] = ("parts",)


@dataclass(frozen=True, kw_only=True)
class StaleItem:
    """A work item that was never done, or not as it is asked for now.

    Attributes:
        why: the names of what changed, "files", or "never done".
        seen: whether a receipt says that all that is asked of the job is done, so that Snakemake wouldn't look at it.
    """

    job: Job
    key: Key
    why: tuple[str, ...]
    remedy: str
    seen: bool

    def __str__(self) -> str:
        return _in_words(self.job.config, self.job.stage.name, self.why, seen=self.seen)


@dataclass
class ToDo:
    """What there is to do in a plate.

    Attributes:
        note: what the first stage said that can't tell what it has to do; empty where all can.
        fault: whether that is an error outside of the results: of raw data, configuration, or the machine.
    """

    items: dict[tuple[str, Key], StaleItem] = field(default_factory=dict)
    note: str = ""
    fault: bool = False


def to_do(plate: Plate, *, files: bool) -> ToDo:
    """What there is to do in a plate; `files`: with names and sizes compared of the files that the journals list.

    All stages are asked; one whose upstream has never run can't list its work items.
    """
    found, asked = ToDo(), PlateAsked(plate)
    for name, stage in stages_of(plate.config).items():
        entries = None
        try:
            entries, lost = plate.outcomes(name), lost_sequences(plate.paths, name)
            for number in stage.jobs(plate.config):
                job, seen = Job(plate=plate, stage=stage, name=number), asked.stands(name, number)
                for item in stage_module(name).work_items(job):
                    entry = entries.get(item.key)
                    why = tuple(changes(job, item, entry, lost=lost if files else None))
                    if not why and entry is not None and lost.get(entry.key, 0) >= entry.sequence:
                        why = ("files",)  # somebody has met the loss: that is told without looking
                    if why:
                        remedy = _remedy(plate, why, seen=seen)
                        found.items[name, item.key] = StaleItem(
                            job=job, key=item.key, why=why, remedy=remedy, seen=seen
                        )
        except Exception as error:  # whatever was done to the results, the other stages are told
            if not found.note:
                _note(found, plate, name, error, journals=entries is None)
    return found


def why_it_runs(asked: PlateAsked, stage: str, job: str) -> str:
    """Why a run does a job, as `status` would say: from the ends of its own journal and receipts alone."""
    if asked.stands(stage, job):
        return "forced"
    config = asked.plate.config
    try:
        progress = Progress(config).of_job(asked.plate.paths, stage, job, asked.stands)
        if progress.state == "failed":
            return "its last attempt failed or was killed"
        if progress.state == "stale":
            return _in_words(config, stage, _what_changed(asked.plate, progress) or NEVER)
    except (OSError, PlateflowError):  # the job says what is wrong
        pass
    return _in_words(config, stage, NEVER)


def _in_words(config: Config, stage: str, why: tuple[str, ...], *, seen: bool = False) -> str:
    if why == NEVER:
        return "never done, though a receipt is there" if seen else "never done"
    if why == ("files",):
        return "stale: files are gone or damaged"
    if why == ("request",):
        return "requested again"
    if why[0] == "left in the middle":
        return why[0]
    more = ""
    if stage == "infer" and {KEEP_FLOWS, *LABEL_KEYS} & {*why}:
        kept = "flow fields weren't kept before" if config.keep_flows else "flow fields aren't kept (keep_flows: false)"
        more = f"; {kept}, so the network runs again"
    lacks = "follow" not in stages_of(config)  # by its name `stitch` depends on what it follows
    names = ["flow fields or cell_threshold" if each == "follow" and lacks else each for each in why]
    return f"stale: {', '.join(names)} changed{more}"


def _remedy(plate: Plate, why: tuple[str, ...], *, seen: bool) -> str:
    if "raw files" in why:
        return "`plateflow check`, then `snakemake`"
    return f"`plateflow verify {plate.name}`, then `snakemake`" if seen else "`snakemake`"


def _note(found: ToDo, plate: Plate, stage: str, error: BaseException, *, journals: bool) -> None:
    """Put an error into words; `journals` are what can't be read."""
    error = explain(error)
    what = _error(error)
    results = isinstance(error, ResultsError | FileNotFoundError) or not isinstance(error, PlateflowError | OSError)
    if journals or not results:
        found.fault = True
        remedy = f"; {error.remedy}" if isinstance(error, PlateflowError) and error.remedy else ""
        found.note = f"{stage}: can't tell what is to be done: {what}{remedy}"
    elif found.items:
        found.note = f"{stage}: waits for the stages before it: {what}"
    else:
        found.note = f"{stage}: {what}: `plateflow verify {plate.name}`, then `snakemake`"


def _error(error: BaseException) -> str:
    error = explain(error)
    if isinstance(error, PlateflowError):
        return f"{error.what}{f' ({error.where})' if error.where else ''}{f': {error.why}' if error.why else ''}"
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True, kw_only=True)
class Glance:
    """A plate as its receipts and the last lines of its journals tell: no work item is listed, no result looked at.

    Attributes:
        jobs: all of them; none where the plate can't be looked at.
        wells: how many it has; 0 as long as it isn't ingested.
        causes: the number of jobs, by stage, why they are to be done, and the remedy; of jobs for which everything
            that they build on is done.
        asked: the digest of its last job.
        unread: why the plate can't be looked at; else empty.
    """

    plate: str
    jobs: list[JobProgress] = field(default_factory=list)
    wells: int = 0
    causes: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    asked: str = ""
    unread: str = ""

    @property
    def state(self) -> str:
        """The plate in a word."""
        state = plate_state(self.jobs)
        return "unread" if self.unread else "stale" if state == "complete" and self.causes else state


def glance(plate: Plate, progress: Progress, stamps: Stamps) -> Glance:
    """Look at a plate in a few milliseconds, whatever its size; `to_do` is the full look."""
    asked, wells, causes = PlateAsked(plate, stamps), 0, Counter[tuple[str, str, str]]()
    try:
        jobs = progress.of(plate.paths, asked.stands)
        try:
            wells = len(plate.wells)
        except ResultsError as error:
            if asked.stands("ingest", "plate"):
                causes["ingest", error.what, error.remedy] += 1
        causes.update(_causes(plate, asked, jobs, ingested=wells > 0))
        told = [(job.stage, job.exceptions) for job in jobs]
        exceptions = [(stage, entry) for stage, of_job in told for entry in of_job or ()]
        stages = [*stages_of(plate.config)]
        exceptions.sort(key=lambda each: (stages.index(each[0]), each[1].key))
        by_journals = any(of_job is None for _, of_job in told)
        left_out = plate.left_out() if by_journals else plate.left_out_of(exceptions)
        last = asked.digest(*LAST)
        doubts = plate.doubts() if any(stage == "aggregate" for stage, _ in exceptions) else []
        return Glance(
            plate=plate.name, jobs=jobs, wells=wells, causes=causes, left_out=left_out, doubts=doubts, asked=last
        )
    except Exception as error:  # whatever was done to the results, the other plates are told
        remedy = f"; {error.remedy}" if isinstance(error, PlateflowError) and error.remedy else ""
        return Glance(plate=plate.name, unread=f"{_error(error)}{remedy}")


def _causes(
    plate: Plate, asked: PlateAsked, jobs: list[JobProgress], *, ingested: bool
) -> Iterator[tuple[str, str, str]]:
    """Per job that is to be done before others: its stage, why, and the remedy."""
    journals = {path.stem for path in plate.paths.journals("*")}
    written = {name.partition("-")[0] for name in journals}
    for job in jobs:
        upstream = asked.waits_for(job.stage, job.job)
        if job.state == "done" and job.items and f"{job.stage}-{job.job}" not in journals:
            if ingested and job.stage in written and _of_part(plate, job) == PARTS:
                continue  # done by jobs of other parts, when there were others
            yield job.stage, _in_words(plate.config, job.stage, NEVER, seen=True), _remedy(plate, NEVER, seen=True)
        elif job.state in ("stale", "waits") and all(asked.stands(*other) for other in upstream):
            why = NEVER
            if job.state == "stale":
                why = _what_changed(plate, job)
            elif job.stage in written and ingested:
                why = _of_part(plate, job)
            if why:
                yield job.stage, _in_words(plate.config, job.stage, why), "`snakemake`"


def _of_part(plate: Plate, progress: JobProgress) -> tuple[str, ...]:
    """Why a job was never done though others of its stage were; empty where its part has no well."""
    wells, journals = set(plate.wells_of(progress.stage, progress.job)), plate.paths.journals(progress.stage)
    by_others = {key[0] for path in journals if wells for key in Journal.brief(path).latest}
    return () if not wells else PARTS if wells <= by_others else NEVER


def _what_changed(plate: Plate, progress: JobProgress) -> tuple[str, ...]:
    """What has changed since a job came to its end, as far as that is told without its work items.

    Empty where it had nothing to do: its part has no well.
    """
    name, paths = progress.stage, plate.paths
    job, path = Job.of(plate, name, progress.job), paths.journal(name, progress.job)
    if not (entries := last_entries(path, plate.config.segmented)):
        return ()
    lost = lost_sequences(paths, name)
    why = _own_changes(job, entries, lost)
    asked = any(line["stage"] == name for line in read_lines(paths.requests)) or name == "features"
    if not why and (lost or asked):
        why = _own_changes(job, Journal.read(path).latest.values(), lost)  # maybe of a well that isn't among the last
    if not why:
        watched = watch_lines(paths)
        lines = chain.from_iterable(watched.values()) if name == "ingest" else watched.get(path.stem, [])
        why = ("raw files",) if changed_files(lines) else ("inputs",)
    return why


def _own_changes(job: Job, entries: Iterable[Entry], lost: Mapping[Key, int]) -> tuple[str, ...]:
    """Of parameters, version, requests and lost files, what has changed since some outcomes."""
    why: dict[str, None] = {}
    for entry in entries:
        if entry.label_set in ("", *job.config.segmented):
            depends: dict[str, Any] = (
                {"parameters": job.parameters(entry.label_set or None)} if "parameters" in entry.depends else {}
            )
            depends |= labels_depend_on(job.config, job.stage.name, entry.label_set)
            own = {*depends, "version", "request", KEEP_FLOWS}
            if job.stage.name == "features":
                depends |= job.plate.corrected(entry.well)
                own |= {*depends, *(name for name in entry.depends if name.startswith("corrected "))}
            item = WorkItem[None](well=entry.well, label_set=entry.label_set, block=entry.block, depends=depends)
            why |= dict.fromkeys(each for each in changes(job, item, entry) if each in own)
            if lost.get(entry.key, 0) >= entry.sequence:
                why["files"] = None
    return tuple(why)
