"""A clone after `make demo`, in small: the demo's project beside what the pages take from elsewhere."""

from __future__ import annotations

import shutil
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from command_line import plateflow
from workflow_project import made_quick, run_in_process

from plateflow.model.vit import FlowViT, FlowViTConfig, init_weights
from plateflow.model.weights import save_model
from plateflow.project import Project
from plateflow.simulate.plate import Fault, WellPlan, simulate_plate

SMALL = {"field_shape": (128, 160), "channels": ("DNA", "AGP")}
WELLS = [
    WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0),
    WellPlan(well="B03", role="treatment", treatment="compound-1", dose=0.1, effect=0.1),
    WellPlan(well="B06", role="positive", treatment="nocodazole", dose=1.0, effect=0.95),
    WellPlan(well="C05", role="treatment", treatment="compound-1", dose=3.0, effect=0.75),
    WellPlan(well="C07", role="negative", treatment="DMSO", dose=0.0),
]
"""Of the demo's wells; C07 has its truncated file."""


def _data(folder: Path) -> None:
    """/data of the pages: raw plates, their maps, files that a pattern describes."""
    (folder / "raw").mkdir(parents=True)
    (folder / "maps").mkdir()
    for number in (1, 2):
        made = simulate_plate(folder / "made", plate=f"PLATE{number}", seed=number, wells=WELLS[:2], fields=1, **SMALL)
        made.raw.rename(folder / "raw" / f"PLATE{number}")
        made.plate_map.rename(folder / "maps" / f"PLATE{number}.csv")
    (folder / "tiffs").mkdir()
    for name in ("B03_s1_w1", "B03_s1_w2", "B03_s2_w1", "B03_s2_w2"):
        tifffile.imwrite(folder / "tiffs" / f"{name}.tif", np.full((64, 64), 300, np.uint16))


def _annotated(folder: Path) -> None:
    """Two pairs of images and labels."""
    y, x = np.mgrid[:96, :96]
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(2):
        labels = np.zeros((96, 96), np.uint16)
        for label, (at_y, at_x) in enumerate(((24, 24), (24, 70), (70, 24), (70, 70)), start=1):
            labels[np.hypot(y - at_y - number, x - at_x) < 11] = label
        image = (400 + 3000 * (labels > 0) + rng.normal(0, 60, labels.shape)).astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{number}.tif", image)
        tifffile.imwrite(folder / "labels" / f"{number}.tif", labels)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; `data` beside it is what the pages call /data."""
    folder = tmp_path_factory.mktemp("docs") / "clone"
    demo = folder / "demo"
    demo.mkdir(parents=True)
    made = simulate_plate(
        demo / "raw", wells=WELLS, fields=2, faults=(Fault(kind="truncated", well="C07", field=0, channel=1),), **SMALL
    )
    plateflow("init", made.raw, "--plate", "demo", "--plate-map", made.plate_map, cwd=demo)
    made_quick(demo)
    with chdir(demo):
        run_in_process(Project.load(Path("config/config.yaml")))
    (folder / ".venv").symlink_to(sys.prefix)
    _annotated(folder / "annotated")
    small = FlowViTConfig(
        width=64, depth=2, heads=2, stem="patch", neck="sam", neck_width=16, grid=32, rel_pos=32, local_conv=False
    )
    save_model(init_weights(FlowViT(small), 0), folder / "tuned.safetensors", name="tuned")
    _data(folder.with_name("data"))
    return folder


@pytest.fixture
def home(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the clone, in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return Path(shutil.copytree(clone, tmp_path / "home" / "plateflow", symlinks=True))
