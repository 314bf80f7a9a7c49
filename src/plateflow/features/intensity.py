"""Intensity of objects, under the names and by the definitions of CellProfiler's MeasureObjectIntensity.

Sums run over each object's pixels in raster order, so that a value depends on nothing but its object.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values

_QUARTILES = {"LowerQuartileIntensity": 0.25, "MedianIntensity": 0.5, "UpperQuartileIntensity": 0.75}


def _feature(name: str, definition: str) -> Feature:
    return Feature(name=f"Intensity_{name}", family="intensity", unit="1", definition=definition, source="CellProfiler")


FEATURES: tuple[Feature, ...] = (
    _feature("IntegratedIntensity", "sum of the pixels' intensities"),
    _feature("LowerQuartileIntensity", "intensity below which a quarter of the pixels lie"),
    _feature("MaxIntensity", "greatest intensity of a pixel"),
    _feature("MeanIntensity", "mean intensity of the pixels"),
    _feature("MedianIntensity", "intensity below which half of the pixels lie"),
    _feature("MinIntensity", "least intensity of a pixel"),
    _feature("StdIntensity", "standard deviation of the pixels' intensities (divided by n)"),
    _feature("UpperQuartileIntensity", "intensity below which three quarters of the pixels lie"),
)


def measure(regions: Regions, plane: NDArray[Any] | None) -> dict[str, Values]:
    """Intensities of every object in one channel; see `Family.measure`.

    An object with a NaN pixel is NaN in every feature. Quartiles are CellProfiler's: between the sorted pixels k and
    k + 1, counted from 0, where k + fraction = area * quartile, so slightly above the usual ones.
    """
    if plane is None or not len(regions.numbers):
        return {feature.name: np.zeros(0) for feature in FEATURES}
    values = plane.ravel()[regions.pixels].astype(np.float64)
    starts, areas = regions.starts, regions.areas
    total = np.add.reduceat(values, starts)
    mean = total / areas
    squares = np.add.reduceat((values - np.repeat(mean, areas)) ** 2, starts)
    result = {
        "IntegratedIntensity": total,
        "MeanIntensity": mean,
        "StdIntensity": np.sqrt(squares / areas),
        "MinIntensity": np.minimum.reduceat(values, starts),
        "MaxIntensity": np.maximum.reduceat(values, starts),
    }
    ranked = np.concatenate([np.sort(part) for part in np.split(values, starts[1:])])
    for name, quartile in _QUARTILES.items():
        position = starts + areas * quartile
        below = np.floor(position).astype(np.int64)
        above = np.minimum(below + 1, starts + areas - 1)
        part = position - below
        result[name] = np.where(np.isnan(total), np.nan, ranked[below] * (1 - part) + ranked[above] * part)
    return {feature.name: result[feature.name.removeprefix("Intensity_")] for feature in FEATURES}
