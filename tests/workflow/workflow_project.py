"""Helpers of the workflow tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml
from command_line import plateflow

from plateflow import project as pipeline
from plateflow.asked import Asked
from plateflow.chain import STAGES, stages_of
from plateflow.paths import PlatePaths
from plateflow.simulate.plate import micro_wells, simulate_plate
from plateflow.stages import run_stage, stage_module
from plateflow.state.journal import outcomes

REPOSITORY = Path(__file__).resolve().parents[2]
LABEL_SETS = ("nuclei", "cells")
MICRO = {"wells": micro_wells(), "fields": 2, "field_shape": (128, 160), "channels": ("DNA", "AGP")}
"""The plate of most tests."""
TINY = REPOSITORY / "tests" / "data" / "tiny.safetensors"


def all_of(well: str, *stages: str) -> set[tuple[str, str, str]]:
    """(stage, well, label set) of a well's units in the named stages."""
    return {
        (stage, well, label_set)
        for stage in stages
        for label_set in (LABEL_SETS if stage in {"infer", "follow", "stitch"} else ("",))
    }


def touch_pixels(path: Path) -> None:
    """Write a raw plane again with one row brighter."""
    import tifffile

    pixels = tifffile.imread(path)
    pixels[40:44] += 500
    tifffile.imwrite(path, pixels)


@dataclass
class Project:
    """A project's folder and how to run it."""

    folder: Path

    def path(self, plate: str = "micro") -> PlatePaths:
        return PlatePaths.of(plate, results=self.folder / "results")

    def snakemake(self, *arguments: str, status: int | None = 0, **kwargs) -> str:
        """Run snakemake, with the project's own Snakefile where it has one; returns all that it printed."""
        snakefile = [] if (self.folder / "Snakefile").exists() else ["--snakefile", str(REPOSITORY / "Snakefile")]
        command = [sys.executable, "-m", "snakemake", *snakefile, *arguments]
        result = subprocess.run(
            command, cwd=self.folder, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
        )
        assert status is None or result.returncode == status, f"status {result.returncode}:\n{result.stdout}"
        return result.stdout

    def run(self, until: str = "") -> set[tuple[str, str]]:
        """What a plain `snakemake` does, up to a stage, without its processes; see `run_in_process`."""
        with chdir(self.folder):
            return run_in_process(pipeline.Project.load(Path("config/config.yaml")), until)

    def plateflow(self, *arguments: str, status: int | None = 0) -> str:
        """Run a command of the command line."""
        return plateflow(*arguments, cwd=self.folder, status=status)

    def configure(self, change: Callable[[dict], None]) -> None:
        """Change the configuration in place."""
        path = self.folder / "config" / "config.yaml"
        config = yaml.safe_load(path.read_text())
        change(config)
        path.write_text(yaml.safe_dump(config, sort_keys=False))

    def receipt(self, plate: str, stage: str, job: str) -> str:
        """The receipt that is asked of a job now, as Snakemake names it."""
        config = yaml.safe_load((self.folder / "config" / "config.yaml").read_text())
        config |= {key: str(self.folder / config[key]) for key in ("plates", "results")}
        path = Path(Asked.of(pipeline.Project.load(config)).plates[plate].receipt(stage, job))
        return str(path.relative_to(self.folder))

    def sequences(self, plate: str = "micro") -> dict[tuple[str, str, str, int], int]:
        """How often each unit of each stage was done: (stage, well, label set, block) -> number."""
        return {
            (stage, *key): entry.sequence
            for stage in STAGES
            for key, entry in outcomes(self.path(plate).journals(stage)).items()
        }

    def redone(self, before: dict, plate: str = "micro") -> set[tuple[str, str, str]]:
        """What was done since `before`: (stage, well, label set)."""
        return {key[:3] for key, number in self.sequences(plate).items() if before.get(key, 0) != number}

    def raw(self, well: str, channel: int = 1, plate: str = "micro") -> Path:
        """A raw file of a well."""
        row, column = ord(well[0]) - 64, int(well[1:])
        (found,) = self.folder.glob(f"raw/{plate}__*/Images/r{row:02d}c{column:02d}f01p01-ch{channel}*.tiff")
        return found

    def results(self, plate: str = "micro") -> dict[str, bytes]:
        """The bytes of all labels, images and tables of a plate."""
        root = self.path(plate).root
        return {
            str(file.relative_to(root)): file.read_bytes()
            for folder in ("plate.zarr", "cells", "objects", "histograms", "manifest")
            for file in sorted((root / folder).rglob("*"))
            if file.is_file()
        } | {name: (root / name).read_bytes() for name in ("wells.csv", "wells.parquet")}


def run_in_process(project: pipeline.Project, until: str = "") -> set[tuple[str, str]]:
    """The jobs that a plain `snakemake` would do, in this process: those without a receipt of what is asked now.

    Args:
        until: the first stage that is left undone; without one all are done.

    Returns:
        stage and job of each, the job over all plates excepted.
    """
    asked, ran = Asked.of(project), set()
    for plate in asked.plates.values():
        digests = plate.digests()
        stages = stages_of(plate.plate.config)
        for name in takewhile(lambda name: name != until, stages):
            for job in stages[name].jobs(plate.plate.config):
                if not Path(plate.receipt(name, job)).exists():
                    run_stage(plate.plate, name, job, digest=digests[name][job])
                    ran.add((name, job))
    if not until and not asked.project.screen.receipt("report", "screen", asked.screen).exists():
        stage_module("screen").run(asked.project, asked.screen)
    return ran


def made_quick(folder: Path) -> None:
    """Give a project that `init` has made a network that takes a moment, and few features."""
    config = folder / "config" / "config.yaml"
    text = config.read_text().replace('model: "default"', f'model: "{TINY}"')
    config.write_text(text.replace('families: "standard"', 'families: "minimal"'))


def make_project(folder: Path, *, plate: str = "micro", seed: int = 0, **kwargs) -> Project:
    """A project with one simulated plate, as `plateflow init` writes it, for the tiny model."""
    made = simulate_plate(folder / "raw", plate=plate, seed=seed, **MICRO | kwargs)
    project = Project(folder)
    project.plateflow("init", str(made.raw), "--plate", plate, "--plate-map", str(made.plate_map))

    def small(config: dict) -> None:
        config["parts"] = {"cpu": 2, "gpu": 1}
        config["threads"] = 1
        for label_set in config["segmentation"].values():
            label_set["model"] = str(TINY)

    project.configure(small)
    return project
