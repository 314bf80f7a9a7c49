"""The tables over all plates, from simulated effects: time and memory by the number of plates.

    python bench/screen.py [--beside 50] [--plates 200] [--treatments 320] [--features 4000] [--folder DIR]

Side by side on `beside` plates: all effects in one table (tests/stats/whole_screen.py), and in blocks as the rule
`screen` makes them; then the latter alone on more plates. Once all plates have the same treatments, once each has its
own. Every case runs in a process of its own and gives a JSON line: seconds on the clock and of processor, peak memory.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from plateflow.paths import PlatePaths
from plateflow.stats.screen import write_screen_tables

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/stats"))

from simulated_effects import controls, effects, leave
from whole_screen import write_whole

WAYS = {"whole table": write_whole, "in blocks": write_screen_tables}
KINDS = ("shared", "own")


def simulate(folder: Path, plates: int, own: bool, treatments: int, features: list[str]) -> None:
    for number in range(plates):
        rng = np.random.default_rng(number)
        paths = PlatePaths.of(f"plate{number:04d}", results=folder)
        names = [(f"c{n + own * number * treatments:06d}", 1.0) for n in range(treatments)]
        leave(paths, effects(rng, paths.plate, names, features), controls(rng, paths.plate, features))


def measure(way: str, folder: Path, plates: int) -> None:
    """One case, in this process."""
    paths = [PlatePaths.of(f"plate{number:04d}", results=folder) for number in range(plates)]
    start, cpu = time.perf_counter(), time.process_time()
    WAYS[way](PlatePaths.of("screen", results=folder), paths, fdr=0.05)
    line = {"seconds": round(time.perf_counter() - start, 1), "cpu_s": round(time.process_time() - cpu, 1)}
    line["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
    print(json.dumps(line))


def case(way: str, kind: str, folder: Path, plates: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--plates", str(plates)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(result.stdout)
    print(json.dumps({"way": way, "treatments": kind, "plates": plates, **found}), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=int, default=50)
    parser.add_argument("--plates", default="200")
    parser.add_argument("--treatments", type=int, default=320)
    parser.add_argument("--features", type=int, default=4000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    numbers = [int(number) for number in options.plates.split(",")]
    if options.way:
        measure(options.way, options.folder, numbers[0])
        return
    features = [f"Cells_Simulated_Feature{n}" for n in range(options.features)]
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            simulate(folder, max(options.beside, *numbers), kind == "own", options.treatments, features)
            whole, blocks = (case(way, kind, folder, options.beside) for way in WAYS)
            ratio = {key: round(whole[key] / blocks[key], 1) for key in whole}
            print(
                json.dumps({"ratio": "whole table / in blocks", "treatments": kind, "plates": options.beside, **ratio})
            )
            for number in numbers:
                case("in blocks", kind, folder, number)


if __name__ == "__main__":
    main()
