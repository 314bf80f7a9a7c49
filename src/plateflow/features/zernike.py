"""Zernike moments up to order 9 of an object's mask, and of its intensities, in its smallest enclosing circle.

The polynomials are sums of powers: z^m r^2j is summed over the pixels once, for the mask and all channels, and the
30 moments are combinations of these sums.
"""

from collections.abc import Sequence
from math import factorial

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.features import geometry
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

_TOP = 9
_ORDERS = [(n, m) for n in range(_TOP + 1) for m in range(n % 2, n + 1, 2)]
_POWERS = [(m, j) for m in range(_TOP + 1) for j in range((_TOP - m) // 2 + 1)]
_N_POWERS = len(_POWERS)


def _combination() -> NDArray[np.float64]:
    """(moment, power): the coefficients of the radial polynomials."""
    table = np.zeros((len(_ORDERS), _N_POWERS))
    for row, (n, m) in enumerate(_ORDERS):
        for k in range((n - m) // 2 + 1):
            below = factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k)
            table[row, _POWERS.index((m, (n - m) // 2 - k))] = (-1) ** k * factorial(n - k) / below
    return table


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    text = "magnitude of the mask's Zernike moment {}, {} over the area of the enclosing circle; NaN for one pixel"
    return [Feature(name=f"AreaShape_Zernike_{n}_{m}", unit="1", definition=text.format(n, m)) for n, m in _ORDERS]


def _measure(regions: Regions, image: Image) -> Values:
    moments, radius = _moments(regions, None)
    return np.abs(moments[:, 0]) / (np.pi * radius**2)[:, np.newaxis]


ZERNIKE = Family(name="zernike", features=_features, measure=_measure)

_RADIAL = {
    "Magnitude": ("1", "magnitude of the intensities' Zernike moment {}, {} a pixel"),
    "Phase": ("rad", "its phase"),
}


def _radial_features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return [
        Feature(
            name=f"RadialDistribution_Zernike{name}",
            unit=unit,
            definition=text.format(n, m),
            channel=channel,
            suffix=f"{n}_{m}",
        )
        for channel in channels
        for name, (unit, text) in _RADIAL.items()
        for n, m in _ORDERS
    ]


def _measure_radial(regions: Regions, image: Image) -> Values:
    """CellProfiler's RadialDistribution_Zernike*. The phase is CellProfiler's too: arctan2(real part, imaginary)."""
    weighted = _moments(regions, image)[0][:, 1:]
    columns = {
        "Magnitude": np.abs(weighted) / regions.areas.astype(np.float64)[:, np.newaxis, np.newaxis],
        "Phase": np.arctan2(weighted.real, weighted.imag),
    }
    table = np.stack([columns[name] for name in _RADIAL], axis=2)
    return table.reshape(len(table), len(image) * len(_RADIAL) * len(_ORDERS))


RADIAL_ZERNIKE = Family(name="radial_zernike", features=_radial_features, measure=_measure_radial)


def _moments(regions: Regions, image: Image | None) -> tuple[NDArray[np.complex128], Values]:
    """Moments (object, mask and channels, moment), and radii of the enclosing circles; NaN for one pixel."""
    weights = 1 if image is None else 1 + len(image)
    raw = regions.each(_sums, 1 + 2 * weights * _N_POWERS, image)
    sums = raw[:, 1:].reshape(-1, weights, _N_POWERS, 2)
    moments = np.asarray((sums[..., 0] + 1j * sums[..., 1]) @ _combination().T, np.complex128)
    return moments, raw[:, 0]


@compiled
def _sums(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    _, height, width = volume.shape
    basis = np.empty(2 * _N_POWERS)
    for index in range(len(rows)):
        inside = pixels[starts[index] : starts[index + 1]]
        if len(inside) == 1:
            continue
        mask, top, left = geometry.box_mask(inside, height, width, 0)
        low, high = geometry.row_spans(mask)
        middle_y, middle_x, radius = geometry.enclosing_circle(geometry.hull(low, high))
        sums = np.zeros((1 + len(values), 2 * _N_POWERS))
        for k in range(len(inside)):
            y = (inside[k] // width - top - middle_y) / radius
            x = (inside[k] % width - left - middle_x) / radius
            squared = y * y + x * x
            k_power, real, imaginary = 0, 1.0, 0.0
            for m in range(_TOP + 1):
                term = 1.0
                for _ in range((_TOP - m) // 2 + 1):
                    basis[2 * k_power], basis[2 * k_power + 1] = real * term, imaginary * term
                    term *= squared
                    k_power += 1
                real, imaginary = real * y - imaginary * x, real * x + imaginary * y
            for i in range(2 * _N_POWERS):
                sums[0, i] += basis[i]
            for channel in range(len(values)):
                weight = values[channel, starts[index] + k]
                for i in range(2 * _N_POWERS):
                    sums[channel + 1, i] += weight * basis[i]
        rows[index, 0] = radius
        rows[index, 1:] = sums.ravel()
