"""`python -m plateflow.train.default`: train the default model from nothing, as its card says.

A run that was stopped goes on from its last checkpoint. The weights are written beside it; putting them into the
package (`plateflow/model/weights/default.safetensors`) is left to whoever decides that they are better.
"""

import argparse
from pathlib import Path

from rich.console import Console

from plateflow.model.vit import FlowViTConfig
from plateflow.model.weights import save_model
from plateflow.train.data import Sample, load_source, simulated_samples
from plateflow.train.evaluate import DATA, evaluate, table
from plateflow.train.loop import Recipe, train

# The weight of each source: about 40 % of the crops are simulated, half of these whole cells. c-Fos images are left
# out: only positive nuclei are annotated in them.
REAL = {"dsb2018_fluo_256A": 0.21, "dsb2018_fluo_256B": 0.14, "dsb2018_fluo_360": 0.17, "codex_wholecell": 0.08}
HELD_OUT = "dsb2018_fluo_520_large"
SIMULATED = (0.20, 0.20)
FIELDS = 140
RECIPE = Recipe(model=FlowViTConfig(width=192, depth=6, heads=3), steps=3000)
LICENCE = "BSD-3-Clause; trained on CC0, MIT and simulated images: free for any use"
CITATION = (
    "Plateflow default model. Training images: Caicedo et al., Nat. Methods 16, 1247 (2019), BBBC038v1; "
    "Chen & Murphy, Mol. Biol. Cell 34, ar50 (2023)"
)


def training_sources(data: Path) -> list[tuple[float, list[Sample]]]:
    """Weights and samples of all that the default model is trained on; `data` holds `train/<source>`."""
    sources = [(weight, load_source(data / "train" / name)) for name, weight in REAL.items()]
    return sources + list(zip(SIMULATED, simulated_samples(FIELDS, seed=1), strict=True))


def held_out_sources(data: Path) -> dict[str, list[Sample]]:
    """What the model is chosen by: a source of its own, and other simulated fields."""
    nuclei, cells = simulated_samples(8, seed=2)
    return {HELD_OUT: load_source(data / "train" / HELD_OUT), "simulated_nuclei": nuclei, "simulated_cells": cells}


def main() -> None:
    """Train, save the weights, print the figures of the sources held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "cells2d", help="folder with train/<source>/images")
    parser.add_argument("--out", type=Path, default=Path("build/train-default"), help="for checkpoint, log, weights")
    args = parser.parse_args()
    console = Console()
    console.print(f"reading annotated images from {args.data}, drawing {FIELDS} simulated fields")
    held_out = held_out_sources(args.data)
    model = train(RECIPE, training_sources(args.data), held_out, args.out)
    weights = args.out / "default.safetensors"
    save_model(model, weights, name="default", licence=LICENCE, citation=CITATION)
    console.print(table([evaluate(samples, weights) for samples in held_out.values()], "held out"))
    console.print(f"weights: {weights}")


if __name__ == "__main__":
    main()
