"""The program that trains what ships: which samples it takes, what it holds out, and what it needs installed."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from plateflow.model import load_model
from plateflow.model.vit import FlowViTConfig
from plateflow.train import default, recipe
from plateflow.train.data import plate_sample

NEEDED = {"torch", "numpy", "scipy", "skimage", "numba", "tifffile", "safetensors", "rich"}
NOT_NEEDED = (
    "google_crc32c",
    "pydantic",
    "pandas",
    "zarr",
    "yaml",
    "imagecodecs",
    "typer",
    "jinja2",
    "pyarrow",
    "snakemake",
    "altair",
    "defusedxml",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Every source with twenty small images, but CODEX with two."""
    rng = np.random.default_rng(0)
    for name in (*default.REAL, *default.HELD_OUT_SOURCES):
        for number in range(2 if name == "codex_wholecell" else 20):
            labels = np.zeros((64, 64), np.uint16)
            labels[10:26, 12:30], labels[40:56, 30:50] = 1, 2
            image = (rng.integers(0, 40, labels.shape) + 150 * (labels > 0)).astype(np.uint8)
            if name == "codex_wholecell":
                image = np.stack([image, image, image]).astype(np.uint16)
            if name == "dsb2018_histology_purple":
                image = np.stack([255 - image] * 3, -1)
            for kind, array in (("images", image), ("labels", labels)):
                folder = tmp_path / "data" / "train" / name / kind
                folder.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(folder / f"{number:02}.tif", array)
    return tmp_path / "data"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiny networks and one quick simulated source."""
    for name, width in (("default", 24), ("fast", 16)):
        config = FlowViTConfig(width=width, depth=1, heads=1, neck_width=8)
        monkeypatch.setitem(recipe.NETWORKS, name, config)
    monkeypatch.setattr(default, "SIMULATED", {(plate_sample, "nuclei"): (0.3, 1.0)})
    monkeypatch.setattr(default, "HELD_OUT_FIELDS", 1)


def test_what_is_held_out_is_not_trained_on(data: Path, small: None) -> None:
    sources, held_out = default.sources_of(data, fields=2, workers=1)
    trained = {(s.source, s.name) for source in sources for s in source.samples}
    kept_back = {(s.source, s.name) for samples in held_out.values() for s in samples}
    assert not trained & kept_back
    assert {name for name, _ in trained} == {*default.REAL, "plate_nuclei"}
    assert {name for name, _ in kept_back} == {
        *default.HELD_OUT_SOURCES,
        *default.REAL,
        "plate_nuclei",
    } - {"codex_wholecell"}
    assert len(held_out["dsb2018_fluo_256A"]) == 3


def test_shares_add_up_and_fields_are_drawn_by_their_parts() -> None:
    shares = [*default.REAL.values(), *(share for share, _ in default.SIMULATED.values())]
    assert sum(shares) == pytest.approx(1)
    assert sum(part for _, part in default.SIMULATED.values()) == pytest.approx(1)


def test_fields_are_the_same_however_many_processes_draw_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        default, "SIMULATED", {(plate_sample, "nuclei"): (1.0, 0.5), (plate_sample, "cells"): (1.0, 0.5)}
    )
    alone, together = (default.simulated(4, seed=1, workers=n) for n in (1, 2))
    for one, two in zip(alone, together, strict=True):
        assert len(one) == len(two) == 2
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, two, strict=True))
    assert (alone[0][0].source, alone[1][0].source) == ("plate_nuclei", "plate_cells")


def test_a_start_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit):
        default.main(["--start", "default=nowhere.safetensors"])


def test_the_program_writes_two_models_and_their_figures_with_little_installed(data: Path, tmp_path: Path) -> None:
    """It runs where a GPU is lent: torch, numpy and their like, nothing of the pipeline."""
    out = tmp_path / "out"
    arguments = ["--data", str(data), "--out", str(out), "--steps", "2", "--fields", "2", "--batch", "2"]
    arguments += ["--crop", "32", "--workers", "1"]
    code = f"""
import sys
for name in {NOT_NEEDED}:
    sys.modules[name] = None
import plateflow.report.card
from plateflow.model.vit import FlowViTConfig
from plateflow.train import default, recipe
for name, width in (("default", 24), ("fast", 16)):
    recipe.NETWORKS[name] = FlowViTConfig(width=width, depth=1, heads=1, neck_width=8)
default.SIMULATED, default.HELD_OUT_FIELDS = {{(default.plate_sample, "nuclei"): (0.3, 1.0)}}, 1
default.main({arguments})
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()[-1].split()) >= NEEDED
    assert {load_model(out / f"{name}.safetensors").config.width for name in ("default", "fast")} == {24, 16}
    rows = list(csv.DictReader((out / "held-out.csv").open()))
    assert {row["model"] for row in rows} == {"default", "fast"}
    assert {"dsb2018_fluo_520_large", "cfos_lab_wue1", "plate_nuclei"} <= {row["source"] for row in rows}
