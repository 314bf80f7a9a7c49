"""What is asked of every job, as digests that name its receipt: the one book that decides what is to be done.

A digest covers the parameters, the version, the requests and the watched files of a job, and the digests of the jobs
whose results it reads. A receipt bears it in its name, so whether a receipt of that name exists decides alone: no time,
no path, and nothing that Snakemake remembers. The process that drives a run writes all digests down when it starts;
its jobs, which may start hours later, take them and the configuration from there.

Loaded while the Snakefile is parsed, so it imports nothing heavy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES, label_parameters, part_of, stages_of
from plateflow.config import Config, PlateSpec
from plateflow.files import digest, listed, remove, settle, stat_of, write_atomic, write_json
from plateflow.model.registry import find_weights, model_spec
from plateflow.paths import SCREEN_PAGE, PlatePaths
from plateflow.project import Plate, Project
from plateflow.state.corrections import corrections_digest
from plateflow.state.requests import request_digest, watch_lines
from plateflow.state.slurm import QueuedJob

VARIABLE = "PLATEFLOW_ASKED"
"""Environment variable of a run's jobs: the file in which the run wrote down what it asks."""
SMALL_MODEL = 2**26
"""Bytes up to which a model is hashed while the Snakefile is parsed: a twentieth of a second."""
SMALL_MAP = 2**20
"""Bytes up to which a plate map is known by its content, not by its time."""
FROZEN = "frozen"
"""Stands for the tiles from which a frozen window was made, where no receipt tells."""
OLD = 946684800
"""The time of every receipt that a job has read, in seconds: 2000-01-01."""

JobKey = tuple[str, str]
"""Stage and name of a job of a plate."""
INGEST: JobKey = ("ingest", "plate")


def upstream(config: Config, stage: str, job: str) -> list[JobKey]:
    """The jobs of the same plate that a job builds on directly; see `PlateAsked.waits_for`.

    Where the configuration lacks the stage whose results it would read, those jobs on which that would build.
    """
    stages = stages_of(config)
    found: list[JobKey] = []
    for key in _in_full(config, stage, job):
        found += [key] if key[0] in stages else upstream(config, *key)
    return list(dict.fromkeys(found))


def _in_full(config: Config, stage: str, job: str) -> list[JobKey]:
    """The same in the chain of all stages."""
    parts = config.parts
    match stage:
        case "tile":
            return [INGEST]
        case "normalise":
            return _jobs(config, "tile")
        case "infer":
            tiles = [("tile", str(part)) for part in range(part_of(job), parts.cpu, parts.gpu)]
            return [("normalise", "plate"), *tiles]
        case "follow":
            return [("infer", str(part_of(job) % parts.gpu))]
        case "stitch":
            return [("follow", f"{job}-{index}") for index in range(config.follow_slices)]
        case "features":
            return [("stitch", job)]
        case "aggregate":
            return _jobs(config, "features")
        case "report":
            return [("aggregate", "plate")]
    return []


def _jobs(config: Config, stage: str) -> list[JobKey]:
    return [(stage, job) for job in STAGES[stage].jobs(config)]


@dataclass
class Stamps:
    """What is known of files outside the results, each looked at once."""

    _seen: dict[str, Any] = field(default_factory=dict)

    def plate_map(self, plate_map: str) -> Any:
        """A plate map; of a table of barcodes also the maps and metadata that it leads to."""
        if plate_map not in self._seen:
            path = Path(plate_map)
            files = [path]
            if "barcode" in path.name.lower():
                files = [*listed(path.parent), *listed(path.parent / "platemap")]
                files += listed(path.parent.parent.parent / "external_metadata")
            self._seen[plate_map] = [[file.name, _content(file)] for file in sorted(files)]
        return self._seen[plate_map]

    def model(self, name: str) -> Any:
        """A model: the hash of a small file, size and time of a large one."""
        if name not in self._seen:
            try:
                path = find_weights(name)
                small = path.stat().st_size < SMALL_MODEL
                self._seen[name] = model_spec(name).sha256 if small else stat_of(path)
            except (ValueError, OSError):
                self._seen[name] = None  # infer says what is wrong with it
        return self._seen[name]


def _content(path: Path) -> Any:
    stamp = stat_of(path)
    if stamp is not None and stamp[0] <= SMALL_MAP:
        with suppress(OSError):
            return digest(path.read_bytes().hex())
    return stamp


class PlateAsked:
    """What is asked of the jobs of a plate.

    Args:
        stamps: of files that several plates share.
        given: the digests by stage and job, where a run has written them down.
        frozen: whether the run found a frozen window.
    """

    def __init__(
        self,
        plate: Plate,
        stamps: Stamps | None = None,
        *,
        given: Mapping[str, Mapping[str, str]] | None = None,
        frozen: bool | None = None,
    ) -> None:
        self.plate = plate
        self._stamps, self._stages = stamps or Stamps(), stages_of(plate.config)
        self._digests = {(stage, job): name for stage, jobs in (given or {}).items() for job, name in jobs.items()}
        self._frozen = frozen
        self._settings: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}
        self._stands: dict[JobKey, bool] = {}

    @property
    def frozen(self) -> bool:
        """Whether the window is frozen as configured: then `normalise` waits for no tile, but for ingest."""
        if self._frozen is None:
            try:
                self._frozen = self.plate.has_frozen_window()
            except OSError:  # can't be read for a moment: what was done with it stands
                self._frozen = bool(self.plate.paths.receipts("normalise", "plate"))
        return self._frozen

    def waits_for(self, stage: str, job: str) -> list[JobKey]:
        """The jobs of the plate whose receipts a job waits for."""
        return [INGEST] if stage == "normalise" and self.frozen else upstream(self.plate.config, stage, job)

    def digest(self, stage: str, job: str) -> str:
        """The digest of all that is asked of a job.

        It is that of the chain of all stages: what is asked of one that the configuration lacks is asked of the stage
        that does its work.
        """
        key = stage, job
        if key not in self._digests:
            parts = STAGES[stage].parts(self.plate.config)
            requests = request_digest(self.plate.paths, stage, job, parts, self._watch_lines)
            own = digest(self._stage_settings(stage), requests)
            if stage == "features" and (corrected := corrections_digest(self.plate.paths, job, parts)):
                own = digest(own, corrected)
            if stage == "normalise":
                own = digest(own, self.digest(*INGEST))
                self._digests[key] = f"{own}-{self._base(own)}"
            else:
                others = _in_full(self.plate.config, stage, job)
                self._digests[key] = digest(own, [self.digest(*other) for other in others])
        return self._digests[key]

    def digests(self) -> dict[str, dict[str, str]]:
        """The digests of all jobs, by stage and job."""
        return {
            name: {job: self.digest(name, job) for job in stage.jobs(self.plate.config)}
            for name, stage in stages_of(self.plate.config).items()
        }

    def receipt(self, stage: str, job: str) -> str:
        """The path of the receipt of what is asked of a job."""
        return str(self.plate.paths.receipt(stage, job, self.digest(stage, job)))

    def stands(self, stage: str, job: str) -> bool:
        """Whether what is asked of a job was done when it was first looked at, as of all jobs that it builds on."""
        key = stage, job
        if key not in self._stands:
            if stage not in self._names:
                self._names[stage] = {path.name for path in self.plate.paths.receipts(stage, "*")}
            there = Path(self.receipt(stage, job)).name in self._names[stage]
            self._stands[key] = there and all(self.stands(*other) for other in self.waits_for(stage, job))
        return self._stands[key]

    def _base(self, own: str) -> str:
        """From what tiles the window was made, or is to be made.

        A frozen window doesn't follow its tiles, so neither may its name: it stays what it was when it was frozen.
        """
        if not self.frozen:
            return digest([self.digest(*tile) for tile in upstream(self.plate.config, "normalise", "plate")])
        names = [path.name for path in self.plate.paths.receipts("normalise", "plate")]
        bases = [name.split(".")[1].removeprefix(f"{own}-") for name in names if name.startswith(f"plate.{own}-")]
        return bases[0] if bases else FROZEN

    def _stage_settings(self, stage: str) -> str:
        """What is asked of all jobs of a stage: its parameters, version, and how wells are dealt to them."""
        if stage not in self._settings:
            plate, step = self.plate, self._stages.get(stage, STAGES[stage])
            more: list[Any] = [plate.config.follow_slices] if step.scope == "slice" else []
            if stage == "ingest":  # which label sets a well has, and (tile) which fields can do without a channel
                more = plate.config.needed_channels
            elif stage == "infer":
                more = [self._stamps.model(label_set.model) for label_set in plate.config.segmented.values()]
                if not plate.config.keep_flows:  # it makes labels
                    more.append({name: label_parameters(plate.config, name) for name in plate.config.segmented})
            elif stage == "aggregate" and plate.spec.plate_map:
                more = self._stamps.plate_map(plate.spec.plate_map)
            values = plate.parameters(stage), step.version, step.parts(plate.config), more
            self._settings[stage] = digest(*values)
        return self._settings[stage]

    @cached_property
    def _watch_lines(self) -> dict[str, list[dict[str, Any]]]:
        return watch_lines(self.plate.paths)


LAST: JobKey = ("report", "plate")
"""The job of a plate that the page over all plates waits for."""


def screen_digest(plates: Mapping[str, str]) -> str:
    """The digest of the page over all plates, by the digests of the plates' last jobs, and by what is written."""
    return digest(SCREEN_PAGE, [[name, of_plate] for name, of_plate in plates.items()])


class Asked:
    """What is asked of all jobs of a project: of those of each plate, by id, and the digest of the page over all."""

    def __init__(self, project: Project, plates: dict[str, PlateAsked], screen: str = "") -> None:
        self.project, self.plates = project, plates
        self.screen = screen or screen_digest({name: plate.digest(*LAST) for name, plate in plates.items()})

    @classmethod
    def of(cls, project: Project) -> Asked:
        """What a project asks, as its files are now."""
        stamps = Stamps()
        return cls(project, {name: PlateAsked(plate, stamps) for name, plate in project.plates.items()})

    @classmethod
    def given(cls) -> Asked | None:
        """What the run asks that started this process; None where there is none, or it wrote nothing down."""
        try:
            content = json.loads(Path(os.environ[VARIABLE]).read_text())
        except (KeyError, FileNotFoundError):
            return None
        specs = {spec["plate"]: PlateSpec.model_validate(spec) for spec in content["plates"]}
        project = Project.of(Config.model_validate(content["config"]), specs)
        digests, frozen = content["digests"], set(content["frozen"])
        plates = {
            name: PlateAsked(plate, given=digests[name], frozen=name in frozen)
            for name, plate in project.plates.items()
        }
        return cls(project, plates, content["screen"])

    def save(self, path: Path) -> None:
        """Write down what is asked, for the jobs of a run: they find the file by `VARIABLE`."""
        content = {
            "config": self.project.config.model_dump(mode="json"),
            "plates": [plate.spec.model_dump(mode="json") for plate in self.project.plates.values()],
            "frozen": [name for name, plate in self.plates.items() if plate.frozen],
            "digests": {name: plate.digests() for name, plate in self.plates.items()},
            "screen": self.screen,
        }
        write_json(path, content)


LOCAL = "local-"
"""Begins the id of a run that SLURM knows nothing of."""


def runs(screen: PlatePaths) -> set[str]:
    """The ids of all runs on these results of which jobs may be left: those that have written down what they ask."""
    return {file.stem for file in screen.asked("*").parent.glob("*.json")}


def is_over(screen: PlatePaths, run: str, queued: list[QueuedJob] | None) -> bool:
    """Whether no job is left of a run whose driver is gone, so that nobody needs what it has written down.

    Of a run of another user, whose jobs SLURM may hide, and where the queue isn't known (None), that can't be told.
    """
    if run.startswith(LOCAL):
        return True
    stamp = screen.asked(run)
    mine = stamp.exists() and stamp.stat().st_uid == os.geteuid()
    return mine and queued is not None and run not in {job.name for job in queued}


def forget_runs(screen: PlatePaths, gone: Iterable[str], queued: list[QueuedJob] | None) -> None:
    """Remove what runs have written down of which no job is left; `queued` as in `is_over`.

    Args:
        gone: runs whose driver is gone; known before the queue was asked, as another may begin meanwhile.
    """
    for run in gone:
        if is_over(screen, run, queued):
            remove(screen.asked(run))


def withdraw(plate: Plate, stage: str, job: str) -> None:
    """Remove, for good, all receipts of a job that is about to change results, and of all that builds on them.

    Whatever becomes of the job then, nothing that it may have changed is called done. The receipts of later jobs are
    of results that are about to go: the outcome may be another one though the same was asked, as when a raw file broke.
    So do those of stages that the configuration lacks now, which may come back.
    """
    config, paths = plate.config, plate.paths
    frozen = PlateAsked(plate).frozen
    affected = {(stage, job)}
    for later in STAGES:
        if later != "normalise" or not frozen:
            affected |= {key for key in _jobs(config, later) if affected.intersection(_in_full(config, *key))}
    receipts = [path for key in sorted(affected) for path in paths.receipts(*key)]
    for receipt in [*receipts, *Project.of(config, {}).screen.receipts("report", "screen")]:
        remove(receipt)
    settle()


def write_receipt(paths: PlatePaths, stage: str, job: str, digest: str, content: Any) -> None:
    """Write the receipt of a job that did all that was asked; remove receipts, logs and benchmarks of other names."""
    write_json(paths.receipt(stage, job, digest), content)
    current = {paths.receipt(stage, job, digest), paths.log(stage, job, digest), paths.benchmark(stage, job, digest)}
    for former in {*paths.receipts(stage, job), *paths.logs(stage, job), *paths.benchmarks(stage, job)} - current:
        remove(former)
    settle()


def age(receipts: Iterable[str]) -> None:
    """Give receipts that a job reads their old time.

    Snakemake touches what a job made, and fails a later one whose output is older than its input: where clocks differ,
    or one was set back, by no fault of the job.
    """
    for receipt in map(Path, receipts):
        with suppress(OSError):  # this user may only read here
            try:
                os.utime(receipt, (OLD, OLD))
            except PermissionError:  # another user's, who alone may set its time
                data = receipt.read_bytes()
                receipt.stat()  # one that was withdrawn meanwhile isn't written again
                write_atomic(receipt, data)
                os.utime(receipt, (OLD, OLD))
