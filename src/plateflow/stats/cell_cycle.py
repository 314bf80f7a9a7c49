"""The cell cycle from the integrated DNA of nuclei: G1, S and G2/M by a fit of the plate's histogram.

Dean & Jett (J Cell Biol 60 (1974) 523) take the histogram for two normal peaks, of G1 and of G2/M at twice the DNA, and
DNA synthesis between them, broadened as the peaks are. Here it is fitted in log2 of the DNA, in which equal
coefficients of variation are equal widths, by maximum likelihood (expectation maximisation);
what lies elsewhere (debris, clumps, higher ploidy) has an even background. S
has the same number of nuclei at each amount of DNA between the peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.stats.thresholds import CONVERGED, ROUNDS, Undecided, Values, grouped, varied

PHASES = ("G1", "S", "G2M")
LEAST_NUCLEI = 500
"""Nuclei that the fit needs."""
STEPS = np.log2(1 + np.arange(1, 10) / 10)
"""Where S lies between the peaks (0 and 1), at even steps of DNA."""
OCTAVES = (0.8, 1.2)
"""How far apart the peaks may lie: a ratio of 1.74 to 2.3."""
BROADEST = 0.25
"""The widest peaks (standard deviation in octaves, a CV of 17 %) in which S can be told."""
SMOOTH, BIN = 0.06, 1 / 64
"""Peaks are looked for in the histogram with bins of so many octaves, smoothed with this standard deviation."""
NEAR = 0.2
"""How far from a fitted peak, in octaves, the histogram must have one."""
DIP, SURE = 0.9, 3.0
"""Between the peaks the histogram falls to this part of the lower one at most, by so many standard errors at least."""
ENDS = 3.0
"""G1 begins, and G2/M ends, so many standard deviations beyond their peaks."""


@dataclass(frozen=True, kw_only=True)
class CellCycle:
    """A fit, in log2 of the DNA.

    Attributes:
        g1: the peak of G1; `octaves`: how far above it that of G2/M lies; `width`: standard deviation of both.
        shares: of G1, S, G2/M and the background.
    """

    g1: float
    octaves: float
    width: float
    shares: tuple[float, float, float, float]

    @property
    def peaks(self) -> tuple[float, float]:
        """The DNA at the peaks of G1 and G2/M."""
        return float(2**self.g1), float(2 ** (self.g1 + self.octaves))

    def densities(self, log2_dna: Values) -> Values:
        """The density of G1, S and G2/M (rows) per octave, each times its share."""
        centres = self.g1 + self.octaves * np.concatenate([[0.0], STEPS, [1.0]])
        normal = np.exp(-(((log2_dna - centres[:, None]) / self.width) ** 2) / 2) / (self.width * np.sqrt(2 * np.pi))
        parts = np.stack([normal[0], normal[1:-1].mean(axis=0), normal[-1]])
        return np.array(self.shares[:3])[:, None] * parts

    def limits(self) -> tuple[float, float, float, float]:
        """The DNA from which on G1, S and G2/M are the likeliest phase, and where G2/M ends."""
        ends = self.g1 - ENDS * self.width, self.g1 + self.octaves + ENDS * self.width
        places = np.linspace(self.g1, self.g1 + self.octaves, 4097)
        best = self.densities(places).argmax(axis=0)
        g2 = int(np.argmax(best == 2))  # at its own peak at the latest: `fit_cell_cycle` sees to it
        s = int(np.argmax(best != 0))
        first, second, third, last = (float(2**x) for x in (ends[0], places[s], places[g2], ends[1]))
        return first, second, third, last

    def as_json(self) -> dict[str, Any]:
        """The fit with its peaks and limits, as it is frozen."""
        return asdict(self) | {"peaks": self.peaks, "limits": self.limits()}


def members_of(dna: NDArray[np.floating], limits: Sequence[float]) -> dict[str, Values]:
    """By phase, 1 for nuclei in it and 0 for others; NaN without DNA."""
    known = np.isfinite(dna)
    found = zip(PHASES, limits[:-1], limits[1:], strict=True)
    return {phase: np.where(known, (dna >= low) & (dna < high), np.nan) for phase, low, high in found}


def fit_cell_cycle(dna: NDArray[np.floating]) -> CellCycle:
    """Fit the cell cycle to the integrated DNA of a plate's nuclei.

    Raises:
        Undecided: too few nuclei, or the histogram has no two peaks at a ratio of about 2: nothing is guessed then.
    """
    log2_dna = np.log2(varied(dna, logarithms=True))
    if len(log2_dna) < LEAST_NUCLEI:
        raise Undecided(f"{len(log2_dna)} nuclei are too few for a fit of the cell cycle: {LEAST_NUCLEI} are needed")
    low, high = np.quantile(log2_dna, (0.001, 0.999))
    log2_dna = log2_dna[(log2_dna >= low) & (log2_dna <= high)]
    places, counts, noise = _histogram(log2_dna)
    mode = places[counts.argmax()]
    fits = [_fit(log2_dna, start) for start in (mode, mode - 1)]
    fit = max(fits, key=lambda each: each[1])[0]
    if not OCTAVES[0] <= fit.octaves <= OCTAVES[1]:
        raise Undecided(f"no two peaks: those of the best fit differ by a factor of {2**fit.octaves:.2f}, not 2")
    if fit.width > BROADEST:
        raise Undecided(f"no two peaks: the best fit has a CV of {_cv(fit.width):.0%}, in which they can't be told")
    errors, dna = noise * np.sqrt(counts), 2**places
    counts, errors = counts / dna, errors / dna  # in bins of equal DNA, in which S is flat and no end of it a peak
    peaks = []
    for place, name in ((fit.g1, "G1"), (fit.g1 + fit.octaves, "G2/M")):
        near = np.flatnonzero(np.abs(places - place) <= NEAR)
        top = near[counts[near].argmax()] if len(near) else -1
        if top in (-1, 0, len(counts) - 1) or counts[top] < counts[top - 1 : top + 2].max() or top in near[[0, -1]]:
            raise Undecided(f"no two peaks: the histogram of the integrated DNA has none where {name} should lie")
        peaks.append(top)
    valley, lower = counts[peaks[0] : peaks[1]].min(), counts[peaks].min()
    if valley > DIP * lower or lower - valley < SURE * errors[peaks].max():
        raise Undecided("no two peaks: between G1 and G2/M the histogram of the integrated DNA doesn't fall")
    if fit.densities(np.array([fit.g1 + fit.octaves]))[:, 0].argmax() != 2:
        raise Undecided("no two peaks: at the peak of G2/M another phase is likelier")
    return fit


def _cv(width: float) -> float:
    return float(width * np.log(2))


def _histogram(log2_dna: Values) -> tuple[Values, Values, float]:
    """Places, smoothed counts, and the standard error of a count over its square root."""
    from scipy.ndimage import gaussian_filter1d

    edges = np.arange(log2_dna.min() - 3 * SMOOTH, log2_dna.max() + 3 * SMOOTH + BIN, BIN)
    counts = np.histogram(log2_dna, edges)[0].astype(np.float64)
    smooth = gaussian_filter1d(counts, SMOOTH / BIN, mode="constant")
    return (edges[:-1] + edges[1:]) / 2, smooth, float(1 / np.sqrt(2 * np.sqrt(np.pi) * SMOOTH / BIN))


def _fit(log2_dna: Values, start: float) -> tuple[CellCycle, float]:
    """The fit that starts with G1 at a place, and its log likelihood per nucleus."""
    points, weights = grouped(log2_dna)
    weights = weights / weights.sum()
    background = 1 / (points[-1] - points[0])
    steps = np.concatenate([[0.0], STEPS, [1.0]])
    fit = CellCycle(g1=float(start), octaves=1.0, width=0.1, shares=(0.5, 0.2, 0.25, 0.05))
    before, likelihood = -np.inf, -np.inf
    for _ in range(ROUNDS):
        share = np.array([fit.shares[0], *[fit.shares[1] / len(STEPS)] * len(STEPS), fit.shares[2]])
        from_centre = (points[:, None] - fit.g1 - fit.octaves * steps) / fit.width
        density = share * np.exp(-(from_centre**2) / 2) / (fit.width * np.sqrt(2 * np.pi))
        total = density.sum(axis=1) + fit.shares[3] * background
        likelihood = float(weights @ np.log(total))
        if likelihood - before < CONVERGED:
            break
        before = likelihood
        parts = weights[:, None] * density / total[:, None]
        n = parts.sum()
        # the peaks by least squares: a line through the places of the components
        t, x = (parts @ steps).sum() / n, (parts.sum(axis=1) @ points) / n
        slope = (parts * (steps - t) * (points[:, None] - x)).sum() / (parts * (steps - t) ** 2).sum()
        g1 = x - slope * t
        width = np.sqrt((parts * (points[:, None] - g1 - slope * steps) ** 2).sum() / n)
        of = parts.sum(axis=0)
        shares = float(of[0]), float(of[1:-1].sum()), float(of[-1]), float(1 - n)
        fit = CellCycle(g1=float(g1), octaves=float(slope), width=float(max(width, 1e-3)), shares=shares)
    return fit, likelihood
