"""The arithmetic that processors and devices share, against numbers of any precision."""

import math
from fractions import Fraction

import numpy as np
import pytest
from flow_examples import few
from hypothesis import example, given
from hypothesis import strategies as st

from plateflow.flows import blocks, flow_error, scalar

steps = st.integers(-32727, 32727)
parts = st.integers(0, 4095)
floats = st.floats(-1e4, 1e4)


@few
@given(steps, steps, steps, steps, parts, parts)
def test_interpolation_rounds_halves_up_along_x_and_then_y(a, b, c, d, fy, fx):
    def mixed(p: int, q: int, f: int) -> int:
        return math.floor(p + Fraction((q - p) * f, 4096) + Fraction(1, 2))

    assert scalar.mix(a, b, fx) == mixed(a, b, fx)
    assert scalar.mix4(a, b, c, d, fy, fx) == mixed(mixed(a, b, fx), mixed(c, d, fx), fy)


@few
@given(st.integers(0, 10**6), steps, st.integers(-(10**6), 0), st.integers(0, 10**6))
def test_positions_stay_within_bounds_and_pixels_are_the_nearest(position, step, low, high):
    moved = scalar.moved(position, step, low, high)
    assert moved == min(max(position + step, low), high)
    assert scalar.nearest_pixel(moved) == math.floor(Fraction(moved, 4096) + Fraction(1, 2))


@few
@given(st.integers(1, 10**6), st.data())
def test_means_are_rounded(n, data):
    total = data.draw(st.integers(0, 10**4 * n))
    assert scalar.rounded_mean(total, n) == math.floor(Fraction(total, n) + Fraction(1, 2))


@few
@given(floats, floats, floats)
@example(1e-300, 0.0, 0.0)
def test_a_direction_is_one_long(dz, dy, dx):
    vector = np.array([dz, dy, dx])
    length = np.sqrt((vector**2).sum())
    expected = vector / length if length > 0 else np.zeros(3)
    np.testing.assert_allclose(scalar.direction(dz, dy, dx), expected, rtol=1e-15)


@few
@given(floats, floats, floats)
def test_a_squared_error_is_rounded_to_its_unit(dz, dy, dx):
    exact = Fraction(dz) ** 2 + Fraction(dy) ** 2 + Fraction(dx) ** 2
    unit = Fraction(1, 1 << 32)
    error = scalar.squared_error(dz, dy, dx)
    # Three products and two sums are rounded to 53 bits, then to the unit.
    assert abs(error * unit - exact) <= unit / 2 + 3 * exact * Fraction(1, 1 << 52)


@pytest.mark.parametrize("wild", [1e5, 1e160, math.inf, math.nan])
def test_the_largest_error_fits(wild):
    assert scalar.squared_error(wild, 0.0, 0.0) == 1 << 62


def test_sums_of_errors_lose_nothing():
    """Many pixels of the largest error, which no single 64-bit sum in these units could hold."""
    labels = np.ones((64, 64), np.int32)
    flow = np.full((2, 64, 64), 1e30)
    assert flow_error(labels, flow).tolist() == [float(1 << 30)]


def test_probabilities_are_those_of_the_logistic_function():
    table = blocks.probability_table()
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
        expected = 1 / (1 + np.exp(-values))
    finite = np.isfinite(values)
    np.testing.assert_allclose(table[finite] / scalar.PROBABILITY_ONE, expected[finite], atol=2**-31)
    assert table.min() >= 0 and table.max() == scalar.PROBABILITY_ONE
