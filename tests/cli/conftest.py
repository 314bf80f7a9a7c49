"""A small project whose chain has run in this process, and that every test gets back as it was then."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from workflow_project import Project, make_project, run_in_process

import plateflow.project


class DoneProject(Project):
    """A project whose jobs run in the tests' process."""

    @property
    def loaded(self) -> plateflow.project.Project:
        """The project as its files are now; its paths hold in its folder alone."""
        return plateflow.project.Project.load(Path("config/config.yaml"))

    def run(self) -> set[tuple[str, str]]:
        """What a plain `snakemake` does, without it: the jobs without a receipt of what was asked when it began.

        Returns:
            stage and job of each.
        """
        return run_in_process(self.loaded)


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
