"""Thresholds of a plate, against slow definitions, and the cell cycle on drawn nuclei."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from plateflow.stats.cell_cycle import fit_cell_cycle, members_of
from plateflow.stats.gates import wilson
from plateflow.stats.thresholds import Undecided, mixture, otsu, percentile

RNG = np.random.default_rng(21)
VALUES = arrays(np.float32, st.integers(20, 200), elements=st.floats(-100, 100, width=32))


@settings(deadline=None)
@given(VALUES, st.floats(5, 95))
def test_a_percentile_is_numpys(values: np.ndarray, percent: float) -> None:
    if np.ptp(values) == 0:
        return
    with_nan = np.concatenate([values, np.full(7, np.nan, np.float32)])
    assert percentile(with_nan, percent) == np.quantile(values.astype(float), percent / 100)


@settings(deadline=None)
@given(VALUES)
def test_otsus_threshold_leaves_most_variance_between_its_sides(values: np.ndarray) -> None:
    if np.ptp(values) == 0:
        return
    distinct = np.unique(values.astype(float))

    def between(cut: float) -> float:
        low, high = values[values < cut].astype(float), values[values >= cut].astype(float)
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    found = otsu(values)
    assert distinct[0] < found <= distinct[-1]
    best = max(between(cut) for cut in distinct[1:])
    assert between(np.nextafter(found, np.inf) if found in distinct else found) == pytest.approx(best, rel=1e-9)


def test_thresholds_of_intensities_compare_logarithms() -> None:
    values = np.exp(np.concatenate([RNG.normal(-3, 0.3, 900), RNG.normal(1, 0.3, 100)]))
    low, high = values[values < np.exp(-1)].max(), values[values > np.exp(-1)].min()
    for threshold in (otsu, mixture):
        found = threshold(np.append(values, [0.0, -1.0]), logarithms=True)
        assert low < found < high
        assert found == pytest.approx(np.exp(threshold(np.log(values))))


def test_a_mixture_is_cut_where_the_true_densities_cross() -> None:
    values = np.concatenate([RNG.normal(0, 1, 45_000), RNG.normal(6, 2, 5_000)])
    places = np.linspace(1, 5, 4001)
    densities = [w * np.exp(-(((places - m) / s) ** 2) / 2) / s for m, s, w in ((0, 1, 0.9), (6, 2, 0.1))]
    assert mixture(values) == pytest.approx(places[np.argmax(densities[1] > densities[0])], abs=0.1)


@pytest.mark.parametrize(
    ("threshold", "values", "why"),
    [
        (mixture, RNG.normal(size=2000), "don't part: their distance D is"),
        (mixture, RNG.exponential(size=2000), "don't part"),
        (mixture, RNG.uniform(size=2000), "don't thin out where they cross"),
        (otsu, np.ones(50), "same value"),
        (mixture, np.ones(50), "same value"),
        (otsu, np.arange(19.0), "only 19 cells have a value, 20 are needed"),
        (lambda values: percentile(values, 99), np.arange(99.0), "of 99 cells isn't known: 100 are needed"),
        (lambda values: percentile(values, 0.5), np.arange(150.0), "200 are needed"),
    ],
)
def test_what_values_dont_tell_is_no_threshold(threshold, values: np.ndarray, why: str) -> None:
    with pytest.raises(Undecided, match=why):
        threshold(values)


@pytest.mark.parametrize("hits", [0, 1, 13, 50])
def test_shares_have_wilsons_interval(hits: int) -> None:
    known = binomtest(hits, 50).proportion_ci(method="wilson")
    assert wilson(hits, 50) == pytest.approx((known.low, known.high), abs=1e-9)
    assert np.isnan(wilson(0, 0)).all()


def nuclei(n: int, shares: tuple[float, float, float], cv: float) -> tuple[np.ndarray, np.ndarray]:
    """Phase and integrated DNA of nuclei, G1 at 3."""
    phase = RNG.choice(3, n, p=shares)
    dna = np.select([phase == 0, phase == 1], [1.0, RNG.uniform(1, 2, n)], 2.0)
    return phase, 3 * dna * np.exp(RNG.normal(0, cv, n))


@pytest.mark.parametrize(
    ("shares", "cv"), [((0.5, 0.25, 0.25), 0.08), ((0.3, 0.1, 0.6), 0.06), ((0.75, 0.1, 0.15), 0.1)]
)
def test_the_cell_cycle_is_found_again(shares: tuple[float, float, float], cv: float) -> None:
    phase, dna = nuclei(8000, shares, cv)
    debris = np.concatenate([dna, RNG.uniform(0.2, 20, 200)])
    fit = fit_cell_cycle(debris)
    assert fit.peaks == pytest.approx((3, 6), rel=0.02)
    assert fit.width * np.log(2) == pytest.approx(cv, rel=0.15)
    assert fit.shares[0] == pytest.approx(shares[0], abs=0.06)
    assert fit.shares[2] == pytest.approx(shares[2], abs=0.06)
    found = members_of(np.append(dna, np.nan), fit.limits())
    assert all(np.isnan(each[-1]) for each in found.values())
    together = np.sum([each[:-1] for each in found.values()], axis=0)
    assert set(together) <= {0.0, 1.0}  # no nucleus is in two phases
    assert together.mean() > 0.98
    assert found["G1"][:-1][phase == 0].mean() > 0.9
    assert found["G2M"][:-1][phase == 2].mean() > 0.85


@pytest.mark.parametrize(
    ("dna", "why"),
    [
        (np.exp(RNG.normal(0, 0.1, 4000)), "no two peaks"),
        (np.exp(RNG.normal(0, 0.5, 4000)), "no two peaks"),
        (RNG.uniform(1, 2, 4000), "no two peaks"),
        (nuclei(20_000, (0.7, 0.3, 0.0), 0.08)[1], "no two peaks"),
        (nuclei(4000, (0.5, 0.25, 0.25), 0.25)[1], "no two peaks"),
        (np.concatenate([np.exp(RNG.normal(m, 0.08, 2000)) for m in (0, np.log(3))]), "no two peaks"),
        (nuclei(499, (0.5, 0.2, 0.3), 0.05)[1], "499 nuclei are too few"),
    ],
)
def test_a_histogram_without_two_peaks_has_no_cell_cycle(dna: np.ndarray, why: str) -> None:
    with pytest.raises(Undecided, match=why):
        fit_cell_cycle(dna)
