"""Illumination profiles: the share of the light that each place in a field gets, one per plate and channel.

Light falls on the background and on what is stained alike; cells may lie mid-field in every well, debris and wells
without light may lie anywhere, and the camera adds a dark level that no light made. So a profile takes its shape from
the background, its strength from the stained pixels above it, and there is none where the two disagree or the
background tells too little. With D the dark level and L the profile, whose mean is 1, a raw value becomes
D + (raw - D) / L on read; level 0 stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORDER = 4
STRONG = 2.0
"""From the brightest to the darkest place; what exceeds it is rarely light, and a warning says so."""
_LIMITS = (0.2, 5.0)
_LEAST_FIELDS = 8
"""Of fewer fields, neither the background between the cells nor their light is known well enough."""
_LEAST_EXPLAINED = 0.9
"""Of the variance of the background over the field, what a smooth shape must explain (adjusted for its terms)."""
_LEAST_LIGHT = 0.25
"""Of the background, what must be light rather than dark level: of less, haze around the cells is taken for light."""
_ERRORS = 2.0
"""Standard errors that a strength must differ from 0, and may differ from what is possible."""
_TRIM = 0.2
"""The share of the fields at either end that a trimmed mean leaves out."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """The illumination of a channel.

    Attributes:
        coefficients: (ORDER + 1, ORDER + 1) of y^i x^j, with y and x from -1 to 1 over a field.
        dark: the raw value without light.
        why: why there is no correction; empty where there is one.
    """

    coefficients: NDArray[np.float64]
    dark: float = 0.0
    why: str = ""

    @classmethod
    def even(cls, why: str) -> Light:
        """Light that needs no correction, or isn't known."""
        coefficients = np.zeros((ORDER + 1, ORDER + 1))
        coefficients[0, 0] = 1.0
        return cls(coefficients=coefficients, why=why)

    def profile(self, height: int, width: int) -> NDArray[np.float32]:
        """The profile of a field of height x width px, float32 (height, width); at least 0.2, at most 5."""
        return _profile(self.coefficients.tobytes(), height, width)

    def ratio(self) -> float:
        """The light at the brightest place of a field over that at the darkest."""
        light = self.profile(96, 96)
        return float(light.max() / light.min())

    def correct(self, pixels: NDArray[np.float32], light: NDArray[np.float32], where: NDArray[np.bool_] | bool) -> None:
        """Correct raw values ([z,] y, x) in place, where `where` is true; `light` is their part of the profile."""
        if self.why:
            return
        dark = np.float32(self.dark)
        np.subtract(pixels, dark, out=pixels, where=where)
        np.divide(pixels, light, out=pixels, where=where)
        np.add(pixels, dark, out=pixels, where=where)


def fit_light(mean: NDArray[np.float32], low: NDArray[np.float32]) -> Light:
    """Fit the light of a channel.

    The background is the median over the fields of the lowest values, B; a polynomial of low order is fitted to it. Of
    each field, what lies above its background, divided by its own mean, is regressed on that polynomial: a is the
    trimmed mean of the slopes (Yuen, 1974, for its error), so that a field with a speck changes nothing. As
    B = D + b L with a mean of L of 1, L = 1 + a (B - mean B) and D = mean B - 1 / a.

    Args:
        mean: mean values on a grid, (field, y, x).
        low: the lowest values, see `histograms.PlaneStatistics`, (field, y, x).

    Returns:
        the light; even, with the reason, where it can't be told.
    """
    usable = np.isfinite(mean).all(axis=(1, 2)) & (mean.mean(axis=(1, 2)) > 0)
    above = (mean - low).astype(np.float64)[usable]
    amount = above.mean(axis=(1, 2))
    stained = amount > 0.25 * np.median(amount) if len(amount) else np.zeros(0, bool)
    if (n := int(stained.sum())) < _LEAST_FIELDS:
        return Light.even(f"fewer than {_LEAST_FIELDS} fields show cells")
    y, x = map(_mean_powers, mean.shape[1:])
    powers = [(i, degree - i) for degree in range(ORDER + 1) for i in range(degree + 1)]
    terms = np.stack([np.outer(y[i], x[j]).ravel() for i, j in powers], axis=1)
    basis, mixing = np.linalg.qr(terms)  # the first is constant, all others have a mean of 0
    background = np.median(low[usable].astype(np.float64), axis=0).ravel()
    level = float(background.mean())
    shape = basis.T @ background
    shape[0] = 0
    power, spread = float(shape @ shape), float(((background - level) ** 2).sum())
    places, free = len(background) - 1, len(background) - len(powers)
    if level <= 0 or spread == 0 or (spread - power) / free > (1 - _LEAST_EXPLAINED) * spread / places:
        return Light.even("the background is even, or uneven in another way than light")
    relative = (above[stained] / amount[stained, None, None]).reshape(n, -1) @ basis
    slopes = relative @ shape / power
    slope, error = _trimmed_mean(slopes)
    if slope < _ERRORS * error or slope + _ERRORS * error < 1 / level:
        return Light.even("the cells do not show the unevenness of the background")
    slope = max(slope, 1 / level)  # no dark level below 0
    if slope * level * _LEAST_LIGHT > 1:
        return Light.even("the cells are far more uneven than the background: they lie unevenly, or it has no light")
    found, errors = _trimmed_mean(relative)
    rest, expected = (found - slope * shape)[1:], slope**2 * power
    if rest @ rest > expected / 4 + _ERRORS**2 * float((errors[1:] ** 2).sum()):
        return Light.even("the cells are uneven in another way than the background")
    fitted = slope * shape
    fitted[0] = np.sqrt(len(background)) * np.sign(basis[0, 0])
    coefficients = np.zeros((ORDER + 1, ORDER + 1))
    for (i, j), value in zip(powers, np.linalg.solve(mixing, fitted), strict=True):
        coefficients[i, j] = value
    return Light(coefficients=coefficients, dark=max(level - 1 / slope, 0.0))


def _mean_powers(size: int) -> list[NDArray[np.float64]]:
    """Of each power of y, from -1 to 1, its means over `size` equal parts."""
    edges = np.linspace(-1, 1, size + 1)
    return [np.diff(edges ** (i + 1)) / (i + 1) * size / 2 for i in range(ORDER + 1)]


def _trimmed_mean(values: NDArray[np.float64]) -> tuple[Any, Any]:
    """The trimmed means over the first axis, and their standard errors, from the winsorised variance."""
    values, cut = np.sort(values, axis=0), int(_TRIM * len(values))
    kept = values[cut : len(values) - cut]
    spread = np.clip(values, kept[0], kept[-1]).std(axis=0, ddof=1)
    return kept.mean(axis=0), spread * np.sqrt(len(values)) / len(kept)


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
