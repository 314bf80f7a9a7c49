"""What there is to do in a plate, why, and what a user does about it: the same for every command that asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from plateflow.access import explain
from plateflow.asked import PlateAsked
from plateflow.chain import STAGES
from plateflow.errors import PlateflowError, ResultsError
from plateflow.project import Plate
from plateflow.stages import stage_module
from plateflow.stages.job import Item, Job, changes
from plateflow.state.journal import Entry, Key
from plateflow.state.requests import lost_sequences


@dataclass(frozen=True, kw_only=True)
class StaleItem:
    """A work item that was never done, or not as it is asked for now.

    Attributes:
        job: that does it.
        key: what it is about.
        why: the names of what changed, "files", or "never done".
        remedy: what a user runs, so that it is done.
        seen: whether a receipt says that all that is asked of the job is done, so that Snakemake wouldn't look at it.
    """

    job: Job
    key: Key
    why: tuple[str, ...]
    remedy: str
    seen: bool


@dataclass
class ToDo:
    """What there is to do in a plate.

    Attributes:
        items: by stage and key.
        note: what the first stage said that can't tell what it has to do; empty where all can.
        fault: whether that is an error outside of the results: of raw data, configuration, or the machine.
    """

    items: dict[tuple[str, Key], StaleItem] = field(default_factory=dict)
    note: str = ""
    fault: bool = False


def to_do(plate: Plate, *, files: bool) -> ToDo:
    """What there is to do in a plate.

    All stages are asked; one whose upstream has never run can't list its work items.

    Args:
        files: whether to compare names and sizes of the files that the journals list, too.
    """
    found, asked = ToDo(), PlateAsked(plate)
    for name, stage in STAGES.items():
        entries = None
        try:
            entries, lost = plate.outcomes(name), lost_sequences(plate.paths, name)
            for number in stage.jobs(plate.config):
                job, seen = Job(plate=plate, stage=stage, name=number), asked.stands(name, number)
                for item in stage_module(name).work_items(job):
                    if why := _why(job, item, entries.get(item.key), lost, files=files):
                        remedy = _remedy(plate, why, seen=seen)
                        found.items[name, item.key] = StaleItem(
                            job=job, key=item.key, why=why, remedy=remedy, seen=seen
                        )
        except Exception as error:  # whatever was done to the results, the other stages are told
            if not found.note:
                _note(found, plate, name, error, journals=entries is None)
    return found


def _why(job: Job, item: Item, entry: Entry | None, lost: Mapping[Key, int], *, files: bool) -> tuple[str, ...]:
    why = changes(job, item, entry, lost=lost if files else None)
    if not why and entry is not None and lost.get(entry.key, 0) >= entry.sequence:
        why = ["files"]  # somebody has met the loss: that is told without looking
    return tuple(why)


def _remedy(plate: Plate, why: tuple[str, ...], *, seen: bool) -> str:
    if "raw files" in why:
        return "`plateflow check`, then `snakemake`"
    return f"`plateflow verify {plate.name}`, then `snakemake`" if seen else "`snakemake`"


def _note(found: ToDo, plate: Plate, stage: str, error: BaseException, *, journals: bool) -> None:
    """Put an error into words; `journals` are what can't be read."""
    error = explain(error)
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, PlateflowError):
        what = f"{error.what}{f' ({error.where})' if error.where else ''}{f': {error.why}' if error.why else ''}"
    results = isinstance(error, ResultsError | FileNotFoundError) or not isinstance(error, PlateflowError | OSError)
    if journals or not results:
        found.fault = True
        remedy = f"; {error.remedy}" if isinstance(error, PlateflowError) and error.remedy else ""
        found.note = f"{stage}: can't tell what is to be done: {what}{remedy}"
    elif found.items:
        found.note = f"{stage}: waits for the stages before it: {what}"
    else:
        found.note = f"{stage}: {what}: `plateflow verify {plate.name}`, then `snakemake`"
