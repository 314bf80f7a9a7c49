"""What a training of ViT-L takes of a GPU's memory, beside the estimate that `plateflow train` prints.

    python bench/train_memory.py [--device cuda] [--seconds 50]

Trains random weights of the published shape for three steps of random crops, in several ways, as long as time is left.
Prints JSON lines: GB estimated, the most that tensors and the allocator took, and seconds of a step.
"""

import argparse
import json
import time
from dataclasses import replace

import torch

from plateflow.model.vit import VIT_L
from plateflow.train.loop import _Learner
from plateflow.train.memory import FIXED, memory_need
from plateflow.train.ranks import Ranks
from plateflow.train.recipe import Recipe, defaults_for

WAYS = ({"batch": 8}, {"batch": 8, "accumulate": 2}, {"batch": 16}, {"batch": 2, "recompute": False}, {"batch": 1})
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=50.0)
    options = parser.parse_args()
    device, started = torch.device(options.device), time.monotonic()
    base = Recipe(networks={"vit_l": VIT_L}, steps=STEPS, **defaults_for(VIT_L, trained=True))
    for way in WAYS:
        if time.monotonic() - started > options.seconds - 10:
            break
        recipe = replace(base, **way)
        weights, crops = memory_need(recipe)
        line = {**way, "estimated_gb": round((weights + crops + FIXED) / 1e9, 2), "of_crops_gb": round(crops / 1e9, 2)}
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        learner = _Learner(VIT_L, recipe, device, None, Ranks())
        size = (recipe.batch, 3, recipe.crop, recipe.crop)
        images, target = torch.randn(size, device=device), torch.rand(size, device=device)
        for step in range(STEPS):
            begun = time.monotonic()
            loss = learner.learn(images, target, step=step, rate=1e-5).item()
        line |= {"step_s": round(time.monotonic() - begun, 3), "loss": round(loss, 3)}
        if device.type == "cuda":
            line["tensors_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            line["allocator_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
            free, total = torch.cuda.mem_get_info()
            line["device_gb"] = round((total - free) / 1e9, 2)
        print(json.dumps(line), flush=True)
        del learner


if __name__ == "__main__":
    main()
