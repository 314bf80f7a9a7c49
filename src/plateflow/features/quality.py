"""How far an object's segmentation can be trusted."""

from collections.abc import Sequence

import numpy as np

from plateflow.features.feature import Family, Feature, Image, Regions, Values


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
"""What the network's output says about an object, by the column of the objects table that it is copied from."""
CLIPPED = _feature("ClippedFraction", "fraction of the object's pixels that are saturated in some channel")
"""Measured on raw pixels, before any correction: see `WellImage.clipped`."""


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return [_feature("TouchesBorder", "1 if the object has a pixel at the border of what was imaged, else 0")]


def _measure(regions: Regions, image: Image) -> Values:
    """Find the border. In 3D the first and last planes are part of it: what they cut has another volume and shape."""
    labels = regions.labels
    sides = [np.take(labels, at, axis) for axis in range(labels.ndim) for at in (0, -1)]
    if regions.outside is not None:
        beside = np.zeros_like(regions.outside)
        for near, outside in ((beside, regions.outside), (beside.T, regions.outside.T)):
            near[1:] |= outside[:-1]
            near[:-1] |= outside[1:]
        sides.append(labels[..., beside])
    at_border = np.unique(np.concatenate([side.ravel() for side in sides]))
    return np.isin(regions.numbers, at_border)[:, np.newaxis].astype(np.float64)


QUALITY = Family(name="quality", features=_features, measure=_measure, in_3d=True, of_parts=False)
