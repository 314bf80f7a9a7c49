"""Tiling beside reading: the same files, once only read and decoded with tifffile, once tiled into a plate's store.

    python bench/tile.py [--planes real|simulated] [--wells 8] [--repeats 3]

Both sides run in one process, in turn, with the same two threads. Prints JSON lines: seconds of wall and of
processor a plane, medians; the ratio (reading over tiling, 1 is as fast as reading); and how many files the store of
384 wells would have.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tifffile

from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.simulate.cells import camera, simulate_field
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import PlateDescription, Record
from plateflow.stages import ingest, tile
from plateflow.stages.job import Job
from plateflow.stages.tile import THREADS

CHANNELS, FIELDS = ("DNA", "AGP", "Marker", "ER", "Mito"), 9
REPOSITORY = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("PLATEFLOW_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


def planes(kind: str) -> list[np.ndarray]:
    """A few planes of 1080 x 1080 px that the plate repeats."""
    if kind == "real":
        files = sorted((REAL / "plates/phenix_harmony5_BR00121482/Images").glob("*-ch[1-5]sk*.tiff"))
        return [tifffile.imread(file) for file in files]
    rng = np.random.default_rng(0)
    scene = simulate_field(rng, (1080, 1080), density=0.19, diameter_px=21.0)
    return list(camera(rng, scene.channels))


def write_plate(out: Path, kind: str, wells: int) -> tuple[Path, list[Path]]:
    """A Harmony plate of 9 fields in a square and 5 channels a well; its folder and images."""
    some = planes(kind)
    height, width = some[0].shape
    plate = PlateDescription(name="p", plate_shape=(16, 24), field_shape=(height, width), pixel_size_um=0.6)
    writer = HarmonyLayout(out, plate)
    number = 0
    for well in range(wells):
        for field in range(FIELDS):
            y, x = (0.6 * at * side for at, side in zip(divmod(field, 3), (height, width), strict=True))
            for channel, name in enumerate(CHANNELS):
                place = {"row": well // 24, "column": well % 24, "field": field, "channel": channel}
                writer.write(Record(**place, channel_name=name, y_um=y, x_um=x), some[number % len(some)])
                number += 1
    writer.finish()
    return writer.raw, sorted((writer.raw / "Images").glob("*.tiff"))


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def read_all(files: list[Path]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(tifffile.imread, files):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", choices=("real", "simulated"), default="simulated")
    parser.add_argument("--wells", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, files = write_plate(folder, options.planes, options.wells)
        results = folder / "results"
        sets = {name: LabelSet(channels=["DNA"]) for name in ("nuclei", "cells")}
        config = Config(results=str(results), parts={"cpu": 1, "gpu": 1}, segmentation=sets, levels=3)
        entry = PlateSpec(plate="p", path=str(raw))
        jobs = {
            stage: Job.of(Plate(config=config, spec=entry), stage, job)
            for stage, job in (("ingest", "plate"), ("tile", "0"))
        }

        def tile_all() -> None:
            shutil.rmtree(results, ignore_errors=True)
            ingest.run(jobs["ingest"])
            tile.run(jobs["tile"])

        read_all(files[:20]), tile_all()  # compiled, and in the file system's cache
        times: dict[str, list[tuple[float, float]]] = {"read": [], "tile": []}
        for _ in range(options.repeats):
            times["read"].append(measured(lambda: read_all(files)))
            shutil.rmtree(results)
            ingest.run(jobs["ingest"])
            times["tile"].append(measured(lambda: tile.run(jobs["tile"])))
        seconds = {}
        for side, runs in times.items():
            wall, processor = (statistics.median(column) for column in zip(*runs, strict=True))
            seconds[side] = wall, processor
            line = {"bench": "tile", "side": side, "planes": len(files), "kind": options.planes, "threads": THREADS}
            print(json.dumps(line | {"wall_s": round(wall, 3), "processor_s": round(processor, 3)}))
        ratio = {
            name: round(seconds["read"][n] / seconds["tile"][n], 3) for n, name in enumerate(("wall", "processor"))
        }
        print(json.dumps({"bench": "tile", "read_over_tile": ratio}))
        print(json.dumps({"bench": "files", **files_of(jobs["tile"].paths, options.wells)}))


def files_of(paths: PlatePaths, wells: int) -> dict[str, int]:
    """Files of the store and of a full one: 384 wells, and the shards of labels, which stitch writes one a level."""
    found = sum(path.is_file() for path in paths.store.rglob("*"))
    shared = 1 + len({path.name for path in paths.store.iterdir() if path.is_dir()})
    each = (found - shared) // wells
    return {"files": found, "a_well": each, "of_384_wells_with_labels": 384 * (each + 2 * 3) + 1 + 16}


if __name__ == "__main__":
    main()
