"""Illumination profiles: the share of the light that each place in a field gets, one per plate and channel.

Cells may lie mid-field in every well, debris and wells without light may lie anywhere, and the camera adds a dark level
that no light made. So a profile takes its shape from how bright the cells are, not from how much of them there is, and
the dark level from what of that shape the background shows; there is no profile where the cells leave parts of the
fields out, or don't differ by more than chance. With D the dark level and L the profile, whose mean is 1, a raw value
becomes D + (raw - D) / L on read; level 0 stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ORDER = 4
_DEGREE = 2
"""Of what is fitted; tables hold more, as those of earlier releases do."""
STRONG = 2.0
"""From the brightest to the darkest place; what exceeds it is rarely light, and a warning says so."""
_LIMITS = (0.2, 5.0)
_LEAST_FIELDS = 8
"""Of fewer fields, neither the brightness of the cells nor its error is known well enough."""
_BRIGHT = 0.95
_LEAST_SHOWN = 0.3
"""A place shows a cell that has this share of what its field's brightest places (quantile `_BRIGHT`) have."""
_LEAST_STAINED = 0.1
"""A field shows cells if its brightest places have this share of what the brightest tenth of the fields have."""
_LEAST_SEEN = 0.15
"""How often the least covered sixteenth of the fields shows cells, as a share of the most covered."""
_ERRORS = 2.0
_ROUNDS = 3


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


def fit_light(low: NDArray[np.float32], high: NDArray[np.float32]) -> Light:
    """Fit the light of a channel.

    What a place shows of a field is its brightest square above its lowest one. Thin or crowded cells must not be taken
    for dim or bright ones: with cells strewn at random, a share P = exp(-n) of the fields has none at a place where n
    lie on average, and a share P^t has none brighter than what a share t of the cells exceed. So that quantile of the
    fields is taken at each place, with one t for all places. A polynomial of low order is fitted to it; its errors come
    from leaving out an eighth of the fields at a time, and a term that is no more than its error adds nothing. The
    background is B = D + b L: a line through it against L, where L is least at each place, gives D.

    Args:
        low: the lowest values on a grid, see `histograms.PlaneStatistics`, (field, y, x).
        high: the highest.

    Returns:
        the light; even, with the reason, where it can't be told.
    """
    usable = np.isfinite(low).all(axis=(1, 2))
    background, above = low[usable].astype(np.float64), (high - low)[usable].astype(np.float64)
    bright = np.quantile(above, _BRIGHT, axis=(1, 2)) if len(above) else np.zeros(0)
    stained = bright > _LEAST_STAINED * np.quantile(bright, 0.9) if len(above) else np.zeros(0, bool)
    background, above = background[stained], above[stained]
    n, (height, width) = len(above), low.shape[1:]
    if n < _LEAST_FIELDS:
        return Light.even(f"fewer than {_LEAST_FIELDS} fields show cells")
    y, x = map(_mean_powers, (height, width))
    powers = [(i, degree - i) for degree in range(_DEGREE + 1) for i in range(degree + 1)]
    basis, mixing = np.linalg.qr(np.stack([np.outer(y[i], x[j]).ravel() for i, j in powers], axis=1))
    above, background = above.reshape(n, -1), background.reshape(n, -1)
    light = np.ones(height * width)
    for _ in range(_ROUNDS):  # what counts as a cell must not depend on the light
        relative = above / light
        scale = np.quantile(relative, _BRIGHT, axis=1, keepdims=True)
        shows = relative > _LEAST_SHOWN * scale
        relative = np.where(shows, above / np.maximum(scale, 1e-9), 0)
        seen = shows.sum(axis=0).reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3))
        if seen.min() < max(_LEAST_FIELDS, _LEAST_SEEN * seen.max()):
            return Light.even("parts of the fields seldom show cells")
        shape, slope = _fit(relative, background, basis)
        light = np.maximum(1 + basis @ shape, _LIMITS[0])
    parts = np.array_split(np.arange(n), _LEAST_FIELDS)
    fits = [_fit(np.delete(relative, part, axis=0), np.delete(background, part, axis=0), basis) for part in parts]
    factor = _LEAST_FIELDS - 1  # of the jackknife
    variance = factor * np.var([each for each, _ in fits], axis=0)
    error = np.sqrt(factor * np.var([each for _, each in fits]))
    if shape @ shape < _ERRORS**2 * variance.sum():
        return Light.even("the cells are as bright everywhere")
    if slope + _ERRORS * error < 0:
        return Light.even("the cells are dim where the background is bright")
    fitted = shape * np.maximum(1 - variance / np.maximum(shape**2, 1e-12), 0)  # what is noise adds nothing
    fitted[0] = np.sqrt(len(light)) * np.sign(basis[0, 0])
    coefficients = np.zeros((ORDER + 1, ORDER + 1))
    for (i, j), value in zip(powers, np.linalg.solve(mixing, fitted), strict=True):
        coefficients[i, j] = value
    found = Light(coefficients=coefficients).profile(8 * height, 8 * width)
    least = found.reshape(height, 8, width, 8).min(axis=(1, 3)).ravel().astype(np.float64)
    lowest = np.median(background, axis=0)
    slope = max(float((least - least.mean()) @ lowest / max(((least - least.mean()) ** 2).sum(), 1e-12)), 0.0)
    return Light(coefficients=coefficients, dark=max(float(lowest.mean() - slope * least.mean()), 0.0))


def _fit(
    relative: NDArray[np.float64], background: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """The shape of the light over its mean, as weights of the basis, and the slope of the background on it.

    Args:
        relative: how bright the cells are, 0 where none is, (field, place).
        background: (field, place).
        basis: orthonormal, the first constant, (place, term).
    """
    n, places = relative.shape
    shown = (relative > 0).sum(axis=0)
    none = np.clip(1 - shown / n, 1 / (2 * n), 1 - 1 / (2 * n))
    tail = min(0.5, np.log(2) / -np.log(np.median(none)))
    at = np.clip(none**tail * n - 0.5, np.minimum(n - shown, n - 1), n - 1)
    ordered, below = np.sort(relative, axis=0), at.astype(int)
    place, part = np.arange(places), at % 1
    value = (1 - part) * ordered[below, place] + part * ordered[np.minimum(below + 1, n - 1), place]
    weight = np.sqrt(shown)
    found = np.linalg.lstsq(basis * weight[:, None], value * weight, rcond=None)[0]
    shape = found / (found[0] * basis[0, 0])
    shape[0] = 0
    return shape, float(np.median(background, axis=0) @ basis @ shape / max(shape @ shape, 1e-12))


def _mean_powers(size: int) -> list[NDArray[np.float64]]:
    """Of each power of y, from -1 to 1, its means over `size` equal parts."""
    edges = np.linspace(-1, 1, size + 1)
    return [np.diff(edges ** (i + 1)) / (i + 1) * size / 2 for i in range(ORDER + 1)]


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
