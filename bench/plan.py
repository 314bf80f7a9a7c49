"""Time and memory of `snakemake -n` for a screen, and what parsing the Snakefile imports.

    python bench/plan.py [--plates 100] [--parts 8,2]

Prints one JSON line: wall and processor seconds, peak memory. The plan depends on plates and parts alone, never on the
number of wells.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plateflow.config import Config, Parts, PlateSpec, config_yaml

SIZES = {"wells": 384, "fields": 9, "channels": 5, "z": 1, "t": 1}
SIZES |= {"field_mpx": 1.166, "canvas_mpx": 10.498, "image_mpx": 10.498}
REPOSITORY = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plates", type=int, default=100)
    parser.add_argument("--parts", default="8,2", help="cpu,gpu")
    arguments = parser.parse_args()
    count, (cpu, gpu) = arguments.plates, map(int, arguments.parts.split(","))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config"
        config.mkdir()
        (config / "config.yaml").write_text(config_yaml(Config(parts=Parts(cpu=cpu, gpu=gpu))))
        with (config / "plates.tsv").open("w", newline="") as file:
            sheet = csv.DictWriter(file, list(PlateSpec.model_fields), delimiter="\t")
            sheet.writeheader()
            for n in range(count):
                sheet.writerow({"plate": f"plate{n:04d}", "path": f"/raw/plate{n:04d}", "layout": "harmony", **SIZES})
        command = [sys.executable, "-m", "snakemake", "-n", "-q", "all", "-s", str(REPOSITORY / "Snakefile")]
        command += ["--workflow-profile", str(REPOSITORY / "profiles" / "default")]
        seconds, cpu_seconds = [], []
        for _ in range(3 if count <= 100 else 1):
            begin = time.perf_counter()
            result = subprocess.run(
                ["/usr/bin/time", "-f", "%M kB %U %S", *command],
                cwd=folder,
                check=False,
                capture_output=True,
                text=True,
            )
            seconds.append(time.perf_counter() - begin)
            if result.returncode:
                sys.exit(result.stdout + result.stderr)
            (found,) = re.findall(r"(\d+) kB ([\d.]+) ([\d.]+)", result.stderr)
            memory = int(found[0]) / 1024
            cpu_seconds.append(float(found[1]) + float(found[2]))
        found = {"seconds": min(seconds), "cpu_s": min(cpu_seconds), "peak_MB": round(memory)}
        print(json.dumps({"plates": count, "parts": [cpu, gpu], **found}))


if __name__ == "__main__":
    main()
