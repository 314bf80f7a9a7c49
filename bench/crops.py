"""How fast crops are made, and how long the device waits for them.

    python bench/crops.py --data DIR [--device cuda] [--workers 15] [--seconds 30] [--batch 64] [--network default]

Prints JSON lines: of each source of DIR, and of each kind of simulated field, the crops per second that one core makes;
then, of a training with so many processes, steps and crops per second, and the part of the time that the device waited.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from plateflow.simulate.looks import LOOKS
from plateflow.tables import read_rows
from plateflow.train.batches import Batches, Source, balanced
from plateflow.train.data import Sample, look_sample
from plateflow.train.folders import read_sources
from plateflow.train.loop import train
from plateflow.train.recipe import NETWORKS, Recipe


def crops_a_second(recipe: Recipe, samples: list[Sample], seconds: float = 1.5) -> float:
    """By one process; what has to be compiled is, before."""
    batches, count = Batches(recipe, [Source(1.0, samples)]), 0
    for number in range(5):
        batches.crop(number)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        batches.crop(5 + count)
        count += 1
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--network", default="default", choices=NETWORKS)
    options = parser.parse_args()
    networks = {options.network: NETWORKS[options.network]}
    recipe = Recipe(networks=networks, seconds=options.seconds, batch=options.batch)
    sources = read_sources(options.data)
    sources |= {f"simulated_{look}": [look_sample(look, 1, number) for number in range(4)] for look in LOOKS}
    for name, samples in sources.items():
        print(json.dumps({"source": name, "crops_s_core": round(crops_a_second(recipe, samples), 1)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, balanced(sources), Path(folder), device=options.device, workers=options.workers)
        last = read_rows(Path(folder) / "log.csv")[-1]
    steps, seconds = int(last["step"]) + 1, float(last["seconds"])
    line = {"device": options.device, "workers": options.workers, "steps": steps, "seconds": seconds}
    line |= {"crops_s": round(steps * options.batch / seconds, 1), "waited": round(float(last["waited"]) / seconds, 3)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
