"""The page of a simulated plate, and the page over many: time, memory and size.

    python bench/report.py [--wells 384] [--cells 2000000] [--plates 20] [--folder DIR]

Some wells of a plate, `--distinct` of them, are simulated (9 fields, 3 channels), read, normalised, labelled with
their true objects and measured for real, as far as a network isn't needed; each stands for many others by links to
its raw files, shards and tables, and by its lines in the journals. Where many wells have one cell table, their rows
of the well table vary. Then `plateflow run PLATE report` runs in a process of its own, and `plateflow run screen
screen` over `--plates` plates whose well tables vary again. Prints JSON lines: seconds on the clock and of processor,
peak memory, and MB of the page. What was simulated in `--folder` is used again. It takes some ten minutes on two
cores.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd

from plateflow.config import Config, PlateSpec, config_yaml
from plateflow.files import stamp_of
from plateflow.paths import PlatePaths, parse_well, row_name, well_name
from plateflow.project import Plate, Project
from plateflow.simulate.harmony import HarmonyLayout, file_name
from plateflow.simulate.layout import PlateDescription, Record
from plateflow.simulate.plate import WellPlan, simulate_plate
from plateflow.stages import run_stage
from plateflow.state.journal import PLATE_KEY, Entry
from plateflow.stats import wells as well_tables
from plateflow.stats.controls import control_table
from plateflow.stats.effects import effect_table, treatment_effects
from plateflow.tables import read_table, write_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/features"))

from planted_plate import LABEL_SETS, Planted
from status_cases import write_journal

NAME = "bench"
SHAPES = {96: (8, 12), 384: (16, 24), 1536: (32, 48)}
EDGE, FIELDS = 1080, 9
DENSITY = 496
"""Cells per million pixels of a well that is simulated, from which the fields' size follows."""
RUN = """
import atexit
from plateflow.cli import app
atexit.register(lambda: print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), end=""))
app()
"""
"""Runs `plateflow` and tells its peak memory (kB): that of `wait4` is at least what this process had at the start."""


def roles(wells: Sequence[str], columns: int) -> pd.DataFrame:
    """A plate map: negative controls in the first and last column, positive ones beside; compounds at two doses."""
    rows = []
    for number, well in enumerate(wells):
        place = number % columns
        role = "negative" if place in (0, columns - 1) else "positive" if place in (1, columns - 2) else "treatment"
        compound, dose = divmod(number // 2, 2)
        named = {"negative": ("DMSO", 0.0), "positive": ("nocodazole", 1.0)}
        treatment, amount = named.get(role, (f"c{compound:03d}", (1.0, 10.0)[dose]))
        rows.append({"well": well, "role": role, "treatment": treatment, "dose": amount})
    return pd.DataFrame(rows)


def simulate(root: Path, wells: Sequence[str], seeds: Sequence[str], *, cells: int, columns: int) -> Planted:
    """A plate below a folder, which is the working folder; of its wells `seeds` are simulated, the others links."""
    edge = round((cells / len(wells) / DENSITY * 1e6) ** 0.5 / FIELDS**0.5)
    others = [well for well in wells if well not in seeds]
    stands = {seed: others[n :: len(seeds)] for n, seed in enumerate(seeds)}

    class Linked(HarmonyLayout):
        def __init__(self, out: Path, plate: PlateDescription) -> None:
            super().__init__(out, replace(plate, plate_shape=SHAPES[len(wells)]))

        def write(self, record: Record, pixels: Any, faults: Any = ()) -> None:
            super().write(record, pixels, faults)
            for well in stands[well_name(record.row, record.column)]:
                row, column = parse_well(well)
                self.records.append((replace(record, row=row, column=column), True))
                link(self.raw / "Images" / file_name(record), self.raw / "Images" / file_name(self.records[-1][0]))

    plate_map = roles(wells, columns)
    plans = [WellPlan(well=row.well, role=row.role, effect=0.1) for row in plate_map.itertuples() if row.well in seeds]
    made = simulate_plate(Path("raw"), wells=plans, fields=FIELDS, field_shape=(edge, edge), layout=Linked, plate=NAME)
    plate_map.to_csv(made.plate_map, index=False)
    parts = {"cpu": len(wells) // len(seeds), "gpu": 1}  # the first holds the seeds
    config = Config.model_validate({"segmentation": LABEL_SETS, "parts": parts, "threads": 1})
    spec = PlateSpec(plate=NAME, path=str(made.raw), plate_map=str(made.plate_map))
    planted = Planted(root=root, config=config, entry=spec, truth=made.truth)
    write_project(config.model_copy(update={"parts": config.parts.model_copy(update={"cpu": 8})}), [spec])
    planted.run("ingest")
    run_stage(planted.plate, "tile", "0")
    repeat(planted.plate, "tile", stands)
    planted.run("normalise")
    planted.label(seeds)
    run_stage(planted.plate, "features", "0")
    for stage in ("infer", "stitch", "features"):
        repeat(planted.plate, stage, stands)
    return planted


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        target.hardlink_to(source)


def write_project(config: Config, specs: Sequence[PlateSpec]) -> None:
    Path("config").mkdir(exist_ok=True)
    Path("config/config.yaml").write_text(config_yaml(config))
    pd.DataFrame([spec.model_dump(exclude_none=True) for spec in specs]).to_csv(
        "config/plates.tsv", sep="\t", index=False
    )


def repeat(plate: Plate, stage: str, stands: dict[str, list[str]]) -> None:
    """Give the wells that seeds stand for the files of the seeds, and lines of a journal that says so."""
    paths, lines = plate.paths, []
    done = plate.outcomes(stage)
    for seed, wells in stands.items():
        for entry in [entry for entry in done.values() if entry.well == seed]:
            for well in wells:
                files = {renamed(name, seed, well): stamp for name, stamp in entry.files.items()}
                lines.append({"event": "done", **asdict(replace(entry, well=well, files=files))})
        for well in wells:
            for source in [*paths.image(seed).rglob("c/**/*"), *paths.root.glob(f"*/{seed}.*")]:
                if source.is_file():
                    link(source, paths.root / renamed(source.relative_to(paths.root).as_posix(), seed, well))
            for source in paths.root.glob(f"objects/*/{seed}.parquet"):
                link(source, source.with_name(f"{well}.parquet"))
    write_journal(paths.journal(stage, "repeated"), lines)


def renamed(name: str, seed: str, well: str) -> str:
    """The name of a file of one well for another."""

    def folder(well: str) -> str:
        row, column = parse_well(well)
        return f"plate.zarr/{row_name(row)}/{column + 1:02d}/"

    return name.replace(folder(seed), folder(well)).replace(f"/{seed}.", f"/{well}.")


def aggregate(plate: Plate) -> None:
    """Make the plate's tables; wells that share a cell table get values of their own, controls some that differ."""
    rng, read = np.random.default_rng(1), well_tables.read_cells

    def varied(*args: Any, **more: Any) -> Any:
        return [
            replace(cells, values=cells.values * rng.lognormal(0, 0.05, cells.values.shape))
            for cells in read(*args, **more)
        ]

    with patch.object(well_tables, "read_cells", varied):
        run_stage(plate, "aggregate")


def screen_of(project: Project, first: Plate, number: int) -> list[PlateSpec]:
    """Plates with tables like those of the first, of the same treatments: what the job `screen` reads."""
    table, entry = read_table(first.paths.table("wells.parquet")), first.outcomes("aggregate").required()
    features = [str(name) for name in table if not str(name).startswith("Metadata_")]
    tested = [name for name in features if not name.endswith(("_MAD", "_Q10", "_Q90"))]
    common = np.random.default_rng(2).normal(0, 0.1, (len(table), len(features)))
    specs = [project.plates[NAME].spec]
    for n in range(1, number):
        specs.append(specs[0].model_copy(update={"plate": f"{NAME}{n:03d}"}))
        paths = Plate(config=project.config, spec=specs[-1]).paths
        for source in [*first.paths.root.glob("manifest/*"), *first.paths.root.glob("journal/*")]:
            link(source, paths.root / source.relative_to(first.paths.root))
        noise = common + np.random.default_rng([3, n]).normal(0, 0.1, common.shape)
        noise[(table["Metadata_role"] == "negative").to_numpy()] *= 0.3
        plate = table.assign(Metadata_Plate=paths.plate)
        plate[features] = plate[features].astype(np.float64) * np.exp(noise)
        write_table(paths.table("wells.parquet"), plate)
        controls = control_table(plate, tested)
        controls.insert(1, "Metadata_Time", 0)
        write_table(paths.table("controls.csv"), controls)
        effects = effect_table(paths.plate, treatment_effects(plate, tested, reference="negative"))
        effects.insert(1, "Metadata_Time", 0)
        write_table(paths.table("effects.parquet"), effects)
        files = {name: stamp_of(paths.table(name)) for name in ("wells.parquet", "controls.csv", "effects.parquet")}
        write_journal(paths.journal("aggregate", "plate"), [{"event": "done", **asdict(replace(entry, files=files))}])
    return specs


def measured(*command: str) -> dict[str, Any]:
    """Run `plateflow` in a process of its own."""
    start = time.perf_counter()
    called = [sys.executable, "-c", RUN, *command]
    process = subprocess.Popen(called, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    *told, peak = process.stdout.read().splitlines() or [""]
    print(*told, sep="\n", file=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"plateflow {' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    line: dict[str, Any] = {"seconds": round(time.perf_counter() - start, 1)}
    line["cpu_s"] = round(used.ru_utime + used.ru_stime, 1)
    line["peak_mb"] = round(int(peak.split()[1]) * 1024 / 1e6)
    return line


def megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wells", type=int, default=384, choices=SHAPES)
    parser.add_argument("--cells", type=int, default=2_000_000)
    parser.add_argument("--distinct", type=int, default=4)
    parser.add_argument("--plates", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    rows, columns = SHAPES[options.wells]
    wells = [well_name(*divmod(n, columns)) for n in range(rows * columns)]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(contextlib.chdir(folder))
        if not Path("results").exists():
            seeds = wells[:: options.wells // options.distinct]
            with contextlib.redirect_stdout(sys.stderr):
                planted = simulate(Path(), wells, seeds, cells=options.cells, columns=columns)
                aggregate(planted.plate)
        project = Project.load(Path("config/config.yaml"))
        first = project.plates[NAME]
        entry: Entry = first.outcomes("aggregate")[PLATE_KEY]
        counts = read_table(first.paths.table("wells.parquet"))["Count_Cells"]
        base = {"wells": options.wells, "cells": int(counts.sum()), "state": entry.state}
        for journal in first.paths.journals("report"):
            journal.unlink()  # else the page is up to date
        found = measured("run", NAME, "report")
        print(json.dumps({"what": "report", **base, **found, "page_mb": megabytes(first.paths.table("report.html"))}))
        if len(project.plates) != options.plates:
            write_project(project.config, screen_of(project, first, options.plates))
        found = measured("run", "screen", "screen")
        pages: PlatePaths = project.screen
        page = next(path for name in ("index.html", "report.html") if (path := pages.table(name)).is_file())
        print(json.dumps({"what": "screen", "plates": options.plates, **found, "page_mb": megabytes(page)}))


if __name__ == "__main__":
    main()
