"""A small project whose chain has run in this process, and that every test gets back as it was then."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from workflow_project import Project, make_project

import plateflow.project
from plateflow.chain import STAGES
from plateflow.stages import run_stage, stage_module
from plateflow.workflow import Workflow


class DoneProject(Project):
    """A project whose jobs run in the tests' process."""

    @property
    def loaded(self) -> plateflow.project.Project:
        """The project as its files are now; its paths hold in its folder alone."""
        return plateflow.project.Project.load(Path("config/config.yaml"))

    def run(self) -> set[tuple[str, str]]:
        """What a plain `snakemake` does, without it: jobs without a receipt of what is asked now, and those after them.

        Returns:
            stage and job of each.
        """
        plate, ran = self.loaded.plate("micro"), set()
        workflow, file = Workflow(self.loaded.config.model_dump()), self.folder / "params.json"
        params = json.loads(file.read_text()) if file.exists() else {}
        for name, stage in STAGES.items():
            later = {stage_name for stage_name, _ in ran} & set(stage.reads)
            for job in stage.jobs(plate.config):
                asked = workflow.params(name, "micro", job)
                if later or not plate.paths.receipts(name, job) or params.get(f"{name} {job}") != asked:
                    run_stage(plate, name, job)
                    ran.add((name, job))
                    params[f"{name} {job}"] = asked
                    file.write_text(json.dumps(params))
        if ran or not self.loaded.screen.receipts("report", "screen"):
            stage_module("screen").run(self.loaded)
        return ran


@pytest.fixture(scope="session")
def finished_in_process(tmp_path_factory) -> Path:
    """The project after its first run, and beside it a copy to put back."""
    folder = tmp_path_factory.mktemp("micro") / "project"
    folder.mkdir()
    with chdir(folder):
        make_project(folder)
        DoneProject(folder).run()
    shutil.copytree(folder, folder.with_name("saved"), symlinks=True)
    return folder


@pytest.fixture
def done(finished_in_process: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DoneProject]:
    """The project as it was after its first run, in the working folder."""
    folder = finished_in_process
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("saved"), folder, symlinks=True)
    monkeypatch.chdir(folder)
    yield DoneProject(folder)
    os.chdir(folder.parent)
