"""How well the diameter of objects is estimated: the share of images within 25 % of their labels' median.

    python bench/diameter.py [DATA ...] [--simulated N] [--each N] [--model NAME]

DATA are folders of annotated images, as of `plateflow evaluate`; of each source every image, or `--each` of them,
evenly spread. N fields of each kind of simulated plate and look are drawn besides. Prints a line of JSON by source, and
pooled: for the estimate, and for the median of what is found in the image as it is (`native`).
"""

import argparse
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import get_args

import numpy as np
from rich.progress import track

from plateflow.model import model_spec
from plateflow.segment.diameter import estimate, median_diameter
from plateflow.segment.image import flow_field, loaded_engine
from plateflow.simulate.looks import Look
from plateflow.train.data import Sample, look_sample, plate_sample
from plateflow.train.folders import read_sources

SEED = 20261127


def main() -> None:
    from plateflow.flows import labels_from_flows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--simulated", type=int, default=0)
    parser.add_argument("--each", type=int, default=0)
    parser.add_argument("--model", default="default")
    arguments = parser.parse_args()
    spec = model_spec(arguments.model)
    engine = loaded_engine(arguments.model, spec.sha256, "auto")
    ratios: dict[str, list[tuple[float, float]]] = {}
    for sample in track(list(samples(arguments.data, arguments.each, arguments.simulated))):
        flow = flow_field(sample.image, engine)
        native = median_diameter(labels_from_flows(flow[:2], flow[2]))
        found = estimate([sample.image], engine).diameter or 0
        row = (found / sample.diameter, native / sample.diameter)
        ratios.setdefault(sample.source, []).append(row)
        print(
            json.dumps({"source": sample.source, "image": sample.name, "true": sample.diameter, "ratios": row}),
            flush=True,
        )
    for source, rows in [*ratios.items(), ("pooled", list(chain(*ratios.values())))]:
        shares = np.mean(np.abs(np.array(rows) - 1) <= 0.25, axis=0).round(3)
        figures = dict(zip(("estimate", "native"), shares.tolist(), strict=True))
        print(json.dumps({"source": source, "images": len(rows), "within_25_percent": figures}))


def samples(folders: list[Path], each: int, simulated: int) -> Iterator[Sample]:
    """All images that have objects, and as many simulated ones as asked for of each kind."""
    for folder in folders:
        for source in read_sources(folder).values():
            marked = [sample for sample in source if sample.diameter]
            every = max(1, len(marked) // each) if each else 1
            yield from marked[::every][: each or None]
    drawn = [plate_sample(target, SEED, n) for target in ("nuclei", "cells") for n in range(simulated)]
    drawn += [look_sample(look, SEED, n) for look in get_args(Look) for n in range(simulated)]
    yield from (sample for sample in drawn if sample.diameter)


if __name__ == "__main__":
    main()
