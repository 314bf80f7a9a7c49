"""Flags and their yardsticks, on hand-made tables."""

import numpy as np
import pandas as pd
import pytest

from plateflow.config import Quality
from plateflow.stats.flags import LEAST_SPREAD, deviations, drift, field_flags, fields_in_use, wells_off


def fields(**columns: list) -> pd.DataFrame:
    n = len(columns["Sharpness"])
    table = {
        "Metadata_Channel": ["DNA"] * n,
        "State": ["ok"] * n,
        "SaturatedFraction": [0.0] * n,
        "Constant": [False] * n,
        "Objects": [50.0] * n,
        "Clipped": [0.0] * n,
        "Background": [200.0] * n,
        "Brightness": [2200.0] * n,
    }
    return pd.DataFrame(table | columns)


def test_deviations_are_in_mads_of_the_reference() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 100.0, np.nan])
    off = deviations(values, np.array([True] * 5 + [False, True]))
    np.testing.assert_allclose(off[:6], (values[:6] - 3) / 1.4826)
    assert np.isnan(off[6])


def test_an_even_plate_has_a_least_spread_and_three_values_none() -> None:
    off = deviations(np.array([2.0, 2.0, 2.0, 2.0, 2.1]), np.ones(5, bool))
    np.testing.assert_allclose(off, [0, 0, 0, 0, 0.1 / LEAST_SPREAD])
    assert np.isnan(deviations(np.array([1.0, 2.0, 9.0]), np.ones(3, bool))).all()


def test_the_blurred_field_is_flagged_and_no_empty_one() -> None:
    table = fields(
        Sharpness=[-2.4, -2.3, -2.5, -2.45, -2.35, -4.5, -6.0, np.nan, -6.0],
        Objects=[50, 40, 60, 55, 45, 50, 0, 0, 0],
        Brightness=[2200, 2000, 2400, 2200, 2200, 1800, 500, 210, 1100],
    )
    expected = ["", "", "", "", "", "focus", "empty", "empty", "focus,empty"]  # the last has cells, too blurred to see
    assert field_flags(table, Quality(), ["DNA"])["Flags"].tolist() == expected
    assert field_flags(table, Quality(focus_mad=100), ["DNA"])["Flags"].tolist()[5] == ""
    assert "focus" not in ",".join(field_flags(table, Quality(), ["AGP"])["Flags"])


def test_sharpness_is_compared_within_its_channel() -> None:
    table = fields(Sharpness=[-2.4, -2.5, -2.3, -2.4, -7.0, -7.1, -6.9, -7.0], Metadata_Channel=["A"] * 4 + ["B"] * 4)
    assert field_flags(table, Quality(), ["A", "B"])["Flags"].eq("").all()


def test_saturation_constant_images_and_fields_left_out() -> None:
    table = fields(
        Sharpness=[-2.0, -2.0, -2.0, np.nan],
        SaturatedFraction=[0.005, 0.01, 0.0, np.nan],
        Constant=[False, False, True, False],
        State=["ok", "ok", "ok", "quarantined"],
        Objects=[9, 9, 9, np.nan],
    )
    assert field_flags(table, Quality(), ["DNA"])["Flags"].tolist() == ["", "saturated", "empty", ""]


def test_a_field_is_flagged_where_a_twentieth_of_its_objects_is_clipped() -> None:
    table = fields(Sharpness=[-2.0] * 4, Clipped=[2.0, 3.0, 0.0, 1.0], Objects=[50.0, 50.0, 0.0, 2.0])
    assert field_flags(table, Quality(), ["DNA"])["Flags"].tolist() == ["", "clipped", "empty", "clipped"]


def test_a_well_far_off_is_flagged_whichever_side_and_channel() -> None:
    wells = [f"B{n:02d}" for n in range(1, 9)]
    background = [100, 104, 98, 101, 99, 102, 100, 300]
    table = pd.concat(
        [
            pd.DataFrame(
                {"Metadata_Well": wells, "Metadata_Channel": "DNA", "Background": background, "Brightness": 1000}
            ),
            pd.DataFrame(
                {
                    "Metadata_Well": wells,
                    "Metadata_Channel": "AGP",
                    "Background": 100,
                    "Brightness": [1000, 20, 1010, 990, 1005, 995, 1000, 1000],
                }
            ),
        ]
    )
    assert wells_off(table, Quality()) == {"B02", "B08"}
    assert wells_off(table, Quality(intensity_mad=np.log(301 / 101) / LEAST_SPREAD)) == {"B02"}


def test_fields_are_used_left_out_or_excluded_and_the_well_has_their_flags() -> None:
    fields = {"B02": ["1", "2", "3"], "B03": ["1"], "B04": ["1", "2"]}
    left_out = {"B02": ["3"], "B03": ["1"], "B04": []}
    qc = pd.DataFrame(
        [("B02", "1", "saturated"), ("B02", "2", "empty"), ("B02", "2", "focus"), ("B02", "3", ""), ("B04", "1", "")],
        columns=["Metadata_Well", "Metadata_Site", "Flags"],
    )
    use = fields_in_use(fields, left_out, qc, {"B04"}, ["focus"])
    assert (use["B02"].used, use["B02"].excluded, use["B02"].left_out) == (["1"], ["2"], ["3"])
    assert use["B02"].flags == ["focus", "saturated", "empty", "fields"]
    assert (use["B03"].used, use["B03"].flags) == ([], [])  # nothing was measured there
    assert (use["B04"].used, use["B04"].flags) == (["1", "2"], ["intensity"])
    assert fields_in_use(fields, left_out, qc, (), [], {"B04": ["positions"]})["B04"].flags == ["positions"]
    assert fields_in_use(fields, left_out, qc, {"B04"}, ["intensity"])["B04"].excluded == ["1", "2"]
    assert use["B02"].metadata() == {
        "Metadata_Flags": "focus,saturated,empty,fields",
        "Metadata_FieldsUsed": 1,
        "Metadata_FieldsLeftOut": "3",
        "Metadata_FieldsExcluded": "2",
    }


def test_drift_is_the_larger_change_over_the_windows_width() -> None:
    assert drift((100, 1100), (150, 1000)) == pytest.approx(0.1)
    assert drift((100, 1100), (100, 1100)) == 0
