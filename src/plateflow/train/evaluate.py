"""`python -m plateflow.train.evaluate`: how well a model does on annotated images, source by source."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from plateflow.metrics import average_precision
from plateflow.segment import segment_image
from plateflow.train.data import Sample, load_source

DATA = Path(os.environ.get("PLATEFLOW_TEST_DATA", "../shared/data"))
"""Folder of the development data, which isn't part of the package."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Agreement with the annotation at an IoU of 0.5."""

    source: str
    images: int
    objects: int
    ap: float
    """Mean over images of TP / (TP + FP + FN)."""
    error_rate: float
    """(FP + FN) / (TP + FN) over all images together."""
    f1: float
    """Over all images together."""


def evaluate(samples: Sequence[Sample], model: str | Path = "default") -> Score:
    """Segment samples of one source at their own size, no diameter given, and compare with their labels."""
    truth = [sample.labels for sample in samples]
    found = [segment_image(sample.image, model=model) for sample in samples]
    ap, tp, fp, fn = average_precision(truth, found, 0.5)
    hits, false, missed = int(tp.sum()), int(fp.sum()), int(fn.sum())
    return Score(
        source=samples[0].source,
        images=len(samples),
        objects=hits + missed,
        ap=float(np.nanmean(ap)),
        error_rate=(false + missed) / max(1, hits + missed),
        f1=2 * hits / max(1, 2 * hits + false + missed),
    )


def table(scores: Sequence[Score], title: str) -> Table:
    """Lay scores out, a row a source."""
    columns = ("source", "images", "objects", "mean AP@0.5", "error rate", "F1")
    result = Table(*columns, title=title)
    for s in scores:
        result.add_row(s.source, f"{s.images}", f"{s.objects}", f"{s.ap:.3f}", f"{s.error_rate:.3f}", f"{s.f1:.3f}")
    return result


def main() -> None:
    """Print a table of every source of a split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="name, or path of a weights file")
    parser.add_argument("--data", type=Path, default=DATA / "cells2d", help="folder with <split>/<source>/images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--source", action="append", help="only this one (may be given more than once)")
    args = parser.parse_args()
    folders = [f for f in sorted((args.data / args.split).iterdir()) if not args.source or f.name in args.source]
    scores = [evaluate(load_source(folder), args.model) for folder in folders]
    Console().print(table(scores, f"{args.model} on {args.split}"))


if __name__ == "__main__":
    main()
