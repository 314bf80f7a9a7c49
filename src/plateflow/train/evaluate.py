"""`python -m plateflow.train.evaluate`: how well a model does on annotated images, source by source."""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from plateflow.flows import labels_from_flows
from plateflow.metrics import average_precision
from plateflow.segment.engine import CanvasJob, FlowEngine
from plateflow.train.data import Sample, load_source

DATA = Path(os.environ.get("PLATEFLOW_TEST_DATA", "../shared/data"))
"""Folder of the development data, which isn't part of the package."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Agreement with the annotation at an IoU of 0.5.

    Attributes:
        source: name of the source.
        images: how many.
        objects: how many are annotated.
        ap: mean over images of TP / (TP + FP + FN); NaN where no image has or shows an object.
        error_rate: (FP + FN) / (TP + FN) over all images together.
        f1: over all images together.
        false: objects found that aren't annotated.
        megapixels: of all images together.
    """

    source: str
    images: int
    objects: int
    ap: float
    error_rate: float
    f1: float
    false: int
    megapixels: float


def segment(samples: Sequence[Sample], model: str | Path, device: str = "cpu") -> list[NDArray[np.uint32]]:
    """Labels of samples at their own size, no diameter given: what `segment_image` finds in them."""
    engine = FlowEngine.load(str(model), device=device)
    flows: list[NDArray[np.float16]] = []
    jobs = (CanvasJob(read=_reader(sample), write=flows.append) for sample in samples)
    for _ in engine.run(jobs):
        pass
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda flow: labels_from_flows(flow[:2], flow[2], workers=1), flows))


def _reader(sample: Sample) -> Any:
    image = sample.image
    return lambda: image[image.any(axis=(1, 2))]


def evaluate(samples: Sequence[Sample], model: str | Path = "default", *, device: str = "cpu") -> Score:
    """Segment samples of one source and compare with their labels."""
    truth = [sample.labels for sample in samples]
    ap, tp, fp, fn = average_precision(truth, segment(samples, model, device), 0.5)
    hits, false, missed = int(tp.sum()), int(fp.sum()), int(fn.sum())
    return Score(
        source=samples[0].source,
        images=len(samples),
        objects=hits + missed,
        ap=float(np.nanmean(ap)) if np.isfinite(ap).any() else float("nan"),
        error_rate=(false + missed) / max(1, hits + missed),
        f1=2 * hits / max(1, 2 * hits + false + missed),
        false=false,
        megapixels=sum(labels.size for labels in truth) / 1e6,
    )


def table(scores: Sequence[Score], title: str) -> Table:
    """Lay scores out, one row per source."""
    columns = ("source", "images", "objects", "mean AP@0.5", "error rate", "F1", "false per Mpx")
    result = Table(*columns, title=title)
    for s in scores:
        figures = (f"{value:.3f}" for value in (s.ap, s.error_rate, s.f1))
        result.add_row(s.source, f"{s.images}", f"{s.objects}", *figures, f"{s.false / s.megapixels:.1f}")
    return result


def main() -> None:
    """Print a table of every source of a split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="name, or path of a weights file")
    parser.add_argument("--data", type=Path, default=DATA / "cells2d", help="folder with <split>/<source>/images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--source", action="append", help="only this one (may be given more than once)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    folders = [f for f in sorted((args.data / args.split).iterdir()) if not args.source or f.name in args.source]
    scores = [evaluate(load_source(folder), args.model, device=args.device) for folder in folders]
    Console().print(table(scores, f"{args.model} on {args.split}"))


if __name__ == "__main__":
    main()
