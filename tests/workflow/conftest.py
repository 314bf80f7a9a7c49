"""A small project that Snakemake has run once, and that every test gets back as it was then.

A run of the micro plate (2 wells, 2 fields, a tiny model) takes about half a minute on 2 cores, so that modules which
simulate the same plate share it, if one worker runs them (`tests/conftest.py` sees to that); a copy that keeps the
times of all files is put back, at the same place, before each test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_project import Project, make_project


@pytest.fixture(scope="session")
def finished_projects() -> dict[str, Path]:
    """Projects after their first run, by what their plates are made of."""
    return {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request, finished_projects) -> Path:
    """The project after its first run, and beside it a copy to put back; a module's PROJECT says what it is."""
    options = getattr(request.module, "PROJECT", {})
    if (key := repr(options)) not in finished_projects:
        folder = tmp_path_factory.mktemp("micro") / "project"
        folder.mkdir()
        project = make_project(folder, **options)
        print(project.snakemake(env={**os.environ, "OMP_NUM_THREADS": "1"}))
        shutil.copytree(folder, folder.with_name("saved"), symlinks=True)
        finished_projects[key] = folder
    return finished_projects[key]


@pytest.fixture
def project(finished: Path) -> Iterator[Project]:
    """The project as it was after its first run."""
    shutil.rmtree(finished)
    shutil.copytree(finished.with_name("saved"), finished, symlinks=True)
    yield Project(finished)
