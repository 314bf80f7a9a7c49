"""`python -m plateflow.train.default`: train the models that ship, `default` and `fast`, as their card says.

A run that was stopped goes on from its last checkpoint. The weights are written to the output folder; putting them into
the package (`plateflow/model/weights`) is left to whoever decides that they are better.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from plateflow.tables import write_rows
from plateflow.train.batches import Source
from plateflow.train.data import Sample, look_sample, plate_sample
from plateflow.train.evaluate import DATA, Score, evaluate, table
from plateflow.train.folders import read_source
from plateflow.train.loop import Terms, train
from plateflow.train.recipe import Recipe

REAL = {
    "dsb2018_fluo_256A": 0.082,
    "dsb2018_fluo_256B": 0.063,
    "dsb2018_fluo_360": 0.072,
    "dsb2018_fluo_520_large": 0.036,
    "dsb2018_histology_purple": 0.090,
    "usiigaci_phc_t98g": 0.082,
    "codex_wholecell": 0.054,
}
"""Shares of the annotated sources. c-Fos images are left out: only positive nuclei are annotated in them."""
SIMULATED: dict[tuple[Callable[..., Sample], str], tuple[float, float]] = {
    (look_sample, "cells"): (0.141, 0.34),
    (look_sample, "nuclei"): (0.145, 0.30),
    (look_sample, "transmitted"): (0.053, 0.14),
    (look_sample, "tissue"): (0.036, 0.08),
    (look_sample, "empty"): (0.046, 0.06),
    (plate_sample, "nuclei"): (0.046, 0.04),
    (plate_sample, "cells"): (0.054, 0.04),
}
"""What draws a simulated source, and of what: its share of the crops, and its part of all fields drawn."""
HELD_OUT_SOURCES = ("cfos_lab_wue1",)
HELD_OUT_EVERY = 8
"""Of each source, every so manyth image isn't trained on; of the images of large nuclei, every second."""
HELD_OUT_FIELDS = 10
TERMS = Terms(
    colours=True,
    licence="BSD-3-Clause; trained on CC0, MIT and simulated images: free for any use",
    citation=(
        "Plateflow default model. Training images: Caicedo et al., Nat. Methods 16, 1247 (2019), BBBC038v1; "
        "Tsai et al., SoftwareX 9, 230 (2019); Chen & Murphy, Mol. Biol. Cell 34, ar50 (2023)"
    ),
)


def _draw(job: tuple[Callable[..., Sample], str, int, int]) -> Sample:
    draw, what, seed, number = job
    return draw(what, seed, number)


def simulated(fields: int, seed: int, workers: int) -> list[list[Sample]]:
    """Draw `fields` fields of all simulated sources together, by many processes; a list for each source."""
    counts = [max(1, round(fields * part)) for _, part in SIMULATED.values()]
    jobs = [
        (draw, what, seed, number)
        for (draw, what), count in zip(SIMULATED, counts, strict=True)
        for number in range(count)
    ]
    if workers > 1:
        with get_context("fork").Pool(workers) as pool:
            drawn = pool.map(_draw, jobs, chunksize=4)
    else:
        drawn = list(map(_draw, jobs))
    done = iter(drawn)
    return [[next(done) for _ in range(count)] for count in counts]


def sources_of(data: Path, fields: int, workers: int) -> tuple[list[Source], dict[str, list[Sample]]]:
    """What the models are trained on, and by name what is held out to choose by; `data` holds `train/<source>`."""
    sources, held_out = [], {name: read_source(data / "train" / name) for name in HELD_OUT_SOURCES}
    for name, share in REAL.items():
        samples = read_source(data / "train" / name)
        few = len(samples) < 2 * HELD_OUT_EVERY  # two images alone: nothing to spare
        every = 2 if name == "dsb2018_fluo_520_large" else HELD_OUT_EVERY
        kept = [s for i, s in enumerate(samples) if few or i % every != 3 % every]
        sources.append(Source(share, kept))
        if not few:
            held_out[name] = samples[3 % every :: every]
    shares = (share for share, _ in SIMULATED.values())
    sources += map(Source, shares, simulated(fields, seed=1, workers=workers))
    for samples in simulated(HELD_OUT_FIELDS * len(SIMULATED), seed=2, workers=workers):
        held_out[samples[0].source] = samples
    return sources, held_out


def write_scores(path: Path, scores: Sequence[tuple[str, Score]]) -> None:
    """Write scores as CSV, one row per model and source."""
    write_rows(path, [{"model": name, **score.as_row()} for name, score in scores])


def main(argv: Sequence[str] | None = None) -> None:
    """Train, save the weights, print the figures of what was held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "cells2d", help="folder with train/<source>/images")
    parser.add_argument("--out", type=Path, default=Path("build/train-default"), help="for weights, log, checkpoint")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that make crops")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--seconds", type=float, help="from the start of this program to the last step; 420 where no steps are given"
    )
    length.add_argument("--steps", type=int, help="train so many steps")
    parser.add_argument("--fields", type=int, default=1600, help="simulated fields to draw")
    parser.add_argument("--batch", type=int, default=64, help="crops a step")
    parser.add_argument("--crop", type=int, default=256, help="side of a crop in px")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=_start, action="append", default=[], help="NAME=FILE: begin with these weights")
    args = parser.parse_args(argv)
    started, console = time.monotonic(), Console()
    console.print(f"reading annotated images from {args.data}, drawing {args.fields} simulated fields")
    sources, held_out = sources_of(args.data, args.fields, args.workers)
    prepared = time.monotonic() - started
    console.print(f"prepared in {prepared:.0f} s")
    recipe = Recipe(
        steps=args.steps,
        seconds=None if args.steps else max(1.0, (args.seconds or 420.0) - prepared),
        seed=args.seed,
        batch=args.batch,
        crop=args.crop,
        learning_rate=args.rate,
        warm_up=min(200, (args.steps or 2000) // 10),
    )
    names = train(
        recipe, sources, args.out, device=args.device, workers=args.workers, starts=dict(args.start), terms=TERMS
    )
    scores: list[tuple[str, Score]] = []
    for name in names:
        for samples in held_out.values():
            scores.append((name, evaluate(samples, args.out / f"{name}.safetensors", device=args.device)))
            write_scores(args.out / "held-out.csv", scores)
        console.print(table([score for model, score in scores if model == name], f"{name}, held out"))
    console.print(f"weights: {args.out}")


def _start(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} isn't NAME=FILE with a file that is there")
    return name, Path(path)


if __name__ == "__main__":
    main()
