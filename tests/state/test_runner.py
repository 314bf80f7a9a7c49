import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from plateflow.chain import part_of_well
from plateflow.config import Config, PlateSpec
from plateflow.errors import ConfigError, PlateflowError, RawDataError
from plateflow.files import append_line, read_lines, stat_of, write_atomic
from plateflow.plates.raw import machine_error
from plateflow.project import Plate
from plateflow.stages.job import Job, Outcome, WorkItem, changes
from plateflow.stages.runner import Interrupted, attempt_of, one_by_one, run_job
from plateflow.state.journal import outcomes, refusal
from plateflow.state.lease import DRIVER_VARIABLE, Lease, announce_driver, read_owner
from plateflow.state.ledger import attempts
from plateflow.state.requests import request, request_digest

WELLS = ["A01", "A02", "A03"]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job.of(
        Plate(config=Config(results=str(tmp_path / "results")), spec=PlateSpec(plate="p", path="/raw")), "tile", "0"
    )
    job.paths.metadata.parent.mkdir(parents=True)
    job.paths.metadata.write_text(json.dumps({"wells": WELLS, "format": [8, 12]}))
    return job


def items(**files):
    return lambda: [WorkItem(well=well, depends={"raw files": files.get(well, 1)}) for well in WELLS]


class Work:
    """Notes what it did; fails, or dies, where it is told to."""

    def __init__(self, job: Job, *, fail: str = "", outcome: Outcome | None = None):
        self.done: list[str] = []
        self.fail, self.outcome = fail, outcome or Outcome()

    def __call__(self, item: WorkItem) -> Outcome:
        if item.well == self.fail:
            raise OSError(28, "No space left on device")
        self.done.append(item.well)
        return self.outcome


def run(job: Job, make_units, **kwargs) -> list[str]:
    work = Work(job, **kwargs)
    run_job(job, make_units, one_by_one(work))
    return work.done


def receipt(job: Job) -> bytes:
    (path,) = job.paths.receipts("tile", job.name)
    return path.read_bytes()


def test_only_what_changed_is_done_again_and_equal_work_gives_equal_receipts(job):
    assert run(job, items()) == WELLS
    first = receipt(job)
    assert run(job, items()) == []
    assert receipt(job) == first
    assert run(job, items(A02=2)) == ["A02"]
    assert receipt(job) != first
    assert run(job, items()) == ["A02"]
    assert receipt(job) == first


def test_another_job_of_the_stage_counts_what_is_done(job):
    """What a changed number of parts comes to: the same wells in a job of another name."""
    run(job, items())
    other = Job(plate=job.plate, stage=job.stage, name="7")
    assert run(other, items()) == []
    assert run(other, items(A01=2)) == ["A01"]
    assert run(job, items(A01=2)) == []


def test_a_failed_job_keeps_the_wells_that_are_done_and_writes_no_receipt(job):
    with pytest.raises(PlateflowError, match="No space"):
        run(job, items(), fail="A02")
    assert not job.paths.receipts("tile", "0")
    assert not job.paths.lease("tile", "0").exists()
    assert run(job, items()) == ["A02", "A03"]


def test_every_attempt_says_what_it_read_and_wrote_up_to_its_last_unit(job, tmp_path):
    file = tmp_path / "raw"
    file.write_bytes(bytes(2_000_000))

    def work(item: WorkItem) -> Outcome:
        file.read_bytes()
        if item.well == "A03":
            raise OSError(28, "No space left on device")
        return Outcome()

    with pytest.raises(PlateflowError, match="No space"):
        run_job(job, items(), one_by_one(work))
    lines = list(read_lines(job.paths.journal("tile", "0")))
    read = [line["used"]["read_mb"] for line in lines if line["event"] == "done"]
    assert [int(amount) for amount in read] == [2, 4]  # MB, since the job's begin, each to its own end
    (row,) = attempts(job.paths)
    assert (row["state"], row["units"]) == ("failed", 2)
    assert 6 <= row["read_mb"] < 7


def test_an_attempt_with_nothing_left_to_do_closes_the_one_that_failed(job):
    """Else `status --watch` would count the failure again whenever the job is asked for later."""
    run(job, items())
    journal = job.paths.journal("tile", "0")
    clean = journal.read_bytes()
    run(job, items())
    assert journal.read_bytes() == clean
    moment = {"at": "2026-01-01T10:00:00.000+00:00"}
    append_line(journal, {"event": "begin", **moment})
    append_line(journal, {"event": "failed", "error": "the receipt can't be written", **moment})
    assert run(job, items()) == []
    assert [line["event"] for line in read_lines(journal)][-2:] == ["begin", "end"]
    assert [(row["state"], row["units"]) for row in attempts(job.paths)] == [("ok", 3), ("failed", 0), ("ok", 0)]


def test_a_request_makes_a_well_stale_once_and_only_there(job):
    run(job, items())
    before = request_digest(job.paths, "tile", "0", 8)
    request(job.paths, kind="retry", stage="tile", well="A02", n_columns=12)
    parts = {part_of_well(well, 8, 12): well for well in WELLS}
    for part in range(8):
        word = request_digest(job.paths, "tile", str(part), 8)
        assert (word != before) == (parts.get(part) == "A02")
    assert run(job, items()) == ["A02"]
    assert run(job, items()) == []


def test_a_file_set_aside_asks_once_after_it_was_mended(job, tmp_path):
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"cut")
    quarantined = Outcome(state="quarantined", reason="truncated", watch=[(str(bad), stat_of(bad))])
    run(job, items(), outcome=quarantined)
    assert request_digest(job.paths, "tile", "0", 8) == ""
    bad.write_bytes(b"whole again")
    mended = request_digest(job.paths, "tile", "0", 8)
    assert mended != ""
    run(job, items(A01=2, A02=2, A03=2))
    assert request_digest(job.paths, "tile", "0", 8) == mended


def test_a_left_out_unit_is_passed_on_and_its_results_are_removed(job):
    run(job, items())
    upstream = replace(
        next(iter(job.plate.outcomes("tile").values())), state="quarantined", reason="truncated", detail="x.tif"
    )
    for well in WELLS:
        write_atomic(job.paths.histogram(well), b"of an earlier run")
    work = Work(job)
    run_job(
        job,
        lambda: [WorkItem(well="A01", depends={"raw files": 1}, upstream=upstream), *items()()[1:]],
        one_by_one(work),
        owned=lambda item: [job.paths.histogram(item.well)],
    )
    assert work.done == []
    assert [job.paths.histogram(well).exists() for well in WELLS] == [False, True, True]
    (left_out,) = job.plate.left_out()
    assert (left_out.well, left_out.stage, left_out.reason) == ("A01", "tile", "truncated")
    assert str(left_out) == "p/A01: quarantined at tile: truncated (x.tif)"


def test_a_unit_left_in_the_middle_is_done_again_whatever_the_parameters_are(job):
    """Parameters are changed, the job dies within a well, the parameters are changed back: half is of the others."""
    run(job, items())
    with pytest.raises(PlateflowError, match="No space"):
        run(job, items(A02=2), fail="A02")
    known = outcomes([job.paths.journal("tile", "0")])["A02", "", -1]
    assert changes(job, items()()[1], known) == ["left in the middle"], "and not the files"
    assert run(job, items()) == ["A02"]
    assert run(job, items()) == []


def test_what_changed_is_named(job):
    run(job, items())
    known = outcomes([job.paths.journal("tile", "0")])[("A01", "", -1)]
    assert changes(job, WorkItem(well="A01", depends={"raw files": 1}), known) == []
    assert changes(job, WorkItem(well="A01", depends={"raw files": 2}), known) == ["raw files"]
    assert changes(job, WorkItem(well="A01"), None) == ["never done"]


def test_a_torn_last_line_is_passed_over_and_closed(job):
    run(job, items())
    journal = job.paths.journal("tile", "0")
    with journal.open("ab") as file:
        file.write(b'{"event":"done","well":"A01","fing')
    assert run(job, items()) == []
    append_line(journal, {"event": "start", "key": ["A01", "", -1], "sequence": 2})
    assert list(read_lines(journal))[-1]["event"] == "start"


CHILD = textwrap.dedent(
    """
    import gc, json, os, signal, sys, time
    sys.path.insert(0, {tests!r})
    from test_runner import *
    job = Job.of(Plate(config=Config(results={results!r}), spec=PlateSpec(plate="p", path="/raw")), "tile", "0")
    def work(item):
        if item.well == "A02":
            {action}
        return Outcome()
    run_job(job, items(), one_by_one(work), owned=lambda item: [job.paths.histogram(item.well)])
    """
)


def child(job: Job, action: str, **kwargs) -> int:
    code = CHILD.format(tests=str(Path(__file__).parent), results=job.config.results, action=action)
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, **kwargs).returncode


def test_a_well_that_kills_its_job_twice_alone_is_quarantined(job):
    die = "os.kill(os.getpid(), signal.SIGKILL)"
    assert child(job, die) == -signal.SIGKILL
    assert job.paths.lease("tile", "0").exists()
    assert child(job, die) == -signal.SIGKILL
    states = {key[0]: entry.state for key, entry in outcomes([job.paths.journal("tile", "0")]).items()}
    assert states == {"A01": "ok", "A03": "ok"}, "the suspect comes last, so that the others are done"
    write_atomic(job.paths.histogram("A02"), b"left in the middle")
    assert child(job, die) == 0
    assert not job.paths.histogram("A02").exists(), "what it left in the middle, and earlier results, go away"
    entry = outcomes([job.paths.journal("tile", "0")])[("A02", "", -1)]
    assert (entry.state, entry.reason) == ("quarantined", "crash")
    assert "plateflow retry p/A02" in entry.detail


def test_a_job_told_to_stop_counts_no_crash(job):
    for _ in range(3):
        assert child(job, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)") != 0
    assert not job.paths.lease("tile", "0").exists()
    assert run(job, items()) == ["A02", "A03"]


def test_a_job_told_to_stop_while_it_begins_begins_once(job, monkeypatch):
    """SLURM lets a stopped job go on before it tells it to end."""

    def append_and_stop(path: Path, line: dict) -> None:
        append_line(path, line)
        if line["event"] == "begin":
            raise Interrupted("stopped by SIGTERM")

    monkeypatch.setattr("plateflow.stages.runner.append_line", append_and_stop)
    with pytest.raises(Interrupted):
        run(job, items())
    assert [line["event"] for line in read_lines(job.paths.journal("tile", "0"))] == ["begin", "interrupted"]


def test_an_orphan_stops_between_two_wells(job):
    """The driver is gone: the job does no further well, so that the next run finds nobody in its way."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    environment = {**os.environ, "PLATEFLOW_DRIVER": f"{gone.pid}:1:{socket.gethostname()}"}
    noticed = "next(thing for thing in gc.get_objects() if isinstance(thing, Lease)).orphaned.wait(60)"
    assert child(job, noticed, env=environment) != 0
    assert run(job, items()) == ["A03"]


def test_a_second_job_refuses_to_start(job):
    with Lease(job.paths.lease("tile", "0"), holder="p: tile 0"):
        assert read_owner(job.paths.lease("tile", "0")).pid == os.getpid()
        with pytest.raises(PlateflowError, match="already running"):
            run(job, items())
    assert run(job, items()) == WELLS


def test_interrupted_is_swallowed_by_no_section():
    assert not issubclass(Interrupted, Exception)


def test_a_death_with_the_driver_is_no_crash(job, monkeypatch):
    """The next driver finds the lease of a job that died under another: nobody knows what killed it."""
    die = "os.kill(os.getpid(), signal.SIGKILL)"
    for number in range(3):
        environment = {**os.environ, "PLATEFLOW_DRIVER": f"{os.getpid()}:{number}:another"}
        monkeypatch.setenv("PLATEFLOW_DRIVER", environment["PLATEFLOW_DRIVER"])
        assert child(job, die, env=environment) == -signal.SIGKILL
    states = {key[0]: entry.state for key, entry in outcomes([job.paths.journal("tile", "0")]).items()}
    assert states == {"A01": "ok"}


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b""), lambda file: os.truncate(file, 3)])
def test_a_unit_whose_file_is_gone_or_short_is_done_again(job, damage):
    made = {well: job.paths.histogram(well) for well in WELLS}

    def again():
        def work(item):
            write_atomic(made[item.well], b"counts")
            return Outcome()

        run_job(job, items(), one_by_one(work))

    again()
    damage(made["A02"])
    again()
    assert made["A02"].read_bytes() == b"counts"
    sequences = {key[0]: entry.sequence for key, entry in outcomes([job.paths.journal("tile", "0")]).items()}
    assert sequences == {"A01": 1, "A02": 2, "A03": 1}


def test_a_job_that_was_taken_over_touches_nothing_more(job):
    """Not even the items that a pooled stage takes up ahead, whose results the other may have made by then."""
    from plateflow.state.lease import clear

    touched = []

    def pooled(todo, start):
        for item in todo:
            if item.well == "A02":
                while not outcomes(job.paths.journals("tile")):  # its line is written behind the next item
                    time.sleep(0.01)
                clear(job.paths.lease("tile", "0"))  # as the next attempt does, after this one was silent for long
            start(item)
            touched.append(item.well)
            yield item, Outcome()

    with pytest.raises(Interrupted, match="taken over"):
        run_job(job, items(), pooled)
    assert touched == ["A01"]
    assert {key[0] for key in outcomes(job.paths.journals("tile"))} == {"A01"}
    assert not job.paths.receipts("tile", "0")


def test_the_one_job_of_a_plate_is_never_left_out_for_dying(job):
    """Twice over its memory: the third attempt asks for more, and does it."""
    journal = job.paths.journal("tile", "0")
    for _ in range(2):
        append_line(journal, {"event": "start", "key": ["", "", -1], "sequence": 1})
        append_line(journal, {"event": "crashed", "keys": [["", "", -1]], "alone": True})
    run_job(job, lambda: [WorkItem()], one_by_one(lambda _: Outcome()))
    (entry,) = outcomes([journal]).values()
    assert entry.state == "ok"


@pytest.mark.parametrize(
    ("error", "tried_again"),
    [
        (ConfigError("the diameter is a mistake"), False),
        (RawDataError("the index can't be understood"), False),
        (machine_error(OSError(errno.EIO, "Input/output error"), where="/raw"), True),
        (PlateflowError("there is no CUDA device"), True),
        (MemoryError(), True),
    ],
)
def test_what_only_the_user_can_change_ends_the_next_attempts_of_the_run(job, monkeypatch, error, tried_again):
    def fail(item):
        raise error from (OSError() if "share" in str(error) else None)

    monkeypatch.setenv(DRIVER_VARIABLE, "")
    announce_driver("first")
    asked, journal = replace(job, digest="d"), job.paths.journal("tile", "0")
    with pytest.raises(type(error)):
        run_job(asked, items(), one_by_one(fail))
    assert refusal(journal, attempt_of(asked)) == ("" if tried_again else str(error))
    assert not refusal(journal, attempt_of(replace(job, digest="other")))
    announce_driver("second")
    assert not refusal(journal, attempt_of(asked)), "the next run tries again"
    monkeypatch.setenv(DRIVER_VARIABLE, "")
    assert not refusal(journal, attempt_of(asked))
