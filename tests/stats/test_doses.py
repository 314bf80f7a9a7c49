"""Dose response."""

import numpy as np
import pandas as pd
import pytest
from simulated_wells import well_table

from plateflow.stats.doses import MIN_DOSES, dose_table, fit_curve, four_parameters
from plateflow.stats.effects import treatment_effects

DOSES = np.repeat(np.geomspace(0.01, 100, 8), 2)


def responses(seed: int, *, ec50: float = 1.0, hill: float = 1.0, height: float = 8.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, len(DOSES))
    return four_parameters(DOSES, 0.0, height, np.log(ec50), hill) + noise


def test_the_curve_by_hand() -> None:
    at = four_parameters(np.array([0.0, 2.0, 6.0]), 1.0, 5.0, np.log(2.0), 2.0)
    np.testing.assert_allclose(at, [1, 3, 1 + 4 / (1 + 1 / 9)])


@pytest.mark.parametrize(("ec50", "hill", "height"), [(1.0, 1.0, 20.0), (0.3, 1.5, -20.0), (5.0, 2.0, 20.0)])
def test_ec50_is_within_a_factor_of_one_and_a_half_and_its_interval_holds_it(
    ec50: float, hill: float, height: float
) -> None:
    """Eight doses in duplicate, up to 20 SD of the wells: the distance of controls with Z' 0.7."""
    curves = [fit_curve(DOSES, responses(seed, ec50=ec50, hill=hill, height=height)) for seed in range(20)]
    assert max(max(curve.ec50 / ec50, ec50 / curve.ec50) for curve in curves) < 1.5
    held = [curve.ec50_interval[0] <= ec50 <= curve.ec50_interval[1] for curve in curves]
    assert sum(held) >= 16
    assert all(curve.p < 1e-3 and curve.r_squared > 0.9 and not curve.flags for curve in curves)


def test_a_weaker_response_has_an_ec50_within_one_and_a_half_in_most_cases() -> None:
    off = [abs(np.log(fit_curve(DOSES, responses(seed, height=8)).ec50)) for seed in range(40)]
    assert np.median(off) < np.log(1.5)


def test_without_noise_every_parameter_is_found() -> None:
    curve = fit_curve(DOSES, four_parameters(DOSES, 2.0, -3.0, np.log(0.7), 1.7))
    assert [curve.bottom, curve.top, curve.ec50, curve.hill] == pytest.approx([2, -3, 0.7, 1.7], rel=1e-3)
    assert curve.flags == ()
    assert curve.ec50_interval == pytest.approx((0.7, 0.7), rel=1e-3)


def test_a_curve_is_the_same_in_any_units() -> None:
    """Of dose and response, and whatever is added to the response: factors of 1e-8 to 1e8, both signs."""
    rng = np.random.default_rng(5)
    for seed in range(12):
        ec50, hill, height = np.exp(rng.normal()), rng.uniform(0.7, 2), rng.uniform(10, 30)
        response = responses(seed, ec50=ec50, hill=hill, height=height)
        curve = fit_curve(DOSES, response)
        assert 1 / 2 < curve.ec50 / ec50 < 2
        for factor, offset, unit in ((1e-6, 0, 1), (1e6, 0, 1), *zip(*random_units(rng), strict=True)):
            other = fit_curve(DOSES * unit, (response + offset) * factor)
            assert other.flags == curve.flags
            mine = [*other.ec50_interval, other.ec50]
            assert np.array(mine) / unit == pytest.approx([*curve.ec50_interval, curve.ec50], rel=1e-3)
            assert [other.hill, other.r_squared] == pytest.approx([curve.hill, curve.r_squared], rel=1e-3)
            ends = [end / factor - offset for end in (other.bottom, other.top)]
            assert ends == pytest.approx([curve.bottom, curve.top], rel=1e-3, abs=1e-2)


def test_wells_whose_value_is_not_finite_are_left_out() -> None:
    response, more = responses(0, height=20), DOSES[:3]
    for bad in (np.nan, np.inf, -np.inf):
        found = fit_curve(np.r_[DOSES, more, bad], np.r_[response, np.full(3, bad), 1.0])
        assert found == fit_curve(DOSES, response)
        assert 1 / 1.5 < found.ec50 < 1.5


def random_units(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    factor = 10 ** rng.uniform(-8, 8, 3) * rng.choice([-1, 1], 3)
    return factor, rng.uniform(-100, 100, 3), 10 ** rng.uniform(-9, 3, 3)


def test_a_fit_starts_near_the_best_of_many_curves() -> None:
    """The highest dose is back at 0: from the middle between first and last mean on, the fit explained nothing."""
    response = four_parameters(DOSES, 0.0, 20.0, np.log(2), 2.0) + np.random.default_rng(1).normal(0, 1, len(DOSES))
    response[-2:] = [0.5, -0.5]
    assert fit_curve(DOSES, response).r_squared == pytest.approx(0.523, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_between_two_doses_the_ec50_of_a_cliff_is_anywhere(noise: float) -> None:
    dose = np.repeat([0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30], 2)
    response = np.where(dose < 0.5, 100.0, 0.0) + np.random.default_rng(0).normal(0, noise, len(dose))
    low, high = fit_curve(dose, response).ec50_interval
    assert low <= 0.3 * (1 + 1e-9)
    assert high >= 1 - 1e-9


def test_bad_fits_are_flagged() -> None:
    flat = [fit_curve(DOSES, np.random.default_rng(seed).normal(size=len(DOSES))) for seed in range(20)]
    assert sum("no response" in curve.flags or "not fitted" in curve.flags for curve in flat) >= 18
    beyond = fit_curve(DOSES, responses(1, ec50=900, height=60))
    assert "outside the doses" in beyond.flags
    bell = 8 * np.exp(-(np.log(DOSES) ** 2)) + np.random.default_rng(0).normal(0, 0.5, len(DOSES))
    assert "another shape" in fit_curve(DOSES, bell).flags
    assert fit_curve(DOSES[:8], responses(0)[:8]).flags == ("not fitted",)
    assert fit_curve(DOSES, np.full(len(DOSES), 3.0)).flags == ("not fitted",)
    assert fit_curve(DOSES, np.full(len(DOSES), np.nan)).flags == ("not fitted",)


def test_the_table_has_the_treatments_with_enough_doses_in_the_surest_feature_of_each_family() -> None:
    wells = well_table(0, treatments=160, hits=0, features=3).rename(columns={"F0": "Cells_A_1", "F1": "Cells_A_2"})
    treated = wells.index[wells["Metadata_role"] == "treatment"]
    wells.loc[treated, "Metadata_dose"] = np.nan
    chosen = treated[: len(DOSES)]
    wells.loc[chosen, ["Metadata_treatment", "Metadata_dose"]] = pd.DataFrame(
        {"Metadata_treatment": "größer, besser", "Metadata_dose": DOSES}, index=chosen
    )
    wells["Metadata_dose_unit"] = np.where(wells["Metadata_dose"].notna(), "uM", "")
    wells.loc[chosen, "Cells_A_2"] = 100 + 5 * responses(0, height=20)
    columns = ["Cells_A_1", "Cells_A_2", "F2"]
    table = dose_table(wells, columns, treatment_effects(wells, columns, reference="negative"))
    assert table["Metadata_treatment"].tolist() == ["größer, besser"] * 2
    assert table["Feature"].tolist() == ["Cells_A_2", "F2"]
    assert table["Metadata_dose_unit"].tolist() == ["uM", "uM"]
    first = table.iloc[0]
    assert (first["Flags"], first["Doses"], first["Wells"]) == ("", 8, 16)
    assert 1 / 1.5 < first["EC50"] < 1.5
    assert first["EC50Low"] < 1 < first["EC50High"]
    assert first["Bottom"] == pytest.approx(100, abs=5)
    assert "no response" in table["Flags"].iloc[1]
    lost = wells.assign(Metadata_FieldsUsed=np.where(wells.index.isin(chosen[:2]), 0, 4))
    less = dose_table(lost, columns, treatment_effects(lost, columns, reference="negative")).iloc[0]
    assert (less["Flags"], less["Doses"], less["Wells"]) == ("", 7, 14)
    # Doses below 0 are no amounts: one doesn't spoil the others, and logarithms have no curve.
    wells.loc[chosen[0], "Metadata_dose"] = -666.0
    less = dose_table(wells, columns, treatment_effects(wells, columns, reference="negative")).iloc[0]
    assert (less["Flags"], less["Wells"]) == ("", 15)
    wells.loc[chosen, "Metadata_dose"] = np.log10(DOSES / DOSES.max()) - 1
    assert not len(dose_table(wells, columns, treatment_effects(wells, columns, reference="negative")))
    assert MIN_DOSES == 5
