"""`plateflow status`: what is to be done, and that each remedy which it prints works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_project import touch_pixels

from plateflow.asked import Asked
from plateflow.files import append_line
from plateflow.state.lease import Lease
from plateflow.state.progress import DONE, KILLED
from plateflow.workflow import Workflow


def remedy(output: str, line: str) -> list[str]:
    """The commands that status prints behind a line."""
    (found,) = {match[1] for match in re.finditer(rf"{line}.*?: (`.*`)$", output, re.MULTILINE)}
    return re.findall(r"`(.*?)`", found)


def follow(project, commands: list[str]) -> None:
    """Run what a remedy names; a plain `snakemake` without Snakemake."""
    for command in commands:
        if command == "snakemake":
            project.run()
        else:
            project.plateflow(*command.split()[1:], status=None)


def test_a_finished_plate_ends_with_0(done):
    for target in ([], ["micro"], ["micro/B02"]):
        assert "to do" not in done.plateflow("status", *target)


def test_stale_by_parameters(done):
    """The remedy for a stale well once did nothing; over 20 s, as Snakemake itself runs."""
    done.configure(lambda config: config["segmentation"]["cells"].update({"min_size_px": 33}))
    output = done.plateflow("status", "micro/B02", status=4)
    assert remedy(output, "stale: parameters changed") == ["snakemake"]
    assert "stitch: 2 jobs to do: stale: parameters changed: `snakemake`" in done.plateflow("status", status=4)
    assert "stitch: 2 stale: parameters changed: `snakemake`" in done.plateflow("status", "micro", status=4)
    done.snakemake(env={**os.environ, "OMP_NUM_THREADS": "1"})
    done.plateflow("status", "micro")


def test_retry_begins_at_the_first_stale_stage(done):
    done.configure(lambda config: config["segmentation"]["cells"].update({"min_size_px": 33}))
    assert "micro/B02: requested again from stitch on" in done.plateflow("retry", "micro/B02")
    done.run()
    assert "every stage is ok and up to date" in done.plateflow("retry", "micro/B02")
    done.path().table("wells.csv").unlink()
    assert "micro/*: requested again from aggregate on" in done.plateflow("retry", "micro")
    done.run()
    done.plateflow("status", "micro")


def test_changed_raw_files(done):
    touch_pixels(done.raw("B03"))
    output = done.plateflow("status", "micro/B03", status=4)
    commands = remedy(output, "stale: raw files changed")
    assert commands == ["plateflow check", "snakemake"]
    follow(done, commands)
    done.plateflow("status", "micro")


@pytest.mark.parametrize("noticed", [False, True])
def test_files_that_are_gone(done, noticed):
    results = done.results()
    done.path().cells("B02").unlink()
    assert "to do" not in done.plateflow("status"), "over all plates no file is looked at"
    if noticed:
        done.plateflow("verify", status=4)
        assert "features: 1 job to do: stale: files are gone or damaged" in done.plateflow("status", status=4)
    output = done.plateflow("status", "micro", status=4)
    commands = remedy(output, "features: 1 stale: files are gone or damaged")
    assert commands == (["snakemake"] if noticed else ["plateflow verify micro", "snakemake"])
    follow(done, commands)
    done.plateflow("status", "micro")
    assert done.results() == results


def test_never_done_though_a_receipt_is_there(done):
    for journal in done.path().journals("stitch"):
        journal.unlink()
    commands = remedy(done.plateflow("status", "micro", status=4), "stitch: 4 never done, though a receipt is there")
    assert commands == ["plateflow verify micro", "snakemake"]
    of_all = done.plateflow("status", status=4)
    assert remedy(of_all, "stitch: 2 jobs to do: never done, though a receipt is there") == commands
    follow(done, commands)
    done.plateflow("status", "micro")


def test_the_page_over_all_plates(done):
    asked, screen = Asked.of(done.loaded).screen, done.loaded.screen
    log, lease = screen.log("report", "screen", asked), screen.lease("screen", "screen")
    screen.receipt("report", "screen", asked).unlink()
    assert "screen: the page over all plates is to do: `snakemake`\n" in done.plateflow("status", status=4)
    done.plateflow("status", "micro")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("process 7 on c1\n")
    with Lease(lease, holder="the screen's job"):
        assert "screen: the page over all plates is being made\n" in done.plateflow("status", status=4)
    assert f"screen: report: {KILLED}\n  log: {log}\n" in done.plateflow("status", status=4)
    log.write_text("process 7 on c1\nplateflow: screen: report: the disk is full\n")
    assert f"screen: report: the disk is full\n  log: {log}\n" in done.plateflow("status", status=4)
    log.write_text(f"process 7 on c1\n{DONE}\n")
    assert "screen: the page over all plates is to do: `snakemake`\n" in done.plateflow("status", status=4)
    done.run()
    assert "screen:" not in done.plateflow("status")


def test_a_page_over_all_plates_of_what_was_asked_before_is_to_do(done):
    (receipt,) = done.loaded.screen.receipts("report", "screen")
    receipt.rename(receipt.with_name("screen.0123abcd.json"))
    assert "screen: the page over all plates is to do: `snakemake`\n" in done.plateflow("status", status=4)


def test_the_last_words_of_a_run_tell_of_the_page_over_all_plates(done, capsys):
    workflow = Workflow(Asked.of(done.loaded))
    screen, asked = done.loaded.screen, workflow.asked.screen
    screen.receipt("report", "screen", asked).unlink()
    workflow.last_words()
    assert "Snakemake's messages above say why" in capsys.readouterr().err
    log = screen.log("report", "screen", asked)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("process 7 on c1\n")
    workflow.last_words()
    assert f"The run failed:\nscreen: report: {KILLED}\n  log: {log}\n" in capsys.readouterr().err


def test_never_done(done):
    shutil.rmtree(done.path().root)
    assert remedy(done.plateflow("status", status=4), "ingest: 1 job to do: never done") == ["snakemake"]
    assert remedy(done.plateflow("status", "micro", status=4), "ingest: 1 never done") == ["snakemake"]
    follow(done, ["snakemake"])
    done.plateflow("status", "micro")


def test_a_lease_whose_owner_died(done):
    lease = done.path().lease("tile", "0")
    code = f"import os; from plateflow.state.lease import Lease; Lease({str(lease)!r} and __import__('pathlib').Path("
    code += f"{str(lease)!r}), holder='a job').__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    output = done.plateflow("status")
    assert "tile-0 died: run `plateflow retry`" in output
    done.plateflow("retry")
    assert not lease.exists()
    assert "died" not in done.plateflow("status")
    with Lease(lease, holder="a job"):
        assert f"tile-0 runs: process {os.getpid()}" in done.plateflow("status")


def test_a_well_that_was_left_out(done):
    saved = {}
    for path in sorted(done.folder.glob("raw/micro__*/Images/r02c03f0*")):
        saved[path] = path.read_bytes(), path.stat()
        path.write_bytes(b"cut")
    done.plateflow("check", status=None)
    done.run()
    for target in ([], ["micro"], ["micro/B03"]):
        assert "quarantined" in done.plateflow("status", *target, status=3)
    output = done.plateflow("status", "micro/B03", status=3)
    assert "or `plateflow retry micro/B03`, then `snakemake`" in output
    for path, (data, stat) in saved.items():
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    follow(done, ["plateflow retry micro/B03", "plateflow check", "snakemake"])
    done.plateflow("status", "micro")


BROKEN = {
    "manifest cut": lambda paths: os.truncate(paths.metadata, 30),
    "manifest of another kind": lambda paths: paths.metadata.write_text("{}"),
    "manifest gone": lambda paths: paths.metadata.unlink(),
    "planes cut": lambda paths: os.truncate(paths.planes, 30),
    "window emptied": lambda paths: paths.window.write_bytes(b""),
    "illumination gone": lambda paths: paths.illumination.unlink(),
    "store gone": lambda paths: shutil.rmtree(paths.store),
    "an image's group cut": lambda paths: os.truncate(paths.image("B02") / "zarr.json", 10),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_plate_gets_a_line_and_the_remedy_works(done, damage):
    results = done.results()
    BROKEN[damage](done.path())
    for target in ([], ["micro"], ["micro/B02"]):
        output = done.plateflow("status", *target, status=None)
        assert "Traceback" not in output
    output = done.plateflow("status", "micro", status=4)
    assert "`plateflow verify micro`, then `snakemake`" in output
    follow(done, ["plateflow verify micro", "snakemake"])
    done.plateflow("status", "micro")
    assert done.results() == results


def test_journals_of_a_newer_release_and_of_a_share_that_is_away_are_one_line(done, monkeypatch):
    journal = done.path().journal("tile", "0")
    append_line(journal, {"event": "done", "well": "B02", "mood": "good"})
    output = done.plateflow("status", "micro", status=1)
    assert "micro: tile: can't tell what is to be done: the journals were written by a newer release" in output
    assert "update Plateflow" in output
    journal.unlink()

    def away(self: Path, *_: object) -> None:
        raise OSError(107, "Transport endpoint is not connected", str(self))

    with monkeypatch.context() as patch:
        patch.setattr("plateflow.project.outcomes", lambda paths: away(paths[0]))
        output = done.plateflow("status", "micro", status=1)
    assert "micro: ingest: can't tell what is to be done: OSError" in output
    with monkeypatch.context() as patch:
        patch.setattr("os.scandir", away)
        assert "micro: can't be read: OSError" in done.plateflow("status", status=1)


def test_a_plate_whose_ingest_failed(done, monkeypatch):
    """Each command says what failed; none that nothing is known."""
    shutil.rmtree(done.path().root)
    (index,) = done.folder.glob("raw/micro__*/Images/Index.idx.xml")
    content = index.read_bytes()
    index.write_bytes(b"<cut")
    done.plateflow("run", "micro", "ingest", status=1)
    log = done.path().log("ingest", "plate", "ab12")
    log.parent.mkdir(parents=True)
    log.write_text("as Snakemake keeps it")
    error = "cannot parse the metadata file Index.idx.xml"
    output = done.plateflow("status", "micro/B02", status=1)
    assert f"ingest plate: last attempt failed: {error}\n" in output
    assert f"log: results/micro/logs/ingest/{log.name}\n" in output
    assert done.plateflow("status", "micro/B02", "--log").endswith("as Snakemake keeps it\n")
    output = done.plateflow("status", status=4)
    assert "1 plate, 0 wells: 1 failed" in output
    assert f"micro: ingest plate: 1 failed; waiting to be tried again, or given up\n    {error}\n" in output
    for command in (
        ["retry", "micro/B02"],
        ["retry", "micro"],
        ["accept", "--stage", "stitch"],
        ["run", "micro", "tile"],
    ):
        output = done.plateflow(*command, status=1)
        assert f"the plate has no manifest\n  where: micro\n  why: ingest failed: {error}\n" in output
        assert "Now run `snakemake`" not in output
    for command in (["verify"], ["status", "micro"]):
        assert error in done.plateflow(*command, status=1)
    index.write_bytes(content)
    done.run()
    done.plateflow("status", "micro")


def test_a_well_whose_part_failed_before_any_well_was_done(done):
    (raw,) = done.folder.glob("raw/micro__*")
    raw.rename(done.folder / "away")
    log = done.path().log("tile", "0", "ab12")
    log.parent.mkdir(parents=True)
    log.write_text("as Snakemake keeps it")
    done.plateflow("run", "micro", "tile", "0", status=1)
    output = done.plateflow("status", "micro/B03", status=None)
    assert "tile 0: last attempt failed: the plate's folder does not exist\n" in output
    assert done.plateflow("status", "micro/B03", "--log").endswith("as Snakemake keeps it\n")
    assert "tile 0" not in done.plateflow("status", "micro/B02", status=None)
    assert "can't tell from which stage on" in done.plateflow("retry", "micro/B02", status=1)


def test_a_raw_folder_that_is_away_is_told(done):
    (raw,) = done.folder.glob("raw/micro__*")
    raw.rename(done.folder / "away")
    assert "can't tell what is to be done" in done.plateflow("status", "micro", status=1)


def test_exit_statuses_of_the_other_commands(done):
    assert "there is no plate" in done.plateflow("run", "nowhere", "tile", status=1)
    done.plateflow("run", "micro", "tile")
    done.plateflow("plan")
    done.plateflow("check")
    os.truncate(done.raw("B03"), 100)
    done.plateflow("check", "--deep", status=1)
    done.plateflow("verify", "nowhere", status=1)
    done.plateflow("accept", "--stage", "nothing", status=2)
    done.plateflow("status", "--nothing", status=2)
