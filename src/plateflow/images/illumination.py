"""Illumination profiles: the share of the light that each place in a field gets, one per plate and channel.

A profile is a polynomial of low order in the place in the field, fitted to the mean of the plate's fields. Its mean is
1; raw values are divided by it on read, level 0 stays as it is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ORDER = 4
_LIMITS = (0.2, 5.0)


def fit_profile(binned: NDArray[np.float32]) -> NDArray[np.float64]:
    """Fit the profile of a channel.

    Each field is divided by its own mean, so that crowded or bright fields do not outweigh others. The terms of each
    degree are then shrunk by the part of them that may be chance, estimated from the scatter between the n fields
    (after James and Stein, 1961): 1 - f * (squared standard error) / (squared size), at least 0. f = 3 (n - 1) /
    (n - 3) is about the 95 % point of the F distribution, which chance alone seldom reaches. So a few fields, whose
    cells lie on one side by chance, give a flat profile, and thousands of fields one that is hardly shrunk.

    Args:
        binned: mean values on a grid, (field, y, x).

    Returns:
        coefficients (ORDER + 1, ORDER + 1) of y^i x^j, with y and x from -1 to 1 over a field; flat for three fields
        or fewer.
    """
    coefficients = np.zeros((ORDER + 1, ORDER + 1))
    coefficients[0, 0] = 1.0
    usable = binned[np.isfinite(binned).all(axis=(1, 2)) & (binned.mean(axis=(1, 2)) > 0)].astype(np.float64)
    if (n := len(usable)) <= 3:
        return coefficients
    y, x = (2 * (np.arange(size) + 0.5) / size - 1 for size in usable.shape[1:])
    powers = [(i, degree - i) for degree in range(ORDER + 1) for i in range(degree + 1)]
    degrees = np.array([i + j for i, j in powers])
    terms = np.stack([np.outer(y**i, x**j).ravel() for i, j in powers], axis=1)
    basis, mixing = np.linalg.qr(terms)  # in order of degree: each term is orthogonal to all lower ones
    fields = (usable / usable.mean(axis=(1, 2), keepdims=True)).reshape(len(usable), -1) @ basis
    mean, error = fields.mean(axis=0), fields.var(axis=0, ddof=1) / n * 3 * (n - 1) / (n - 3)
    for degree in range(1, ORDER + 1):
        of_degree = degrees == degree
        size = float((mean[of_degree] ** 2).sum())
        mean[of_degree] *= max(0.0, 1 - float(error[of_degree].sum()) / size) if size > 0 else 0.0
    for (i, j), value in zip(powers, np.linalg.solve(mixing, mean), strict=True):
        coefficients[i, j] = value
    return coefficients


def profile(coefficients: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """The profile of a field of height x width px, float32 (height, width); at least 0.2, at most 5."""
    return _profile(coefficients.tobytes(), height, width)


@lru_cache(maxsize=16)
def _profile(coefficients: bytes, height: int, width: int) -> NDArray[np.float32]:
    """Horner's rule, elementwise: a matrix product may round differently with the number of threads."""
    table = np.frombuffer(coefficients).reshape(ORDER + 1, ORDER + 1)
    y, x = (2 * (np.arange(size) + 0.5) / size - 1 for size in (height, width))
    total = np.zeros((height, width))
    for j in reversed(range(ORDER + 1)):
        column = np.zeros(height)
        for i in reversed(range(ORDER + 1)):
            column = column * y + table[i, j]
        total = total * x + column[:, None]
    light = np.clip(total, *_LIMITS).astype(np.float32)
    light.flags.writeable = False  # shared by all callers
    return light
