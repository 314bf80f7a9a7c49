"""Every operation on a file fails once: with an error, on a full disk, or as the process ends there.

All stages write through `plateflow.files`, so its calls are all there are. After each, the same run again must end with
the bytes of an undisturbed one. CI takes every 7th operation, another seventh each time; `make test-faults` takes all.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk import ENDED, MODES, Disk, Failing, Recorder
from faults_project import copy, differing, inside, make, results, run

from plateflow.chain import STAGES
from plateflow.stages import run_stage
from plateflow.state.requests import request

SEED = int(os.environ["PLATEFLOW_FAULTS_SEED"])
ALL = bool(os.environ.get("PLATEFLOW_FAULTS_ALL"))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By stage, the project as the stage finds it; and "" is the complete one."""
    folder = tmp_path_factory.mktemp("steps")
    make(folder / "now")
    made = {}
    for stage in STAGES:
        made[stage] = copy(folder / "now", folder / stage)
        run(folder / "now", stage)
    return made | {"": folder / "now"}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def fails(folder: Path, stage: str, k: int, mode: str) -> str:
    """Run a stage in a process of its own whose k-th operation fails; what failed, empty where there is none."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        disk, status = Failing(k, mode), 1
        try:
            with disk.installed(), quiet(), contextlib.redirect_stderr(io.StringIO()):
                run(folder, stage)
            status = 0
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode())
        os._exit(status if disk.failed or status else 3)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 3:
        return ""
    return f"status {status} {said}" if status != ENDED else "ended"


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("stage", STAGES)
def test_after_any_operation_that_failed_a_plain_run_makes_it_good(
    stage: str, again: bool, steps: dict[str, Path], tmp_path: Path
) -> None:
    """`again`: everything is there, and the stage was requested once more."""
    if again:
        before = copy(steps[""], tmp_path / "before")
        with inside(before) as plate:
            request(plate.paths, kind="retry", stage=stage)
        after = copy(before, tmp_path / "after")
        run(after, *list(STAGES)[list(STAGES).index(stage) :])
    else:
        before, after = steps[stage], copy(steps[stage], tmp_path / "after")
        run(after, stage)
    wanted = results(after)
    counting = Disk()
    with counting.installed(), quiet():
        run(copy(before, tmp_path / "count"), stage)
    print(f"{stage}: {counting.count} operations, seed {SEED}")
    for k in range(1, counting.count + 1):
        if not ALL and k % 7 != SEED:
            continue
        for mode in MODES if ALL else [list(MODES)[k // 7 % 3]]:
            folder = copy(before, tmp_path / "case")
            said = fails(folder, stage, k, mode)
            with quiet():
                run(folder, *(list(STAGES)[list(STAGES).index(stage) :] if again else [stage]))
            assert not (wrong := differing(results(folder), wanted)), f"{stage} {k} {mode}: {said}: {wrong}"
            shutil.rmtree(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_line_vouches_for_is_durable_before_the_line(stage: str, steps: dict[str, Path], tmp_path: Path) -> None:
    """The twin of a power cut: at each line of a journal, nothing that it lists may be on its way to the disk."""
    listed, lost = _recorded(copy(steps[stage], tmp_path / "project"), stage)
    assert listed
    assert lost == set()


def test_without_the_flush_a_power_cut_would_take_what_a_line_lists(
    steps: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test before."""
    monkeypatch.setattr("plateflow.stages.runner.settle", lambda: None)
    listed, lost = _recorded(copy(steps["tile"], tmp_path / "project"), "tile")
    assert {path.name for path in listed} <= {path.name for path in lost}


def _recorded(folder: Path, stage: str) -> tuple[set[Path], set[Path]]:
    """Run a stage: all files that its journal lists, and those, or folders of theirs, not on the disk by then."""
    recorder, listed, lost = Recorder(), set[Path](), set[Path]()
    with inside(folder) as plate, recorder.installed(), quiet():
        run_stage(plate, stage)
        for _, data, dirty in recorder.lines:
            files = {plate.paths.path_of(name) for name in json.loads(data).get("files", ())}
            listed |= files
            lost |= {each for file in files for each in (file, *file.parents)} & dirty
    return listed, lost
