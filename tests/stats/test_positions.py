"""Median polish and position effects."""

import numpy as np
import pytest
from scipy.stats import kruskal
from simulated_wells import SHAPE, names_of, well_table

from plateflow.stats.positions import _kruskal_wallis, median_polish, position_effects


def test_median_polish_of_the_published_example() -> None:
    """Tukey's deaths by parachuting, the example of R's medpolish."""
    deaths = np.array([[14, 15, 14], [7, 4, 7], [8, 2, 10], [15, 9, 10], [0, 2, 0]], float)
    rows, columns, residual = median_polish(deaths[..., None])
    assert rows[:, 0].tolist() == [6, -1, 0, 2, -8]
    assert columns[:, 0].tolist() == [0, -1, 0]
    assert residual[..., 0].tolist() == [[0, 2, 0], [0, -2, 0], [0, -5, 2], [5, 0, 0], [0, 3, 0]]


def test_a_missing_well_leaves_an_additive_plate_as_it_is() -> None:
    rows, columns = np.arange(5.0) * 2, np.array([1.0, 0, -3, 4])
    plate = rows[:, None] + columns
    plate[1, 2] = np.nan
    found_rows, found_columns, residual = median_polish(plate[..., None])
    np.testing.assert_allclose(found_rows[:, 0], rows - np.median(rows))
    np.testing.assert_allclose(found_columns[:, 0], columns - np.median(columns))
    assert np.nanmax(np.abs(residual)) < 1e-9


def test_the_test_is_scipys_with_ties_and_missing_values() -> None:
    rng = np.random.default_rng(0)
    values, lines = rng.integers(0, 6, (90, 4)).astype(float), rng.integers(0, 5, 90)
    values[rng.random(90) < 0.2, 1] = np.nan
    values[:, 2] += lines
    values[:, 3] = 7
    found = _kruskal_wallis(values, lines)
    for number in range(3):
        known = ~np.isnan(values[:, number])
        groups = [values[known & (lines == line), number] for line in range(5)]
        expected = kruskal(*groups)
        assert found["P"][number] == pytest.approx(expected.pvalue)
        assert found["Share"][number] == pytest.approx(max((expected.statistic - 4) / (known.sum() - 5), 0))
    assert np.isnan(found["P"][3])


SMALL = {"shape": (8, 12), "negatives": 16, "positives": 0, "treatments": 40, "hits": 8}


@pytest.mark.parametrize(("shape", "layout"), [(SHAPE, {}), ((8, 12), SMALL)])
def test_nothing_is_invented_on_a_flat_plate_with_hits(shape: tuple[int, int], layout: dict) -> None:
    """Over 200 plates: p below 0.05 in one of twenty tests of each kind, an effect named in one plate of a hundred."""
    tables = [position_effects(well_table(seed, **layout), ["F0"], shape) for seed in range(200)]
    low = np.array([table["P"] < 0.05 for table in tables]).mean(axis=0)
    assert low.max() <= 0.1  # binomial at 0.05: more in 0.1 % of cases
    assert sum(table["Found"].any() for table in tables) <= 6


def test_many_features_of_a_flat_plate_are_one_family() -> None:
    assert not position_effects(well_table(0, features=100), names_of(100), SHAPE)["Found"].any()


@pytest.mark.parametrize("effect", ["edge", "row", "column"])
def test_a_gradient_is_found_and_named_and_measured(effect: str) -> None:
    wells = well_table(5)
    row, column = np.divmod(np.arange(len(wells)), SHAPE[1])
    edge = (row == 0) | (column == 0) | (row == SHAPE[0] - 1) | (column == SHAPE[1] - 1)
    # 2 SD from end to end of the inner rows or columns, or at the edge.
    shift = {"edge": edge * 1.0, "row": (row - 1) / 13, "column": (column - 1) / 21}[effect]
    wells["F0"] += 10 * shift
    table = position_effects(wells, ["F0"], SHAPE).set_index("Effect")
    assert table["Found"].to_dict() == {name: name == effect for name in ("edge", "row", "column")}
    assert table.loc[effect, "Size"] == pytest.approx(2, abs=0.9)
    assert table.loc[effect, "Share"] > 0.1
    assert table.loc[effect, "P"] < 1e-4


def test_controls_in_columns_are_no_effect_and_few_wells_no_test() -> None:
    wells = well_table(2, positives=0, treatments=140, hits=0)
    last = wells.index[(np.arange(len(wells)) % SHAPE[1] == 12) & (wells["Metadata_role"] == "empty")]
    wells.loc[last, "Metadata_role"] = "positive"
    wells.loc[last, "F0"] += 100
    assert not position_effects(wells, ["F0"], SHAPE)["Found"].any()
    few = position_effects(wells.iloc[30:34], ["F0"], SHAPE)
    assert few["P"].isna().all()
    assert few["Reason"].str.contains("4 wells").all()
    assert not few["Found"].any()
