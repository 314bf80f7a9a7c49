"""What `plateflow train` on a few corrected images gains on the others of their source.

    python bench/fine_tune.py FOLDER --from MODEL [--images 5] [--seed 0] [--threads 2] [OPTION OF plateflow train ...]

FOLDER holds the images of one source, in images/ and labels/; a few of them, drawn by the seed, are learnt from by the
command as it is. The start and what became of it segment all others, in this process: a JSON line gives AP@0.5 of both
and the gain, each with its interval of 95 %, minutes on the clock and of processor, and what was learnt from.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from plateflow.cli import run_typed
from plateflow.train.evaluate import Found, differences, find, scored
from plateflow.train.folders import read_source


def minutes() -> tuple[float, float]:
    """On the clock; of processor, processes that have ended included."""
    return time.perf_counter() / 60, sum(os.times()[:4]) / 60


def ap(found: list[Found]) -> list[float]:
    score = scored(found)
    return [round(value, 3) for value in (score.ap[0], *score.ap_interval)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="start", required=True)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args, options = parser.parse_known_args()
    torch.set_num_threads(args.threads)
    samples = read_source(args.folder)
    numbers = np.random.default_rng(args.seed).choice(len(samples), args.images, replace=False)
    shown = {samples[number].name for number in numbers}
    others = [sample for sample in samples if sample.name not in shown]
    before = list(find(others, args.start))
    source, here = args.folder.absolute(), Path.cwd()
    start = str(Path(args.start).absolute()) if Path(args.start).exists() else args.start
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind in ("images", "labels"):
            Path(source.name, kind).mkdir(parents=True)
            for path in (path for path in (source / kind).iterdir() if path.stem in shown):
                shutil.copy(path, Path(source.name, kind))
        clock, processor = minutes()
        run_typed(["train", "--name", "tuned", "--from", start, "--data", source.name, "--device", "cpu", *options])
        clock, processor = (end - begun for end, begun in zip(minutes(), (clock, processor), strict=True))
        after = list(find(others, "tuned"))
        recipe = json.loads(Path("training/tuned/recipe.json").read_text())
        steps = Path("training/tuned/log.csv").read_text().splitlines()[-1].partition(",")[0]
        os.chdir(here)
    gain, (low, high) = differences(after, before)[-1][1:3]
    line = {
        "source": source.name,
        "learnt_from": sorted(shown),
        "images": len(others),
        "before": ap(before),
        "after": ap(after),
        "gain": [round(value, 3) for value in (gain, low, high)],
        "last_step": int(steps),
        "batch": recipe["batch"],
        "minutes": round(clock, 1),
        "cpu_minutes": round(processor, 1),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
