"""The ledger: what each attempt did and used, whatever became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from plateflow.files import append_line, count_mapped
from plateflow.paths import PlatePaths
from plateflow.report.page import render
from plateflow.report.sections import resource_use
from plateflow.state.journal import Entry, append_outcome, last_entries
from plateflow.state.ledger import Meter, attempts, write_ledger

USED = {"cpu_s": 30.0, "peak_mb": 900.0, "read_mb": 12.0, "written_mb": 3.0}


def at(second: int) -> str:
    return f"2026-01-01T10:{second // 60:02d}:{second % 60:02d}.000+00:00"


def done(well: str, second: int, label_set: str = "", **info) -> Entry:
    return Entry(well=well, label_set=label_set, finished=at(second), seconds=5.0, info=info)


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a SLURM its accounting knows jobs of these numbers."""
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def paths(tmp_path: Path) -> PlatePaths:
    paths = PlatePaths.of("p", results=tmp_path)
    paths.metadata.parent.mkdir(parents=True)
    paths.metadata.write_text(json.dumps({"wells": ["B02", "B03", "B04", "B05"]}))
    return paths


def infer(paths: PlatePaths) -> Path:
    """A GPU job that was killed, then stopped, then failed, then done: four attempts."""
    journal = paths.journal("infer", "0")
    append_line(journal, {"event": "begin", "at": at(0), "host": "g1", "slurm_job": "11"})
    append_outcome(journal, done("B02", 60, "nuclei", tiles=9, device="NVIDIA A100-SXM4-40GB"))
    append_line(journal, {"event": "start", "key": ["B03", "nuclei", -1], "sequence": 1})
    append_line(journal, {"event": "begin", "at": at(100), "host": "g1", "slurm_job": "12"})
    append_line(journal, {"event": "interrupted", "at": at(110), **USED})
    append_line(journal, {"event": "begin", "at": at(200), "host": "g2", "slurm_job": "13"})
    append_line(journal, {"event": "failed", "error": "CUDA", "at": at(220), **USED})
    append_line(journal, {"event": "begin", "at": at(300), "host": "g2", "slurm_job": "14"})
    append_outcome(journal, done("B03", 320, "nuclei", tiles=9, device="NVIDIA A100-SXM4-40GB"))
    append_outcome(journal, done("B04", 330, "nuclei", tiles=18, device="NVIDIA A100-SXM4-40GB"))
    append_line(journal, {"event": "end", "done": 2, "at": at(340), **USED})
    return journal


def test_every_attempt_has_its_row(paths: PlatePaths) -> None:
    infer(paths)
    rows = attempts(paths)
    assert [row["state"] for row in rows] == ["killed", "interrupted", "failed", "ok"]
    assert [row["attempt"] for row in rows] == [1, 2, 3, 4]
    assert [row["seconds"] for row in rows] == [60, 10, 20, 40]
    assert [row["units"] for row in rows] == [1, 0, 0, 2]
    assert [row["share"] for row in rows] == [0.25, 0, 0, 0.5]
    assert rows[0]["peak_mb"] is None  # it was killed, and its one outcome doesn't tell
    assert rows[3]["peak_mb"] == 900
    assert rows[3]["tiles"] == 27
    assert rows[3]["gpu_s"] == 40
    assert rows[3]["start_s"] == 15  # begun at 300, first unit done at 320, of which it took 5


def test_a_killed_attempt_counts_to_its_last_unit(paths: PlatePaths) -> None:
    journal = paths.journal("tile", "0")
    append_line(journal, {"event": "begin", "at": at(0)})
    append_outcome(journal, done("B02", 20), USED | {"read_mb": 5.0})
    append_outcome(journal, done("B03", 40), USED)
    append_line(journal, {"event": "start", "key": ["B04", "", -1], "sequence": 1})
    append_line(journal, {"event": "begin", "at": at(100)})
    append_outcome(journal, done("B04", 120), USED)
    append_line(journal, {"event": "failed", "error": "full", "at": at(130), **USED | {"read_mb": 99.0}})
    killed, failed = attempts(paths)
    assert {key: killed[key] for key in USED} == USED
    assert (killed["state"], killed["units"]) == ("killed", 2)
    assert failed["read_mb"] == 99.0
    assert [entry.well for entry in last_entries(journal, [""])] == ["B04"]  # what was used is nobody else's matter


def test_bytes_are_counted_whatever_way_they_go(tmp_path: Path) -> None:
    """By this thread, another one, a child, and by mapping; not what went before."""
    file = tmp_path / "file"
    file.write_bytes(bytes(5_000_000))
    meter = Meter()
    file.read_bytes()
    thread = threading.Thread(target=file.read_bytes)
    thread.start()
    thread.join()
    subprocess.run([sys.executable, "-c", f"open({str(file)!r}, 'rb').read()"], check=True)
    count_mapped(read=3_000_000, written=2_000_000)
    (tmp_path / "other").write_bytes(bytes(1_000_000))
    used = meter.used()
    assert 18 < used["read_mb"] < 25  # Python itself is a few
    assert used["written_mb"] == pytest.approx(3, abs=0.1)


def test_where_the_system_counts_no_bytes_there_are_none_and_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plateflow.state.ledger._lines", lambda path: {})
    assert set(Meter().used()) == {"cpu_s"}
    row = {"stage": "tile", "state": "ok", "gpu_s": 0, "seconds": 1.0, "cpu_s": 1.0}
    found = resource_use([row | dict.fromkeys(("read_mb", "written_mb", "peak_mb"))], cells=1)
    assert found["stages"][0]["read_mb"] is None


def test_how_labels_were_made_is_told(paths: PlatePaths) -> None:
    def mode(stage: str, number: str, **info) -> str:
        journal = paths.journal(stage, number)
        append_line(journal, {"event": "begin", "at": at(0)})
        append_outcome(journal, done("B02", 20, "nuclei", **info))
        return next(row["mode"] for row in attempts(paths) if (row["stage"], row["job"]) == (stage, number))

    assert mode("infer", "0", tiles=9) == ""
    assert mode("infer", "1", tiles=9, objects=0) == "labels"
    assert mode("stitch", "0", objects=3, followed=True) == ""
    assert mode("stitch", "1", objects=3, followed=False) == "ends"
    assert mode("stitch", "2", objects=3) == "ends"  # of an earlier release


def test_the_benchmark_of_the_same_attempt_knows_the_whole_jobs_time(paths: PlatePaths) -> None:
    journal = paths.journal("tile", "1")
    append_line(journal, {"event": "begin", "at": at(0)})
    append_outcome(journal, done("B02", 20))
    append_line(journal, {"event": "end", "done": 1, "at": at(20), **USED})
    file = paths.benchmark("tile", "1", "ab12")
    file.parent.mkdir(parents=True)
    file.write_text("s\th:m:s\tmax_rss\n23.5\t0:00:23\t1.0\n")
    end = pd.Timestamp(at(20)).timestamp()
    os.utime(file, (end + 1, end + 1))
    assert attempts(paths)[0]["seconds"] == 23.5
    os.utime(file, (end + 3600, end + 3600))  # of a later job that had nothing to do
    assert attempts(paths)[0]["seconds"] == 20


def test_the_accounting_knows_what_a_killed_job_cost(paths: PlatePaths, tmp_path: Path, monkeypatch) -> None:
    infer(paths)
    stub = tmp_path / "bin" / "sacct"
    stub.parent.mkdir()
    lines = "11|95|billing=2,cpu=2,gres/gpu=1,mem=4G\n14|55|cpu=2,gres/gpu=2,mem=4G"
    stub.write_text(f'#!/bin/sh\ncase "$*" in *11,12,13,14*) printf "%s\\n" "{lines}";; *) exit 1;; esac\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    rows = attempts(paths)
    assert [row["seconds"] for row in rows] == [95, 10, 20, 55]
    assert rows[3]["gpu_s"] == 110


def test_an_attempt_that_still_runs_is_no_failure(paths: PlatePaths) -> None:
    from plateflow.state.lease import Lease

    append_line(paths.journal("tile", "0"), {"event": "begin", "at": at(0)})
    with Lease(paths.lease("tile", "0"), holder="tile"):
        assert attempts(paths) == []
    assert [row["state"] for row in attempts(paths)] == ["killed"]


def test_lines_of_an_earlier_release_and_of_a_plate_without_manifest_count_nothing(paths: PlatePaths) -> None:
    append_outcome(paths.journal("tile", "0"), done("B02", 20))
    assert attempts(paths) == []
    paths.metadata.unlink()
    infer(paths)
    assert attempts(paths) == []


def test_the_table_and_its_summary(paths: PlatePaths) -> None:
    infer(paths)
    append_line(paths.journal("stitch", "0"), {"event": "begin", "at": at(400)})
    append_outcome(paths.journal("stitch", "0"), done("B02", 410, "nuclei", objects=500))
    append_line(paths.journal("stitch", "0"), {"event": "end", "done": 1, "at": at(410), **USED})
    table = write_ledger(paths)
    assert pd.read_parquet(paths.table("ledger.parquet")).equals(pd.read_parquet(paths.table("ledger.parquet")))
    assert len(pd.read_parquet(paths.table("ledger.parquet"))) == len(table) == 5
    found = resource_use(attempts(paths), cells=500)
    for key in ("attempts", "not_ok", "seconds", "gpu_s"):
        assert found["total"][key] == pytest.approx(sum(stage[key] for stage in found["stages"]))
    assert render("resources.html.j2", **found).count("<tr><td>") == len(found["stages"]) + 1
    assert [row["stage"] for row in found["stages"]] == ["infer", "stitch"]
    assert found["failed"]["attempts"] == 3
    assert found["failed"]["gpu_s"] == 60  # the killed one's; of the others no line names a device
    assert found["cells_gpu_h"] == pytest.approx(500 / (100 / 3600))
    assert resource_use([], cells=0)["cells_gpu_h"] is None
