"""Odd objects and pixels: a number, or NaN by the stated rule; never a crash, an infinity or a silent 0."""

import numpy as np
import pandas as pd
import pytest
from feature_scenes import cells, odd_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.features import measure

# What depends on more than the object and its pixels.
OF_THE_IMAGE = "Granularity|Neighbors|Quality"


def table_of(labels: np.ndarray, image: np.ndarray, **more) -> pd.DataFrame:
    settings_ = {"channels": ("A", "B")[: len(image)], "pixel_size_um": 0.5, "families": "full"} | more
    return measure(image, {"Cells": labels}, **settings_).rename(columns=lambda name: name.removeprefix("Cells_"))


@given(labels=odd_labels(), kind=st.sampled_from(["noise", "even", "zero", "dim", "negative"]))
@settings(max_examples=40, deadline=None)
def test_no_value_is_infinite_and_none_depends_on_other_objects(labels: np.ndarray, kind: str) -> None:
    noise = np.random.default_rng(labels.sum()).random((2, *labels.shape))
    image = {"noise": noise, "even": noise * 0 + 0.5, "zero": noise * 0, "dim": noise / 1e4, "negative": noise - 0.5}
    table = table_of(labels, image[kind])
    values = table.to_numpy(float)
    assert not np.isinf(values).any(), list(table.columns[np.isinf(values).any(axis=0)])
    assert (table["AreaShape_Area"] == np.bincount(labels.ravel())[table["ObjectNumber"]]).all()
    number = int(table["ObjectNumber"].iloc[-1])
    alone = table_of(np.where(labels == number, number, 0), image[kind])
    same = table.columns[~table.columns.str.contains(OF_THE_IMAGE)]
    pd.testing.assert_series_equal(table[same].iloc[-1], alone[same].iloc[0], check_names=False, rtol=0, atol=0)


def test_one_pixel() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[9, 9] = 1
    row = table_of(labels, np.full((2, 20, 20), 0.5)).iloc[0]
    for name in ("MinFeretDiameter", "MaxFeretDiameter", "Perimeter", "MinorAxisLength", "Eccentricity"):
        assert row[f"AreaShape_{name}"] == 0, name
    assert row["AreaShape_Solidity"] == row["AreaShape_MaximumRadius"] == row["AreaShape_EulerNumber"] == 1
    assert row["RadialDistribution_FracAtD_A_1of4"] == row["RadialDistribution_MeanFrac_A_1of4"] == 1
    assert row["RadialDistribution_FracAtD_A_2of4"] == 0  # nothing lies there
    undefined = ["AreaShape_FormFactor", "AreaShape_Zernike_0_0", "Texture_Contrast_A_3_00_256"]
    undefined += ["Correlation_Correlation_A_B", "RadialDistribution_MeanFrac_A_2of4"]
    undefined += ["Neighbors_FirstClosestDistance_Adjacent", "Neighbors_AngleBetweenNeighbors_Adjacent"]
    assert row[undefined].isna().all()
    assert row["Neighbors_NumberOfNeighbors_Adjacent"] == row["Neighbors_PercentTouching_Adjacent"] == 0


def test_an_even_object() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:20, 6:22] = 1
    row = table_of(labels, np.full((2, 30, 30), 0.5)).iloc[0]
    assert row["Intensity_StdIntensity_A"] == row["Intensity_MADIntensity_A"] == row["Texture_Entropy_A_3_00_256"] == 0
    assert row["Texture_AngularSecondMoment_A_3_02_256"] == row["Texture_Correlation_A_3_00_256"] == 1
    assert row["Correlation_Overlap_A_B"] == pytest.approx(1)
    assert row["Correlation_Manders_A_B"] == row["Correlation_RWC_B_A"] == 1
    assert row[["Correlation_Correlation_A_B", "Correlation_Slope_A_B"]].isna().all()
    assert row["Intensity_MassDisplacement_A"] == pytest.approx(0, abs=1e-12)
    rings = [row[f"RadialDistribution_RadialCV_A_{ring}of4"] for ring in (1, 2, 3, 4)]
    assert rings == pytest.approx([0, 0, 0, 0], abs=1e-12)


def test_a_black_object_has_no_shares() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:20, 6:22] = 1
    row = table_of(labels, np.zeros((2, 30, 30))).iloc[0]
    assert row["Intensity_IntegratedIntensity_A"] == 0
    shares = "Granularity|FracAtD|MeanFrac|RadialCV|Manders|RWC|Overlap|^Correlation|CenterMass|MassDisplacement"
    assert row[row.index.str.contains(shares)].isna().all()


def test_an_object_that_fills_the_image_has_no_edge_in_it() -> None:
    row = table_of(np.ones((16, 16), np.int32), np.random.default_rng(0).random((2, 16, 16))).iloc[0]
    assert row["AreaShape_Area"] == 256
    assert row["AreaShape_MaximumRadius"] == 8  # for its shape the image's border is an edge
    assert row[row.index.str.contains("IntensityEdge|FracAtD")].isna().all()
    assert row["Quality_TouchesBorder"] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_pixel_that_is_not_finite_makes_its_object_nan_in_that_channel_alone(value: float) -> None:
    labels, image = cells(count=12)
    clean = table_of(labels, image[:2])
    number = clean["ObjectNumber"].iloc[4]
    y, x = np.argwhere(labels == number)[3]
    broken = image[:2].copy()
    broken[1, y, x] = value
    table = table_of(labels, broken)
    of_channel = table.columns[table.columns.str.contains(r"_B(?:_|$)")]
    assert len(of_channel) > 150
    assert table.loc[4, of_channel].isna().all()
    others = table.columns.difference(of_channel)
    pd.testing.assert_frame_equal(table[others], clean[others])
    near = table.columns[~table.columns.str.contains("Granularity")]
    pd.testing.assert_frame_equal(table.drop(index=4)[near], clean.drop(index=4)[near])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint32])
def test_any_integers_number_the_objects(dtype: type) -> None:
    labels, image = cells(count=12)
    table = table_of(labels, image[:1], families="standard")
    spread = np.where(labels > 0, labels * 7 + 100, 0)
    if dtype == np.uint32:
        spread = np.where(labels > 0, 4_000_000_000 + labels, 0)
    other = table_of(spread.astype(dtype), image[:1], families="standard")
    np.testing.assert_array_equal(other["ObjectNumber"], np.unique(spread)[1:])
    same = table.columns[~table.columns.str.contains("Number")]
    pd.testing.assert_frame_equal(table[same], other[same])
