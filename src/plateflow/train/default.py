"""`python -m plateflow.train.default`: train the default model from nothing, as its card says."""

import argparse
from pathlib import Path

from plateflow.model.vit import FlowViTConfig
from plateflow.train.data import load_source, simulated_samples
from plateflow.train.loop import Recipe, train

# weight of each source; about 40 % of the crops are simulated, half of these whole cells
REAL = {
    "dsb2018_fluo_256A": 0.21,
    "dsb2018_fluo_256B": 0.14,
    "dsb2018_fluo_360": 0.17,
    "codex_wholecell": 0.08,
}
HELD_OUT = "dsb2018_fluo_520_large"
SIMULATED = (0.20, 0.20)
FIELDS = 140
RECIPE = Recipe(model=FlowViTConfig(width=192, depth=6, heads=3), steps=3600)


def main() -> None:
    """Train; weights and log go to the folder asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder cells2d of the development data")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and weights")
    args = parser.parse_args()
    print("reading the annotated images")
    sources = [(weight, load_source(args.data / "train" / name)) for name, weight in REAL.items()]
    print(f"drawing {FIELDS} simulated fields")
    sources += list(zip(SIMULATED, simulated_samples(FIELDS, seed=1), strict=True))
    nuclei, cells = simulated_samples(8, seed=2)
    held_out = {
        HELD_OUT: load_source(args.data / "train" / HELD_OUT),
        "simulated_nuclei": nuclei,
        "simulated_cells": cells,
    }
    train(RECIPE, sources, held_out, args.out)


if __name__ == "__main__":
    main()
