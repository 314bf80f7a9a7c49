"""Every operation on a file fails once: with an error, on a full disk, or as the process ends there.

All stages write through `plateflow.files`, so its calls are all there are. After each, the same run again must end with
the bytes of an undisturbed one. CI takes every 7th operation, another seventh each time; `make test-faults` takes all.
"""

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from disk import ENDED, MODES, Disk, Failing, Recorder
from faults_project import WELL, copy, differing, inside, make, results, run

from plateflow.chain import STAGES
from plateflow.exchange.corrections import import_items
from plateflow.exchange.images import export_images, read_items
from plateflow.files import PARTIAL
from plateflow.stages import run_stage
from plateflow.state.corrections import corrections, discard
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


def fails(work: Callable[[], None], k: int, mode: str) -> str:
    """Do work in a process of its own whose k-th operation fails; what failed, empty where there is none."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        disk, status = Failing(k, mode), 1
        try:
            with disk.installed(), quiet(), contextlib.redirect_stderr(io.StringIO()):
                work()
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
            said = fails(lambda folder=folder: run(folder, stage), k, mode)
            with quiet():
                run(folder, *(list(STAGES)[list(STAGES).index(stage) :] if again else [stage]))
            assert not (wrong := differing(results(folder), wanted)), f"{stage} {k} {mode}: {said}: {wrong}"
            shutil.rmtree(folder)


def import_by_hand(folder: Path) -> None:
    with inside(folder) as plate:
        import_items(plate, read_items(folder / "by-hand"), by="ada", split=False)


def discard_by_hand(folder: Path) -> None:
    with inside(folder) as plate:
        discard(plate.paths, [(WELL, "cells")])


def measure(folder: Path) -> None:
    run(folder, "features")


BY_HAND = {"import": import_by_hand, "features": measure, "discard": discard_by_hand, "taken out": measure}
"""What becomes of a correction, step by step."""


@pytest.fixture(scope="module")
def by_hand(steps: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """By step of `BY_HAND`, the complete project as the step finds it, each with the same clock."""
    folder = tmp_path_factory.mktemp("by-hand")
    now = copy(steps[""], folder / "now")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plateflow.exchange.corrections.now", lambda: "2026-01-01T00:00:00+00:00")
        with inside(now) as plate:
            export_images(plate, "napari", WELL, "cells", now / "by-hand")
        (item,) = read_items(now / "by-hand")
        labels = item.read()
        tifffile.imwrite(item.file, np.where(labels == labels.max(), 0, labels))
        made = {}
        with quiet():
            for step, work in BY_HAND.items():
                made[step] = copy(now, folder / step.replace(" ", "-"))
                work(now)
        yield made | {"": now}


def by_their_hand(folder: Path) -> dict[str, bytes]:
    """All results; of the list of corrections what it says, as an attempt may have begun a line."""
    with inside(folder) as plate:
        known = repr(sorted(map(str, corrections(plate.paths).values()))).encode()
    found = {name: data for name, data in results(folder).items() if not name.endswith(PARTIAL)}
    return found | {"corrections/corrections.jsonl": known}


@pytest.mark.parametrize("step", BY_HAND)
def test_no_operation_that_fails_loses_a_correction(step: str, by_hand: dict[str, Path], tmp_path: Path) -> None:
    """The same step again makes it good; an import or a discarding that failed was done, or not begun."""
    before, work = by_hand[step], BY_HAND[step]
    states = by_their_hand(before), by_their_hand(by_hand[[*BY_HAND, ""][[*BY_HAND].index(step) + 1]])
    counting = Disk()
    with counting.installed(), quiet():
        work(copy(before, tmp_path / "count"))
    print(f"{step}: {counting.count} operations, seed {SEED}")
    for k in range(1, counting.count + 1):
        if not ALL and k % 7 != SEED:
            continue
        for mode in MODES if ALL else [list(MODES)[k // 7 % 3]]:
            folder = copy(before, tmp_path / "case")
            said = fails(lambda folder=folder: work(folder), k, mode)
            line = "corrections/corrections.jsonl"
            assert by_their_hand(folder)[line] in [state[line] for state in states], f"{step} {k} {mode}: {said}"
            with quiet():
                work(folder)
            assert not (wrong := differing(by_their_hand(folder), states[1])), f"{step} {k} {mode}: {said}: {wrong}"
            shutil.rmtree(folder)


def test_labels_by_hand_are_durable_before_a_line_names_them(by_hand: dict[str, Path], tmp_path: Path) -> None:
    folder, recorder = copy(by_hand["import"], tmp_path / "project"), Recorder()
    with recorder.installed(), quiet():
        import_by_hand(folder)
        run(folder, "features")
    ((path, data, dirty),) = [line for line in recorder.lines if line[0].name == "corrections.jsonl"]
    (told,) = json.loads(data)["wells"]
    file = path.parent / "cells" / f"{WELL}.{told['name']}.zip"
    assert (folder / "results" / "micro" / "corrections" / "cells" / file.name).is_file()
    assert not {file, *file.parents} & {Path(each) for each in dirty}
    listed, lost = _recorded(copy(by_hand["features"], tmp_path / "other"), "features")
    assert [each for each in listed if "cells_corrected" in each.parts]
    assert lost == set()


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
