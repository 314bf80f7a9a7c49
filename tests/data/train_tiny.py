"""Train `tiny.safetensors`: a network that finds simulated nuclei and cells in a moment, for tests of the workflow.

    python tests/data/train_tiny.py FOLDER

It isn't good: it is small, and found by the tests to be good enough for plates of a few easy cells.
"""

import sys
from pathlib import Path

from plateflow.model import save_model
from plateflow.model.vit import FlowViTConfig
from plateflow.train.data import simulated_samples
from plateflow.train.loop import Recipe, train

RECIPE = Recipe(
    model=FlowViTConfig(width=48, depth=2, heads=1, neck_width=24),
    steps=2000,
    batch=8,
    learning_rate=3e-3,
    large_from=0.75,
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    nuclei, cells = simulated_samples(60, seed=3)
    model = train(RECIPE, [(0.6, nuclei), (0.4, cells)], {}, folder, threads=1)
    licence = "BSD-3-Clause; trained on simulated images: free for any use"
    save_model(model, Path(__file__).with_name("tiny.safetensors"), name="tiny", licence=licence)
