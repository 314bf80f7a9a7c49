"""The power goes: results lie on a disk of their own (a loop device), whose content is taken while pages are dirty.

What a journal's line lists must be there afterwards, and a plain run must end with the bytes of an undisturbed one.
Needs root, mount and mkfs.ext4; its twin without them is in test_operations.py (order of writes, flushes and lines).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults_project import copy, differing, inside, make, results, run

from plateflow.chain import STAGES
from plateflow.stages.job import damage

CUT_AFTER = ("ingest", "tile", "infer", "stitch", "aggregate")
Cut = Callable[[], Path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete project."""
    folder = tmp_path_factory.mktemp("power") / "project"
    make(folder)
    run(folder)
    return folder


def _system(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Cut]]:
    """A folder on a disk of its own, and a function that cuts its power and gives the folder as it is afterwards."""
    tools = [shutil.which(tool, path=f"{os.environ['PATH']}:/sbin:/usr/sbin") for tool in ("mount", "mkfs.ext4")]
    if os.geteuid() != 0 or None in tools:
        pytest.skip("needs root, mount and mkfs.ext4")
    images, folders = [tmp_path / "disk.img", tmp_path / "cut.img"], [tmp_path / "disk", tmp_path / "cut"]
    mounted: list[Path] = []

    def mount(number: int) -> Path:
        folders[number].mkdir()
        try:
            _system("mount", "-o", "loop", images[number], folders[number])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no loop device can be mounted here: {error.stderr.decode().strip()}")
        mounted.append(folders[number])
        return folders[number]

    def cut() -> Path:
        _system("cp", "--sparse=always", *images)  # what has reached the disk, and nothing else
        return mount(1)

    with images[0].open("wb") as file:
        file.truncate(2**27)
    _system(tools[1], "-q", images[0])
    try:
        yield mount(0), cut
    finally:
        for folder in reversed(mounted):
            _system("umount", folder)


def _lost(folder: Path) -> list[str]:
    """Files that a journal lists and that aren't what was written."""
    with inside(folder) as plate:
        return [
            name
            for stage in STAGES
            for entry in plate.outcomes(stage).values()
            for name, stamp in entry.files.items()
            if damage(plate.paths, name, stamp, content=True)
        ]


@pytest.mark.parametrize("stage", CUT_AFTER)
def test_what_is_called_done_is_there_after_a_power_cut(stage: str, undisturbed: Path, disk: tuple[Path, Cut]) -> None:
    folder, cut = disk
    project = copy(undisturbed, folder / "project")
    shutil.rmtree(project / "results")
    before = list(STAGES)[: list(STAGES).index(stage)]
    run(project, *before)
    os.sync()
    run(project, stage)
    after = cut() / "project"
    with inside(after) as plate:
        assert plate.outcomes(stage), "the journal's lines are durable themselves"
    assert _lost(after) == []
    run(after)
    assert differing(results(after), results(undisturbed)) == []


def test_without_the_flush_it_is_not(
    undisturbed: Path, disk: tuple[Path, Cut], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: were it otherwise, the test above would prove nothing."""
    folder, cut = disk
    project = copy(undisturbed, folder / "project")
    shutil.rmtree(project / "results")
    run(project, "ingest")
    os.sync()
    for caller in ("stages.runner", "asked"):
        monkeypatch.setattr(f"plateflow.{caller}.settle", lambda: None)
    run(project, "tile")
    assert _lost(cut() / "project")
