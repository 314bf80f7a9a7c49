"""What a fine-tune on a few corrected images gains on the others of their source.

    python bench/fine_tune.py FOLDER --start WEIGHTS [--images 5] [--seed 0] [--steps 150] [--batch 4] [--rate 3e-4]

FOLDER holds the images of one source and their labels; a few of them, drawn by the seed, are learnt from. The start and
what became of it segment all others, in this process: a JSON line gives AP@0.5 of both and its gain, each with the
interval of 95 %, minutes on the clock and of processor, and the images that were learnt from.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from plateflow.model import load_model
from plateflow.train.augment import Augmentation
from plateflow.train.batches import Source
from plateflow.train.evaluate import Found, difference, find, scored
from plateflow.train.folders import read_source
from plateflow.train.loop import train
from plateflow.train.recipe import Recipe


def minutes() -> tuple[float, float]:
    """On the clock; of processor, processes that have ended included."""
    times = os.times()
    return time.perf_counter() / 60, sum(times[:4]) / 60


def ap(found: list[Found]) -> list[float]:
    score = scored(found)
    return [round(value, 3) for value in (score.ap[0], *score.interval)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    samples = read_source(args.folder)
    chosen = set(np.random.default_rng(args.seed).choice(len(samples), args.images, replace=False).tolist())
    shown, others = ([s for n, s in enumerate(samples) if (n in chosen) == seen] for seen in (True, False))
    sizes = [sample.diameter for sample in shown if sample.diameter]
    recipe = Recipe(
        networks={"tuned": load_model(args.start).config},
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.rate,
        warm_up=10,
        seed=args.seed,
        augmentation=Augmentation(diameters=(min(sizes) / 1.25, max(sizes) * 1.25)),
    )
    before = find(others, args.start)
    with tempfile.TemporaryDirectory() as folder:
        clock, processor = minutes()
        train(recipe, [Source(1.0, shown)], Path(folder), starts={"tuned": args.start}, workers=1)
        clock, processor = (end - begun for end, begun in zip(minutes(), (clock, processor), strict=True))
        after = find(others, Path(folder) / "tuned.safetensors")
    gain, (low, high) = difference(after, before)
    line = {
        "source": args.folder.name,
        "learnt_from": [sample.name for sample in shown],
        "images": len(others),
        "before": ap(before),
        "after": ap(after),
        "gain": [round(value, 3) for value in (gain, low, high)],
        "steps": args.steps,
        "crops": args.steps * args.batch,
        "minutes": round(clock, 1),
        "cpu_minutes": round(processor, 1),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
