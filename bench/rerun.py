"""How long a run with nothing to do takes, for the plate that `make demo` has left.

    make demo && python bench/rerun.py [--project demo]

Prints one JSON line: median of 5 runs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=REPOSITORY / "demo")
    project = parser.parse_args().project
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        result = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
        seconds.append(time.perf_counter() - begin)
        if result.returncode or "Nothing to be done" not in result.stdout + result.stderr:
            sys.exit(f"status {result.returncode}, and there was something to do:\n{result.stdout}{result.stderr}")
    print(json.dumps({"rerun_s": round(statistics.median(seconds), 2), "runs": [round(s, 2) for s in seconds]}))


if __name__ == "__main__":
    main()
