"""A label set tried on a few fields of a raw plate: its diameter estimated, diameters and models compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import LabelSet
from plateflow.flows import labels_from_flows
from plateflow.images.pilot import PilotField
from plateflow.model.registry import check_channels, model_spec
from plateflow.segment.diameter import DiameterEstimate, brightest, estimate, median_diameter
from plateflow.segment.engine import FlowEngine
from plateflow.segment.grid import grid_of
from plateflow.segment.image import flow_field, scale_intensities

_PART = 24
"""Objects are compared in the brightest square of so many diameters, where a field is larger: outlines stay clear."""
_LEAST_PART = 384

Limits = Mapping[str, tuple[float, float]]
"""By channel, the raw values that become 0 and 1."""
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Goes through a sequence, and shows how far it is under a description."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What one model finds at one diameter.

    Attributes:
        diameter: px; None where the image isn't resized.
        why: where the diameter is from.
        labels: of each field's part, YX.
        median: of the diameters of all objects, px; 0 without objects.
    """

    model: str
    diameter: float | None
    why: str
    labels: list[NDArray[np.uint32]]
    median: float

    @property
    def counts(self) -> list[int]:
        """Objects in each field's part."""
        return [int(labels.max(initial=0)) for labels in self.labels]


@dataclass(frozen=True, kw_only=True)
class PilotSet:
    """A label set as it was tried.

    Attributes:
        fields: those that have these channels.
        parts: the part of each field in which objects were looked for, CYX, scaled to the limits.
        estimates: of the diameter, by model.
    """

    name: str
    channels: list[str]
    fields: list[PilotField]
    parts: list[NDArray[np.float32]]
    estimates: dict[str, DiameterEstimate]
    variants: list[Variant]


def try_label_set(
    name: str,
    settings: LabelSet,
    fields: Sequence[PilotField],
    limits: Limits,
    *,
    models: Sequence[str],
    diameters: Sequence[tuple[float | None, str]],
    device: str,
    where: str,
    track: Track,
) -> PilotSet:
    """Look for the objects of a label set with each model: at the diameter that it estimates, and at others.

    Args:
        fields: some or all of which have its channels.
        limits: of all channels that any of these fields has.
        models: names or paths.
        diameters: px, None for images as they are, each with where it is from.

    Raises:
        ChannelError: the plate lacks a channel, or there are more than a model takes.
        ConfigError: a diameter is out of range.
        ModelError: there is no such model.
    """
    channels = settings.channels
    for model in models:
        check_channels(model, channels, where=where, remedy="name the channel that shows the objects first")
    shown = [field for field in fields if set(channels) <= field.planes.keys()]
    ranges = np.array([limits[channel] for channel in channels])
    inputs = [scale_intensities(np.stack([field.planes[each] for each in channels]), ranges) for field in shown]
    engines = {model: FlowEngine.load(model, device=device) for model in models}
    estimates = dict[str, DiameterEstimate]()
    for model, engine in engines.items():
        estimates[model] = estimate(track(inputs, f"{name}: {model}"), engine)
    found = [(each.diameter, "estimated") for each in estimates.values()]
    largest = max(px or 0 for px, _ in (*found, *diameters))
    edge = max(_LEAST_PART, round(_PART * largest))
    parts = [each[:, *brightest(each[0], edge)] for each in inputs] if largest else inputs
    variants = list[Variant]()
    for (model, engine), own in zip(engines.items(), found, strict=True):
        wanted = [*diameters, own] if own[0] else diameters
        for px, why in track(wanted, f"{name}: {model}, side by side"):
            grid = grid_of(model_spec(model), px, where=where)
            flows = (flow_field(part, engine, grid.scale) for part in parts)
            labels = [labels_from_flows(f[:2], f[2], n_steps=grid.n_steps, **settings.thresholds) for f in flows]
            median = median_diameter(labels)
            variants.append(Variant(model=model, diameter=px, why=why, labels=labels, median=median))
    return PilotSet(name=name, channels=channels, fields=shown, parts=parts, estimates=estimates, variants=variants)
