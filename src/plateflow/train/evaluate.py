"""How well a model does on annotated images: source by source, by the size of objects, and against another model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from plateflow.flows import labels_from_flows
from plateflow.metrics import average_precision, merged_and_split
from plateflow.model.registry import model_spec
from plateflow.segment.engine import CanvasJob, FlowEngine
from plateflow.segment.grid import grid_of
from plateflow.train.data import Sample, make_sample

DATA = Path(os.environ.get("PLATEFLOW_TEST_DATA", "../shared/data"))
"""Folder of the development data, which isn't part of the package."""
THRESHOLDS = (0.5, 0.75, 0.9)
AP_COLUMNS = ("ap_50", "ap_75", "ap_90")
RESAMPLES = 2000
"""Draws of images, with replacement, from which an interval of 95 % is taken."""
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a model found in one image, against its labels.

    Attributes:
        sample: the image.
        labels: what was found, YX.
        ap: TP / (TP + FP + FN) at each of `THRESHOLDS`; NaN where the image has and shows no object.
        counts: (3, thresholds), true, false and missed objects.
        merged: objects found that cover several true ones.
        split: true objects that were found in pieces.
    """

    sample: Sample
    labels: NDArray[np.uint32]
    ap: NDArray[np.float64]
    counts: NDArray[np.int64]
    merged: int
    split: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """Agreement of a model with the labels of several images.

    Attributes:
        source: that they are from; `all` for all together.
        images: how many.
        objects: how many are annotated.
        diameter: median diameter of the annotated objects, px.
        ap: mean over images at each of `THRESHOLDS`; NaN where no image has or shows an object.
        interval: 95 % of the mean AP at the first threshold, by drawing images anew; NaN for a single image.
        error_rate: (FP + FN) / (TP + FN) of all images together (Pachitariu et al., 2025, for Cellpose-SAM).
        f1: of all images together.
        merged, split: as in `Found`, of all images together.
        false_per_mpx: objects found that aren't annotated, per million pixels.
    """

    source: str
    images: int
    objects: int
    diameter: float
    ap: tuple[float, ...]
    interval: tuple[float, float]
    error_rate: float
    f1: float
    merged: int
    split: int
    false_per_mpx: float

    def as_row(self) -> dict[str, Any]:
        """The score as a row of a table."""
        row = asdict(self)
        ap, (low, high) = row.pop("ap"), row.pop("interval")
        return row | dict(zip(AP_COLUMNS, ap, strict=True)) | {"ap_50_low": low, "ap_50_high": high}


def find(
    samples: Sequence[Sample], model: str | Path = "default", *, device: str = "cpu", diameter: float | None = None
) -> list[Found]:
    """Segment samples as `segment_image` does and compare with their labels.

    Args:
        samples: the annotated images.
        model: name or path.
        device: auto, cpu or cuda.
        diameter: of the objects in px; by default images aren't resized.
    """
    engine = FlowEngine.load(str(model), device=device)
    grid = grid_of(model_spec(model), diameter, where="diameter")
    flows: list[NDArray[np.float16]] = []
    jobs = (CanvasJob(read=partial(_seen, each), write=flows.append, scale=grid.scale) for each in samples)
    for _ in engine.run(jobs):
        pass
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        labels = pool.map(lambda flow: labels_from_flows(flow[:2], flow[2], workers=1, n_steps=grid.n_steps), flows)
        return list(pool.map(compare, samples, labels))


def _seen(sample: Sample) -> NDArray[np.float32]:
    image = sample.image
    seen = image[image.any(axis=(1, 2))]
    return seen if len(seen) else image[:1]


def compare(sample: Sample, labels: NDArray[np.uint32]) -> Found:
    """Compare labels that were found with those of a sample."""
    ap, *counts = average_precision(sample.labels, labels, THRESHOLDS)
    merged, split = merged_and_split(sample.labels, labels)
    return Found(sample=sample, labels=labels, ap=ap, counts=np.array(counts), merged=merged, split=split)


def scored(found: Sequence[Found], source: str | None = None) -> Score:
    """Sum up what was found in the images of one source, or of several."""
    ap = np.array([each.ap for each in found])
    tp, fp, fn = np.sum([each.counts[:, 0] for each in found], axis=0).tolist()
    diameters = [each.sample.diameter for each in found if each.sample.diameter]
    return Score(
        source=source or found[0].sample.source,
        images=len(found),
        objects=tp + fn,
        diameter=float(np.median(diameters)) if diameters else float("nan"),
        ap=tuple(_mean(column) for column in ap.T),
        interval=interval(ap[:, 0]),
        error_rate=(fp + fn) / max(1, tp + fn),
        f1=2 * tp / max(1, 2 * tp + fp + fn),
        merged=sum(each.merged for each in found),
        split=sum(each.split for each in found),
        false_per_mpx=fp / (sum(each.labels.size for each in found) / 1e6),
    )


def evaluate(samples: Sequence[Sample], model: str | Path = "default", *, device: str = "cpu") -> Score:
    """The score of a model on samples of one source, at their own size."""
    return scored(find(samples, model, device=device))


def by_source(found: Sequence[Found]) -> list[Score]:
    """The score of each source, and if there are several that of all images together."""
    sources = list(dict.fromkeys(each.sample.source for each in found))
    scores = [scored([each for each in found if each.sample.source == source]) for source in sources]
    return [*scores, scored(found, ALL)] if len(scores) > 1 else scores


def difference(one: Sequence[Found], other: Sequence[Found]) -> tuple[float, tuple[float, float]]:
    """Mean AP at the first threshold of one model less that of another on the same images, and its interval of 95 %."""
    each = np.array([a.ap[0] - b.ap[0] for a, b in zip(one, other, strict=True)])
    return _mean(each), interval(each)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of the mean of values, NaN left out, by the bootstrap (percentiles; Efron, 1979); repeatable."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def resized(sample: Sample, factor: float) -> Sample:
    """A sample enlarged or shrunk; what shrinks is averaged, labels are those of the nearest pixel."""
    from skimage.transform import resize

    if factor == 1:
        return sample
    shape = tuple(max(8, round(size * factor)) for size in sample.labels.shape)
    how = {"preserve_range": True, "anti_aliasing": factor < 1}
    channels = [resize(channel.astype(np.float32), shape, order=1, **how) for channel in sample.pixels]
    labels = resize(sample.labels, shape, order=0, preserve_range=True, anti_aliasing=False)
    made = make_sample(sample.source, sample.name, channels, np.rint(labels).astype(np.int32), sample.light)
    return replace(made, limits=sample.limits)


def table(scores: Sequence[Score], title: str) -> Table:
    """Lay scores out, one row per source."""
    columns = ["source", "images", "objects", "diameter px", *(f"AP@{t}" for t in THRESHOLDS), "95 %"]
    result = Table(*columns, "error rate", "F1", "merged", "split", "false per Mpx", title=title)
    for s in scores:
        low, high = s.interval
        figures = [
            f"{s.diameter:.0f}",
            *(f"{ap:.3f}" for ap in s.ap),
            f"{low:.3f} to {high:.3f}" if s.images > 1 else "",
        ]
        figures += [f"{s.error_rate:.3f}", f"{s.f1:.3f}", str(s.merged), str(s.split), f"{s.false_per_mpx:.1f}"]
        result.add_row(s.source, str(s.images), str(s.objects), *figures)
    return result
