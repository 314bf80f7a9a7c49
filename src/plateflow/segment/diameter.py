"""The typical diameter of the objects of images, estimated: at which scale do flows agree best with their own labels?

A network finds objects best where they are about as large as those that it was trained on: there the flow that it
draws in an object is the one that leads to the object's centre. Where objects are too small they merge, where they are
too large they fall apart, and the flow that the labels themselves would have (`flows_from_labels`) is another.

So images are run at a geometric series of scales. An object agrees by 1 - e / 0.4, at least 0, where e is its flow
error, and 0.4 the error from which on Cellpose drops an object. One that the border cuts doesn't count: where nothing
is found, background is often taken for one large object, and its flow may agree. The score of a scale is the sum over
the pixels of how far their object agrees, divided by the same sum where each pixel has the best of all scales:
agreement times the share that is covered. (At high scales a part of the image is looked at; where it holds less than
the mean of the image, that is what is divided by, so that a few specks on background win nothing.) The estimate is the
median over the objects of all scales that pass the check of the flow; those of a scale weigh its score to the 8th
together, so that scales which agree about as well as the best one count with it, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.model.registry import model_spec
from plateflow.segment.grid import N_STEPS
from plateflow.segment.image import flow_field, loaded_engine, network_input

if TYPE_CHECKING:
    from plateflow.segment.engine import FlowEngine

SCALES = (0.25, 0.5, 1.0, 2.0)
GRID_PX = 470
"""Of images that are larger on the network's grid the brightest square is looked at: two by two tiles."""
FLOW_ERROR = 0.4
POWER = 8
MIN_PX = 15
"""Objects with fewer pixels are dropped, as in `labels_from_flows`."""


@dataclass(frozen=True, kw_only=True)
class ScaleTrial:
    """What was found at one scale.

    Attributes:
        scale: px on the network's grid per px of the image.
        objects: that pass the check of the flow.
        diameter: their median diameter, px of the image; 0 without objects.
        agreement: from 0 to 1, the score of the scale.
    """

    scale: float
    objects: int
    diameter: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class DiameterEstimate:
    """The typical diameter of the objects of some images.

    Attributes:
        diameter: px; None where no objects were found.
    """

    diameter: float | None
    trials: tuple[ScaleTrial, ...]

    @property
    def best(self) -> ScaleTrial:
        """The scale that agreed best."""
        return max(self.trials, key=lambda trial: trial.agreement)


def estimate_diameter(
    image: NDArray[Any], *, model: str | Path = "default", channels: Sequence[int] | None = None, device: str = "auto"
) -> float | None:
    """Estimate the typical diameter of the objects of an image, as `segment_image` takes it.

    Returns:
        The median diameter in px, of circles of the objects' areas; None where no objects are found.

    Raises:
        ArgumentError, ChannelError, ModelError, PlateflowError: as of `segment_image`.
    """
    spec = model_spec(model)
    pixels = network_input(image, model, channels)
    return estimate([pixels], loaded_engine(str(model), spec.sha256, device)).diameter


def object_diameters(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Of each object the diameter (px) of a circle of its area."""
    areas = np.bincount(labels.ravel())[1:]
    return 2 * np.sqrt(areas[areas > 0] / np.pi)


def median_diameter(labels: NDArray[Any] | Sequence[NDArray[Any]]) -> float:
    """The median over the objects of one label image, or of several, px; 0 without objects."""
    each = [labels] if isinstance(labels, np.ndarray) else labels
    return _median(_joined([object_diameters(of_image) for of_image in each]))


def estimate(images: Iterable[NDArray[np.float32]], engine: FlowEngine) -> DiameterEstimate:
    """Estimate the typical diameter of the objects of several images together.

    Args:
        images: CYX, as `network_input` or `scale_intensities` returns them; taken one after another.
    """
    agreed, best = np.zeros(len(SCALES)), np.zeros(len(SCALES))
    found: list[list[NDArray[np.float64]]] = [[] for _ in SCALES]
    for pixels in images:
        if not pixels.any():
            continue
        looks = [_look(pixels, scale, engine) for scale in SCALES]
        envelope = np.zeros(pixels.shape[1:], np.float32)
        for look in looks:
            np.maximum(envelope[look.region], look.agreement, out=envelope[look.region])
        for k, look in enumerate(looks):
            agreed[k] += look.agreement.sum()
            here = envelope[look.region]
            best[k] += max(here.sum(), envelope.mean() * here.size)
            found[k].append(look.diameters)
    scores = agreed / np.maximum(best, 1e-9)
    sizes = [_joined(of_scale) for of_scale in found]
    trials = tuple(
        ScaleTrial(scale=scale, objects=len(of), diameter=_median(of), agreement=float(score))
        for scale, of, score in zip(SCALES, sizes, scores, strict=True)
    )
    weights = [np.full(len(of), score**POWER / max(len(of), 1)) for of, score in zip(sizes, scores, strict=True)]
    diameter = _weighted_median(_joined(sizes), _joined(weights)) if scores.any() else None
    return DiameterEstimate(diameter=diameter, trials=trials)


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What was found at one scale in a part of an image.

    Attributes:
        region: rows and columns of the image that were looked at.
        agreement: of each pixel's object, YX of the region; 0 outside of objects, and in those that the border cuts.
        diameters: of the objects that pass the check of the flow, px of the image.
    """

    region: tuple[slice, slice]
    agreement: NDArray[np.float32]
    diameters: NDArray[np.float64]


def brightest(pixels: NDArray[np.float32], edge: int) -> tuple[slice, slice]:
    """Rows and columns of the brightest square of `edge` px, where objects are rather than background.

    Args:
        pixels: YX, from 0 to 1; what is outside counts as 0 or 1.
        edge: px; a side that is shorter is taken whole.
    """
    sums = np.pad(np.clip(pixels, 0, 1), ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    height, width = (min(edge, side) for side in pixels.shape)
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(y), int(y) + height), slice(int(x), int(x) + width)


def _look(pixels: NDArray[np.float32], scale: float, engine: FlowEngine) -> _Look:
    from plateflow.flows import flow_error, labels_from_flows

    region = brightest(pixels[0], round(GRID_PX / scale))
    flow = flow_field(np.ascontiguousarray(pixels[:, *region]), engine, scale)
    steps = max(1, round(N_STEPS / scale))
    labels = labels_from_flows(flow[:2], flow[2], n_steps=steps, flow_threshold=0, min_size=MIN_PX)
    errors = flow_error(labels, flow[:2])
    agreement = np.concatenate([[0], np.clip(1 - errors / FLOW_ERROR, 0, 1)]).astype(np.float32)
    passed = object_diameters(labels)[errors <= FLOW_ERROR]
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        agreement[edge] = 0
    return _Look(region=region, agreement=agreement[labels], diameters=passed)


def _joined(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.empty(0), *arrays])


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _median(sizes: NDArray[np.float64]) -> float:
    return float(np.median(sizes)) if sizes.size else 0.0
