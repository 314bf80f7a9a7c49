"""`plateflow verify`: what isn't there as it was written is found, told, and made again by a plain run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from plateflow.files import Stamp, read_lines, stamp_of
from plateflow.state.journal import outcomes
from plateflow.state.lease import Lease

GOOD = "are as they were written; 0 are not"


def flip(path: Path) -> None:
    """Change a bit, and neither size nor time."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def files_of(project, stage: str, well: str) -> list[Path]:
    """What the journals of a stage list of a well."""
    paths = project.path()
    entries = outcomes(paths.journals(stage)).values()
    return [paths.path_of(name) for entry in entries if entry.well == well for name in entry.files]


def receipts(project) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.path().root.glob("receipts/*/*")}


def test_what_is_whole_is_told_and_left_alone(done):
    before, kept = done.results(), receipts(done)
    output = done.plateflow("verify", "micro")
    assert GOOD in output
    assert done.results() == before
    assert receipts(done) == kept
    assert not done.path().watch("verify", "plate").exists()


def test_what_is_lost_is_listed_and_a_plain_run_makes_it_again(done):
    """One file each of six stages, in three ways; over 20 s, as Snakemake itself makes them again."""
    before, results = done.sequences(), done.results()
    paths = done.path()
    shard = next(path for path in files_of(done, "tile", "B02") if "/0/c/" in str(path))
    labels = next(path for path in files_of(done, "stitch", "B03") if "/c/" in str(path))
    cells, window, wells = paths.cells("B02"), paths.window, paths.table("wells.csv")
    flip(shard)
    labels.unlink()
    cells.write_bytes(b"")
    flip(window)
    os.truncate(wells, 100)
    flip(paths.table("report.html"))
    output = done.plateflow("verify", "micro", status=4)
    for what, path in {"B02 tile": shard, "B02 features": cells, "normalise": window, "aggregate": wells}.items():
        assert f"micro: {what}: {path.relative_to(done.folder)}: it" in output
    assert "checksum differs" in output
    assert "it is gone" in output
    assert "it has 0 bytes" in output
    assert "Now run `snakemake`" in output
    done.snakemake(env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.results() == results
    redone = done.redone(before)
    assert {("tile", "B02", ""), ("features", "B02", ""), ("normalise", "", ""), ("report", "", "")} <= redone
    assert {well for stage, well, _ in redone if stage in ("tile", "features")} == {"B02"}
    assert not {stage for stage, _, _ in redone} & {"ingest", "infer", "follow"}
    assert GOOD in done.plateflow("verify", "micro")


def test_a_second_look_records_nothing_twice(done):
    done.path().cells("B02").unlink()
    done.plateflow("verify", status=4)
    watch = done.path().watch("verify", "plate")
    (line,) = read_lines(watch)
    assert line["path"] == "cells/B02.parquet"
    assert "cells/B02.parquet" in done.plateflow("verify", status=4)
    assert list(read_lines(watch)) == [line]


@pytest.mark.parametrize("name", ["planes.parquet", "plate.json"])
@pytest.mark.parametrize("damage", [Path.unlink, flip, lambda path: path.write_bytes(b"")])
def test_a_manifest_that_is_lost_is_made_again(done, name, damage):
    before, results = done.sequences(), done.results()
    damage(done.path().root / "manifest" / name)
    output = done.plateflow("verify", status=4)
    assert f"micro: ingest: results/micro/manifest/{name}" in output
    assert ("ingest", "plate") in done.run()
    assert done.results() == results
    assert done.redone(before) == {("ingest", "", "")}
    assert GOOD in done.plateflow("verify")


def test_flows_that_nothing_needs_may_be_gone(done):
    shutil.rmtree(done.path().scratch)
    output = done.plateflow("verify")
    assert "4 files of flows and endpoints: not there, not needed" in output
    done.plateflow("status", "micro", status=0)


def test_flows_that_something_needs_are_made_again_too(done):
    done.configure(lambda config: config.update(follow_slices=2))
    done.configure(lambda config: config["segmentation"]["cells"].update(cell_threshold=0.5))
    done.run()
    results = done.results()
    shutil.rmtree(done.path().scratch / "flows" / "cells" / "B02")
    flip(next((done.path().scratch / "ends" / "cells" / "B02").glob("*.ends")))
    done.path().objects("cells", "B02").unlink()
    output = done.plateflow("verify", status=4)
    assert "B02 infer cells" in output
    assert "B02 follow cells" in output
    before = done.sequences()
    done.run()
    redone = done.redone(before)
    assert {key for key in redone if key[0] in ("infer", "follow", "stitch")} == {
        (stage, "B02", "cells") for stage in ("infer", "follow", "stitch")
    }
    assert done.results() == results


@pytest.mark.parametrize("stage", ["ingest", "tile", "infer", "stitch", "report"])
def test_a_journal_that_is_lost_loses_its_receipt(done, stage):
    results = done.results()
    for journal in done.path().journals(stage):
        journal.unlink()
    output = done.plateflow("verify", status=4)
    assert f"{stage} {'plate' if stage in ('ingest', 'report') else '0'} will be looked at again: never done" in output
    done.run()
    done.plateflow("status", "micro")
    assert done.results() == results


def test_a_damaged_line_of_a_journal_is_noticed(done):
    (journal,) = [path for path in done.path().journals("features") if b'"well":"B02"' in path.read_bytes()]
    journal.write_bytes(journal.read_bytes().replace(b'"state":"ok"', b'"state":"oj"'))
    assert "will be looked at again: never done" in done.plateflow("verify", status=4)
    done.run()
    assert GOOD in done.plateflow("verify")


def test_what_a_running_job_is_at_is_left_alone(done):
    paths = done.path()
    for well in ("B02", "B03"):
        paths.cells(well).unlink()
    part = next(job for job in ("0", "1") if "B02" in done.loaded.plate("micro").wells_of("features", job))
    kept = receipts(done)
    with Lease(paths.lease("features", part), holder="a job"):
        output = done.plateflow("verify", status=4)
    assert f"features-{part} is at work" in output
    assert "B03 features" in output
    assert "B02 features" not in output
    assert receipts(done) == kept
    assert "verify it again afterwards" in output
    assert "B02 features" in done.plateflow("verify", status=4)
    done.run()
    assert GOOD in done.plateflow("verify")


def test_a_file_that_the_machine_cannot_read_is_no_loss(done, monkeypatch):
    def read(path: Path) -> Stamp:
        if path.name == "B02.parquet" and path.parent.name == "cells":
            raise OSError(5, "Input/output error", str(path))
        return stamp_of(path)

    monkeypatch.setattr("plateflow.stages.job.stamp_of", read)
    output = done.plateflow("verify", status=1)
    assert "cells/B02.parquet: it can't be read: Input/output error" in output
    assert not done.path().watch("verify", "plate").exists()


def test_the_pages_over_all_plates_are_compared_with_their_receipt(done):
    screen = done.loaded.screen
    (receipt,) = screen.receipts("report", "screen")
    done.plateflow("verify")
    flip(screen.table("index.html"))
    assert "screen: results/screen/index.html: its content" in done.plateflow("verify", status=4)
    assert not receipt.exists()
    assert done.run() == set()
    assert GOOD in done.plateflow("verify")
