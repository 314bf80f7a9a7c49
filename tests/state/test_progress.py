"""What jobs are at, told from journals, leases, receipts and logs that a test wrote."""

import os
import time
from pathlib import Path

import pytest

from plateflow.config import Config
from plateflow.files import append_line
from plateflow.paths import PlatePaths
from plateflow.state.progress import KILLED, Progress, failure_lines


@pytest.fixture
def paths(tmp_path: Path) -> PlatePaths:
    return PlatePaths.of("p1", results=tmp_path)


def tell(paths: PlatePaths, *events: dict, stage: str = "tile", job: str = "0") -> None:
    for event in events:
        append_line(paths.journal(stage, job), event)


def at(paths: PlatePaths, progress: Progress, stage: str = "tile", job: str = "0"):
    return next(found for found in progress.of(paths) if (found.stage, found.job) == (stage, job))


def hold(paths: PlatePaths, age: float = 0) -> Path:
    """A lease of another host, whose last sign of life is so old."""
    owner = paths.lease("tile", "0") / "owner.json"
    owner.parent.mkdir(parents=True, exist_ok=True)
    owner.write_text("{}")
    os.utime(owner, (time.time() - age, time.time() - age))
    return owner


BEGIN = {"event": "begin"}
WELL = [{"event": "start", "key": ["B02", "", -1], "sequence": 1}, {"event": "done", "well": "B02", "sequence": 1}]


def test_a_job_waits_runs_dies_fails_and_ends(paths: PlatePaths) -> None:
    progress = Progress(Config.model_validate({"segmentation": {"nuclei": {"channels": ["DNA"]}}}))
    assert {job.state for job in progress.of(paths)} == {"waits"}
    owner = hold(paths)
    tell(paths, BEGIN, *WELL)
    assert (at(paths, progress).state, at(paths, progress).wells) == ("runs", 1)
    hold(paths, age=60)
    assert at(paths, progress).state == "silent"
    owner.unlink()
    assert (at(paths, progress).state, at(paths, progress).error) == ("failed", KILLED)
    log = paths.log("tile", "0", "ab12")
    log.parent.mkdir(parents=True)
    log.write_text("reading B03\nB04 next\n\n")
    hold(paths)
    tell(paths, {"event": "crashed", "keys": [], "alone": False}, BEGIN)
    again = at(paths, progress)
    assert (again.state, again.wells, again.failures, again.error) == ("runs", 0, 1, KILLED)
    assert again.last_line() == "B04 next"
    owner.unlink()
    log.write_text("x" * 9000 + "\nlast words\n")
    tell(paths, {"event": "failed", "error": "the index can't be read\n  where: Index.idx.xml"})
    assert (at(paths, progress).state, at(paths, progress).failures) == ("failed", 2)
    assert at(paths, progress).last_line() == "last words"
    assert at(paths, progress, job="1").state == "waits", "another job's journal says nothing of this one"
    tell(paths, BEGIN, {"event": "end"})
    assert at(paths, progress).state == "waits", "an end counts with its receipt"
    receipt = paths.receipt("tile", "0", "cd34")
    receipt.parent.mkdir(parents=True)
    receipt.touch()
    assert (at(paths, progress).state, at(paths, progress).failures) == ("done", 0)
    tell(paths, BEGIN, failed := {"event": "failed", "error": "the disk is full"})
    assert (at(paths, progress).state, at(paths, progress).error) == ("failed", failed["error"]), "the receipt is older"
    tell(paths, BEGIN, {"event": "end"})
    assert at(paths, progress).state == "done", "the attempt after the one that failed had nothing left to do"
    tell(paths, BEGIN, failed)
    receipt.unlink()
    assert (at(paths, progress).state, at(paths, progress).error) == ("failed", failed["error"])


def test_failures_name_job_attempts_cause_and_log(paths: PlatePaths) -> None:
    config = Config.model_validate({"segmentation": {"nuclei": {"channels": ["DNA"]}}})
    failed = {"event": "failed", "error": "the index can't be read\n  where: Index.idx.xml"}
    tell(paths, BEGIN, failed, BEGIN, failed, stage="ingest", job="plate")
    log = paths.log("tile", "3", "ab12")  # died before it could open its journal
    log.parent.mkdir(parents=True)
    log.write_text("ModuleNotFoundError: No module named 'zarr'\n")
    ingest, tile = failure_lines(config, [paths])
    assert ingest.startswith("p1: ingest plate (2 attempts): the index can't be read\n  where: Index.idx.xml\n  log: ")
    assert tile.startswith("p1: tile 3: ModuleNotFoundError")


def test_a_job_that_says_why_it_failed_without_its_journal_is_believed(paths: PlatePaths) -> None:
    """As one that SLURM started again and that found a lease: its journal ends with the attempt that was killed."""
    config = Config.model_validate({"segmentation": {"nuclei": {"channels": ["DNA"]}}})
    tell(paths, BEGIN, *WELL)
    log = paths.log("tile", "0", "ab12")
    log.parent.mkdir(parents=True)
    log.write_text("process 7 on c1\nplateflow: p1: tile 0: p1: tile 0 is already running\n  why: lease held by ...\n")
    (failure,) = failure_lines(config, [paths])
    assert "is already running\n  why: lease held by" in failure
    assert KILLED not in failure
