"""Effects, p-values, false discovery rate, hits: by hand, by scipy, and on plates with planted hits."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from simulated_wells import names_of, well_table

from plateflow.stats.effects import (
    Effects,
    effect_table,
    p_values,
    pooled,
    replicate_agreement,
    treatment_effects,
)
from plateflow.stats.hits import benjamini_hochberg, hit_table, simes


def called(wells: pd.DataFrame, features: int = 1, reference: str = "negative") -> pd.DataFrame:
    return hit_table(treatment_effects(wells, names_of(features), reference=reference), fdr=0.05)


def pooled_tables(tables: pd.DataFrame, features: list[str]) -> Effects:
    z, sides = (tables[[name + suffix for name in features]].to_numpy() for suffix in ("", "_Sides"))
    return pooled(tables, z, sides, features)


def recall_and_fdr(effect: float, reference: str = "negative") -> tuple[float, float]:
    """Means over 20 plates of 32 hits among 160 treatments with two replicates, and 32 negatives."""
    recall, false = [], []
    for seed in range(20):
        table = called(well_table(seed, effect=effect), reference=reference)
        found = table.loc[table["Hit"], "Metadata_treatment"]
        true = found.isin([f"c{n:03d}" for n in range(32)])
        recall.append(true.sum() / 32)
        false.append((~true).sum() / max(len(found), 1))
    return float(np.mean(recall)), float(np.mean(false))


def test_planted_hits_are_recovered_at_the_false_discovery_rate() -> None:
    recall, false = recall_and_fdr(4)
    assert recall >= 0.95
    assert false <= 0.07


def test_at_3_sd_recall_is_that_of_an_exact_test() -> None:
    recall, false = recall_and_fdr(3)
    # The power of the two-sided t test with 31 degrees of freedom at the p that BH comes to: about 0.91.
    assert 0.87 <= recall <= 0.95
    assert false <= 0.07


def test_against_the_plate_fewer_are_found_and_no_more_false_ones() -> None:
    recall, false = recall_and_fdr(4, "plate")
    assert recall >= 0.9
    assert false <= 0.07


def test_a_plate_without_effects_has_hits_in_one_of_twenty_plates_at_most() -> None:
    plates = [called(well_table(seed, hits=0, features=30), 30)["Hit"].any() for seed in range(40)]
    assert sum(plates) <= 5  # expected: at most 2; more than 5 has a probability of 1 %


def test_the_effect_is_students_t_with_the_negatives_variance() -> None:
    wells = well_table(3, features=2)
    effects = treatment_effects(wells, ["F0", "F1"], reference="negative")
    mine = effects.keys.index[effects.keys["Metadata_treatment"] == "c007"][0]
    treated = wells.loc[wells["Metadata_treatment"] == "c007", "F0"].to_numpy()
    negative = wells.loc[wells["Metadata_role"] == "negative", "F0"].to_numpy()
    difference = treated.mean() - negative.mean()
    t = difference / (negative.std(ddof=1) * np.sqrt(1 / 2 + 1 / 32))
    assert effects.mean[mine, 0] == pytest.approx(difference / negative.std(ddof=1))
    assert p_values(effects)[mine, 0] == pytest.approx(2 * stats.t.sf(abs(t), 31))
    assert effects.ssmd is not None
    ssmd = difference / np.sqrt(treated.var(ddof=1) + negative.var(ddof=1))
    assert effects.ssmd[mine, 0] == pytest.approx(ssmd)
    # One treatment well: the test is scipy's for two samples, of which one has no variance of its own.
    one = well_table(3, replicates=1)
    effects = treatment_effects(one, ["F0"], reference="negative")
    known = stats.ttest_ind(
        one.loc[one["Metadata_treatment"] == "c000", "F0"], one.loc[one["Metadata_role"] == "negative", "F0"]
    )
    assert p_values(effects)[0, 0] == pytest.approx(known.pvalue)
    assert effects.ssmd is not None
    assert effects.ssmd[0, 0] == pytest.approx(effects.mean[0, 0] / np.sqrt(2))


def test_q_is_benjamini_hochbergs_by_hand_and_by_scipy() -> None:
    # Of 5 p-values: p₍ᵢ₎ 5 / i is 0.005, 0.05, 0.065, 0.25, 0.8; from the end on the least so far.
    p = np.array([0.2, 0.001, np.nan, 0.039, 0.8, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.25, 0.005, np.nan, 0.065, 0.8, 0.05])
    np.testing.assert_allclose(benjamini_hochberg(p[~np.isnan(p)]), stats.false_discovery_control(p[~np.isnan(p)]))


def test_simes_by_hand_and_missing_values() -> None:
    p = np.array([[0.03, 0.01, 0.5], [0.02, np.nan, 0.03], [np.nan] * 3])
    np.testing.assert_allclose(simes(p), [0.03, 0.03, np.nan])


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=20))
def test_simes_of_copies_is_the_value_and_never_below_the_least_or_above_bonferroni(p: list[float]) -> None:
    row = np.array([p])
    assert row.min() <= simes(row)[0] * (1 + 1e-12)
    assert simes(row)[0] <= row.min() * len(p) * (1 + 1e-12)
    np.testing.assert_allclose(simes(np.full((1, 7), p[0])), p[0])


def test_replicate_agreement_is_the_published_example() -> None:
    # Shrout & Fleiss 1979, table 2: six targets, four judges; ICC(1,1) is .17.
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    wells = well_table(0, shape=(4, 6), negatives=0, positives=0, treatments=6, replicates=4, hits=0)
    wells = wells.sort_values("Metadata_treatment").assign(F0=np.ravel(ratings).astype(float), F1=1.0)
    assert replicate_agreement(wells, ["F0"])["F0"] == pytest.approx(0.17, abs=0.005)
    assert np.isnan(replicate_agreement(well_table(0, replicates=1), ["F0"])["F0"])
    assert replicate_agreement(well_table(0, effect=0), ["F0"])["F0"] == pytest.approx(0, abs=0.2)
    assert replicate_agreement(well_table(0, effect=9), ["F0"])["F0"] > 0.8


def test_the_list_says_why() -> None:
    wells = well_table(1, features=3)
    place = wells.index[wells["Metadata_treatment"] == "c099"]
    wells.loc[place, "F1"] = [100 + 60, 100 - 20.0]  # its mean is far off, its replicates don't agree
    out = wells.index[wells["Metadata_treatment"] == "c098"]
    wells.loc[out, "Metadata_FieldsUsed"] = 0
    lone = wells.index[wells["Metadata_treatment"] == "c097"][0]
    wells.loc[lone, "Metadata_treatment"] = ""
    table = called(wells, 3).set_index("Metadata_treatment")
    assert list(table["Rank"]) == list(range(1, len(table) + 1))
    assert table["Hit"].is_monotonic_decreasing
    first = table.iloc[0]
    assert first["Feature"] == "F0"
    assert first["Reasons"].startswith(f"F0 {first['Z']:+.1f} SD (q ")
    assert not table.loc["c099", "Hit"]
    assert "both sides" in table.loc["c099", "Reasons"]
    assert table.loc["c098", "Reasons"] == "no well of it is in use"
    named = f"({wells.loc[lone, 'Metadata_Well']})"
    assert "one well alone" in table.loc[named, "Reasons"]
    assert table.loc["c097", "Replicates"] == 1


def test_too_few_negatives_are_said_and_no_treatment_is_called() -> None:
    table = called(well_table(0, negatives=2))
    assert not table["Hit"].any()
    assert table["P"].isna().all()
    assert table["Reasons"].str.contains("too few reference wells").all()
    assert not len(called(well_table(0).drop(columns=["Metadata_role", "Metadata_treatment"])))


def test_a_feature_that_hardly_ever_varies_calls_no_hit() -> None:
    wells = well_table(0, hits=0, features=2)
    rare = np.random.default_rng(0).random(len(wells)) < 0.1
    wells["F1"] = np.where(rare, 1e-3, 0.0)  # in the negatives a tiny spread, made of a few wells
    wells.loc[wells["Metadata_treatment"] == "c005", "F1"] = 1.0
    table = called(wells, 2)
    assert not (table["Feature"] == "F1").any()


@pytest.mark.parametrize(("negatives", "spread"), [([20] * 6, 1 / np.sqrt(12)), ([20] * 4 + [19, 21], 1.0)])
def test_a_treatment_that_kills_all_cells_is_a_hit_where_negatives_have_one_count(
    negatives: list[float], spread: float
) -> None:
    wells = well_table(0, shape=(3, 4), negatives=6, positives=0, treatments=2, replicates=3, hits=0, features=2)
    wells = wells.sort_values(["Metadata_role", "Metadata_treatment"]).assign(Metadata_FieldsUsed=1, F0=7.0)
    counts = wells.assign(Count_Nuclei=[*negatives, 0.0, 0, 0, 20, 20, 20])
    columns = ["Count_Nuclei", "F0", "F1"]
    table = hit_table(treatment_effects(counts, columns, reference="negative"), fdr=0.05)
    assert table["Hit"].tolist() == [True, False]
    assert table.loc[0, ["Metadata_treatment", "Feature"]].tolist() == ["c000", "Count_Nuclei"]
    assert table["Z"][0] == pytest.approx(-20 / spread)
    none = hit_table(treatment_effects(counts, ["Count_Nuclei"], reference="plate"), fdr=0.05)
    assert none["Reasons"].str.contains("half of these have one value").tolist() == [True, True]


def test_counts_that_are_rarely_off_call_hits_in_few_plates() -> None:
    """Of 25 objects: in a twentieth of all wells, of treatments and negatives, one or all are lost."""
    plates = []
    for seed in range(20):
        lost = np.random.default_rng(seed).random((384, 2)) < 0.05
        wells = well_table(seed, hits=0).assign(Count_A=25.0 - lost[:, 0], Count_B=25.0 * ~lost[:, 1])
        for name in ("Count_A", "Count_B"):
            plates.append(hit_table(treatment_effects(wells, [name], reference="negative"), fdr=0.05)["Hit"].any())
    assert sum(plates) <= 6  # hits need 32 equal negatives (19 %) and two wells off of one treatment (33 %)


def test_plates_are_pooled_by_their_replicates() -> None:
    plates = [well_table(seed, replicates=n, effect=2.5, plate=f"p{n}") for seed, n in ((1, 1), (2, 2))]
    effects = [treatment_effects(table, ["F0"], reference="negative") for table in plates]
    tables = [effect_table(f"p{n}", item) for n, item in zip((1, 2), effects, strict=True)]
    together = pooled_tables(pd.concat(tables, ignore_index=True), ["F0"])
    assert together.mean[0, 0] == pytest.approx((effects[0].mean[0, 0] + 2 * effects[1].mean[0, 0]) / 3, rel=1e-6)
    # Stouffer's method by hand, and with equal weights as scipy has it.
    t, error = [item.statistic[0, 0] for item in effects], np.sqrt([1 + 1 / 32, 1 / 2 + 1 / 32])
    score = stats.norm.isf(stats.t.sf(t, 31))
    expected = (score / error).sum() / np.sqrt((1 / error**2).sum())
    assert together.statistic[0, 0] == pytest.approx(expected, rel=1e-5)
    twice = pooled_tables(pd.concat([tables[0], tables[0].assign(Metadata_Plate="p3")], ignore_index=True), ["F0"])
    one_sided = stats.t.sf(np.abs(t[0]), 31)
    combined = stats.combine_pvalues([one_sided, one_sided], method="stouffer").pvalue
    assert p_values(twice)[0, 0] == pytest.approx(2 * combined, rel=1e-4)
    assert together.keys.loc[0, ["Replicates", "Plates"]].tolist() == [3, "p1 p2"]
    alone, both = (hit_table(item, fdr=0.05) for item in (effects[1], together))
    assert both["Hit"].sum() > alone["Hit"].sum()
    assert both.loc[both["Hit"], "Metadata_treatment"].lt("c032").mean() > 0.9
    # A plate alone is what it is on its own.
    np.testing.assert_allclose(p_values(pooled_tables(tables[1], ["F0"])), p_values(effects[1]), rtol=1e-4)


def test_over_plates_sides_missing_values_and_names_are_those_of_the_wells() -> None:
    wells = well_table(3, features=2)
    mine = {name: wells.index[wells["Metadata_treatment"] == name] for name in ("c000", "c001", "c002")}
    wells.loc[mine["c000"], "F0"] = [90.0, 200.0]  # far off, but on both sides
    wells.loc[mine["c001"][0], "F1"] = np.nan  # a well without a cell has counts alone
    wells.loc[mine["c002"], "Metadata_treatment"] = ""
    effects = treatment_effects(wells, ["F0", "F1"], reference="negative")
    table = effect_table("p1", effects)
    again = pooled_tables(table, ["F0", "F1"])
    np.testing.assert_allclose(p_values(again), p_values(effects), rtol=1e-4)
    hits = hit_table(again, fdr=0.05).set_index("Metadata_treatment")
    assert not hits.loc["c000", ["SameSide", "Hit"]].any()
    assert hits.loc["c000", "Q"] < 0.05
    # Treatments without a name are wells: another plate has others there.
    both = pooled_tables(pd.concat([table, effect_table("p2", effects)], ignore_index=True), ["F0", "F1"]).keys
    unnamed = both[both["Metadata_treatment"].str.startswith("(")]
    assert unnamed["Metadata_treatment"].tolist() == [
        f"({plate}/{well})" for plate in ("p1", "p2") for well in sorted(wells.loc[mine["c002"], "Metadata_Well"])
    ]
    assert unnamed["Replicates"].eq(1).all()


def test_over_plates_with_few_negatives_no_more_is_called_than_chance_has() -> None:
    """Student's t of the pooled mean is below 0.05 twice as often as it should be, and below 0.001 8.5 times."""
    rng, n = np.random.default_rng(0), 20_000
    plates = []
    for name in ("p1", "p2"):  # each row is a plate of its own: one well a treatment, 4 negatives
        negatives, well = rng.normal(size=(n, 4)), rng.normal(size=n)
        head = {"Metadata_Plate": name, "Metadata_treatment": np.arange(n).astype(str), "Metadata_dose": 1.0}
        head |= {"Metadata_dose_unit": ""}
        head |= {"Metadata_Replicates": 1, "Metadata_ReferenceVariance": 0.25, "Metadata_Freedom": 3.0}
        z = (well - negatives.mean(axis=1)) / negatives.std(axis=1, ddof=1)
        plates.append(pd.DataFrame(head | {"F0": z, "F0_Sides": 1}))
    p = p_values(pooled_tables(pd.concat(plates, ignore_index=True), ["F0"]))
    for level in (0.05, 0.01, 0.001):
        expected = level * n
        assert abs((p <= level).sum() - expected) < 4 * np.sqrt(expected)
