"""The smallest plate that has every kind of file, its chain in this process, and what is left of its results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workflow_project import make_project

from plateflow.asked import PlateAsked
from plateflow.chain import STAGES
from plateflow.errors import PlateflowError
from plateflow.project import Plate, Project
from plateflow.simulate.plate import WellPlan
from plateflow.stages import run_stage

WELL = "B02"


def make(folder: Path) -> None:
    """A project with one well, of two fields; nothing is computed yet."""
    project = make_project(
        folder, wells=[WellPlan(well=WELL, role="treatment", treatment="compound-1", dose=3.0)], field_shape=(96, 96)
    )

    def small(config: dict) -> None:
        config["parts"] = {"cpu": 1, "gpu": 1}
        config["follow_slices"] = 2  # so that there are endpoints
        config["features"]["families"] = "minimal"
        config["spots"] = {"foci": {"channel": "AGP", "within": "cells", "diameter_px": 3.0}}

    project.configure(small)
    sheet = folder / "config" / "plates.tsv"
    sheet.write_text(sheet.read_text().replace(f"{folder}/", ""))  # so that a copy is a project of its own


@contextmanager
def inside(folder: Path) -> Iterator[Plate]:
    """The plate of a project, whose folder is the working folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield Project.load(Path("config/config.yaml")).plate("micro")
    finally:
        os.chdir(before)


def run(folder: Path, *stages: str) -> None:
    """Run stages, all by default, one after another."""
    with inside(folder) as plate:
        for stage in stages or STAGES:
            run_stage(plate, stage)


def plain_run(folder: Path) -> str:
    """What `snakemake` does, in this process: the jobs whose receipts aren't there, and those that wait for them.

    Returns:
        why it failed; empty where it didn't.
    """
    done: set[tuple[str, str]] = set()
    with inside(folder) as plate:
        asked = PlateAsked(plate)
        for stage, step in STAGES.items():
            for job in step.jobs(plate.config):
                if not Path(asked.receipt(stage, job)).exists() or done & {*asked.waits_for(stage, job)}:
                    try:
                        run_stage(plate, stage, job)
                    except PlateflowError as error:
                        return str(error)
                    done.add((stage, job))
    return ""


def copy(source: Path, target: Path) -> Path:
    """A copy of a project that shares its raw data."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("raw"), symlinks=True)
    (target / "raw").symlink_to((source / "raw").resolve())
    return target


TIMED = ("report.html", "ledger.parquet")
"""Tables and pages that hold times."""


def results(folder: Path) -> dict[str, bytes]:
    """The bytes of all that a plate's journals speak of, and of what else lies there; of files with times, none."""
    root = folder / "results" / "micro"
    books = {"journal", "receipts", "watch", "leases", "logs", "requests.jsonl"}
    return {
        name: b"" if name in TIMED else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and (name := path.relative_to(root).as_posix()) and name.split("/")[0] not in books
    }


def differing(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """The names of files that differ, or that one of two lacks."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
