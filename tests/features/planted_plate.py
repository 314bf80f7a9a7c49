"""A small simulated plate with its true objects in the place of segmented ones: what features and later stages need,
without a network. Ingest, tile and normalise are real."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import ndimage

from plateflow.config import Config, PlateSpec
from plateflow.files import write_atomic
from plateflow.images.well import WellImage
from plateflow.project import Plate
from plateflow.simulate.plate import Fault, WellPlan, simulate_plate
from plateflow.stages import run_stage
from plateflow.state.journal import Entry, append_outcome

LABEL_SETS = {"nuclei": {"channels": ["DNA"]}, "cells": {"channels": ["AGP", "DNA"]}}


@dataclasses.dataclass
class Planted:
    """A plate in a folder, and its jobs."""

    root: Path
    config: Config
    entry: PlateSpec
    truth: Path

    @property
    def plate(self) -> Plate:
        return Plate(config=self.config, spec=self.entry)

    def copy(self, root: Path, **change: object) -> "Planted":
        """The same results in another folder, for a test that changes them; `change` is of the configuration."""
        shutil.copytree(self.root / "results", root / "results")
        config = Config.model_validate(self.config.model_dump() | {"results": str(root / "results")} | change)
        return dataclasses.replace(self, root=root, config=config)

    @property
    def paths(self):
        return self.plate.paths

    def label(self, wells: Sequence[str] | None = None, *, version: str = "1") -> None:
        """Write true objects and what infer and stitch would say of them; wells that tile left out are passed on."""
        tiles = self.plate.outcomes("tile")
        for well in wells or self.plate.wells:
            entry = tiles[well, "", -1]
            for name in self.plate.segmented(well):
                outcome = Entry(well=well, label_set=name, fingerprint=f"{entry.fingerprint}-{version}")
                if entry.left_out:
                    outcome = dataclasses.replace(outcome, state=entry.state, reason=entry.reason)
                else:
                    self._plant(well, name)
                append_outcome(self.paths.journal("stitch", "0"), outcome)
                model = {"model": "default", "licence": "CC-BY-4.0", "sha256": "0123456789abcdef", "device": "cpu"}
                append_outcome(self.paths.journal("infer", "0"), dataclasses.replace(outcome, info=model))

    def _plant(self, well: str, name: str) -> None:
        with np.load(self.truth / f"{well}.npz") as file:
            true = file[name]  # (y, x), or of a series (t, z, y, x)
        drawn, tables, count = [], [], 0
        for canvas in self.plate.canvases(well, name):
            plane = true[canvas.t, slice(None) if canvas.depth else canvas.z] if true.ndim == 4 else true
            part = np.where(canvas.owner() >= 0, plane[(..., *canvas.slices)], 0)
            seen = np.unique(part[part > 0])
            labels = np.zeros(part.shape, np.uint32)
            labels[part > 0] = np.searchsorted(seen, part[part > 0]) + 1 + count
            drawn.append((canvas, labels))
            numbers = np.arange(count + 1, count + 1 + len(seen))
            middle = np.reshape(ndimage.center_of_mass(labels > 0, labels, numbers), (-1, part.ndim)).astype(np.int32)
            tables.append(
                pa.table(
                    {
                        "label": pa.array(numbers, pa.uint32()),
                        "canvas": pa.array([canvas.index] * len(seen), pa.int32()),
                        "seed_z": middle[:, 0] if canvas.depth else np.full(len(seen), canvas.z, np.int32),
                        "seed_y": middle[:, -2] + np.int32(canvas.y),
                        "seed_x": middle[:, -1] + np.int32(canvas.x),
                        "area_px": np.bincount(labels.ravel(), minlength=count + 1 + len(seen))[numbers],
                        "flow_error": numbers / 1000,
                        "cell_probability": 5 - numbers / 1000,
                    }
                )
            )
            count += len(seen)
        planes = [
            (part, labels if canvas.depth is None else labels[k])
            for canvas, labels in drawn
            for k, part in enumerate(canvas.planes())
        ]
        planes.sort(key=lambda pair: (pair[0].t, pair[0].z))
        for (t, z), plane in groupby(planes, key=lambda pair: (pair[0].t, pair[0].z)):
            WellImage.open(self.paths, well).write_labels(name, t, z, list(plane))
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), buffer)
        write_atomic(self.paths.objects(name, well), buffer.getvalue())

    def run(self, *stages: str) -> None:
        for stage in stages:
            run_stage(self.plate, stage)

    def journal(self, stage: str) -> list[str]:
        """The wells that a stage did, in order."""
        lines = [line for path in self.paths.journals(stage) for line in path.read_text().splitlines()]
        return [line["well"] for line in map(json.loads, lines) if line["event"] == "done"]

    def cells(self, well: str) -> pd.DataFrame:
        return pd.read_parquet(self.paths.cells(well))


FAULTS = (
    Fault(kind="truncated", well="B05", field=0, channel=1),
    Fault(kind="truncated", well="C02", field=0),
    Fault(kind="truncated", well="C02", field=1),
    Fault(kind="defocus", well="B03", field=1),
)


_MADE: list[Planted] = []


def small_plate(root: Path) -> Planted:
    """Seven wells: five with cells (one field of B05 broken, one of B03 out of focus), C02 broken, B06 empty.

    It is made once a process; each caller gets a copy of its results.
    """
    wells = [
        WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0),
        WellPlan(well="B03", role="negative", treatment="DMSO", dose=0.0),
        WellPlan(well="B04", role="treatment", treatment="compound-1", dose=1.0, effect=0.5),
        WellPlan(well="B05", role="treatment", treatment="compound-1", dose=10.0, effect=0.9),
        WellPlan(well="B06", role="empty"),
        WellPlan(well="C02", role="negative", treatment="DMSO", dose=0.0),
        WellPlan(well="C03", role="treatment", treatment="compound-1", dose=1.0, effect=0.5),
    ]
    if not _MADE:
        _MADE.append(plant(root / "first", wells, faults=FAULTS, size=256))
    return _MADE[0].copy(root)


def plant(
    root: Path,
    wells: Sequence[WellPlan],
    *,
    faults: Sequence[Fault] = (),
    fields: int = 2,
    size: int = 128,
    change: Callable[[dict], None] = lambda config: None,
    plate_map: bool = True,
) -> Planted:
    """Simulate a plate below `root`, run it up to normalise, and plant its objects."""
    made = simulate_plate(root / "raw", wells=wells, fields=fields, field_shape=(size, size), faults=faults)
    settings = {
        "plates": str(root / "plates.tsv"),
        "results": str(root / "results"),
        "parts": {"cpu": 1, "gpu": 1},
        "levels": 2,
        "segmentation": LABEL_SETS,
    }
    change(settings)
    entry = PlateSpec(plate="demo", path=str(made.raw), plate_map=str(made.plate_map) if plate_map else None)
    planted = Planted(root=root, config=Config.model_validate(settings), entry=entry, truth=made.truth)
    planted.run("ingest", "tile", "normalise")
    planted.label()
    return planted


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A small plate with its tables: a plate for each folder of tests that names it, as they change theirs."""
    plate = small_plate(tmp_path_factory.mktemp("planted"))
    plate.run("features", "aggregate")
    return plate
