"""What the jobs of a real run read and write, by stage and mode, and what a plate of 384 wells then moves.

    python bench/traffic.py [--wells 2] [--edge 540] [--model default]

Simulates a large and a tiny plate, each of 9 touching fields and 5 channels, with two label sets; runs every job of the
chain in a process of its own (`plateflow run`), in each mode; and reads bytes, time and memory from the ledger. Two
sizes tell what a job moves whatever it does from what grows with its work, as `plateflow.estimate.RATES` has it.
Prints JSON lines: a row of that table per stage and way, and by mode the GB of a plate of 384 x 9 x 5 x 1080 px, whose
raw files aren't compressed. Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from plateflow.chain import stages_of
from plateflow.cli.init import make_spec, write_project
from plateflow.config import Config, Parts, config_yaml
from plateflow.estimate import RATES, Estimate, Size, estimates_of
from plateflow.plates import open_plate
from plateflow.project import Project
from plateflow.simulate.cells import camera, simulate_field
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import PlateDescription, Record
from plateflow.state.ledger import attempts

CHANNELS = ("DNA", "AGP", "Marker", "ER", "Mito")
TINY_PX = 96
PIXEL_UM = 0.6


def write_plate(out: Path, name: str, wells: int, edge: int) -> Path:
    """A Harmony plate, 9 fields of edge x edge px in a square in a well, 5 channels, files not compressed."""
    plate = PlateDescription(name=name, field_shape=(edge, edge), pixel_size_um=PIXEL_UM)
    writer = HarmonyLayout(out, plate)
    for well in range(wells):
        random = np.random.default_rng([7, well])
        scene = simulate_field(random, (3 * edge, 3 * edge), density=0.19, diameter_px=21.0).channels
        scene |= {"ER": (scene["AGP"] + scene["Marker"]) / 2, "Mito": (scene["AGP"] + 2 * scene["Marker"]) / 3}
        for field in range(9):
            top, left = (at * edge for at in divmod(field, 3))
            cut = {each: scene[each][top : top + edge, left : left + edge] for each in CHANNELS}
            for channel, pixels in enumerate(camera(random, cut)):
                place = {"row": 1, "column": 1 + well, "field": field, "channel": channel}
                position = {"y_um": PIXEL_UM * top, "x_um": PIXEL_UM * left}
                writer.write(Record(**place, channel_name=CHANNELS[channel], **position), pixels)
    writer.finish()
    for file in (writer.raw / "Images").glob("*.tiff"):  # as large as can be
        tifffile.imwrite(file, tifffile.imread(file))
    return writer.raw


MODES = {
    "kept, slices": {"keep_flows": True, "follow_slices": 2},
    "kept": {"keep_flows": True, "follow_slices": 1},
    "not kept": {"keep_flows": False, "follow_slices": 1},
}
BEFORE = ("ingest", "tile", "normalise")
HEADLINE = Size(wells=384, fields=9, channels=5, z=1, t=1, field_mpx=1.1664, canvas_mpx=10.4976, image_mpx=10.4976)


def settings(model: str, **mode: Any) -> Config:
    """The configuration of a mode."""
    sets = {"nuclei": {"channels": ["DNA"], "model": model}, "cells": {"channels": ["AGP", "DNA"], "model": model}}
    return Config.model_validate({"segmentation": sets, "parts": {"cpu": 1, "gpu": 1}, "device": "cpu", **mode})


def run(config: Config, plates: Iterable[str], stages: Iterable[str]) -> None:
    """Run all jobs of some stages of plates of the project here, each in a process of its own."""
    Path("config/config.yaml").write_text(config_yaml(config))
    for plate, stage in itertools.product(plates, stages):
        for job in stages_of(config)[stage].jobs(config):
            command = [sys.executable, "-c", "from plateflow.cli import app; app()", "run", plate, stage, job]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def used(config: Config, stages: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A row of the table for each of some stages, from the last attempts at the jobs of both plates."""
    project = Project.load(Path("config/config.yaml"))
    estimates = estimates_of(project)
    last = {
        name: {(row["stage"], row["job"]): row for row in attempts(project.plate(name).paths)} for name in estimates
    }
    found = {}
    for stage in stages:
        jobs = list(stages_of(config)[stage].jobs(config))
        rows = {name: [last[name][stage, job] for job in jobs] for name in estimates}
        units = {
            name: dict(zip(("read", "written"), each.moved(stage), strict=True)) for name, each in estimates.items()
        }
        row: dict[str, Any] = {"stage": stage, "jobs": len(jobs)}
        for key in ("read", "written"):
            moved = {name: sum(each[f"{key}_mb"] for each in rows[name]) for name in rows}
            grown = units["large"][key] - units["tiny"][key]
            row[f"{key}_per_unit"] = max(0.0, moved["large"] - moved["tiny"]) / grown if grown else 0.0
            row[f"{key}_mb"] = max(0.0, moved["tiny"] - row[f"{key}_per_unit"] * units["tiny"][key]) / len(jobs)
        for name, of_plate in rows.items():
            row[f"{name}_cpu_s"] = sum(each["cpu_s"] for each in of_plate) / len(jobs)
            row[f"{name}_peak_mb"] = max(each["peak_mb"] for each in of_plate)
        found[estimates["large"].rate_name(stage)] = {
            k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, default=2, help="of the large plate")
    parser.add_argument("--edge", type=int, default=540, help="of its fields, px")
    parser.add_argument("--model", default="default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for plate, wells, edge in (("large", options.wells, options.edge), ("tiny", 1, TINY_PX), ("warm", 1, TINY_PX)):
            spec = make_spec(write_plate(Path("raw"), plate, wells, edge), plate=plate)
            write_project(Path(), spec, open_plate(spec))
        for mode in MODES.values():  # compiles all that is compiled once
            config = settings(options.model, **mode)
            run(config, ["warm"], stages_of(config))
            shutil.rmtree("results/warm")
        sheet = Path("config/plates.tsv")
        sheet.write_text("".join(line for line in sheet.read_text().splitlines(True) if not line.startswith("warm\t")))
        plates, rates = ("large", "tiny"), {}
        run(settings(options.model, **MODES["kept"]), plates, (*BEFORE, "infer"))
        shutil.copytree("results", "inferred")
        for mode, changes in MODES.items():
            shutil.rmtree("results")
            shutil.copytree("inferred", "results")
            config = settings(options.model, **changes)
            done = () if mode == "not kept" else ("infer",)
            run(config, plates, [stage for stage in stages_of(config) if stage not in (*BEFORE, *done)])
            found = used(config, stages_of(config))
            for row, values in found.items():
                print(json.dumps({"mode": mode, "row": row, **values}), flush=True)
            keys = ("read_mb", "read_per_unit", "written_per_unit")
            rates = {row: replace(RATES[row], **{key: values[key] for key in keys}) for row, values in found.items()}
            headline = Estimate(HEADLINE, config.model_copy(update={"parts": Parts(cpu=8, gpu=1)}), rates)
            gb = {stage: [round(amount, 2) for amount in headline.moved_gb(stage)] for stage in stages_of(config)}
            total = round(sum(headline.traffic_gb().values()), 1)
            scratch = round(headline.storage()["scratch_gb"], 1)
            print(
                json.dumps({"mode": mode, "read and written, GB": gb, "in all": total, "scratch": scratch}), flush=True
            )


if __name__ == "__main__":
    main()
