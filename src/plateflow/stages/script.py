"""How a rule's script runs its stage: its log, and one clear message to the driver when it fails."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from plateflow.access import explain
from plateflow.asked import Asked, age
from plateflow.errors import PlateflowError
from plateflow.project import SCREEN, Project
from plateflow.stages import run_stage, stage_module
from plateflow.stages.job import Job
from plateflow.stages.runner import Interrupted, attempt_of
from plateflow.state.journal import refusal
from plateflow.state.lease import Owner
from plateflow.state.progress import SAID


def run_rule(snakemake: Any, stage: str) -> None:
    """Run a stage for the job that Snakemake describes; exits with 1 where it fails.

    Configuration and plates are those that the run began with, whatever has become of the files since.
    """
    wildcards = snakemake.wildcards
    part, number = wildcards.get("part"), wildcards.get("slice")
    job = "plate" if part is None else part if number is None else f"{part}-{number}"
    what = "screen: report" if stage == SCREEN else f"{wildcards.plate}: {stage} {job}"
    with logged(Path(snakemake.log[0]), what):
        age(snakemake.input)
        asked = Asked.given()
        project = Project.load(snakemake.config) if asked is None else asked.project
        if stage == SCREEN:
            stage_module(stage).run(project, wildcards.digest)
        else:
            plate, digest = project.plate(wildcards.plate), wildcards.digest
            attempt = attempt_of(Job.of(plate, stage, job, digest))
            if why := refusal(plate.paths.journal(stage, job), attempt):  # Snakemake retries whatever has failed
                raise PlateflowError(f"{why}\n  not tried again in this run, as it would end the same")
            run_stage(plate, stage, job, digest=digest)


@contextmanager
def logged(log: Path, what: str) -> Iterator[None]:
    """Send all output to a log; a failure is told in full there and in its own words to the driver's output."""
    console = os.fdopen(os.dup(2), "w")
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("w")
    except OSError as error:
        _fail(console, f"{what}: can't write its log: {explain(error)}\n  log: {log}")
    with file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        owner = Owner.this_process()
        print(f"{owner}{f', run {owner.run}' if owner.run else ''}", flush=True)
        try:
            yield
        except (PlateflowError, Interrupted) as error:
            _fail(console, f"{what}: {error}", log)
        except Exception as error:
            traceback.print_exc()
            _fail(console, f"{what}: {type(error).__name__}: {error}", log)


def _fail(console: TextIO, message: str, log: Path | None = None) -> NoReturn:
    print(f"{SAID}{message}", *([f"  log: {log}"] if log else []), sep="\n", file=console, flush=True)
    with suppress(OSError):  # the log's disk may be what is full
        print(f"{SAID}{message}", file=sys.stderr, flush=True)
    sys.exit(1)
