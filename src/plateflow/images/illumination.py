"""Illumination profiles: how much of the light each place of a field gets, one a plate and channel.

A profile is a smooth, low polynomial of the place in the field, fitted to the binned means of all fields of the plate.
It has mean 1; raw values are divided by it on read, level 0 stays as it is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_ORDER = 4
FEWEST_FIELDS = 8
MANY_FIELDS = 24
_LIMITS = (0.2, 5.0)


def fit_profile(binned: NDArray[np.float32]) -> tuple[NDArray[np.float64], int]:
    """Fit the profile of a channel.

    Each field is scaled to a median of 1, so that crowded fields don't outweigh empty ones; then each bin takes the
    lower quartile over the fields, which is mostly background: cells lie elsewhere in every field. Few fields can't
    tell light from cells: fewer than `FEWEST_FIELDS` give no profile, fewer than `MANY_FIELDS` one of order 2.

    Args:
        binned: mean values on a grid, (field, y, x).

    Returns:
        coefficients (MAX_ORDER + 1, MAX_ORDER + 1) of y^i x^j, with y and x from -1 to 1 over a field; and the order.
        Order 0 is a flat profile.
    """
    coefficients = np.zeros((MAX_ORDER + 1, MAX_ORDER + 1))
    coefficients[0, 0] = 1.0
    usable = binned[(np.nanmedian(binned, axis=(1, 2)) > 0) & np.isfinite(binned).all(axis=(1, 2))].astype(np.float64)
    if len(usable) < FEWEST_FIELDS:
        return coefficients, 0
    order = MAX_ORDER if len(usable) >= MANY_FIELDS else 2
    light = np.quantile(usable / np.median(usable, axis=(1, 2), keepdims=True), 0.25, axis=0)
    y, x = (2 * (np.arange(size) + 0.5) / size - 1 for size in light.shape)
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    terms = np.stack([np.outer(y**i, x**j).ravel() for i, j in powers], axis=1)
    solution = np.linalg.lstsq(terms, light.ravel(), rcond=None)[0]
    mean = float((terms @ solution).mean())
    coefficients[0, 0] = 0.0
    for (i, j), value in zip(powers, solution / mean, strict=True):
        coefficients[i, j] = value
    return coefficients, order


def profile(coefficients: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """The profile of a field of height x width px, float32 (height, width); at least 0.2, at most 5."""
    return _profile(coefficients.tobytes(), height, width)


@lru_cache(maxsize=16)
def _profile(coefficients: bytes, height: int, width: int) -> NDArray[np.float32]:
    """By Horner's rule, elementwise: a matrix product may round differently with the number of threads."""
    table = np.frombuffer(coefficients).reshape(MAX_ORDER + 1, MAX_ORDER + 1)
    y, x = (2 * (np.arange(size) + 0.5) / size - 1 for size in (height, width))
    total = np.zeros((height, width))
    for j in reversed(range(MAX_ORDER + 1)):
        column = np.zeros(height)
        for i in reversed(range(MAX_ORDER + 1)):
            column = column * y + table[i, j]
        total = total * x + column[:, None]
    light = np.clip(total, *_LIMITS).astype(np.float32)
    light.flags.writeable = False  # shared by all who ask
    return light
