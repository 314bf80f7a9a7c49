"""A small project that Snakemake has run once, and that every test gets back as it was then.

A run of the micro plate (2 wells, 1 field of 192 px, a tiny model) takes about half a minute on 2 cores, so it is done
once a test file; a copy that keeps the times of all files is laid back, at the same place, before each test.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from workflow_project import Project, make_project


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request) -> Path:
    """The project after its first run, and beside it a copy to lay back; a module's PROJECT says what it is."""
    folder = tmp_path_factory.mktemp("micro") / "project"
    folder.mkdir()
    project = make_project(folder, **getattr(request.module, "PROJECT", {}))
    print(project.snakemake(env={**os.environ, "OMP_NUM_THREADS": "1"}))
    shutil.copytree(folder, folder.with_name("saved"), symlinks=True)
    return folder


@pytest.fixture
def project(finished: Path) -> Iterator[Project]:
    """The project as it was after its first run."""
    shutil.rmtree(finished)
    shutil.copytree(finished.with_name("saved"), finished, symlinks=True)
    yield Project(finished)
