"""Time and memory of `plateflow status` for a screen, from results that were made up as a run leaves them.

    python bench/status.py [--plates 1000] [--wells 384] [--full 3] [--folder DIR]

Prints JSON lines, of the command as a user calls it, wall time and the process's start included: one complete plate;
a screen of which most plates are complete, some stale, half way, failed, or with wells left out; one of which no plate
got further than `normalise`; one of whose plates something else is asked now. Before them, of a few plates: `before`,
the full look at each and its outcomes, which told all plates once; `after`, the glance; and the ratio, in one process.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from status_cases import KINDS, make_screen

from plateflow.asked import Stamps
from plateflow.chain import stages_of
from plateflow.project import Project
from plateflow.stages.stale import glance, to_do
from plateflow.state.progress import Progress

CASES = {"mixed": KINDS, "half way": ("waiting",), "asked anew": ("other",)}


def command(**line: Any) -> None:
    """Time `plateflow status` in the working folder."""
    begin = time.perf_counter()
    code = "from plateflow.cli import app; app()"
    run = ["/usr/bin/time", "-f", "%M kB %U %S", sys.executable, "-c", code, "status"]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode not in (0, 4):
        sys.exit(done.stdout + done.stderr)
    (used,) = re.findall(r"(\d+) kB ([\d.]+) ([\d.]+)", done.stderr)
    line |= {"seconds": round(seconds, 2), "cpu_s": round(float(used[1]) + float(used[2]), 2)}
    print(
        json.dumps(line | {"peak_MB": round(int(used[0]) / 1024), "says": done.stdout.partition("\n")[0]}), flush=True
    )


def both(project: Project) -> None:
    """The full look at a few plates and the glance at the same, in turn."""
    stage_names = [*stages_of(project.config)]
    to_do(next(iter(project.plates.values())), files=False)  # imports what it needs
    begin = time.perf_counter()
    for plate in project.plates.values():
        to_do(plate, files=False)
        for stage in stage_names:
            Counter(entry.state for entry in plate.outcomes(stage).values())
        plate.left_out()
    before = time.perf_counter() - begin
    begin = time.perf_counter()
    progress, stamps = Progress(project.config), Stamps()
    looks = [glance(plate, progress, stamps) for plate in project.plates.values()]
    after = time.perf_counter() - begin
    states = Counter(look.state for look in looks)
    print(
        json.dumps(
            {"case": "full look against glance", "plates": len(looks), "states": states}
            | {"before_s": round(before, 2), "after_s": round(after, 4), "ratio": round(before / after)}
        ),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plates", type=int, default=1000)
    parser.add_argument("--wells", type=int, default=384)
    parser.add_argument("--full", type=int, default=3, help="plates of the comparison with the full look")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        cases = {"full": (options.full, ("complete",)), "one": (1, ("complete",))}
        for name, (plates, kinds) in (cases | {name: (options.plates, kinds) for name, kinds in CASES.items()}).items():
            (place := Path(folder) / name).mkdir()
            sys.stdout, printed = sys.stderr, sys.stdout  # what ingest prints is no result
            project = make_screen(place, plates=plates, wells=options.wells, kinds=kinds)
            sys.stdout = printed
            if name == "full":
                both(project)
            else:
                command(case=name, plates=plates, wells=options.wells)


if __name__ == "__main__":
    main()
