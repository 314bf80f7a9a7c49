"""What is asked of SLURM's queue, with a queue that a test wrote."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from plateflow.state import lease as leases
from plateflow.state.lease import Lease, Owner, announce_driver, driver_alive
from plateflow.state.slurm import is_queued, jobs_of


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes what `squeue` will say; None is a controller that doesn't answer."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def say(lines: list[str] | None) -> None:
        text = f"#!{sys.executable}\nimport sys\n"
        text += "sys.exit(1)\n" if lines is None else f"print({chr(10).join(lines)!r})\n"
        (programs / "squeue").write_text(text)
        (programs / "squeue").chmod(0o755)

    return say


def test_jobs_of_a_folder_are_those_that_wait_or_run(queue, tmp_path):
    queue(
        [
            f"7|RUNNING|rule_infer_wildcards_p1_0|{tmp_path}",
            f"8|PENDING|rule_tile_wildcards_p1_3|{tmp_path}",
            f"9|NODE_FAIL|rule_tile_wildcards_p1_4|{tmp_path}",
            "10|RUNNING|somebody|/elsewhere",
        ]
    )
    assert [(job.number, job.rule) for job in jobs_of(tmp_path)] == [("7", "infer p1_0"), ("8", "tile p1_3")]
    queue(None)
    assert jobs_of(tmp_path) == []


def owner_elsewhere(lease: Path, job: str, age: float = 0) -> None:
    lease.mkdir()
    file = lease / "owner.json"
    file.write_text(json.dumps({"host": "another", "pid": 1, "started": 1, "slurm_job": job}))
    os.utime(file, (time.time() - age, time.time() - age))


def test_a_lease_of_another_node_is_what_the_queue_says(queue, tmp_path, monkeypatch):
    """After a node has vanished the next attempt comes within a minute: it needn't wait until the lease is old."""
    monkeypatch.setenv(leases.DRIVER_VARIABLE, "1:2:login")
    queue(["7|RUNNING"])
    assert is_queued("7") is True
    owner_elsewhere(tmp_path / "a", "7", age=leases.STALE_S + 1)
    with pytest.raises(Exception, match="already running"), Lease(tmp_path / "a", holder="p: tile 0"):
        pass
    queue(["7|NODE_FAIL"])
    assert is_queued("7") is False
    with Lease(tmp_path / "a", holder="p: tile 0") as lease:
        assert not lease.inherited


def test_a_job_that_slurm_calls_completed_is_waited_for_while_it_beats(queue, tmp_path, monkeypatch):
    """As when the daemon of its node has died: SLURM says COMPLETED, and the work goes on."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(leases, "SILENT_S", 5.0)
    queue(["7|COMPLETED"])
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
