"""What the Snakefile needs: receipts, their inputs, the run's own lease and file, and what was left out.

The workflow is static: plates and parts come from the configuration, never from looking at images. One instance lives
as long as the Snakefile is parsed; it imports nothing heavier than pydantic.
"""

import atexit
import os
import shlex
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

from plateflow.access import denial, explain, plate_obstacles, snakemake_obstacles
from plateflow.asked import LOCAL, VARIABLE, Asked, PlateAsked, forget_runs, runs
from plateflow.chain import STAGES, stages_of, why_lacking
from plateflow.errors import ConfigError, LeaseError, number_of
from plateflow.estimate import Estimate, estimates_of, screen_needs
from plateflow.model.registry import MODELS, find_weights, licence_notice
from plateflow.paths import PlatePaths
from plateflow.project import SCREEN, Project
from plateflow.segment.label_sets import check_label_sets
from plateflow.state import slurm
from plateflow.state.journal import wells_and_fields
from plateflow.state.lease import DRIVER_LEASE, Lease, announce_driver, read_owner
from plateflow.state.progress import failure_lines, screen_failure

UNSIZED = {
    "ingest": (2000, 60),
    "tile": (2000, 60),
    "normalise": (2000, 30),
    "infer": (4000, 120),
    "follow": (4000, 60),
    "stitch": (4000, 60),
    "features": (4000, 60),
    "aggregate": (4000, 60),
    "report": (2000, 30),
    "train": (16000, 240),
}
"""Memory (MB) and time (minutes) of a stage's jobs for plates whose sizes the plate sheet does not give."""


class Workflow:
    """The jobs of all plates, by receipt.

    Args:
        asked: the configuration as Snakemake read it, or what a run has written down of it.
        forced: whether jobs may run that are done; asked once Snakemake knows its own settings.
    """

    def __init__(self, asked: Mapping[str, Any] | Asked, *, forced: Callable[[], bool] = lambda: False) -> None:
        self._forced = forced
        self._scheduler: Any = None
        try:
            self.asked = asked if isinstance(asked, Asked) else Asked.of(Project.load(asked))
        except PermissionError as error:
            _fail(str(explain(error)))
        self.project = self.asked.project
        check_label_sets(self.project.config)
        self.config, self.plates = self.project.config, self.project.plates

    def pattern(self, kind: str, stage: str) -> str:
        """A path with wildcards, for a rule: kind is receipt, log or benchmark."""
        job = {"plate": "plate", "slice": "{part}-{slice}"}.get(STAGES[stage].scope, "{part}")
        paths = PlatePaths.of("{plate}", results=self.config.results)
        path: Path = getattr(paths, kind)(stage, job, "{digest}")
        return str(path)

    def screen(self, kind: str, digest: str = "{digest}") -> str:
        """The path of the receipt, log or benchmark of the page over all plates."""
        path: Path = getattr(self.project.screen, kind)("report", "screen", digest)
        return str(path)

    def training(self, kind: str) -> str:
        """A file of the model that `snakemake train` makes: `safetensors`, or its `log` or benchmark, `tsv`."""
        name = self.config.trained or "NAME"
        return str(MODELS / f"{name}.{kind}" if kind == "safetensors" else Path("training", name, f"train.{kind}"))

    def training_options(self) -> list[str]:
        """What `plateflow train` is given.

        Raises:
            ConfigError: the configuration doesn't say it.
        """
        if self.config.train is None:
            raise ConfigError(
                "the configuration doesn't say what to train",
                remedy="write the options of `plateflow train` there, such as train: "
                '"--name mine --plate results/PLATE --wells B03,C05 --label-set cells"',
            )
        return shlex.split(self.config.train)

    def targets(self) -> list[str]:
        """Every receipt: a missing one is made again even while those of later jobs stand."""
        receipts = [
            plate.receipt(name, job)
            for plate in self.asked.plates.values()
            for name, stage in stages_of(self.config).items()
            for job in stage.jobs(self.config)
        ]
        return [*receipts, self.screen("receipt", self.asked.screen)]

    def journals(self) -> list[Path]:
        """The journals of all plates."""
        stages = stages_of(self.config)
        return [path for plate in self.plates.values() for stage in stages for path in plate.paths.journals(stage)]

    def lacking(self) -> dict[str, str]:
        """Of each stage that the configuration lacks, the reason."""
        where, why, by = why_lacking(self.config)
        said = f"this configuration has no rule {{}} ({where}): {why}. Name {by} instead."
        return {name: said.format(name) for name in STAGES if not self.has(name)}

    @property
    def inferred(self) -> str:
        """What `infer` makes, for its message."""
        return "flow fields" if self.config.keep_flows else "labels"

    def has(self, stage: str) -> bool:
        """Whether the configuration has a stage, and so the Snakefile its rule."""
        return stage in stages_of(self.config)

    def inputs(self, stage: str, wildcards: Any) -> list[Any]:
        """The receipts that a job waits for.

        Raises:
            ConfigError: its own receipt is of something else than what is asked now.
        """
        plate = self.asked.plates[wildcards.plate]
        part, number = wildcards.get("part"), wildcards.get("slice")
        job = "plate" if part is None else part if number is None else f"{part}-{number}"
        _check(f"{wildcards.plate}: {stage} {job}", plate.digest(stage, job), wildcards.digest)
        return [self._input(plate, *other) for other in plate.waits_for(stage, job)]

    def screen_inputs(self, wildcards: Any) -> list[Any]:
        """The receipts that the page over all plates waits for.

        Raises:
            ConfigError: as in `inputs`.
        """
        _check("screen", self.asked.screen, wildcards.digest)
        return [self._input(plate, "report", "plate") for plate in self.asked.plates.values()]

    def _input(self, plate: PlateAsked, stage: str, job: str) -> Any:
        """A receipt, whose time means nothing if its job needn't run: clocks differ, and copies are new.

        The time of one whose job runs must count, or Snakemake wouldn't run all that builds on it.
        """
        from snakemake.io import ancient

        receipt = plate.receipt(stage, job)
        return ancient(receipt) if plate.stands(stage, job) and not self._forced() else receipt

    def announce(self) -> None:
        """Let the jobs that this process starts notice when it dies, and say where another driver has these results.

        Snakemake's own lock only advises `--unlock`. Ends the process where this user can't write what Snakemake keeps
        in this folder, for which it has a traceback.
        """
        announce_driver()
        for place in snakemake_obstacles():
            _fail(str(denial(place)))
        try:
            owner = read_owner(self.project.screen.lease(*DRIVER_LEASE))
        except PermissionError as error:
            _fail(str(explain(error)))
        if owner is not None and owner.alive() is not False:
            print(
                f"plateflow: a driver has these results: {owner.seen()}. Wait for it, or stop it there; once it is "
                "gone, `plateflow retry` clears its locks.",
                file=sys.stderr,
            )

    def begin(self, scheduler: Any) -> None:
        """Take the results for this run until the process ends, and write down what it asks of its jobs.

        Ends the process where another run has them, or this user can't write what is to be done. SLURM's executor has
        made an id of the run, which is in the names of its jobs.
        """
        self._scheduler = scheduler
        run = getattr(scheduler._executor, "run_uuid", None) or f"{LOCAL}{uuid.uuid4()}"
        announce_driver(run)
        screen = self.project.screen
        lease = Lease(screen.lease(*DRIVER_LEASE), holder="snakemake on these results", patient=False)
        file, stack = screen.asked(run), ExitStack()
        to_do = [plate.plate.paths for plate in self.asked.plates.values() if not plate.stands("report", "plate")]
        for place in (place for paths in (screen, *to_do) for place in plate_obstacles(paths)):
            # else Snakemake ends with a traceback, as it can't touch a job's log
            _fail(str(denial(place, self.project.config.results, self.project.config.scratch)))
        leave = partial(os.chdir, Path.cwd())  # Snakemake leaves --directory before the process ends
        try:
            stack.enter_context(lease)
            stack.callback(lambda: forget_runs(screen, [run], slurm.jobs()))
            stack.callback(leave)
            atexit.register(stack.close)
            forget_runs(screen, runs(screen), slurm.jobs())
            self.asked.save(file)
        except LeaseError as error:
            _fail(str(error))
        except OSError as error:
            _fail(f"can't write: {explain(error)}")
        os.environ[VARIABLE] = str(file.absolute())
        atexit.register(self.last_words)
        atexit.register(leave)

    def resources(self, stage: str) -> dict[str, Callable[..., int]]:
        """What a rule asks for: mem_mb, and runtime in minutes, growing with the attempt."""

        def growing(kind: str) -> Callable[..., int]:
            return lambda wildcards, attempt: self.first_resources(stage, wildcards.get("plate"))[kind] * attempt

        return {kind: growing(kind) for kind in ("mem_mb", "runtime")}

    @cache  # noqa: B019
    def first_resources(self, stage: str, plate: str | None) -> dict[str, int]:
        """What a job of a stage asks for at its first attempt: mem_mb, and runtime in minutes."""
        if stage == SCREEN:
            return screen_needs(self.project)[1]
        estimate = plate and self._estimates.get(plate)
        return estimate.resources(stage) if estimate else dict(zip(("mem_mb", "runtime"), UNSIZED[stage], strict=True))

    @cached_property
    def _estimates(self) -> dict[str, Estimate]:
        return estimates_of(self.project)

    def __format__(self, receipt: str) -> str:
        """Why a job runs, by its receipt; for the messages of rules, which hold fields and no calls."""
        from plateflow.stages.stale import why_it_runs

        path = Path(receipt)
        plate, stage = path.parents[2].name, path.parent.name
        why = why_it_runs(self.asked.plates[plate], stage, path.name.partition(".")[0])
        estimate = self._estimates.get(plate)
        if stage != "infer" or self.config.keep_flows or estimate is None:
            return why
        device = "GPU" if estimate.device == "cuda" else "CPU"
        return f"{why}; about {estimate.seconds(stage) / 3600:.1g} {device} hours"

    def licence_notices(self) -> list[str]:
        """What to say, once, about the models whose licence is restricted."""
        notices = []
        for model in dict.fromkeys(label_set.model for label_set in self.config.segmented.values()):
            try:
                notices.append(licence_notice(find_weights(model)))
            except (ValueError, OSError):
                continue  # infer says what is wrong with it
        return [notice for notice in notices if notice]

    def left_out(self) -> list[str]:
        """What was left out of the plates: how much, and then a line each; empty where nothing was."""
        items = [item for plate in self.plates.values() for item in plate.left_out()]
        total = f"{wells_and_fields(items)} left out (`plateflow status` explains):"
        return [total, *map(str, items)] if items else []

    def doubts(self) -> list[str]:
        """What to look at before the plates are believed: how many, and then a line each; empty where nothing is."""
        doubts = {name: found for name, plate in self.plates.items() if (found := plate.doubts())}
        total = number_of(len(doubts), "plate[s are| is] to be looked at (report.html shows where):")
        return [total, *(f"{name}: {what}" for name in doubts for what in doubts[name])] if doubts else []

    def last_words(self) -> None:
        """Say why a run failed, or stopped: at the very end, below Snakemake's messages, and should Snakemake crash."""
        failures = failure_lines(self.config, [plate.paths for plate in self.plates.values()])
        failures = failures or [*filter(None, [screen_failure(self.project.screen, self.asked.screen)])]
        if getattr(self._scheduler, "_user_kill", None):  # SIGTERM: it waits for the jobs that run, and begins no other
            told = "The run was told to stop: by `kill`, or at the time limit of the job in which it ran."
            end = "Rerun `snakemake`, with a longer limit: what is done stays done."
        else:
            told, failures = "The run failed:", failures or ["Snakemake's messages above say why."]
            end = "Fix the cause and rerun `snakemake`: what is done stays done."
        print(f"\n{told}", *failures, end, sep="\n", file=sys.stderr)


def _check(job: str, asked: str, named: str) -> None:
    if named != asked:
        raise ConfigError(
            f"{job}: its receipt is named {named}, but what is asked now is {asked}",
            why="the configuration, or a file that it names, has changed since this name was made",
            remedy="run `snakemake` without naming receipts; `--until STAGE` stops after a stage",
        )


def _fail(message: str) -> NoReturn:
    print(f"plateflow: {message}", file=sys.stderr, flush=True)
    sys.exit(1)
