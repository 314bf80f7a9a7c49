"""Train `tiny.safetensors`: a network that finds simulated nuclei and cells in a moment, for tests of the workflow.

    python tests/data/train_tiny.py FOLDER

It isn't good: it is small, and found by the tests to be good enough for plates of a few easy cells.
"""

import sys
from pathlib import Path

from plateflow.model import save_model
from plateflow.model.vit import FlowViTConfig
from plateflow.train.augment import Augmentation
from plateflow.train.batches import Source
from plateflow.train.data import plate_sample
from plateflow.train.loop import train
from plateflow.train.recipe import Recipe

RECIPE = Recipe(
    networks={"tiny": FlowViTConfig(width=48, depth=2, heads=1, neck_width=24)},
    steps=3000,
    batch=8,
    crop=128,
    learning_rate=3e-3,
    augmentation=Augmentation(diameters=(11.0, 50.0), zoom=(0.45, 3.0)),
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    nuclei, cells = ([plate_sample(target, 3, n, size=320) for n in range(60)] for target in ("nuclei", "cells"))
    model = train(RECIPE, [Source(0.6, nuclei), Source(0.4, cells)], folder)["tiny"]
    licence = "BSD-3-Clause; trained on simulated images: free for any use"
    save_model(model, Path(__file__).with_name("tiny.safetensors"), name="tiny", licence=licence)
