"""Receipts alone decide what is done: not times, paths, nor what Snakemake remembers; one run at a time."""

# Tests over 20 s here run Snakemake several times, with a process a job that imports its libraries anew; and a look at
# a project that has nothing to do takes 2 s.

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workflow_project import REPOSITORY, Project

from plateflow.state.journal import outcomes

NOTHING = "Nothing to be done"


def set_times(project: Project, seconds: float) -> None:
    """Give all files and folders of the results one time."""
    for path in (project.folder / "results").rglob("*"):
        os.utime(path, (seconds, seconds))


def beside(project: Project, results: Path) -> Project:
    """Another working folder for the same plates, that reaches results by another path."""
    other = Project(project.folder / "beside")
    shutil.copytree(project.folder / "config", other.folder / "config")
    sheet = str(other.folder / "config" / "plates.tsv")
    other.configure(lambda config: config.update(results=str(results), plates=sheet))
    return other


def start(project: Project) -> subprocess.Popen:
    """A driver that runs beside the test; what it says is in driver.log."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    with (project.folder / "driver.log").open("w") as log:
        return subprocess.Popen(command, cwd=project.folder, stdout=log, stderr=log, start_new_session=True)


def wait_for(driver: subprocess.Popen, done) -> None:
    deadline = time.monotonic() + 240
    while not done():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_nothing_is_done_again_whatever_times_and_snakemake_say(project):
    shutil.rmtree(project.folder / ".snakemake")
    assert NOTHING in project.snakemake()
    results = project.folder / "results"
    shutil.copytree(results, project.folder / "copy", copy_function=shutil.copy)
    shutil.rmtree(results)
    (project.folder / "copy").rename(results)
    assert NOTHING in project.snakemake(), "a copy whose files have the times at which they were copied"
    set_times(project, 1)
    assert NOTHING in project.snakemake()
    # The clock was ahead when these were made: no reason to run, and none to fail what does.
    set_times(project, time.time() + 1e6)
    assert NOTHING in project.snakemake()
    before = project.sequences()
    plate_map = project.folder / "raw" / "platemap.csv"
    plate_map.write_text(plate_map.read_text().replace("compound-1", "compound-2"))
    project.snakemake()
    assert project.redone(before) == {("aggregate", "", ""), ("report", "", "")}


def test_nothing_is_done_again_by_another_path(project):
    results = project.folder / "results"
    link = project.folder / "link"
    link.symlink_to(results)
    other = beside(project, link)
    assert NOTHING in other.snakemake()
    other.configure(lambda config: config.update(results="../results"))
    assert NOTHING in other.snakemake()
    results.rename(project.folder / "moved")
    other.configure(lambda config: config.update(results=str(project.folder / "moved")))
    assert NOTHING in other.snakemake()


def test_two_runs_never_share_results(project):
    link = project.folder / "link"
    link.symlink_to(project.folder / "results")
    other = beside(project, link)
    for each in (project, other):
        each.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=33))
    before = sorted((project.folder / "results").rglob("*"))
    project.snakemake("--dry-run")
    assert sorted((project.folder / "results").rglob("*")) == before, "a dry run leaves no trace"
    lease = project.path("screen").lease("snakemake", "driver")
    driver = start(project)
    wait_for(driver, (lease / "owner.json").exists)
    output = other.snakemake(status=1)
    assert "plateflow: snakemake on these results is already running" in output
    assert f"lease held by process {driver.pid} on " in output
    assert "or stop it and run `plateflow retry`" in output
    assert "Error" not in output
    assert "The run failed" not in output
    assert driver.wait() == 0
    assert not list(lease.parent.iterdir())
    assert not list(project.path("screen").asked("").parent.iterdir())
    assert NOTHING in other.snakemake(), "it is of the same opinion"


def test_a_run_that_was_told_to_stop_says_so_and_nothing_of_a_failure(project):
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=33))
    driver = start(project)
    wait_for(driver, (project.path("screen").lease("snakemake", "driver") / "owner.json").exists)
    driver.terminate()
    assert driver.wait() == 1
    *_, told, end = (project.folder / "driver.log").read_text().splitlines()
    assert told == "The run was told to stop: by `kill`, or at the time limit of the job in which it ran."
    assert end == "Rerun `snakemake`, with a longer limit: what is done stays done."


def test_a_run_that_was_killed_leaves_a_lease_that_stops_nobody(project):
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=33))
    lease = project.path("screen").lease("snakemake", "driver")
    for clearing in (True, False):
        driver = start(project)
        wait_for(driver, (lease / "owner.json").exists)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        if clearing:
            assert f"screen: cleared the lease of snakemake-driver: process {driver.pid} on" in project.plateflow(
                "retry"
            )
            assert not lease.exists()
    other = beside(project, project.folder / "results")  # Snakemake's lock is of the folder; a lease, of the results
    assert "Nothing to be done" not in other.snakemake("--until", "stitch")
    other.run()
    assert "to do" not in project.plateflow("status")


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_a_value_that_was_changed_and_changed_back(project, end):
    """In the middle of a run: that run goes on as it began, or is killed; the next one undoes whatever it changed."""
    results, sequences = project.results(), project.sequences()
    path = project.folder / "config" / "config.yaml"
    old = path.read_text()
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=700))
    driver = start(project)
    journals = project.path().journals("stitch")
    wait_for(driver, lambda: any(entry.sequence > 1 for entry in outcomes(journals).values()))
    path.write_text(old)
    if end == "killed":
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        project.plateflow("retry")
    else:
        assert driver.wait() == 0
        assert {("stitch", "B02", "cells"), ("stitch", "B03", "cells"), ("report", "", "")} <= project.redone(sequences)
    changed = {name for name, content in project.results().items() if results[name] != content}
    assert "objects/cells/B02.parquet" in changed or "objects/cells/B03.parquet" in changed
    said = project.plateflow("status", status=4)
    assert "to do" in said or (end == "killed" and " failed" in said), "of jobs that were killed in their work"
    project.run()
    assert [name for name, content in project.results().items() if results[name] != content] == []
    assert "to do" not in project.plateflow("status")
    assert NOTHING in project.snakemake()


def test_what_was_done_without_snakemake_is_done(project):
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=33))
    for stage in ("stitch", "features", "aggregate", "report"):
        project.plateflow("run", "micro", stage)
    project.plateflow("run", "screen", "screen")
    assert NOTHING in project.snakemake()


def test_a_receipt_of_something_else_is_refused(project):
    receipt = project.receipt("micro", "stitch", "0")
    assert NOTHING in project.snakemake(receipt)
    project.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=33))
    (project.folder / receipt).unlink()
    output = project.snakemake(receipt, status=1)
    assert "micro: stitch 0: its receipt is named" in output
    assert "run `snakemake` without naming receipts" in output
