"""Where an object lies in the image of its well; its row and column in the plate are metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [
        Feature(
            name=f"Location_Center_{letter}{suffix}",
            family="location",
            unit=unit,
            definition=f"{letter.lower()} of the centroid in the image of the well",
            source="Plateflow" if suffix else "CellProfiler",
            kind="position",
        )
        for suffix, unit in (("", "px"), ("_um", "µm"))
        for letter in "XYZ"[:ndim]
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`."""
    found = []
    for regions in sets:
        centre = regions.centres() + np.array(regions.origin_px)
        found.append(np.hstack([centre[:, ::-1], (centre * np.array(regions.pixel_size_um))[:, ::-1]]))
    return found
