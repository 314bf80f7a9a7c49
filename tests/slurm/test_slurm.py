"""The workflow on a real SLURM with fake GPUs: where jobs go, and what becomes of results and queue after faults.

A job takes 4 s beside its work and is noticed some 10 s after its end, so a chain of nine stages takes two minutes:
every test here is long. They share one project, which each leaves complete, and faults of one kind share a run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from workflow_project import REPOSITORY, Project, make_project

from plateflow.state.journal import outcomes
from plateflow.state.lease import Owner, read_owner

# The profile as it is shipped, but for the site's names and the waiting times.
OPTIONS = [
    "--workflow-profile", str(REPOSITORY / "profiles" / "slurm"), "--latency-wait", "10",
    "--default-resources", "slurm_partition=cpu", "slurm_account=lab", "mem_mb=600",
    "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
]  # fmt: skip


def on_slurm(project: Project, cluster: Cluster, *arguments: str, status: int | None = 0) -> str:
    """Run the workflow to its end; returns the driver's output."""
    return project.snakemake(*OPTIONS, *arguments, status=status, env=cluster.environment)


class Driver:
    """A driver that runs beside the test."""

    def __init__(self, project: Project, cluster: Cluster, *arguments: str) -> None:
        self.project, self.log = project, project.folder / "driver.log"
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *OPTIONS, *arguments],
                cwd=project.folder, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def held(self, stage: str, job: str, plate: str = "micro") -> Owner:
        """Wait until a job holds its lease, and stop its process there."""
        lease = self.project.path(plate).lease(stage, job)
        self.until(lambda: read_owner(lease) is not None)
        owner = read_owner(lease)
        assert owner is not None, "the job was over before it was seen"
        os.kill(owner.pid, signal.SIGSTOP)
        return owner

    def until(self, done, seconds: float = 120) -> None:
        """Wait for something while the driver runs."""
        end = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def end(self, status: int | None) -> str:
        """Wait until the driver ends; returns its output."""
        code = self.process.wait(240)
        output = self.log.read_text()
        assert status is None or code == status, output
        return output


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, bytes]]:
    """The micro plate, run through SLURM, and its results."""
    folder = tmp_path_factory.mktemp("slurm") / "project"
    folder.mkdir()
    project = make_project(folder)
    print(on_slurm(project, cluster))
    return project, project.results()


@contextmanager
def asked_again(finished: tuple[Project, dict[str, bytes]], stage: str) -> Iterator[Project]:
    """Ask for a stage again; afterwards all is as before, and each unit of it was done once more, no other."""
    project, results = finished
    before = project.sequences()
    project.plateflow("retry", "micro", "--stage", stage)
    yield project
    assert project.results() == results
    changed = {key: number - before[key] for key, number in project.sequences().items() if number != before[key]}
    assert changed, "nothing was done"
    assert set(changed.values()) == {1}, f"done twice: {changed}"
    assert not list((project.path().root / "leases").glob("[!.]*"))


def states(cluster: Cluster, rule: str) -> list[tuple[str, str]]:
    """State and requested resources of the jobs of a rule, in order."""
    jobs = cluster.accounting("JobID", "State", "ReqTRES", "Comment")
    return [(job["State"].split()[0], job["ReqTRES"]) for job in jobs if job["Comment"].startswith(f"rule_{rule}_")]


def test_gpu_stages_get_their_gpu_and_cpu_stages_none(finished, cluster: Cluster) -> None:
    jobs = cluster.accounting("JobID", "State", "Partition", "ReqTRES", "Comment")
    mine = {job["Comment"].split("_wildcards_")[0].removeprefix("rule_"): job for job in jobs}
    assert {"ingest", "tile", "normalise", "infer", "follow", "stitch", "features", "aggregate", "report"} <= {*mine}
    for rule, job in mine.items():
        assert job["State"] == "COMPLETED"
        assert job["Partition"] == ("gpu" if rule == "infer" else "cpu")
        assert ("gres/gpu=1" in job["ReqTRES"]) == (rule == "infer")


def test_the_results_are_those_of_the_local_profile(finished, tmp_path: Path) -> None:
    """Byte for byte, but for the paths and times of raw files, which the manifest holds."""
    local = make_project(tmp_path)
    local.snakemake()
    manifest = "manifest/planes.parquet"
    expected, found = ({k: v for k, v in r.items() if k != manifest} for r in (local.results(), finished[1]))
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []


def test_the_cluster_is_tried_before_a_run(finished, cluster: Cluster, tmp_path: Path) -> None:
    """A GPU that torch doesn't see (here: a fake one), a partition that isn't there; and nothing wrong."""
    project, _ = finished
    profile = tmp_path / "profile"
    shutil.copytree(REPOSITORY / "profiles" / "slurm", profile)
    command = [sys.executable, "-c", "from plateflow.cli import app; app()", "check", "--cluster", "--profile", profile]

    def check() -> tuple[int, str]:
        done = subprocess.run(
            command, cwd=project.folder, env=cluster.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    config = project.folder / "config" / "config.yaml"
    old = config.read_text()
    project.configure(lambda keys: keys.update(device="cpu"))
    status, output = check()
    assert (status, output.strip()) == (0, "No problem found.")
    project.configure(lambda keys: keys.update(device="cuda"))
    text = (profile / "config.v8+.yaml").read_text()
    (profile / "config.v8+.yaml").write_text(text.replace("slurm_partition: cpu", "slurm_partition: night"))
    status, output = check()
    config.write_text(old)
    assert status == 2
    assert "sees no GPU (CUDA_VISIBLE_DEVICES is '0')" in output
    assert "night" in output
    assert "SLURM refuses the job" in output
    assert not list((project.folder / "results").glob(".check*"))


def test_a_cancelled_job_is_noticed_and_done_again(finished, cluster: Cluster) -> None:
    with asked_again(finished, "report") as project:
        driver = Driver(project, cluster)
        owner = driver.held("report", "plate")
        cluster.run("scancel", owner.slurm_job)
        driver.end(0)
    assert [state for state, _ in states(cluster, "report")][-2:] == ["CANCELLED", "COMPLETED"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_told_to_stop(finished, cluster: Cluster, number: signal.Signals) -> None:
    """SIGINT cancels the running jobs, SIGTERM lets them end; after both a plain run does what is left."""
    with asked_again(finished, "report") as project:
        driver = Driver(project, cluster)
        owner = driver.held("report", "plate")
        driver.process.send_signal(number)
        if number == signal.SIGTERM:
            time.sleep(1)
            os.kill(owner.pid, signal.SIGCONT)
        assert driver.process.wait(120) != 0
        assert not cluster.run("squeue", "-h", "-t", "PD,R").stdout.strip()
        on_slurm(project, cluster)


@pytest.mark.parametrize("cancel", [False, True])
def test_orphans_of_a_killed_driver_are_waited_for_or_cancelled(finished, cluster: Cluster, cancel: bool) -> None:
    with asked_again(finished, "features") as project:
        driver = Driver(project, cluster)
        owner = driver.held("features", "0")
        driver.process.kill()
        driver.process.wait()
        command = [sys.executable, "-c", "from plateflow.cli import app; app()", "retry", *(["--cancel"] * cancel)]
        retry = subprocess.Popen(
            command, cwd=project.folder, env=cluster.environment, stdout=subprocess.PIPE, text=True
        )
        if not cancel:
            time.sleep(5)
            assert retry.poll() is None, "it waits for the orphans"
            os.kill(owner.pid, signal.SIGCONT)
        output, _ = retry.communicate(timeout=120)
        assert retry.returncode == 0
        assert "SLURM still has" in output
        assert "Cleared the lock" in output
        assert not cluster.run("squeue", "-h", "-t", "PD,R").stdout.strip()
        on_slurm(project, cluster)


def test_a_node_that_vanishes(finished, cluster: Cluster) -> None:
    """Its job is lost with it; SLURM says so after 20 to 45 s, and the next attempt goes to another node."""
    with asked_again(finished, "report") as project:
        driver = Driver(project, cluster)
        owner = driver.held("report", "plate")
        node = cluster.run("squeue", "-h", "-j", owner.slurm_job, "-o", "%N").stdout.strip()
        cluster.kill_node(node)
        driver.end(0)
        cluster.start_node(node)
    assert [state for state, _ in states(cluster, "report")][-2:] == ["NODE_FAIL", "COMPLETED"]


def test_what_a_job_lacks_is_said_by_the_driver(finished, cluster: Cluster, tmp_path: Path) -> None:
    """Weights that aren't on the node, a full scratch: the driver's own output says what, where, and what to do."""
    with asked_again(finished, "infer") as project:
        weights, scratch = tmp_path / "weights.safetensors", project.path().scratch
        shutil.copy(REPOSITORY / "tests" / "data" / "tiny.safetensors", weights)

        def use(config: dict) -> None:
            for label_set in config["segmentation"].values():
                label_set["model"] = str(weights)

        old = (project.folder / "config" / "config.yaml").read_text()
        project.configure(use)
        driver = Driver(project, cluster, "--retries", "0")
        driver.until(lambda: "SLURM jobid" in driver.log.read_text())
        weights.rename(tmp_path / "away")
        output = driver.end(1)
        assert "the model can't be used" in output or "no such model" in output
        assert str(weights) in output
        (project.folder / "config" / "config.yaml").write_text(old)

        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(scratch)], check=True)
        try:
            output = on_slurm(project, cluster, "--retries", "0", status=1)
        finally:
            subprocess.run(["umount", str(scratch)], check=True)
        assert "No space left on device" in output
        on_slurm(project, cluster)


def test_deaths_memory_time_and_a_broken_plate_in_one_run(finished, cluster: Cluster, tmp_path: Path) -> None:
    """Of three plates one's GPU job dies, one's reaches its time limit, and one can't be read.

    And every `aggregate` asks for too little memory at first. Two plates complete with the labels of an undisturbed
    run; the third is named, and once it is mended a plain run does it alone.
    """
    project = make_project(tmp_path, plate="dies")
    for plate in ("slow", "broken"):
        make_project(tmp_path, plate=plate)
    project.configure(lambda keys: keys.update(parts={"cpu": 1, "gpu": 1}))
    (index,) = project.folder.glob("raw/broken__*/Images/Index.idx.xml")
    whole = index.read_text()
    index.write_text(whole[: len(whole) // 2])
    site = ["infer:slurm_partition=gpu", "infer:gres='gpu:1'", "infer:gpu=0"]  # else the profile's are gone
    resources = [*site, "infer:mem_mb=1200*attempt", "infer:runtime=attempt", "aggregate:mem_mb=300*attempt"]
    driver = Driver(project, cluster, "--retries", "2", "--set-resources", *resources)

    first: dict[str, set] = {}

    def both_hit() -> bool:
        """Whether each of both plates has a well done and was then hit; they run side by side."""
        for plate, number in {"dies": signal.SIGKILL, "slow": signal.SIGSTOP}.items():
            journal = project.path(plate).journal("infer", "0")
            if plate not in first and outcomes([journal]):
                owner = read_owner(project.path(plate).lease("infer", "0"))
                assert owner is not None, f"{plate}: over before it was hit"
                os.kill(owner.pid, number)
                first[plate] = set(outcomes([journal]))
        return len(first) == 2

    driver.until(both_hit, 240)
    output = driver.end(1)
    assert "broken: ingest plate:" in output
    assert "Index.idx.xml" in output
    labels = {name: data for name, data in finished[1].items() if "/labels/" in name}
    for plate, done in first.items():
        mine = project.results(plate)
        assert {name: data for name, data in mine.items() if "/labels/" in name} == labels
        sequences = {key[1:]: number for key, number in project.sequences(plate).items() if key[0] == "infer"}
        assert done
        assert {sequences[key] for key in done} == {1}, "what was done before the fault stays done"
    inferred, aggregated = states(cluster, "infer"), states(cluster, "aggregate")
    assert {"FAILED", "TIMEOUT"} <= {state for state, _ in inferred}
    assert ("COMPLETED", True) in [(state, "mem=2400M" in request) for state, request in inferred]
    assert ("FAILED", True) in [(state, "mem=300M" in request) for state, request in aggregated]
    assert ("COMPLETED", True) in [(state, "mem=600M" in request) for state, request in aggregated]

    before = {plate: project.sequences(plate) for plate in first}
    index.write_text(whole)
    on_slurm(project, cluster)
    assert {plate: project.sequences(plate) for plate in first} == before
    assert project.path("broken").table("wells.csv").is_file()
