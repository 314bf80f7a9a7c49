"""What a job is, what it does or leaves, and what has changed since that was done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from plateflow.chain import KEEP_FLOWS, Stage, stage_of
from plateflow.config import Config
from plateflow.errors import PlateflowError
from plateflow.files import Stamp, digest, stamp_of
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.state.journal import Entry, Key, State, item_key
from plateflow.state.requests import request_number

Data = TypeVar("Data")


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
            PlateflowError: there is no such stage, the configuration lacks it, or it has no such job.
        """
        step = stage_of(plate.config, stage)
        names = list(step.jobs(plate.config))
        if name not in names:
            raise PlateflowError(
                f"{stage} has no job {name!r}",
                where=plate.name,
                remedy=f"its jobs are {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}",
            )
        return cls(plate=plate, stage=step, name=name, digest=digest)

    @property
    def config(self) -> Config:
        """The project's configuration."""
        return self.plate.config

    @property
    def paths(self) -> PlatePaths:
        """The plate's files."""
        return self.plate.paths

    @property
    def wells(self) -> list[str]:
        """The wells of the job's part, in the manifest's order; all of them for the stages that do a whole plate."""
        return self.plate.wells_of(self.stage.name, self.name)

    def parameters(self, label_set: str | None = None) -> dict[str, Any]:
        """The stage's parameters, for one label set or for all; where the raw folder lies is none of them."""
        values = self.plate.parameters(self.stage.name, label_set)
        return values | {"raw": values["raw"] | {"path": ""}} if "raw" in values else values

    def __str__(self) -> str:
        return f"{self.plate.name}: {self.stage.name} {self.name}"


@dataclass(frozen=True, kw_only=True)
class WorkItem(Generic[Data]):
    """What a job does or leaves: a well, a label set of it, a block of that, or (all empty) the plate.

    Attributes:
        depends: what the result depends on, JSON-able, by a name that `plateflow status` shows when it changed:
            "raw files", "parameters", "tile", "model", ...
        upstream: the outcome of an earlier stage that left this item out, if one did.
        reads: by an earlier stage, its work items whose files this one reads, where not all of its well and label set.
        raw: what `Entry.raw` would say now, where only places and times may differ from what it says.
        data: what the stage wants to carry along; not part of the fingerprint.
    """

    well: str = ""
    label_set: str = ""
    block: int = -1
    depends: Mapping[str, Any] = field(default_factory=dict)
    upstream: Entry | None = None
    reads: Mapping[str, Collection[Key]] = field(default_factory=dict)
    raw: dict[str, Any] | None = None
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
    """What became of a work item; what isn't told here is as in `Entry`.

    Attributes:
        watch: raw files that were set aside, each with its size and time before it was read (None: it wasn't
            there); a change of one of them asks for the job again.
        learned: of what the item depends on, the part that was known only once it was read; as `WorkItem.depends`.
        files: what the item now consists of; None: all that was written since the item before. A file that stays as
            it was may be among them.
    """

    state: State = "ok"
    reason: str = ""
    detail: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    watch: list[tuple[str, list[int] | None]] = field(default_factory=list)
    learned: Mapping[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    files: Collection[Path] | None = None


Item = WorkItem[Any]


def dependencies(job: Job, item: Item) -> dict[str, str]:
    """What an item's result depends on, each as a digest; the fingerprint is the digest of them all."""
    upstream = item.upstream and [item.upstream.state, item.upstream.reason, item.upstream.detail]
    number = request_number(job.paths, job.stage.name, item.well)
    values = {**item.depends, "version": job.stage.version, "request": number, "left out before": upstream}
    return {name: digest(value) for name, value in values.items()}


def changes(job: Job, item: Item, entry: Entry | None, *, lost: Mapping[Key, int] | None = None) -> list[str]:
    """What has changed since an item was done as its entry says; empty where it is up to date.

    Without `lost`, the `lost_sequences` of the stage, the item's files aren't looked at.
    """
    if entry is None:
        return ["never done"]
    if not entry.fingerprint:
        return list(entry.depends)  # left in the middle: what it depends on needn't have changed
    now = dependencies(job, item)
    if entry.accepted.get("version") == job.stage.version:
        now["version"] = entry.depends.get("version", "")
    changed = [name for name in {**entry.depends, **now} if entry.depends.get(name) != now.get(name)]
    if KEEP_FLOWS in changed:
        # what only one of the two ways depends on says nothing, nor do versions, which are counted in two ways, too
        both = (entry.depends.keys() & now.keys() | {KEEP_FLOWS}) - {"version"}
        changed = [name for name in changed if name in both]
    if changed or lost is None:
        return changed
    if lost.get(entry.key, 0) >= entry.sequence:
        return ["files"]
    # Of flows and endpoints only a loss that a job has met counts: as long as nobody needs them, they may be gone.
    gone = not job.stage.intermediate and any(
        damage(job.paths, name, stamp, content=False) for name, stamp in entry.files.items()
    )
    return ["files"] if gone else []


def damage(paths: PlatePaths, name: str, stamp: Stamp, *, content: bool) -> str:
    """What is wrong with a file that a journal lists by this name: its size, also its `content`; empty if nothing."""
    path = paths.path_of(name)
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "it is gone: removed, purged, or not copied"
    if size != stamp[0]:
        return f"it has {size:,} bytes, and had {stamp[0]:,} when it was written"
    if content and stamp_of(path)[1] != stamp[1]:
        return "its content is not what was written: the checksum differs"
    return ""


def left_out_upstream(entries: Iterable[Entry]) -> Entry | None:
    """Of the outcomes that a work item depends on, the first that leaves it out."""
    return next((entry for entry in entries if entry.left_out), None)
