"""Zernike moments up to order 9 of an object's mask, and of its intensities, in its smallest enclosing circle.

The polynomials are sums of powers: z^m r^2j is summed over the pixels once, for the mask and all channels, and the
30 moments are combinations of these sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features import geometry
from plateflow.features.feature import Feature, Regions, Values

_TOP = 9
ORDERS = [(n, m) for n in range(_TOP + 1) for m in range(n % 2, n + 1, 2)]
_POWERS = [(m, j) for m in range(_TOP + 1) for j in range((_TOP - m) // 2 + 1)]
_N_POWERS = len(_POWERS)


def _combination() -> NDArray[np.float64]:
    """(moment, power): the coefficients of the radial polynomials."""
    table = np.zeros((len(ORDERS), len(_POWERS)))
    for row, (n, m) in enumerate(ORDERS):
        for k in range((n - m) // 2 + 1):
            below = factorial(k) * factorial((n + m) // 2 - k) * factorial((n - m) // 2 - k)
            table[row, _POWERS.index((m, (n - m) // 2 - k))] = (-1) ** k * factorial(n - k) / below
    return table


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    text = "magnitude of the mask's Zernike moment {}, {} over the area of the enclosing circle; NaN for one pixel"
    return [
        Feature(name=f"AreaShape_Zernike_{n}_{m}", family="zernike", unit="1", definition=text.format(n, m))
        for n, m in ORDERS
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`."""
    found = []
    for regions in sets:
        mask_moments, circle, _ = moments(regions, None)
        found.append(np.abs(mask_moments[:, 0]) / circle[:, np.newaxis])
    return found


def moments(regions: Regions, image: NDArray[Any] | None) -> tuple[NDArray[np.complex128], Values, Values]:
    """(object, mask and channels, moment); areas of the enclosing circles, NaN for one pixel; pixels of the objects."""
    weights = 1 if image is None else 1 + len(image)
    raw = regions.each(_sums, 1 + 2 * weights * len(_POWERS), image)
    sums = raw[:, 1:].reshape(-1, weights, len(_POWERS), 2)
    found = np.asarray((sums[..., 0] + 1j * sums[..., 1]) @ _combination().T, np.complex128)
    return found, np.pi * raw[:, 0] ** 2, regions.areas.astype(np.float64)


@njit(cache=True, nogil=True)
def _sums(
    values: Values,
    pixels: NDArray[np.int32],
    starts: NDArray[np.int64],
    volume: NDArray[np.int32],
    out: Values,
) -> None:
    _, height, width = volume.shape
    basis = np.empty(2 * _N_POWERS)
    for index in range(len(out)):
        mine = pixels[starts[index] : starts[index + 1]]
        if len(mine) == 1:
            continue
        mask, top, left = geometry.box_mask(mine, height, width, 0)
        low, high = geometry.row_ends(mask)
        middle_y, middle_x, radius = geometry.enclosing_circle(geometry.hull(low, high))
        sums = np.zeros((1 + len(values), 2 * _N_POWERS))
        for k in range(len(mine)):
            y = (mine[k] // width - top - middle_y) / radius
            x = (mine[k] % width - left - middle_x) / radius
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
        out[index, 0] = radius
        out[index, 1:] = sums.ravel()
