"""Broken files, killed runs, failing jobs, a full disk: what is left, and what the next run does."""

# Tests over 20 s here run Snakemake, with a process per job, which imports its libraries anew: 15 jobs take about 25 s.
# It runs where something fails; what a later run makes of that is decided by what is asked, and needs no processes.

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from workflow_project import MICRO, REPOSITORY, all_of

from plateflow.simulate.plate import WellPlan, simulate_plate
from plateflow.state.journal import Journal, outcomes

WELLS = [WellPlan(well=well, role="negative", treatment="DMSO", dose=0.0) for well in ("B02", "B03", "B04")]
PROJECT = {"wells": WELLS}
NOTHING = "Nothing to be done"


def test_a_field_that_fails_is_quarantined_and_mended_by_a_plain_run(project):
    raw = project.raw("B03", channel=2)
    whole = raw.read_bytes()
    raw.write_bytes(whole[: len(whole) // 2])
    project.plateflow("check", status=None)
    before = project.sequences()
    output = project.snakemake(status=3)
    assert {well for _, well, _ in project.redone(before)} == {"", "B03"}
    assert "micro/B03 field 1: quarantined at tile: truncated" in output
    assert raw.name in output
    entry = outcomes(project.path().journals("tile"))["B03", "", -1]
    assert (entry.state, entry.reason, list(entry.fields)) == ("flagged", "fields", ["1"])
    assert "truncated" in project.plateflow("status", "micro/B03", status=None)
    assert "field 1" in project.plateflow("status", status=3)
    assert NOTHING in project.snakemake(), "an untouched bad file asks for nothing"

    raw.write_bytes(whole)
    before = project.sequences()
    project.run()
    assert {well for _, well, _ in project.redone(before)} == {"", "B03"}
    assert outcomes(project.path().journals("tile"))["B03", "", -1].state == "ok"
    assert project.run() == set(), "once"
    project.plateflow("status", status=0)


def test_a_well_without_a_sound_field_is_left_out_and_its_results_go(project):
    saved = {}
    for channel in (1, 2):
        for raw in project.folder.glob(f"raw/micro__*/Images/r02c03f0?p01-ch{channel}*"):
            saved[raw] = raw.read_bytes()
            raw.write_bytes(b"")
    results = project.results()
    project.plateflow("check", status=None)
    project.run()
    assert "micro/B03: quarantined at tile" in project.plateflow("status", status=3)
    assert not project.path().cells("B03").exists()
    assert "B03" in (project.path().root / "wells.csv").read_text()
    for raw, content in saved.items():
        raw.write_bytes(content)
    project.run()
    mended = project.results()
    assert {name for name in results if results[name] != mended.get(name)} <= {"manifest/planes.parquet"}


def test_a_rerun_that_fails_in_the_middle_is_made_good_by_a_plain_rerun(project):
    blocked = project.path().objects("cells", "B03")
    blocked.unlink()
    blocked.mkdir()  # the table can't be written: a fault of the machine
    project.configure(lambda config: config["segmentation"]["cells"].update({"cell_threshold": 0.3}))
    output = project.snakemake("--retries", "0", status=1)
    assert "stitch" in output
    assert "log:" in output
    assert "last attempt failed" in project.plateflow("status", "micro/B03", status=None)
    blocked.rmdir()
    project.run()
    assert "to do" not in project.plateflow("status")
    fresh = project.results()
    for folder in ("results", ".snakemake"):
        shutil.rmtree(project.folder / folder)
    project.run()
    assert project.results() == fresh


@pytest.mark.parametrize("stage", ["tile", "infer", "stitch", "features"])
@pytest.mark.parametrize("whom", ["everything", "driver"])
def test_a_killed_run_goes_on_where_it_was(project, whom, stage):
    undisturbed = project.results()
    units = sum(key[0] == stage for key in project.sequences())
    project.configure(lambda config: config.update({"parts": {"cpu": 1, "gpu": 1}}))
    # Units may follow each other within 16 ms: on a busy machine the kill can come too late, and is tried again.
    for _ in range(5):
        done = killed(project, whom, stage)
        if len(done) < units or whom == "driver":
            break
    else:
        pytest.fail("each kill came after the stage's last unit")
    assert "Error" in project.snakemake(status=1), "Snakemake's lock is there: the user is told"
    output = project.plateflow("retry")
    assert "Cleared the lock" in output
    project.run()
    assert set(project.sequences().values()) == {1}, "no unit was done twice"
    assert project.results() == undisturbed


def killed(project, whom: str, stage: str) -> dict:
    """What a run from a stage on had done when all, or the driver alone, was killed after the stage's first unit."""
    for folder in ("results", ".snakemake"):
        shutil.rmtree(project.folder / folder)
    project.run(until=stage)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    driver = subprocess.Popen(
        command, cwd=project.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    journal, deadline = project.path().journal(stage, "0"), time.monotonic() + 240
    while b'"event":"done"' not in (journal.read_bytes() if journal.exists() else b""):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    if whom == "everything":
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        driver.kill()
    driver.wait()
    while whom == "driver" and any((project.path().root / "leases").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return outcomes([journal])


def test_a_full_disk_fails_the_job_and_loses_nothing(project, tmp_path):
    """A small tmpfs as results folder: needs root, as CI has it."""
    undisturbed = project.results()
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=False)
    if mount.returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("a tmpfs can't be mounted, and CI must try the full disk")
        pytest.skip("mounting a tmpfs needs root")
    try:
        shutil.rmtree(project.folder / "results")
        (project.folder / "results").symlink_to(disk)
        output = project.snakemake("--retries", "0", status=1)
        assert "No space left on device" in output
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        project.run()
        assert project.results() == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_a_broken_index_fails_its_plate_alone(project):
    """Two plates, one with its XML cut short: the other completes, the message names file and remedy."""
    options = MICRO | {"wells": MICRO["wells"][:1], "fields": 1, "field_shape": (128, 128)}
    made = simulate_plate(project.folder / "more", plate="second", **options)
    project.plateflow("init", str(made.raw), "--plate", "second")
    index = made.raw / "Images" / "Index.idx.xml"
    whole = index.read_text()
    index.write_text(whole[: len(whole) // 2])
    before = project.sequences()
    output = project.snakemake("--retries", "1", status=1)
    assert "second: ingest plate:" in output
    assert "Index.idx.xml" in output
    assert output.count("not tried again in this run") == 1, "the second attempt ends at once"
    assert [attempt.state for attempt in Journal.read(project.path("second").journal("ingest", "plate")).attempts] == [
        "failed"
    ]
    assert "attempts" not in project.plateflow("status", status=None)
    assert project.redone(before) == set()
    index.write_text(whole)
    project.run()
    assert project.redone(before) == set()
    assert all_of("B02", "features") <= project.redone({}, "second")


def test_a_raw_folder_that_is_away_fails_the_job_and_clears_nothing(project):
    """A share that isn't mounted is no reason to give up wells that are done."""
    results = project.results()
    project.plateflow("retry", "micro/B02", "--stage", "tile")
    (raw,) = project.folder.glob("raw/micro__*")
    raw.rename(project.folder / "away")
    output = project.snakemake("--retries", "0", status=1)
    assert "the plate's folder does not exist" in output
    assert project.results() == results
    (project.folder / "away").rename(raw)
    project.run()
    assert project.results() == results


def test_a_plate_that_was_still_being_copied_gets_its_window_later(project):
    """All files are empty in the first run; once they are whole, a plain run computes the window and all the rest."""
    results = project.results()
    saved = {raw: raw.read_bytes() for raw in project.folder.glob("raw/micro__*/Images/*.tiff")}
    for folder in ("results", ".snakemake"):
        shutil.rmtree(project.folder / folder)
    for raw in saved:
        raw.write_bytes(b"")
    project.run()
    said = project.plateflow("status", status=3)
    for well in ("B02", "B03", "B04"):
        assert f"micro/{well}: quarantined at tile: empty_file" in said
    for raw, content in saved.items():
        raw.write_bytes(content)
    project.run()
    assert {k: v for k, v in project.results().items() if k != "manifest/planes.parquet"} == {
        k: v for k, v in results.items() if k != "manifest/planes.parquet"
    }
    assert project.run() == set()


def test_a_file_that_comes_back_as_it_was(project):
    """It is away for a run and comes back with its old time: fingerprints return to what they were."""
    results = project.results()
    raw = project.raw("B03", channel=1)
    away = project.folder / raw.name
    raw.rename(away)
    project.plateflow("check", status=None)
    project.run()
    assert "micro/B03 field 1: quarantined at tile: missing" in project.plateflow("status", status=3)
    away.rename(raw)
    project.run()
    mended = project.results()  # the manifest tells of the missing file until `check` has ingest look again
    assert {k: v for k, v in mended.items() if k != "manifest/planes.parquet"} == {
        k: v for k, v in results.items() if k != "manifest/planes.parquet"
    }
    assert project.run() == set()
