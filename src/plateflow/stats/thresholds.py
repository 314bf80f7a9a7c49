"""Numbers of a plate that part its cells: percentiles, Otsu's threshold, where two normal distributions cross.

Each function raises `Undecided` with the reason where the values don't tell: a threshold is never guessed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEAST_CELLS = 20
"""Values that any threshold needs."""
POINTS = 1024
"""Distributions are fitted to at most so many means of neighbours in order, each with its number of values."""
ROUNDS, CONVERGED = 400, 1e-8
"""Of expectation maximisation: the most rounds, and the gain in log likelihood per value that ends it."""
SEPARATE = 2.0
"""Two normal distributions are separate from this D on (Ashman, Bird & Zepf, Astron J 108 (1994) 2348)."""
DIP = 0.9
"""And where they cross, the values must be as dense as this part of what they are at the mean with fewer, at most: an
even distribution is fitted by two, too."""
LEAST_WEIGHT = 0.005
"""A distribution with a smaller share of the values is none."""


class Undecided(ValueError):
    """A plate's cells don't tell a threshold; the message says why."""


def finite(values: NDArray[np.floating], *, logarithms: bool = False) -> Values:
    """The values that count, sorted; of those whose logarithms are compared, the positive ones.

    Raises:
        Undecided: there are fewer than LEAST_CELLS.
    """
    found = values[np.isfinite(values)].astype(np.float64)
    found = np.sort(found[found > 0] if logarithms else found)
    if len(found) < LEAST_CELLS:
        raise Undecided(f"only {len(found)} cells have a value, {LEAST_CELLS} are needed")
    return found


def varied(values: NDArray[np.floating], *, logarithms: bool) -> Values:
    """As `finite`.

    Raises:
        Undecided: as of `finite`, or all are the same.
    """
    found = finite(values, logarithms=logarithms)
    if found[0] == found[-1]:
        raise Undecided(f"all {len(found)} cells have the same value")
    return found


def percentile(values: NDArray[np.floating], percent: float) -> float:
    """A percentile, interpolated linearly, as numpy's is.

    Raises:
        Undecided: as of `finite`, or not one cell lies beyond it.
    """
    found = finite(values)
    needed = int(np.ceil(100 / min(percent, 100 - percent) - 1e-9))
    if len(found) < needed:
        raise Undecided(f"percentile {percent:g} of {len(found)} cells isn't known: {needed} are needed")
    return float(np.quantile(found, percent / 100))


def otsu(values: NDArray[np.floating], *, logarithms: bool = False) -> float:
    """The cut that leaves most variance between the two sides, halfway between the values beside it.

    Otsu, IEEE Trans Syst Man Cybern 9 (1979) 62, over every cut of the values, so it depends on no bins; of several
    that are as good, the least.

    Raises:
        Undecided: as of `varied`.
    """
    found = varied(values, logarithms=logarithms)
    scaled = np.log(found) if logarithms else found
    cut = _otsu_cut(scaled)
    middle = (scaled[cut - 1] + scaled[cut]) / 2
    return float(np.exp(middle) if logarithms else middle)


def _otsu_cut(ordered: Values) -> int:
    """How many of the sorted values lie below Otsu's threshold."""
    centred = ordered - ordered.mean()
    n = np.arange(1, len(ordered))
    below = np.cumsum(centred)[:-1]  # above it lies the opposite, as all together are 0
    between = below**2 / (n * (len(ordered) - n))
    between[ordered[1:] == ordered[:-1]] = -1
    return int(between.argmax()) + 1


def grouped(ordered: Values) -> tuple[Values, Values]:
    """Sorted values as at most POINTS means of neighbours, and how many values each stands for."""
    edges = np.linspace(0, len(ordered), min(len(ordered), POINTS) + 1).astype(int)
    weights = np.diff(edges).astype(np.float64)
    return np.add.reduceat(ordered, edges[:-1]) / weights, weights


def mixture(values: NDArray[np.floating], *, logarithms: bool = False) -> float:
    """Where two normal distributions that are fitted to the values cross, between their means.

    Maximum likelihood by expectation maximisation (Dempster, Laird & Rubin, J R Stat Soc B 39 (1977) 1), from Otsu's
    threshold on. Above the crossing point a value is more likely of the upper distribution.

    Raises:
        Undecided: as of `varied`, or the distributions aren't separate, with fewer values between them, or one of them
            has hardly any value.
    """
    found = varied(values, logarithms=logarithms)
    scaled = np.log(found) if logarithms else found
    offset, unit = scaled.mean(), scaled.std()
    scaled = (scaled - offset) / unit
    mean, sd, share = _two_normals(scaled)
    distance = abs(mean[1] - mean[0]) * np.sqrt(2) / np.sqrt((sd**2).sum())
    if distance < SEPARATE:
        raise Undecided(f"two normal distributions don't part: their distance D is {distance:.2f}, not {SEPARATE:g}")
    if share.min() < LEAST_WEIGHT:
        raise Undecided(f"one of two normal distributions has {share.min():.2%} of the cells alone")
    crossing = _crossing(mean, sd, share)
    if crossing is None:
        raise Undecided("one of two normal distributions lies within the other: they don't cross between their means")
    at, lower, upper = (_near(scaled, place, sd.min() / 2) for place in (crossing, *mean))
    if at > DIP * min(lower, upper):
        raise Undecided("two normal distributions don't part: the cells don't thin out where they cross")
    crossing = offset + unit * crossing
    return float(np.exp(crossing) if logarithms else crossing)


def _near(ordered: Values, place: float, reach: float) -> int:
    """How many of the sorted values lie so near to a place."""
    first, last = np.searchsorted(ordered, (place - reach, place + reach))
    return int(last - first)


def _two_normals(ordered: Values) -> tuple[Values, Values, Values]:
    """Means, ascending, standard deviations and shares of two normal distributions."""
    cut = _otsu_cut(ordered)
    sides = ordered[:cut], ordered[cut:]
    mean, sd = (np.array([getattr(side, of)() for side in sides]) for of in ("mean", "std"))
    share = np.array([len(side) for side in sides]) / len(ordered)
    points, weights = grouped(ordered)
    least, before = 1e-3, -np.inf  # of the whole standard deviation: a single value has none
    for _ in range(ROUNDS):
        sd = np.maximum(sd, least)
        density = share * np.exp(-(((points[:, None] - mean) / sd) ** 2) / 2) / sd
        total = np.maximum(density.sum(axis=1), 1e-300)
        likelihood = float(weights @ np.log(total)) / weights.sum()
        parts = weights[:, None] * density / total[:, None]
        n = np.maximum(parts.sum(axis=0), 1e-300)
        share, mean = n / n.sum(), (parts * points[:, None]).sum(axis=0) / n
        sd = np.sqrt((parts * (points[:, None] - mean) ** 2).sum(axis=0) / n)
        if likelihood - before < CONVERGED:
            break
        before = likelihood
    order = np.argsort(mean)
    return mean[order], np.maximum(sd, least)[order], share[order]


def _crossing(mean: Values, sd: Values, share: Values) -> float | None:
    """Where the two densities, times their shares, are equal between the means; None where they aren't, or twice."""
    # of either, minus the logarithm of the density as a polynomial
    lower, upper = (
        np.array([1, -2 * m, m**2]) / (2 * s**2) + [0, 0, np.log(s / w)]
        for m, s, w in zip(mean, sd, share, strict=True)
    )
    difference = upper - lower
    difference = difference[1:] if abs(difference[0]) < 1e-12 * np.abs(difference).max() else difference
    roots = np.roots(difference)
    between = [root.real for root in roots if abs(root.imag) < 1e-12 and mean[0] < root.real < mean[1]]
    return float(between[0]) if len(between) == 1 else None
