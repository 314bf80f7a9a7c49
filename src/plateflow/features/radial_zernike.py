"""Zernike moments of an object's intensities, CellProfiler's RadialDistribution_Zernike*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features import zernike
from plateflow.features.feature import Feature, Regions, Values

_KINDS = {
    "Magnitude": ("1", "magnitude of the intensities' Zernike moment {}, {} a pixel"),
    "Phase": ("rad", "its phase"),
}


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [
        Feature(
            name=f"RadialDistribution_Zernike{kind}",
            family="radial_zernike",
            unit=unit,
            definition=text.format(n, m),
            channel=channel,
            suffix=f"{n}_{m}",
        )
        for channel in channels
        for kind, (unit, text) in _KINDS.items()
        for n, m in zernike.ORDERS
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`. The phase is CellProfiler's: arctan2(real part, imaginary part)."""
    found = []
    for regions in sets:
        moments, _, areas = zernike.moments(regions, image)
        weighted = moments[:, 1:]
        magnitude = np.abs(weighted) / areas[:, np.newaxis, np.newaxis]
        phase = np.arctan2(weighted.real, weighted.imag)
        found.append(
            np.stack([magnitude, phase], axis=2).reshape(len(areas), 2 * weighted.shape[1] * weighted.shape[2])
        )
    return found
