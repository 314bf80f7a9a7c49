"""Every key of the configuration does something: one run with nearly all of them changed, beside a usual one."""

import numpy as np
import pytest


def test_keys_that_change_where_and_how_change_no_label(project):
    """Blocks, batches, threads, scratch, slices: the same labels, byte for byte, from nothing."""
    import shutil

    before = {k: v for k, v in project.results().items() if not k.startswith("manifest")}
    for folder in ("results", ".snakemake"):
        shutil.rmtree(project.folder / folder)

    def change(config):
        config.update(
            results="elsewhere",
            scratch="scratch",
            follow_block_px=64,
            follow_slices=3,
            device="cpu",
            parts={"cpu": 1, "gpu": 1},
        )

    project.configure(change)
    project.run()
    (project.folder / "results").symlink_to("elsewhere")
    assert list((project.folder / "scratch").rglob("*.*"))
    assert not project.path().scratch.exists()
    assert len(list((project.folder / "scratch").rglob("ends/nuclei/B02/*.ends"))) == 10, "5 x 2 blocks"
    assert {k: v for k, v in project.results().items() if not k.startswith("manifest")} == before


def test_keys_that_change_results(project):
    import pandas as pd
    import zarr

    before = zarr.open_array(project.path().image("B02") / "labels/cells/0", mode="r")[...]
    moved = project.folder / "sheet.tsv"
    (project.folder / "config/plates.tsv").rename(moved)

    def change(config):
        config["plates"] = "sheet.tsv"
        config["levels"] = 2
        config["results"] = "other"
        config["batch_size"] = 1
        config["threads"] = 2
        config["normalise"] = {"freeze": 3, "percentiles": [5.0, 95.0], "scope": "well", "illumination": False}
        config["segmentation"]["cells"]["diameter_um"] = 9.0
        config["features"]["rows"] = "nuclei"
        config["quality"] = {"focus_mad": 0.01, "saturated_fraction": 1e-9, "intensity_mad": 0.01}

    project.configure(change)
    project.run()
    root = project.folder / "other" / "micro"
    (project.folder / "results").rename(project.folder / "first")
    (project.folder / "results").symlink_to("other")
    image = project.path().image("B02")
    assert sorted(path.name for path in image.iterdir() if path.name.isdigit()) == ["0", "1"]
    assert sorted(path.name for path in (image / "labels/cells").iterdir() if path.name.isdigit()) == ["0", "1"]
    after = zarr.open_array(image / "labels/cells/0", mode="r")[...]
    assert after.shape == before.shape
    assert not np.array_equal(after, before)
    cells = pd.read_parquet(project.path().cells("B02"))
    nuclei = pd.read_parquet(project.path().objects("nuclei", "B02"))
    assert len(cells) == len(nuclei), "a row a nucleus"
    with np.load(project.path().root / "manifest" / "illumination.npz") as stored:
        coefficients = stored["coefficients"]
    assert np.allclose(coefficients[:, 0, 0], 1)
    assert np.count_nonzero(coefficients) == len(coefficients), "flat: no correction"
    qc = pd.read_parquet(root / "qc.parquet")
    wells = pd.read_csv(root / "wells.csv")
    flags = wells.to_csv() + qc.to_csv()
    assert "focus" in flags or "intensity" in flags


@pytest.mark.parametrize("z", ["mean", "plane 0", "keep"])
def test_z_modes_run_on_a_plate_of_one_plane(project, z):
    """With one plane they all mean the same; stacks are tested where images are read."""
    before = project.sequences()
    project.configure(lambda config: config.update({"z": z}))
    project.run()
    assert ("infer", "B02", "cells") in project.redone(before)
    with np.load(project.path().histogram("B02")) as stored:
        assert stored.files
