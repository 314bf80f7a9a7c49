"""Time and memory of `snakemake -n` for a screen, and what parsing the Snakefile imports.

    python bench/plan.py [--plates 100]

Prints one JSON line. The plan depends on plates and parts alone, never on the number of wells; 384 is for the record.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plateflow.config import config_yaml

REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plates", type=int, default=100)
    count = parser.parse_args().plates
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config"
        config.mkdir()
        (config / "config.yaml").write_text(config_yaml())
        lines = [f"plate{n:04d}\t/raw/plate{n:04d}\tharmony" for n in range(count)]
        (config / "plates.tsv").write_text("plate\tpath\tlayout\n" + "\n".join(lines) + "\n")
        command = [sys.executable, "-m", "snakemake", "-n", "-q", "all", "-s", str(REPOSITORY / "Snakefile")]
        command += ["--workflow-profile", str(REPOSITORY / "profiles" / "default")]
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            result = subprocess.run(
                ["/usr/bin/time", "-f", "%M kB", *command], cwd=folder, check=False, capture_output=True, text=True
            )
            seconds.append(time.perf_counter() - begin)
            if result.returncode:
                sys.exit(result.stdout + result.stderr)
        memory = int(re.findall(r"(\d+) kB", result.stderr)[-1]) / 1024
        print(json.dumps({"plates": count, "wells": 384, "seconds": sorted(seconds)[1], "peak_MB": round(memory)}))


if __name__ == "__main__":
    main()
