"""What durability costs: `tile` and `stitch` with their files made durable before the journal's line, and without.

    python bench/durable.py [--folder DIR] [--wells 8] [--repeats 5]

Both sides run in one process, in turn; without, `settle` does nothing (the lines themselves are flushed on both sides).
Prints JSON lines: seconds of wall by side, medians, and their ratio; and the disk.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from tile import write_plate

from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.project import Plate
from plateflow.stages import run_stage

TINY = Path(__file__).resolve().parents[1] / "tests" / "data" / "tiny.safetensors"
SETTLE = "plateflow.stages.runner.settle"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the results lie; by default where temporary files do")
    parser.add_argument("--wells", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        raw, _ = write_plate(folder, "simulated", options.wells)
        sets = {"nuclei": LabelSet(channels=["DNA"], model=str(TINY))}
        keys = {"parts": {"cpu": 1, "gpu": 1}, "threads": os.cpu_count(), "segmentation": sets}
        plate = Plate(config=Config(results=str(folder / "results"), **keys), spec=PlateSpec(plate="p", path=str(raw)))
        for stage in ("ingest", "tile", "normalise", "infer", "stitch"):  # compiles, and makes the inputs
            run_stage(plate, stage)
        disk = os.popen(f"df --output=source,fstype {folder} | tail -1").read().split()
        for stage in ("tile", "stitch"):
            seconds: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(options.repeats):
                for side, times in seconds.items():
                    for journal in plate.paths.journals(stage):
                        journal.unlink()
                    for old in plate.paths.store.rglob("labels/*/*/c" if stage == "stitch" else "0/[0-9]/c"):
                        shutil.rmtree(old)
                    os.sync()
                    start = time.perf_counter()
                    if side == "with":
                        run_stage(plate, stage)
                    else:
                        with patch(SETTLE, lambda: None):
                            run_stage(plate, stage)
                    times.append(time.perf_counter() - start)
            medians = {side: round(statistics.median(times), 3) for side, times in seconds.items()}
            ratio = round(statistics.median(a / b for a, b in zip(*seconds.values(), strict=True)), 3)
            line = {"bench": "durable", "stage": stage, "wells": options.wells, "disk": disk}
            print(json.dumps(line | {"wall_s": medians, "with_over_without": ratio}))


if __name__ == "__main__":
    main()
