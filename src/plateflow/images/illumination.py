"""Illumination profiles: the share of the light that each place in a field gets, one per plate and channel.

Cells may lie mid-field in every well, debris and wells without light may lie anywhere, and the camera adds a dark level
that no light made. So the light is fitted to how bright the cells are, not to how much of them there is, and to the
background; there is no profile where the two disagree, where the cells leave parts of the fields out, or where they
don't differ by more than chance. With D the dark level and L the profile, whose mean is 1, a raw value becomes
D + (raw - D) / L on read; level 0 stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
_NEAR = 0.3
"""Cells count as near the threshold `_LEAST_SHOWN` up to this (log) above it."""
_CHANCE = 0.001
"""How often evenly lit cells may be taken for unevenly lit ones."""
_DISAGREE = 0.01
"""How often cells and background that show the same light may be said to disagree."""
_FOREIGN = 0.2
"""The share of the background's shape that haze, medium or plastic may make up, however many fields show it."""
_LEAST_LIT = 0.05
"""The share of the background that must be light for it to bear the cells out."""
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Light:
    """The illumination of a channel.

    Attributes:
        coefficients: (ORDER + 1, ORDER + 1) of y^i x^j, with y and x from -1 to 1 over a field.
        dark: the raw value without light.
        why: why there is no correction; empty where there is one.
        alone: whether the cells alone tell the light, as nearly all of the background is taken for the dark level.
    """

    coefficients: NDArray[np.float64]
    dark: float = 0.0
    why: str = ""
    alone: bool = False

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
    """Fit the light of a channel, a polynomial of low order.

    What a place shows of a field is its brightest square above its lowest one; in logarithms that is the field, the
    light and chance, told apart by least squares. The background is B = D + b L, of the light's shape but for a factor.
    How the fields differ gives the error of both shapes, and the shape that fits both best, each in units of its error,
    is the first term of a singular value decomposition. How much of it there is, the cells alone say. A line through
    the background against L, where L is least at each place, gives D.

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
    n, (height, width) = int(stained.sum()), low.shape[1:]
    if n < _LEAST_FIELDS:
        return Light.even(f"fewer than {_LEAST_FIELDS} fields show cells")
    background, above = background[stained].reshape(n, -1), above[stained].reshape(n, -1)
    y, x = map(_mean_powers, (height, width))
    powers = [(i, degree - i) for degree in range(_DEGREE + 1) for i in range(degree + 1)]
    basis, mixing = np.linalg.qr(np.stack([np.outer(y[i], x[j]).ravel() for i, j in powers], axis=1))
    basis *= np.sqrt(len(basis))  # each term has the mean square 1
    terms = basis[:, 1:]

    def light_of(weights: NDArray[np.float64]) -> Light:
        coefficients = np.zeros((ORDER + 1, ORDER + 1))
        table = np.linalg.solve(mixing, np.append(basis[0, 0], weights)) * np.sqrt(len(basis))
        for (i, j), value in zip(powers, table, strict=True):
            coefficients[i, j] = value
        return Light(coefficients=coefficients)

    def within(light: Light) -> NDArray[np.float64]:
        return light.profile(8 * height, 8 * width).reshape(height, 8, width, 8).astype(np.float64)

    level = max(float(np.median(background)), 1e-9)
    shape, unsure = _centre(background @ terms / len(terms) / level)
    unsure = float(np.hypot(unsure, _FOREIGN * np.sqrt(np.mean(shape**2))))
    slant = within(light_of(shape))
    slope = level * (slant.mean(axis=(1, 3)) - slant.min(axis=(1, 3))).ravel()  # few cells lie at the lowest spot
    above = np.maximum(above - slope, 1e-9)
    light, cells = np.ones(len(terms)), np.zeros(terms.shape[1])
    for _ in range(_ROUNDS):  # what counts as a cell must not depend on the light
        relative = above / light
        relative /= _LEAST_SHOWN * np.quantile(relative, _BRIGHT, axis=1, keepdims=True)
        shows = relative > 1
        seen = shows.sum(axis=0).reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3))
        if seen.min() < max(_LEAST_FIELDS, _LEAST_SEEN * seen.max()):
            return Light.even("parts of the fields seldom show cells")
        cells, error = _centre(cells + _step(np.log(np.where(shows, relative, 1)), shows, basis, light))
        light = np.maximum(1 + terms @ cells, _LIMITS[0])
    both, why = _agree(cells / error, shape / unsure, n)
    if why:
        return Light.even(why)
    found = light_of(error * both)
    least = within(found).min(axis=(1, 3)).ravel()
    lowest = np.median(background, axis=0)
    slope = max(float((least - least.mean()) @ lowest / max(((least - least.mean()) ** 2).sum(), 1e-12)), 0.0)
    dark = max(float(lowest.mean() - slope * least.mean()), 0.0)
    # the last bits depend on the machine's linear algebra
    alone = bool(level - dark < _LEAST_LIT * level)
    return replace(found, coefficients=found.coefficients.round(9), dark=round(dark, 3), alone=alone)


def _of_density(
    brightness: NDArray[np.float64], shows: NDArray[np.bool_], basis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How bright the brightest cell of a place would be under even light, given how many lie there, (place,).

    Arguments are those of `_step`.

    With cells strewn at random, a share exp(-m) of the fields has none at a place where m lie on average, and a share
    exp(-m t) has none brighter than what a share t of the cells exceeds. So the distribution at a place is that of all
    places to the power of m over its mean.
    """
    n, places = shows.shape
    none = basis @ (basis.T @ (1 - shows.mean(axis=0))) / places
    many = -np.log(np.clip(none, 1 / (2 * n), 1 - 1 / (2 * n)))
    levels = np.quantile(brightness[shows], np.linspace(0, 1, 101))
    below = 1 - max(shows.mean(), 1e-9) * np.linspace(1, 0, 102)
    share = np.diff(np.maximum(below, 0.5 / shows.size) ** (many / many.mean())[:, None], axis=1)
    return share @ levels / share.sum(axis=1)


def _step(
    brightness: NDArray[np.float64], shows: NDArray[np.bool_], basis: NDArray[np.float64], light: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By how much each field alone would change the light's weights, (field, term); their mean is the step of the fit.

    Args:
        brightness: log of the brightest cell over the threshold, 0 where none is, (field, place).
        shows: whether there is one.
        basis: the first term constant, (place, term).
        light: the light by which the brightness is divided, (place,).
    """
    terms, found = basis[:, 1:] / light[:, None], brightness[shows]
    # more light lifts dim cells over the threshold, so the mean of those that show grows by less than the light
    kept = 1 - min(np.mean(found < _NEAR) / _NEAR * found.mean(), 0.8)
    fields, places = shows.sum(axis=1), shows.sum(axis=0)
    brightness = np.where(shows, brightness - _of_density(brightness, shows, basis), 0)
    rest = np.where(shows, brightness - (brightness.sum(axis=1) / fields)[:, None], 0)
    mean = shows @ terms / fields[:, None]
    normal = (terms.T * places) @ terms - (mean.T * fields) @ mean
    return len(shows) / kept * (rest @ terms) @ np.linalg.inv(normal)


def _centre(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The mean of (field, term) over the fields, and its standard error, one for all terms; outliers are drawn in."""
    middle = np.median(values, axis=0)
    far = 3 * 1.4826 * np.median(np.abs(values - middle), axis=0)
    values = np.clip(values, middle - far, middle + far)
    return values.mean(axis=0), max(float(np.sqrt(values.var(axis=0, ddof=1).mean() / len(values))), 1e-12)


def _agree(cells: NDArray[np.float64], background: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], str]:
    """The shape of the cells' light, as far as the background bears it out, and why there is none.

    Args:
        cells: the weights of the light by the cells, in units of their error, (term,).
        background: those of the background.
    """
    from scipy.special import fdtrc

    def chance(square: float, terms: float) -> float:
        return float(fdtrc(terms, len(cells) * (n - 1), square / terms))

    left, size, right = np.linalg.svd(np.stack([cells, background]), full_matrices=False)
    both, own, apart = left[0, 0] * size[0] * right[0], float(left[0, 0] ** 2), float(size[1] ** 2)
    if cells @ background < 0:
        both, own, apart = cells, 1.0, float(min(cells @ cells, background @ background))
    along = float((cells @ both) ** 2 / max(both @ both, 1e-12))
    few = len(cells) - 1  # a shape that the background gives is one term to be confirmed, the cells' own are all terms
    if min(chance(along, 1 + few * own), chance(float(cells @ cells), len(cells))) > _CHANCE:
        return both, "the cells are as bright everywhere"
    return both, "the cells and the background show different light" if chance(apart, few) < _DISAGREE else ""


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
