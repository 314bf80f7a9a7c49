"""How far an object's segmentation can be trusted. What the network says of it is joined by the stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values


def _feature(name: str, definition: str) -> Feature:
    return Feature(name=f"Quality_{name}", family="quality", unit="1", definition=definition, source="Plateflow")


FROM_SEGMENTATION = {
    "flow_error": _feature(
        "FlowError", "mean squared difference between the network's flow and the one that the object's shape implies"
    ),
    "cell_probability": _feature(
        "CellProbability",
        "mean over the object, filled holes left out, of the logistic function of the network's logit",
    ),
}
"""What the stage takes from the tables of objects, by their column."""


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [_feature("TouchesBorder", "1 if the object has a pixel at the border of what was imaged, else 0")]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`. In 3D the first and the last plane are no border: a stack rarely holds all of a cell."""
    found = []
    for regions in sets:
        seen = np.zeros(len(regions.numbers), np.float64)
        seen[np.searchsorted(regions.numbers, _at_border(regions))] = 1
        found.append(seen[:, np.newaxis])
    return found


def _at_border(regions: Regions) -> NDArray[Any]:
    labels = regions.labels
    sides = [labels[..., 0, :], labels[..., -1, :], labels[..., 0], labels[..., -1]]
    if regions.outside is not None:
        beside = np.zeros_like(regions.outside)
        for axis in (-2, -1):
            for step in (-1, 1):
                moved = np.roll(regions.outside, step, axis)
                np.moveaxis(moved, axis, 0)[0 if step == 1 else -1] = False
                beside |= moved
        sides.append(labels[..., beside])
    found = np.unique(np.concatenate([side.ravel() for side in sides]))
    return found[found > 0]
