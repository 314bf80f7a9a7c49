"""The workflow on a real SLURM with fake GPUs: where jobs go, and what becomes of results and queue after faults.

A job takes 4 s beside its work and is noticed some 10 s after its end, so a chain of nine stages takes two minutes.
So that all fits into twelve, the tests are one story of four plates, told in order (run the whole file): five faults
share the first run, the second does the plate that is mended, and what is asked for again then passes through
everything that can befall a driver. At the end all is as it was, and nothing was done twice.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from drivers import CLI, PATIENCE, SITE, Driver, DriverInAJob, squeue
from slurm_cluster import Cluster
from workflow_project import REPOSITORY, Project, make_project

from plateflow.chain import stages_of
from plateflow.config import Config
from plateflow.state.journal import outcomes
from plateflow.state.lease import read_owner


@dataclass
class Screen:
    """Four plates after the first run.

    Attributes:
        output: of its driver.
        done: of the plates that were hit, what was done in infer before.
        index: the index file of the broken plate, and its text before it was cut.
        watching: `plateflow status --watch` on another host.
    """

    project: Project
    output: str
    done: dict[str, set]
    index: Path
    whole: str
    watching: subprocess.Popen[str]


PLATES = ("whole", "dies", "slow", "broken")
HERE = [*stages_of(Config())]
"""The stages of the configuration."""


@pytest.fixture(scope="module")
def screen(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """The first run: of four plates one's GPU job dies, one's reaches its time limit, one can't be read.

    Of the fourth, which is whole, a job is cancelled, and a node vanishes under another; and every `aggregate` asks for
    too little memory at first. SLURM notices the node after 20 to 45 s, and the next attempt goes to another one.
    """
    folder = tmp_path_factory.mktemp("slurm") / "project"
    folder.mkdir()
    for plate in PLATES:
        project = make_project(folder, plate=plate)
    project.configure(lambda keys: keys.update(parts={"cpu": 1, "gpu": 1}))
    (index,) = folder.glob("raw/broken__*/Images/Index.idx.xml")
    whole = index.read_text()
    index.write_text(whole[: len(whole) // 2])
    with (folder / "watch.log").open("w") as log:
        watching = subprocess.Popen(
            ["unshare", "--uts", "sh", "-c", f'hostname login2; exec "{sys.executable}" -c "{CLI}" status --watch'],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    try:
        output, done = first_run(project, cluster, folder / "watch.log")
        yield Screen(project, output, done, index, whole, watching)
    finally:
        watching.kill()
        watching.wait()


def first_run(project: Project, cluster: Cluster, watched: Path) -> tuple[str, dict[str, set]]:
    """The output of the driver, and what each plate that was hit had done before."""
    resources = [*SITE, "infer:mem_mb=1200*attempt", "infer:runtime=20", "aggregate:mem_mb=250*attempt**2"]
    driver = Driver(project, cluster, "--retries", "2", "--set-resources", *resources)
    asked = {plate: driver.hold("infer", "0", plate, outcomes=1) for plate in ("dies", "slow")}
    vanishing = driver.hold("features", "0", "whole")
    cluster.run("scancel", driver.held("tile", "0", "whole").slurm_job)
    dies, slow = (driver.held("infer", "0", plate, stop) for plate, stop in asked.items())
    done = {plate: set(outcomes([project.path(plate).journal("infer", "0")])) for plate in asked}
    driver.until(lambda: "slow: infer 0: no sign of life" in watched.read_text())
    cluster.run("scontrol", "update", f"jobid={slow.slurm_job}", "timelimit=1")  # it has run for half a minute
    node = driver.held("features", "0", "whole", vanishing).host
    cluster.kill_node(node)
    os.kill(dies.pid, signal.SIGKILL)  # not before, lest the node take a later job of this plate with it
    output = driver.end(1)
    cluster.start_node(node)
    return output, done


@dataclass
class Mending:
    """The second run.

    Attributes:
        driver: in a job, whose node has died while a job of its run was in work.
        node: on which it was.
        notebook: another job of the user in the same folder.
    """

    driver: DriverInAJob
    node: str
    notebook: str


@pytest.fixture(scope="module")
def mending(screen: Screen, cluster: Cluster) -> Mending:
    """The second run begins, once the broken plate is mended; meanwhile other tests can go on.

    Its driver is a job, and dies with its node. SLURM takes half a minute to notice, and as long as it is told to until
    it starts the driver again; that one clears up by `plateflow retry --cancel`, in a folder that has another job.
    """
    screen.index.write_text(screen.whole)
    notebook = ["sbatch", "--parsable", "--account=lab", "--mem=20", "--time=60", "-J", "notebook", "--wrap=sleep 3000"]
    number = subprocess.run(notebook, cwd=screen.project.folder, capture_output=True, text=True, check=True).stdout
    driver = DriverInAJob(screen.project, cluster)
    driver.held("ingest", "plate", "broken")
    driver.idle.touch()
    node = squeue("-j", driver.job, "-o", "%N")
    refused = screen.project.plateflow("retry", "--cancel", status=1)
    assert "a driver runs" in refused
    assert re.search(rf"process \d+ on {node}, SLURM job {driver.job}, alive \d+ s ago", refused)
    assert driver.state() == "RUNNING", "nothing was cancelled"
    cluster.kill_node(node)
    return Mending(driver, node, number.strip())


Results = tuple[dict[str, dict[str, bytes]], dict[str, dict]]


@pytest.fixture(scope="module")
def mended(screen: Screen, mending: Mending, cluster: Cluster) -> Results:
    """The second run is over: the results and the sequences of all plates."""
    driver, project = mending.driver, screen.project
    driver.until(lambda: driver.state() == "PENDING")
    cluster.run("scontrol", "update", f"jobid={driver.job}", "starttime=now")  # it would be put off for two minutes
    driver.until(lambda: driver.state() == "RUNNING")
    cluster.start_node(mending.node)  # not before: what ends the former start would reach a new one on this node, too
    driver.until(lambda: "Cancelling them." in driver.log.read_text())
    driver.until(lambda: "Cleared the lock" in driver.log.read_text())
    driver.idle.unlink()
    end = time.monotonic() + PATIENCE
    while not driver.ended():
        assert time.monotonic() < end, driver.log.read_text()
        time.sleep(0.5)
    assert squeue("-j", mending.notebook, "-o", "%T") == "RUNNING"
    cluster.run("scancel", mending.notebook)
    return {p: project.results(p) for p in PLATES}, {p: project.sequences(p) for p in PLATES}


def jobs(cluster: Cluster, rule: str, plate: str = "") -> list[tuple[str, str]]:
    """State and requested resources of the jobs of a rule, in order."""
    rows = cluster.accounting("JobID", "State", "ReqTRES", "Comment")
    comment = f"rule_{rule}_wildcards_{plate}"
    return [(row["State"].split()[0], row["ReqTRES"]) for row in rows if row["Comment"].startswith(comment)]


def test_gpu_stages_get_their_gpu_and_cpu_stages_none(screen: Screen, cluster: Cluster) -> None:
    rows = [r for r in cluster.accounting("Partition", "ReqTRES", "Comment") if "_wildcards_" in r["Comment"]]
    named = [(*row["Comment"].removeprefix("rule_").split("_wildcards_"), row) for row in rows]
    mine = [(rule, row) for rule, wildcards, row in named if wildcards.startswith(PLATES)]
    assert {*HERE} <= {rule for rule, _ in mine}
    for rule, row in mine:
        assert row["Partition"] == ("gpu" if rule == "infer" else "cpu")
        assert ("gres/gpu=1" in row["ReqTRES"]) == (rule == "infer")
    assert [state for state, _ in jobs(cluster, "infer", "whole")] == ["COMPLETED"]


def test_a_death_a_time_limit_and_too_little_memory_are_tried_again_with_more(screen: Screen, cluster: Cluster) -> None:
    """What was done before the fault stays done: the next attempt goes on from the finished wells."""
    assert ("FAILED", True) in [(state, "mem=1200M" in request) for state, request in jobs(cluster, "infer", "dies")]
    assert ("COMPLETED", True) in [(state, "mem=2400M" in request) for state, request in jobs(cluster, "infer", "dies")]
    assert [state for state, _ in jobs(cluster, "infer", "slow")] == ["TIMEOUT", "COMPLETED"]
    for plate in PLATES[:3]:
        aggregated = jobs(cluster, "aggregate", plate)
        assert [aggregated[0][0], aggregated[-1][0]] == ["FAILED", "COMPLETED"]
        assert ["mem=250M" in aggregated[0][1], "mem=1000M" in aggregated[1][1]] == [True, True]
        assert {*screen.project.sequences(plate).values()} == {1}
    for plate, done in screen.done.items():
        assert done
        assert done < {*outcomes(screen.project.path(plate).journals("infer"))}


def test_a_broken_plate_is_named_while_the_others_complete(screen: Screen) -> None:
    summary = screen.output.rpartition("The run failed")[2]
    assert "broken: ingest plate: cannot parse the metadata file" in summary  # tried once: only the user can help
    assert str(screen.index.name) in summary
    assert not any(f"{plate}: " in summary for plate in PLATES[:3])
    for plate in PLATES[:3]:
        assert screen.project.path(plate).table("wells.csv").is_file()


def test_a_cancelled_job_and_a_vanished_node_are_noticed(screen: Screen, cluster: Cluster) -> None:
    assert [state for state, _ in jobs(cluster, "tile", "whole")] == ["CANCELLED", "COMPLETED"]
    assert [state for state, _ in jobs(cluster, "features", "whole")] == ["NODE_FAIL", "COMPLETED"]


def test_the_results_are_those_of_the_local_profile(screen: Screen, mending: Mending, tmp_path: Path) -> None:
    """Byte for byte, but for the paths and times of raw files, which the manifest holds; of all plates the labels."""
    local = make_project(tmp_path, plate="whole")
    local.snakemake("--cores", "2")
    expected = local.results("whole")
    for plate in PLATES[:3]:
        found = screen.project.results(plate)
        alike = {
            name for name in expected if name != "manifest/planes.parquet" if plate == "whole" or "/labels/" in name
        }
        assert alike
        assert alike <= found.keys()
        assert plate != "whole" or expected.keys() == found.keys()
        assert [name for name in alike if expected[name] != found[name]] == []


def test_a_driver_in_a_job_is_started_again_and_clears_up(mended: Results, mending: Mending) -> None:
    """Its own number holds it up no more than another's job does; it cancels the one job of its former run."""
    log = mending.driver.log.read_text()
    assert mending.driver.state() == "COMPLETED", log
    assert re.findall(r"^start (\d)", log, re.MULTILINE) == ["0", "1"]
    assert f"left alone: SLURM jobs {mending.notebook} (notebook, running)" in log
    assert re.search(r"SLURM still has 1 job of it: \d+ \(ingest broken", log)
    assert "cleared the lease of snakemake-driver: process" in log


def test_a_rerun_does_the_mended_plate_alone(screen: Screen, mended: Results) -> None:
    results, sequences = mended
    for plate in PLATES:
        assert {*sequences[plate].values()} == {1}, "everything was done once in two runs and all their attempts"
    labels = {name for name in results["whole"] if "/labels/" in name}
    assert [name for name in labels if results["broken"][name] != results["whole"][name]] == []


def test_the_run_was_watched_from_another_host(screen: Screen, mended: Results) -> None:
    """Failures with the last lines of their logs; it ends by itself once all is complete, and says that all is well."""
    assert screen.watching.wait(30) == 0
    text = " ".join((screen.project.folder / "watch.log").read_text().split())
    assert (
        "broken: ingest plate: 1 failed; waiting to be tried again, or given up cannot parse the metadata file" in text
    )
    assert "slow: infer 0: no sign of life for 30 s" in text
    log = screen.project.path("slow").latest_log("infer", "0").relative_to(screen.project.folder)
    assert f"log: {log} ends with: infer: " in text
    assert "1 run: 1 w" in text


def test_the_log_of_the_job_that_did_a_well(screen: Screen, mended: Results) -> None:
    assert "features 0: 2 done" in screen.project.plateflow("status", "whole/B02", "--log")


def test_weights_that_are_not_on_the_node(screen: Screen, mended: Results, cluster: Cluster, tmp_path: Path) -> None:
    project, weights = screen.project, tmp_path / "weights.safetensors"
    shutil.copy(REPOSITORY / "tests" / "data" / "tiny.safetensors", weights)
    project.plateflow("retry", "dies", "--stage", "infer")
    config = project.folder / "config" / "config.yaml"
    old = config.read_text()
    project.configure(
        lambda keys: [label_set.update(model=str(weights)) for label_set in keys["segmentation"].values()]
    )
    driver = Driver(project, cluster, "--retries", "0", project.receipt("dies", "infer", "0"))
    driver.until(lambda: "SLURM jobid" in driver.log.read_text())
    weights.rename(tmp_path / "away")
    summary = driver.end(1).rpartition("The run failed")[2]
    config.write_text(old)
    assert "dies: infer 0: " in summary
    assert "the model can't be used" in summary or "no such model" in summary
    assert str(weights) in summary


def test_a_full_scratch_and_results_that_turn_read_only(screen: Screen, mended: Results, cluster: Cluster) -> None:
    """Each on a plate of its own, in one run; the driver's last words say what, where, and what to do."""
    project = screen.project
    scratch, results = project.path("dies").scratch, project.path("slow").root
    project.plateflow("retry", "slow", "--stage", "report")
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", scratch)
    targets = [project.receipt("dies", "infer", "0"), project.receipt("slow", "report", "plate")]
    try:
        driver = Driver(project, cluster, "--retries", "0", *targets)
        owner = driver.held("report", "plate", "slow")
        mount("--bind", results, results)
        try:
            mount("-o", "remount,ro,bind", results)
            os.kill(owner.pid, signal.SIGCONT)
            output = driver.end(1)
        finally:
            subprocess.run(["umount", results], check=True)
    finally:
        subprocess.run(["umount", scratch], check=True)
    summary = output.rpartition("The run failed")[2]
    full, _, locked = summary.partition("slow: ")
    assert "dies: infer 0" in full
    assert "can't write: No space left on device" in full
    assert "make the folder writable again, with room in it" in full
    assert "results/slow can't be written: read-only" in locked
    assert "slow: report plate: can't write: Read-only file system" in output, "the job's own words"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_told_to_stop(
    screen: Screen, mended: Results, cluster: Cluster, number: signal.Signals
) -> None:
    """SIGINT cancels the running jobs, SIGTERM lets them end."""
    project = screen.project
    if number == signal.SIGINT:
        project.plateflow("retry", "whole", "--stage", "features")
    driver = Driver(project, cluster)
    owner = driver.held("features", "0", "whole")
    if number == signal.SIGINT:
        driver.idle.touch()  # SLURM lets a job go on before it ends it
    driver.process.send_signal(number)
    if number == signal.SIGTERM:
        time.sleep(1)
        os.kill(owner.pid, signal.SIGCONT)
    assert driver.process.wait(PATIENCE) != 0
    driver.idle.unlink(missing_ok=True)
    assert not cluster.run("squeue", "-h", "-t", "PD,R").stdout.strip()
    assert (project.folder / project.receipt("whole", "features", "0")).exists() == (number == signal.SIGTERM)


@pytest.mark.parametrize("stage", ["aggregate", "report"])
def test_orphans_of_a_killed_driver_are_waited_for_or_cancelled(
    screen: Screen, mended: Results, cluster: Cluster, stage
) -> None:
    """Those of `aggregate` are waited for, those of `report` cancelled."""
    project, cancel = screen.project, stage == "report"
    driver = Driver(project, cluster)
    owner = driver.held(stage, "plate", "whole")
    driver.process.kill()
    driver.process.wait()
    command = [sys.executable, "-c", CLI, "retry", *(["--cancel"] * cancel)]
    if cancel:
        driver.idle.touch()
    retry = subprocess.Popen(command, cwd=project.folder, env=cluster.environment, stdout=subprocess.PIPE, text=True)
    assert retry.stdout is not None
    assert "SLURM still has" in retry.stdout.readline()
    if not cancel:
        time.sleep(2)
        assert retry.poll() is None, "it waits for the orphans"
        os.kill(owner.pid, signal.SIGCONT)
    output, _ = retry.communicate(timeout=PATIENCE)
    driver.idle.unlink(missing_ok=True)
    assert retry.returncode == 0
    assert "Cleared the lock" in output
    assert not cluster.run("squeue", "-h", "-t", "PD,R").stdout.strip()
    assert (project.folder / project.receipt("whole", stage, "plate")).exists() != cancel


def test_work_that_goes_on_after_slurm_has_ended_its_job(screen: Screen, mended: Results, cluster: Cluster) -> None:
    """The daemon of its node dies, then the step is over its memory: srun gives up, with status 0.

    The batch job's own Snakemake then misses the receipt, so that SLURM says FAILED here; without that check it says
    COMPLETED. Meanwhile the work goes on: the next attempt, on another node, waits for it, and does nothing itself.
    Then nothing is left of all faults: results as before, everything that was asked for done once, no lease, no lock.
    """
    project, (results, sequences) = screen.project, mended
    # Snakemake misses the receipt after the latency wait, which is to be before SLURM misses the node.
    driver = Driver(project, cluster, "--latency-wait", "2")
    owner = driver.held("report", "plate", "whole")
    driver.idle.touch()
    os.kill(int((cluster.lab / f"slurmd.{owner.host}.pid").read_text()), signal.SIGKILL)
    os.kill(owner.pid, signal.SIGUSR1)  # it takes 2 GB
    os.kill(owner.pid, signal.SIGCONT)
    path = project.path("whole")
    _, digest, _ = Path(project.receipt("whole", "report", "plate")).name.split(".")
    log = path.log("report", "plate", digest)
    driver.until(lambda: log.exists() and "waiting until it ends or is silent" in log.read_text())
    assert read_owner(path.lease("report", "plate")) is not None
    driver.idle.unlink()
    driver.end(0)
    cluster.start_node(owner.host)
    assert [state for state, _ in jobs(cluster, "report", "whole")][-2:] == ["FAILED", "COMPLETED"]
    assert "report plate: 0 done, 1 already done" in log.read_text()

    asked = {"whole": "features", "dies": "infer", "slow": "report"}
    for plate in PLATES:
        assert project.results(plate) == results[plate]
        again = HERE[HERE.index(asked[plate]) :] if plate in asked else []
        expected = {key: number + (key[0] in again) for key, number in sequences[plate].items()}
        assert project.sequences(plate) == expected
        assert not list((project.path(plate).root / "leases").glob("[!.]*"))
    assert not list((project.folder / ".snakemake" / "locks").glob("*"))


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)
