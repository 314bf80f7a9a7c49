"""`plateflow import`, and what the commands beside it say of corrections: there and back by Cellpose's files."""

from pathlib import Path

import numpy as np
import pytest


def correct(folder: Path) -> None:
    """Erase an object of the first image, as Cellpose's program would save it."""
    file = sorted(folder.glob("*_seg.npy"))[0]
    seg = np.load(file, allow_pickle=True).item()
    seg["masks"][seg["masks"] == seg["masks"].max()] = 0
    np.save(file, seg)


@pytest.fixture
def exported(done) -> Path:
    done.plateflow("export", "micro", "--to", "cellpose", "--wells", "B02", "-o", "exported")
    return done.folder / "exported"


def test_what_was_exported_and_not_changed_is_not_imported(done, exported):
    said = done.plateflow("import", "exported")
    assert "as exported, not imported" in said and "Nothing to import." in said
    assert not done.path().corrections.exists()
    assert "there are no corrections" in done.plateflow("retry", "micro/B02", "--discard-corrections")
    assert "the plate has no well H12" in done.plateflow("retry", "micro/H12", "--discard-corrections", status=1)


def test_an_import_is_told_verified_kept_and_discarded(done, exported):
    correct(exported)
    said = done.plateflow("import", "exported", "--by", "ada")
    assert "0 changed, 0 added, 1 removed" in said and "Now run `snakemake`" in said
    assert "features: 1 stale: corrected cells changed: `snakemake`" in done.plateflow("status", "micro", status=4)
    assert "cells corrected by ada" in done.plateflow("status", "micro/B02", status=4)
    (file,) = done.path().corrections.parent.glob("cells/*.zip")
    done.plateflow("clean", "micro", "--results", "--yes")
    assert file.is_file(), "no run could make it again"
    said = done.plateflow("retry", "micro/B02", "--discard-corrections")
    assert "micro/B02: discarded: cells corrected by ada" in said
    assert not file.exists()


def test_a_correction_that_is_lost_is_told_by_verify(done, exported):
    correct(exported)
    done.plateflow("import", "exported")
    (file,) = done.path().corrections.parent.glob("cells/*.zip")
    file.unlink()
    assert "no run makes it again" in done.plateflow("verify", "micro", status=4)


def test_a_correction_measures_its_well_alone_outlives_another_segmentation_and_is_taken_out(done, exported):
    def cells() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in done.path().root.glob("cells/*.parquet")}

    before, sequences = cells(), done.sequences()
    correct(exported)
    done.plateflow("import", "exported")
    assert {stage for stage, _ in done.run()} == {"features", "aggregate", "report"}
    assert done.redone(sequences) == {("features", "B02", ""), ("aggregate", "", ""), ("report", "", "")}
    corrected = done.path().cells("B02").read_bytes()
    assert corrected != before["B02.parquet"]
    done.configure(lambda config: config["segmentation"]["cells"].update(min_size_px=10_000))
    assert "stitch" in {stage for stage, _ in done.run()}
    assert done.path().cells("B02").read_bytes() == corrected
    assert "made from an earlier segmentation" in done.plateflow("status", "micro/B02")
    done.configure(lambda config: config["segmentation"]["cells"].pop("min_size_px"))
    done.plateflow("retry", "micro", "--discard-corrections")
    done.run()
    assert cells() == before
