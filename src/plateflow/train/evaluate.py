"""How well a model does on annotated images: source by source, by the size of objects, and against another model."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
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
FEW = 10
"""Images: of fewer an interval is too narrow, and tells no models apart."""
ALL = "all"
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a model found in one image, against its labels.

    Attributes:
        labels: what was found, YX, in the smallest type of unsigned integers that holds it.
        ap: TP / (TP + FP + FN) at each of `THRESHOLDS`; NaN where the image has and shows no object.
        counts: (3, thresholds), true, false and missed objects.
        merged: objects found that cover several true ones.
        split: true objects that were found in pieces.
    """

    sample: Sample
    labels: NDArray[np.unsignedinteger]
    ap: NDArray[np.float64]
    counts: NDArray[np.int64]
    merged: int
    split: int

    @property
    def error_rate(self) -> float:
        """Of this image; NaN where nothing is annotated."""
        tp, fp, fn = self.counts[:, 0].tolist()
        return (fp + fn) / (tp + fn) if tp + fn else float("nan")

    def as_row(self) -> dict[str, Any]:
        """The figures of the image as a row of a table."""
        of = self.sample
        row: dict[str, Any] = {"source": of.source, "image": of.name, "diameter": of.diameter}
        row |= dict(zip(AP_COLUMNS, self.ap.tolist(), strict=True)) | {"error_rate": self.error_rate}
        row |= zip(("found", "false", "missed"), self.counts[:, 0].tolist(), strict=True)
        return row | {"merged": self.merged, "split": self.split}


@dataclass(frozen=True, kw_only=True)
class Score:
    """Agreement of a model with the labels of several images.

    Attributes:
        source: that they are from; `all` for all together.
        objects: how many are annotated.
        diameter: median diameter of the annotated objects, px.
        ap: mean over images at each of `THRESHOLDS`; NaN where no image has or shows an object.
        error_rate: mean over images of (FP + FN) / (TP + FN), those without an annotated object left out. So the
            Cellpose-SAM paper has it (Pachitariu et al., 2025: Fig. 2 and the program that drew it).
        f1: of all images together.
        ap_interval, error_interval, f1_interval: 95 % of the AP at the first threshold, of the error rate and of F1, by
            drawing images anew; NaN for a single image.
        merged, split: as in `Found`, of all images together.
        false_per_mpx: objects found that aren't annotated, per million pixels.
    """

    source: str
    images: int
    objects: int
    diameter: float
    ap: tuple[float, ...]
    ap_interval: Interval
    error_rate: float
    error_interval: Interval
    f1: float
    f1_interval: Interval
    merged: int
    split: int
    false_per_mpx: float

    def as_row(self) -> dict[str, Any]:
        """The score as a row of a table."""
        row = asdict(self) | dict(zip(AP_COLUMNS, self.ap, strict=True))
        del row["ap"]
        for name, column in (("ap_interval", "ap_50"), ("error_interval", "error_rate"), ("f1_interval", "f1")):
            row[f"{column}_low"], row[f"{column}_high"] = row.pop(name)
        return row


def find(
    samples: Iterable[Sample], model: str | Path = "default", *, device: str = "cpu", diameter: float | None = None
) -> Iterator[Found]:
    """Segment samples as `segment_image` does and compare with their labels, in order.

    Samples are taken as they are needed, and a few flow fields are in memory at a time, however many samples there are.
    `diameter` is that of the objects in px; by default images aren't resized.
    """
    engine = FlowEngine.load(str(model), device=device)
    grid = grid_of(model_spec(model), diameter, where="diameter")
    threads = os.cpu_count() or 1
    places, waiting = BoundedSemaphore(2 * threads), deque[Future[Found]]()
    with ThreadPoolExecutor(threads) as pool:

        def follow(sample: Sample, flow: NDArray[np.float16]) -> Found:
            try:
                return compare(sample, labels_from_flows(flow[:2], flow[2], workers=1, n_steps=grid.n_steps))
            finally:
                places.release()

        def write(sample: Sample, flow: NDArray[np.float16]) -> None:
            places.acquire()
            waiting.append(pool.submit(follow, sample, flow))

        jobs = (CanvasJob(read=partial(_seen, s), write=partial(write, s), scale=grid.scale) for s in samples)
        for _ in engine.run(jobs):
            while waiting and waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _seen(sample: Sample) -> NDArray[np.float32]:
    image = sample.image
    seen = image[image.any(axis=(1, 2))]
    return seen if len(seen) else image[:1]


def compare(sample: Sample, labels: NDArray[np.unsignedinteger]) -> Found:
    """Compare labels that were found with those of a sample."""
    ap, *counts = average_precision(sample.labels, labels, THRESHOLDS)
    merged, split = merged_and_split(sample.labels, labels)
    labels = labels.astype(np.min_scalar_type(int(labels.max(initial=0))))
    return Found(sample=sample, labels=labels, ap=ap, counts=np.array(counts), merged=merged, split=split)


def scored(found: Iterable[Found], source: str | None = None) -> Score:
    """Sum up what was found in the images of one source, or of several; images may come one by one."""
    figures = [
        (f.sample.source, f.ap, f.counts[:, 0], f.error_rate, (f.merged, f.split), f.sample.diameter, f.labels.size)
        for f in found
    ]
    sources, ap, counts, errors, torn, diameters, sizes = (np.array(column) for column in zip(*figures, strict=True))
    tp, fp, fn = counts.sum(axis=0).tolist()
    return Score(
        source=source or str(sources[0]),
        images=len(figures),
        objects=tp + fn,
        diameter=_mean(diameters[diameters > 0], np.median),
        ap=tuple(_mean(column) for column in ap.T),
        ap_interval=interval(ap[:, 0]),
        error_rate=_mean(errors),
        error_interval=interval(errors),
        f1=float(_f1(counts.sum(axis=0))),
        f1_interval=interval(counts, _f1),
        merged=int(torn[:, 0].sum()),
        split=int(torn[:, 1].sum()),
        false_per_mpx=fp / (sizes.sum() / 1e6),
    )


def _f1(counts: NDArray[Any]) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN) of counts (..., 3) of true, false and missed objects; NaN where there are none."""
    tp, fp, fn = np.moveaxis(counts.astype(float), -1, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * tp / (2 * tp + fp + fn))


def evaluate(samples: Iterable[Sample], model: str | Path = "default", *, device: str = "cpu") -> Score:
    """The score of a model on samples of one source, at their own size."""
    return scored(find(samples, model, device=device))


def by_source(found: Sequence[Found]) -> list[Score]:
    """The score of each source, and if there are several that of all images together."""
    sources = list(dict.fromkeys(each.sample.source for each in found))
    scores = [scored([each for each in found if each.sample.source == source]) for source in sources]
    return [*scores, scored(found, ALL)] if len(scores) > 1 else scores


def differences(one: Sequence[Found], other: Sequence[Found]) -> list[tuple[str, float, Interval, int]]:
    """By source, and of all: mean AP at the first threshold of one model less that of another on the same images.

    Returns:
        Source, difference, its interval of 95 % (pairs are drawn anew, so what the models share cancels out), and the
        number of images: those where both models found objects, or should have.
    """
    each = np.array([a.ap[0] - b.ap[0] for a, b in zip(one, other, strict=True)])
    of_source = np.array([found.sample.source for found in one])
    sources = dict.fromkeys(of_source.tolist())
    rows = [(str(source), each[of_source == source]) for source in sources] + [(ALL, each)] * (len(sources) > 1)
    return [(source, _mean(values), interval(values), int(np.isfinite(values).sum())) for source, values in rows]


def interval(values: NDArray[Any], figure: Callable[[NDArray[np.float64]], NDArray[np.float64]] = np.ravel) -> Interval:
    """95 % of a figure of images by the bootstrap (percentiles; Efron, 1979); repeatable.

    Args:
        values: (images,) or (images, n); those with NaN are left out.
        figure: what is made of the means (draws, n) of drawn images; by default these themselves.

    Returns:
        Both NaN of fewer than two images.
    """
    rows = values.reshape(len(values), -1)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 2:
        return float("nan"), float("nan")
    times = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    drawn = figure(times @ rows / len(rows))
    low, high = np.percentile(drawn[np.isfinite(drawn)], (2.5, 97.5)) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return float(low), float(high)


def _mean(values: NDArray[np.float64], average: Callable[..., Any] = np.mean) -> float:
    values = values[np.isfinite(values)]
    return float(average(values)) if len(values) else float("nan")


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
    """Lay scores out in 80 columns, two lines per source: intervals of 95 % lie below what they are of."""
    result = Table(title=escape(title), box=None, padding=(0, 1, 0, 0))
    result.add_column("source", width=15, overflow="fold")
    ap, *others = (f"AP@{threshold}" for threshold in THRESHOLDS)
    rest = "error\nrate", "F1", "merged\nsplit", "false\nper Mpx"
    for name in ("images\nobjects", "px", ap, "\n".join(others), *rest):
        result.add_column(name, no_wrap=True, justify="right")
    for s in scores:
        aps = number(s.ap[0], s.ap_interval), "\n".join(map(number, s.ap[1:]))
        rates = number(s.error_rate, s.error_interval), number(s.f1, s.f1_interval)
        counts = f"{s.merged}\n{s.split}", f"{s.false_per_mpx:.1f}"
        size = f"{s.images}\n{s.objects}", number(s.diameter, digits=0)
        result.add_row(escape(s.source), *size, *aps, *rates, *counts)
    return result


def number(value: float, interval: Interval = (float("nan"), float("nan")), *, digits: int = 3) -> str:
    """A figure, and in a line below its interval; a dash where there is none."""
    text = f"{value:.{digits}f}" if np.isfinite(value) else "–"
    low, high = interval
    return f"{text}\n{low:.2f}–{high:.2f}" if np.isfinite(low) else text
