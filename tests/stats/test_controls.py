"""Z', SSMD and the verdict: by hand, and on plates simulated so."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind
from simulated_wells import names_of, well_table

from plateflow.stats.controls import control_table, verdict


def hand_made() -> pd.DataFrame:
    """Negatives 8, 10, 12 (mean 10, SD 2), positives 28, 30, 32, 34 (mean 31, SD √(20/3))."""
    values = [8.0, 10, 12, 28, 30, 32, 34]
    return pd.DataFrame(
        {
            "Metadata_Plate": "p",
            "Metadata_Well": [f"A{n:02d}" for n in range(1, 8)],
            "Metadata_role": ["negative"] * 3 + ["positive"] * 4,
            "Metadata_treatment": ["DMSO"] * 3 + ["drug"] * 4,
            "Metadata_FieldsUsed": 1,
            "F0": values,
        }
    )


def test_the_statistics_by_hand() -> None:
    row = control_table(hand_made(), ["F0"]).iloc[0]
    sd = np.sqrt(20 / 3)
    assert row[["Negatives", "Positives", "NegativeMean", "NegativeSD", "PositiveMean"]].tolist() == [3, 4, 10, 2, 31]
    assert row["ZPrime"] == pytest.approx(1 - 3 * (2 + sd) / 21)
    assert row["SSMD"] == pytest.approx(21 / np.sqrt(4 + 20 / 3))
    # MADs: median of 2, 0, 2 and of 3, 1, 1, 3, each times 1.4826.
    assert row["RobustZPrime"] == pytest.approx(1 - 3 * 1.4826 * (2 + 2) / 21)
    assert row["RobustSSMD"] == pytest.approx(21 / (1.4826 * np.sqrt(8)))
    assert row["SignalToBackground"] == pytest.approx(3.1)
    assert row[["NegativeCV", "PositiveCV"]].tolist() == pytest.approx([0.2, sd / 31])
    assert row["Reason"] == ""


def test_shares_are_tested_by_their_angle() -> None:
    shares = np.array([0.0, 0.01, 0.02, 0.3, 0.35, 0.4, 0.6])
    wells = hand_made().assign(Share_Positive=shares, Share_Positive_N=100)
    row = control_table(wells, ["Share_Positive"]).iloc[0]
    angles = np.arcsin(np.sqrt(shares))
    assert row["Q"] == pytest.approx(ttest_ind(angles[:3], angles[3:], equal_var=False).pvalue)
    assert row["ZPrime"] == pytest.approx(1 - 3 * (0.01 + shares[3:].std(ddof=1)) / (shares[3:].mean() - 0.01))


@pytest.mark.parametrize(("separation", "grade"), [(20, "good"), (9, "marginal"), (4, "poor"), (0, "poor")])
def test_the_plate_is_graded_as_simulated(separation: float, grade: str) -> None:
    """Z' is 1 - 6 / separation: 0.7, 0.33, -0.5."""
    grades = []
    for seed in range(5):
        table = control_table(well_table(seed, separation=separation, features=20), names_of(20))
        found = verdict(table)
        grades.append(found["grade"])
        z = table.loc[table["Feature"] == "F0", ["ZPrime", "RobustZPrime"]].iloc[0]
        if separation:
            assert z["ZPrime"] == pytest.approx(1 - 6 / separation, abs=0.6 / separation + 0.1)
            assert found["best"] == ["F0"]
            assert "F0 (Z' " in found["reasons"][0]
        assert (z["ZPrime"] > 0.5) == (grade == "good")
    assert grades == [grade] * 5


@pytest.mark.parametrize("survivors", [0, 1, 7, 9])
def test_a_control_that_kills_the_cells_is_judged_by_counts(survivors: int) -> None:
    """Of 16 wells some keep a few cells; what is measured of cells is missing in the others."""
    rng = np.random.default_rng(survivors)
    wells = well_table(0, shape=(4, 8), negatives=16, positives=16, treatments=0, hits=0).rename(columns={"F0": "F"})
    killed = np.flatnonzero(wells["Metadata_role"] == "positive")
    counts = rng.normal(800, 40, 32).round()
    counts[killed] = 0
    counts[killed[:survivors]] = 4 * rng.integers(1, 6, survivors)
    wells["Count_Nuclei"] = counts
    wells.loc[killed[survivors:], "F"] = np.nan
    low, high = counts[killed] / 4, np.delete(counts, killed) / 4  # per field
    z = 1 - 3 * (low.std(ddof=1) + high.std(ddof=1)) / (high.mean() - low.mean())
    table = control_table(wells, ["Count_Nuclei", "F"])
    row = table.iloc[0]
    assert row["ZPrime"] == pytest.approx(z)
    assert row["RobustZPrime"] > 0.5
    assert [row["PositiveSD"], row["SignalToBackground"]] == pytest.approx([low.std(ddof=1), low.mean() / high.mean()])
    found = verdict(table)
    assert (found["grade"], found["best"]) == ("good", ["Count_Nuclei"])
    assert f"best Count_Nuclei (Z' {z:.2f}" in found["reasons"][0]


def test_negatives_without_any_spread_have_a_z_prime_too() -> None:
    wells = hand_made().assign(F0=[0.0, 0, 0, 28, 30, 32, 34])
    row = control_table(wells, ["F0"]).iloc[0]
    assert row["ZPrime"] == pytest.approx(1 - 3 * np.sqrt(20 / 3) / 31)
    assert row["NegativeSD"] == 0


@pytest.mark.parametrize("name", ["Count_Nuclei", "F0"])
@pytest.mark.parametrize("values", [(0.0, 30.0), (30.0, 0.0), (1.0, 3.0)])
def test_controls_without_any_spread_are_apart_or_the_same(name: str, values: tuple[float, float]) -> None:
    """By definition Z' is 1 - 3 (0 + 0) / 30 = 1; SSMD has no finite value."""
    low, high = values
    table = control_table(hand_made().assign(**{name: [low] * 3 + [high] * 4}), [name])
    row = table.iloc[0]
    assert row[["ZPrime", "RobustZPrime", "NegativeSD", "PositiveSD"]].tolist() == [1, 1, 0, 0]
    assert np.isnan(row["SSMD"])
    found = verdict(table)
    assert (found["grade"], found["best"]) == ("good", [name])
    assert found["reasons"][0].endswith(f"1 of 1 features have Z' of at least 0.5; best {name} (Z' 1.00, robust 1.00)")
    neither = control_table(hand_made().assign(**{name: low}), [name])
    assert np.isnan(neither["ZPrime"][0])
    assert verdict(neither)["reasons"] == ["positive control drug: values are missing, or all the same"]
    assert verdict(neither)["grade"] == "unknown"


def test_a_step_between_three_wells_and_three_is_no_proof_among_many_features() -> None:
    """Medians of whole numbers, 2 in all negatives and 3 in all positives by chance: the grade and Z' 1 agree."""
    features = well_table(0, shape=(2, 3), negatives=3, positives=3, treatments=0, hits=0, separation=0, features=99)
    wells = features.assign(F7=np.where(features["Metadata_role"] == "positive", 3.0, 2.0))
    table = control_table(wells, names_of(99))
    assert table["ZPrime"][7] == 1
    found = verdict(table)
    assert (found["grade"], found["best"]) == ("unknown", [])
    assert "too few wells to tell; it differs from the negative controls in no feature" in found["reasons"][0]
    assert "nearest F7 (Z' 1.00" in found["reasons"][0]
    killed = np.where(wells["Metadata_role"] == "positive", 0, 120)
    more = control_table(wells.assign(Count_Nuclei=killed), ["Count_Nuclei", *names_of(99)])
    assert (verdict(more)["grade"], verdict(more)["best"]) == ("good", ["Count_Nuclei"])
    others = (more["ZPrime"] >= 0.5).sum() - 1
    assert f"1 of 100 features have Z' of at least 0.5, {others} more with q above 1%" in verdict(more)["reasons"][0]


def test_the_reason_is_said_once_for_all_doses_of_a_control() -> None:
    wells = hand_made().assign(Metadata_dose_unit="uM", Metadata_dose=[0.0, 0, 0, 1, 3, np.nan, 30])
    table = control_table(wells, ["F0"])
    assert table["PositiveDose"].fillna(-1).tolist() == [1, 3, 30, -1]
    assert table["PositiveDoseUnit"].unique().tolist() == ["uM"]
    assert verdict(table)["reasons"] == [
        "positive control drug 1 uM, 3 uM, 30 uM, without a dose: too few wells: 1 positive control; 3 are needed"
    ]


def test_the_sentence_of_a_poor_control_has_the_number_of_its_nearest_feature() -> None:
    wells = well_table(1, separation=0, features=20)
    table = control_table(wells, names_of(20))
    (reason,) = verdict(table)["reasons"]
    nearest = table.loc[table["ZPrime"].idxmax()]
    assert "in no feature at a false discovery rate of 1%" in reason
    assert f"nearest {nearest['Feature']} (Z' {nearest['ZPrime']:.2f}" in reason
    assert f"q {nearest['Q']:.2g}" in reason


def test_the_doses_of_a_positive_control_are_groups_of_their_own() -> None:
    """The plate has the grade of its best dose: half the wells have a dose without effect."""
    wells = well_table(0)
    weak = wells.index[wells["Metadata_role"] == "positive"][:16]
    wells.loc[weak, "Metadata_dose"] = 0.01
    wells.loc[weak, "F0"] -= 100
    table = control_table(wells, ["F0"])
    assert table[["Positive", "PositiveDose", "Positives"]].to_numpy().tolist() == [
        ["nocodazole", 0.01, 16],
        ["nocodazole", 1.0, 16],
    ]
    assert table["ZPrime"][1] > 0.5
    found = verdict(table)
    assert found["grade"] == "good"
    starts = [reason.split("; ")[0].removeprefix("positive control ") for reason in found["reasons"]]
    assert starts[0].startswith("nocodazole 0.01: it differs from the negative controls in no feature")
    assert starts[1] == "nocodazole 1: good"


def test_too_few_controls_are_said() -> None:
    table = control_table(well_table(0, negatives=2, positives=4), ["F0"])
    assert table["ZPrime"].isna().all()
    assert table["Reason"].tolist() == ["too few wells: 2 negative controls; 3 are needed"]
    found = verdict(table)
    assert found["grade"] == "unknown"
    assert found["reasons"] == ["positive control nocodazole: too few wells: 2 negative controls; 3 are needed"]
    nothing = verdict(control_table(well_table(0).drop(columns=["Metadata_role", "Metadata_treatment"]), ["F0"]))
    assert nothing["grade"] == "unknown"
    assert "0 negative controls and 0 positive controls" in nothing["reasons"][0]


def test_each_positive_control_is_judged_and_the_plate_is_the_weakest() -> None:
    wells = well_table(0)
    weak = wells.index[wells["Metadata_role"] == "positive"][:10]
    wells.loc[weak, "Metadata_treatment"] = "wéak, really"
    wells.loc[weak, "F0"] -= 5 * 11
    found = verdict(control_table(wells, ["F0"]))
    assert found["grade"] == "marginal"
    assert [reason.split(";")[0] for reason in found["reasons"]] == [
        "positive control nocodazole: good",
        "positive control wéak, really: marginal",
    ]


def test_a_positive_control_of_which_nothing_is_left_is_named() -> None:
    wells = well_table(0)
    gone = wells.index[wells["Metadata_role"] == "positive"][:10]
    wells.loc[gone, "Metadata_treatment"] = "taxol"
    wells.loc[gone, "Metadata_FieldsUsed"] = 0
    found = verdict(control_table(wells, ["F0"]))
    assert found["grade"] == "good"
    assert found["reasons"][1] == "positive control taxol: too few wells: 0 positive controls; 3 are needed"


def test_what_has_no_finite_value_is_in_no_sentence_and_no_cell() -> None:
    """Of one centre, one with a spread: Z' has none. Of a mean of nearly 0, a CV has none."""
    table = control_table(hand_made().assign(F0=[4.0, 5, 6, 5, 5, 5, 5]), ["F0"])
    (reason,) = verdict(table)["reasons"]
    assert reason.endswith("nearest F0 (SSMD 0.0, q 1)")
    centred = control_table(hand_made().assign(F0=[4.0, 5, 6, -2, -1, 1, 2]), ["F0"])
    assert centred["PositiveMean"][0] == 0
    assert np.isnan(centred["PositiveCV"][0])


def test_wells_out_of_use_and_constant_features_count_for_nothing() -> None:
    wells = well_table(0, features=2).assign(F1=7.0)
    out = wells.index[wells["Metadata_role"] == "positive"][:5]
    wells.loc[out, "Metadata_FieldsUsed"] = 0
    wells.loc[out, "F0"] = 1e6
    table = control_table(wells, ["F0", "F1"]).set_index("Feature")
    assert table.loc["F0", "Positives"] == 27
    assert table.loc["F0", "ZPrime"] > 0.5
    assert table.loc["F1", "Reason"] == "values are missing, or all the same"
