"""`plateflow clean`: what goes, what stays, and that the journals tell the truth afterwards."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from plateflow.stages.reading import LostFileError
from plateflow.state.journal import Journal
from plateflow.state.lease import Lease
from plateflow.state.ledger import attempts


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_plate_without_leftovers_has_nothing_to_remove(done):
    before = {path: path.stat().st_mtime_ns for path in done.path().root.rglob("*")}
    assert "nothing to remove" in done.plateflow("clean", "micro")
    assert before == {path: path.stat().st_mtime_ns for path in done.path().root.rglob("*")}


def test_leftovers_of_killed_jobs_and_of_what_there_is_no_more_go(done):
    paths = done.path()
    results = done.results()
    gone = [
        paths.root / "cells" / ".B02.parquet.77.partial",
        paths.image("B02").with_name(".0.77.old") / "zarr.json",
        paths.scratch / "flows" / "cells" / "B02" / ".0.flows.77.partial",
        paths.cells("H12"),
        paths.histogram("H12"),
        paths.gates("H12"),
        paths.spots("foci", "B02"),
        paths.objects("cells", "H12"),
        paths.objects("mitochondria", "B02"),
        paths.image("B02") / "labels" / "mitochondria" / "zarr.json",
        paths.image("H12") / "zarr.json",
        paths.scratch / "flows" / "mitochondria" / "B02" / "0.flows",
        paths.root / "receipts" / "tile" / "17.json",
        paths.root / "receipts" / "tile" / "0.0123456789.json",
        done.loaded.screen.asked("local-77").absolute(),
        paths.root / "logs" / "follow" / "17-0.0123456789.log",
        paths.root / "benchmarks" / "tile" / "17.tsv",
    ]
    for path in gone:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    output = done.plateflow("clean", "micro", "--yes")
    assert f"frees 0.0 MB in {len(gone)} files" in output
    assert [path for path in gone if path.exists()] == []
    assert done.results() == results
    done.plateflow("status", "micro")
    before = done.sequences()
    done.run()  # as something of a former label set went, all jobs look again
    assert done.redone(before) == set()


def test_flows_go_nothing_is_stale_and_a_change_that_needs_them_has_them_made_again(done):
    scratch = size(done.path().scratch)
    output = done.plateflow("clean", "micro", "--flows", "--yes")
    assert f"flows and endpoints: 4 files, {scratch / 1e6:.1f} MB" in output
    assert "making the flows took" in output
    assert size(done.path().scratch) == 0
    done.plateflow("status", "micro")
    assert done.run() == set()
    done.configure(lambda config: config["segmentation"]["cells"].update({"cell_threshold": 0.5}))
    done.configure(lambda config: config.update({"parts": {"cpu": 1, "gpu": 1}}))  # both wells in one job of `stitch`
    before = done.sequences()
    with pytest.raises(LostFileError, match="run `snakemake` again: infer makes it anew"):
        done.run()
    done.run()
    assert {key[2] for key in done.redone(before) if key[0] in ("infer", "stitch")} == {"cells"}
    done.plateflow("status", "micro")


def test_all_results_go_and_are_made_again_the_same(done):
    done.plateflow("retry", "micro/B02", "--stage", "tile")
    results, paths = done.results(), done.path()
    (paths.root / "notes.txt").write_text("the user's own")
    for made in (paths.spots("foci", "B02"), paths.gates("B02")):
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"no journal lists it any more")
    n_attempts = len(attempts(paths))
    output = done.plateflow("clean", "micro", "--results", "--yes")
    assert "making all of it took" in output
    left = {path.relative_to(paths.root).parts[0] for path in paths.root.rglob("*") if path.is_file()}
    assert left == {"journal", "requests.jsonl", "notes.txt"}
    assert "notes.txt stays" in output
    assert all(not Journal.read(path).latest for path in (paths.root / "journal").iterdir())
    assert not done.loaded.screen.receipts("report", "screen")
    assert "to do" in done.plateflow("status", status=4)
    done.run()
    assert done.results() == results
    done.plateflow("status", "micro")
    assert len(attempts(paths)) > n_attempts, "what was spent before is still known"


def test_it_asks_first(done, monkeypatch):
    monkeypatch.setattr("typer.confirm", lambda text, abort: (_ for _ in ()).throw(builtins.SystemExit(1)))
    done.plateflow("clean", "micro", "--results", status=1)
    done.plateflow("status", "micro")


@pytest.mark.parametrize("of_run", [False, True])
def test_it_refuses_while_something_is_at_work(done, of_run):
    folder = done.loaded.screen if of_run else done.path()
    with Lease(folder.lease("tile", "0"), holder="a job"):
        output = done.plateflow("clean", "micro", "--flows", "--yes", status=1)
    assert "tile-0 is at work" in output
    assert "lease held by process" in output
    assert size(done.path().scratch)


def test_results_and_flows_at_once_are_a_wrong_use(done):
    assert "give one of them" in done.plateflow("clean", "micro", "--flows", "--results", status=2)
