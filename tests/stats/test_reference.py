"""Standardised values."""

import numpy as np
import pandas as pd
import pytest
from simulated_wells import names_of, well_table

from plateflow.stats.reference import centre_and_spread, reference_wells, standardise, well_values


def test_by_hand() -> None:
    values = pd.DataFrame({"a": [1.0, 2, 3, 4, 100], "b": [5.0, 5, 5, 5, 9], "c": [1.0, 2, np.nan, np.nan, 3]})
    reference = np.array([True, True, True, True, False])
    standard = standardise(values, reference, robust=False)
    assert standard.loc[4, "a"] == pytest.approx(97.5 / np.std([1, 2, 3, 4], ddof=1))
    robust = standardise(values, reference, robust=True)
    assert robust.loc[4, "a"] == pytest.approx(97.5 / 1.4826)
    assert standard[["b", "c"]].isna().all().all()  # all the same, and too few: nothing is divided by that


def test_rounding_is_no_spread() -> None:
    values = pd.DataFrame({"a": [0.1 + 0.2, 0.3, 0.3, 0.3]})
    assert centre_and_spread(values, robust=False)[1].isna().all()


@pytest.mark.parametrize(("method", "robust"), [("standardize", False), ("mad_robustize", True)])
def test_as_pycytominer(method: str, robust: bool) -> None:
    pycytominer = pytest.importorskip("pycytominer", reason="pycytominer is not installed")
    wells = well_table(0, features=3)
    columns = names_of(3)
    theirs = pycytominer.normalize(
        wells.astype({"Metadata_dose": str}), features=columns, samples="Metadata_role == 'negative'", method=method
    )
    mine = standardise(well_values(wells, columns), reference_wells(wells, "negative"), robust=robust)
    factor = 1 if robust else np.sqrt(32 / 31)  # theirs is the standard deviation with n
    np.testing.assert_allclose(mine.dropna() * factor, theirs.loc[mine.dropna().index, columns], rtol=1e-9)


def test_counts_are_a_fields_and_wells_out_of_use_and_infinite_values_are_nothing() -> None:
    wells = well_table(0, features=1).assign(Count_Cells=120.0)
    wells.loc[2, "F0"] = np.inf
    wells.loc[0, "Metadata_FieldsUsed"] = 3
    wells.loc[1, "Metadata_FieldsUsed"] = 0
    values = well_values(wells, ["F0", "Count_Cells"])
    assert values["Count_Cells"].iloc[[0, 2]].tolist() == [40, 30]
    assert values.iloc[1].isna().all()
    assert np.isnan(values["F0"][2])
    assert list(values) == ["F0", "Count_Cells"]


def test_the_reference_is_the_negatives_or_the_plate_without_positives_and_empty_wells() -> None:
    wells = well_table(0, treatments=150)
    roles = wells["Metadata_role"]
    assert (reference_wells(wells, "negative") == (roles == "negative")).all()
    assert (reference_wells(wells, "plate") == roles.isin(["negative", "treatment"])).all()
    assert reference_wells(wells.drop(columns="Metadata_role"), "plate").all()
    assert not reference_wells(wells.drop(columns="Metadata_role"), "negative").any()
