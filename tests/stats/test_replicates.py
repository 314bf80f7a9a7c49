"""Correlations of replicates on different plates."""

import numpy as np
import pandas as pd
import pytest

from plateflow.stats.replicates import replicate_table

TREATMENTS, FEATURES = 40, 300


def screen(noise: float = 1.5) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """Three plates with the same effects and noise of their own; the fourth has effects of its own."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (TREATMENTS, FEATURES))
    means, heads = [], []
    for plate in range(4):
        effects = true if plate < 3 else rng.normal(0, 2, true.shape)
        means.append((effects + rng.normal(0, noise, true.shape)).astype(np.float32))
        head = {"Metadata_treatment": [f"c{n // 2}" for n in range(TREATMENTS)], "Metadata_dose_unit": ""}
        head |= {"Metadata_dose": [1.0 + n % 2 for n in range(TREATMENTS)], "Metadata_Plate": f"p{plate}"}
        head |= {"Metadata_Replicates": 2, "_plate": plate, "_row": range(TREATMENTS)}
        heads.append(pd.DataFrame(head))
    return pd.concat(heads, ignore_index=True), means


def table_of(heads: pd.DataFrame, means: list[np.ndarray]) -> pd.DataFrame:
    table = replicate_table(heads, lambda plates, rows: means[plates[0]][rows], FEATURES)
    return table.set_index(["Metadata_Plate", "OtherPlate"])


def test_plates_with_the_same_effects_replicate_and_others_do_not() -> None:
    table = table_of(*screen())
    assert len(table) == 6
    same, other = table.loc[("p0", "p1")], table.loc[("p0", "p3")]
    assert same["Correlation"] == pytest.approx(4 / (4 + 1.5**2), abs=0.03), "the share of variance that is shared"
    assert same["Replicating"] == 1
    assert other["Correlation"] == pytest.approx(0, abs=0.05)
    assert other["Replicating"] < 0.2
    assert table["Null"].abs().max() < 0.05


def test_what_has_no_values_is_left_out_and_nothing_else() -> None:
    heads, means = screen()
    means[1][3] = np.nan  # a treatment without cells
    means[2][:, :7] = np.nan  # features that a plate lacks
    heads.loc[heads["_plate"].eq(0) & heads["_row"].eq(5), "Metadata_Replicates"] = 0
    table = table_of(heads, means)
    assert table["Treatments"].to_dict() == {
        ("p0", "p1"): 38,
        ("p1", "p2"): 39,
        ("p2", "p3"): 40,
        ("p0", "p2"): 39,
        ("p1", "p3"): 39,
        ("p0", "p3"): 39,
    }
    assert table.loc[("p0", "p2"), "Correlation"] == pytest.approx(0.64, abs=0.04)


def test_doses_of_one_compound_are_no_different_treatments() -> None:
    heads, means = screen()
    table = table_of(heads.assign(Metadata_treatment="c", Metadata_dose=heads["_row"] * 1.0), means)
    assert table["Null"].isna().all()
    assert table["Replicating"].isna().all()
    assert table.loc[("p0", "p1"), "Correlation"] > 0.5


def test_plates_without_treatments_in_common_have_no_row() -> None:
    heads, means = screen()
    heads["Metadata_treatment"] = heads["Metadata_Plate"] + heads["Metadata_treatment"]
    assert table_of(heads, means).empty
