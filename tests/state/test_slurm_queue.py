"""What is asked of SLURM's queue, with a queue that a test wrote."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from plateflow.access import user_name
from plateflow.asked import forget_runs, runs
from plateflow.paths import PlatePaths
from plateflow.state import lease as leases
from plateflow.state.lease import Lease, Owner, announce_driver, driver_alive
from plateflow.state.slurm import QueuedJob, is_queued, jobs, restarts_of, why_ended


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes what `squeue` will say; None is a controller that doesn't answer."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def say(lines: list[str] | None, *, wrong: str = "Unable to contact slurm controller") -> None:
        text = f"#!{sys.executable}\nimport sys\n"
        text += f"sys.exit({wrong!r})\n" if lines is None else f"print({chr(10).join(lines)!r})\n"
        (programs / "squeue").write_text(text)
        (programs / "squeue").chmod(0o755)

    return say


def test_jobs_are_those_that_wait_or_run(queue, tmp_path):
    queue(
        [
            f"7\tRUNNING\tann\t{tmp_path}\tplateflow_1\trule_infer_wildcards_p1_0",
            f"8\tPENDING\tann\t{tmp_path}\tplateflow_1\trule_tile_wildcards_p1_3",
            f"9\tNODE_FAIL\tann\t{tmp_path}\tplateflow_1\trule_tile_wildcards_p1_4",
            "10\tRUNNING\tbob\t/elsewhere|µ\tnotebook\t(null)",
        ]
    )
    found = jobs()
    assert found is not None
    assert [str(job) for job in found] == [
        "7 (infer p1_0, running)",
        "8 (tile p1_3, pending)",
        "10 (notebook, running)",
    ]
    assert [str(job.folder) for job in found] == [str(tmp_path), str(tmp_path), "/elsewhere|µ"]
    queue(None)
    assert jobs() is None, "no answer isn't an empty queue"


def test_a_job_that_slurm_has_started_again_is_not_the_one_that_was(queue):
    queue(["RUNNING 1"])
    assert [is_queued("7", restarts) for restarts in (0, 1)] == [False, True]


def test_a_job_that_slurm_does_not_know_is_over_if_it_was_mine(queue):
    """Of others' jobs SLURM may deny that they exist."""
    queue(None, wrong="slurm_load_jobs error: Invalid job id specified")
    assert [is_queued("7"), is_queued("7", own=False)] == [False, None]
    queue(None)
    assert is_queued("7") is None


def owner_elsewhere(lease: Path, job: str, age: float = 0) -> None:
    lease.mkdir()
    file = lease / "owner.json"
    owner = {"host": "another", "pid": 1, "started": 1, "slurm_job": job, "user": user_name()}
    file.write_text(json.dumps(owner))
    os.utime(file, (time.time() - age, time.time() - age))


def test_a_lease_of_another_node_is_what_the_queue_says(queue, tmp_path, monkeypatch):
    """After a node has vanished the next attempt comes within a minute: it needn't wait until the lease is old."""
    monkeypatch.setenv(leases.DRIVER_VARIABLE, "1:2:login")
    queue(["RUNNING 0"])
    assert is_queued("7") is True
    owner_elsewhere(tmp_path / "a", "7", age=leases.STALE_S + 1)
    with pytest.raises(Exception, match="already running"), Lease(tmp_path / "a", holder="p: tile 0"):
        pass
    queue(["NODE_FAIL 0"])
    assert is_queued("7") is False
    with Lease(tmp_path / "a", holder="p: tile 0") as lease:
        assert not lease.inherited


def test_a_job_that_slurm_calls_completed_is_waited_for_while_it_beats(queue, tmp_path, monkeypatch):
    """As when the daemon of its node has died: SLURM says COMPLETED, and the work goes on."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(leases, "SILENT_S", 5.0)
    queue(["COMPLETED 0"])
    owner_elsewhere(tmp_path / "a", "7")
    began, beats = time.monotonic(), 0
    stopped = threading.Event()

    def beat() -> None:
        nonlocal beats
        while not stopped.wait(0.1) and beats < 10:
            os.utime(tmp_path / "a" / "owner.json")
            beats += 1

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with Lease(tmp_path / "a", holder="p: tile 0"):
            waited = time.monotonic() - began
    finally:
        stopped.set()
        beating.join()
    assert beats == 10
    assert waited > 5.9, "ten beats, and five seconds of silence"


def test_a_job_that_slurm_starts_again_takes_over_from_itself(queue, tmp_path, monkeypatch):
    """As soon as what it was is silent; it isn't held up by its own number."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    restarts_of.cache_clear()
    queue(["RUNNING 1"])
    owner_elsewhere(tmp_path / "a", "7", age=leases.SILENT_S + 1)
    with Lease(tmp_path / "a", holder="p: tile 0") as lease:
        assert (lease.owner.slurm_job, lease.owner.restarts) == ("7", 1)
    restarts_of.cache_clear()


def test_the_end_of_a_job_is_told_by_its_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {
        "11": "slurmstepd: error: *** JOB 11 ON c1 CANCELLED AT 2026-11-26T23:38:30 DUE TO TIME LIMIT ***",
        "12": "slurmstepd: error: *** JOB 12 ON c1 CANCELLED AT 2026-11-26T23:38:30 ***",
        "13": "slurmstepd: error: Detected 1 oom_kill event in StepId=13.0. Some of the tasks have been OOM Killed.",
        "14": "slurmstepd: error: *** STEP 14.0 ON c1 CANCELLED AT 2026-11-26T23:38:30 DUE TO NODE FAILURE, SEE ***",
        "15": "slurmstepd: error: StepId=15.0 exceeded memory limit (2147483648 > 1258291200), being killed",
        "16": "Finished.",
    }
    folder = tmp_path / ".snakemake" / "slurm_logs" / "rule_tile" / "p1_0_ab12"
    folder.mkdir(parents=True)
    for job, line in words.items():
        (folder / f"{job}.log").write_text(f"Building DAG of jobs...\n{line}\n")
    assert {job: why_ended(job) for job in (*words, "17")} == {
        "11": "over its time limit",
        "12": "cancelled",
        "13": "over its memory",
        "14": "its node is gone",
        "15": "over its memory",
        "16": "",
        "17": "",
    }


def test_who_was_taken_for_dead_stops_and_leaves_the_other_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    with Lease(tmp_path / "a", holder="p: tile 0") as lease:
        assert not lease.lost.wait(0.2)
        leases.clear(tmp_path / "a")
        owner_elsewhere(tmp_path / "a", "8")
        assert lease.lost.wait(5)
    owner = leases.read_owner(tmp_path / "a")
    assert owner is not None
    assert owner.host == "another"


def test_without_an_answer_a_lease_ages(queue, tmp_path):
    queue(None)
    fresh = Owner(host="another", pid=1, started=1, slurm_job="7", beat=time.time())
    assert fresh.alive() is None
    assert Owner(host="another", pid=1, started=1, slurm_job="7", beat=1.0).alive() is False


def test_a_driver_is_known_by_its_process_on_its_own_host(monkeypatch):
    monkeypatch.setenv(leases.DRIVER_VARIABLE, "1:2:another")
    assert driver_alive(), "of another host nothing is known"
    announce_driver()
    assert os.environ[leases.DRIVER_VARIABLE].startswith(f"{os.getpid()}:")
    assert driver_alive()


def test_a_lease_never_lies_there_without_its_owner(tmp_path, monkeypatch):
    """SLURM may take its time to say who this is; a lease without an owner is taken for one that was cut off."""
    this_process = Owner.this_process

    def slow() -> Owner:
        assert not (tmp_path / "a").exists()
        return this_process()

    monkeypatch.setattr(Owner, "this_process", slow)
    with Lease(tmp_path / "a", holder="p: tile 0") as lease:
        assert leases.read_owner(tmp_path / "a") is not None
        assert lease.held()


def test_what_a_run_wrote_down_is_forgotten_only_where_no_job_can_need_it(tmp_path, monkeypatch):
    screen = PlatePaths.of("screen", results=tmp_path)
    for run in ("local-1", "gone", "queued", "another's"):
        screen.asked(run).parent.mkdir(parents=True, exist_ok=True)
        screen.asked(run).write_text("{}")
    job = QueuedJob(number="7", state="PENDING", user="ann", folder=tmp_path, name="queued", comment="rule_tile")
    if os.geteuid() == 0:
        os.chown(screen.asked("another's"), 4242, -1)
    known = runs(screen)
    forget_runs(screen, known, None)
    assert runs(screen) == known - {"local-1"}, "no queue could be asked"
    forget_runs(screen, known - {"gone"}, [job])
    assert "gone" in runs(screen), "it began after the queue was asked"
    forget_runs(screen, known, [job])
    assert runs(screen) == ({"queued", "another's"} if os.geteuid() == 0 else {"queued"})


def test_a_notice_among_the_answers_is_no_state(queue):
    queue(["this site is down on Monday", "RUNNING 0"])
    assert is_queued("7") is True
    queue(["this site is down on Monday"])
    assert is_queued("7") is None
