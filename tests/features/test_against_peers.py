"""Features equal those of cp_measure 0.3 where the definitions agree; docs/features.md lists where they don't."""

import numpy as np
import pandas as pd
import pytest
from feature_scenes import CHANNELS, cells, odd_labels, peer_values
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.features import measure

# What cp_measure has and we leave out: never a number, of no use in 2D, or not CellProfiler's.
LEFT_OUT = ("NormalizedMoment_0_0", "NormalizedMoment_0_1", "NormalizedMoment_1_0", "_Z_", "Crofton", "FilledArea")
# Numbers of neighbours are taken across all objects' distances by cp_measure, and so name the wrong ones.
OTHER = ("ClosestObjectNumber",)


def table_of(labels: np.ndarray, image: np.ndarray) -> pd.DataFrame:
    table = measure(image, {"Cells": labels}, channels=CHANNELS[: len(image)], pixel_size_um=1.0, families="full")
    return table.rename(columns=lambda name: name.removeprefix("Cells_"))


@pytest.fixture
def whole_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    """cp_measure's enclosing circles, wider by rounding: so that they hold the pixels that they pass through.

    As it is, rounding decides whether the two or three pixels on the circle count.
    """
    from centrosome import zernike

    found = zernike.minimum_enclosing_circle

    def wider(*args, **kwargs):
        centres, radii = found(*args, **kwargs)
        return centres, np.asarray(radii) * (1 + 1e-12)

    monkeypatch.setattr(zernike, "minimum_enclosing_circle", wider)


@pytest.mark.usefixtures("whole_circles")
@pytest.mark.parametrize("seed", [0, 1])
def test_every_family_equals_cp_measure(seed: int) -> None:
    labels, image = cells(seed=seed)
    table = table_of(labels, image)
    compared = 0
    for name, expected in peer_values(labels, image).items():
        if any(part in f"{name}_" for part in (*LEFT_OUT, *OTHER)):
            continue
        ours = table[name].to_numpy()
        # A ring without a pixel is NaN here, 0 there.
        where = np.isfinite(ours) if "Radial" in name else np.ones(len(ours), bool)
        assert where.mean() > 0.9
        # Small beside its column's values a number is noise; phases near pi and -pi are the same.
        if "Phase" in name:
            assert np.abs(np.sin((ours - expected) / 2)).max() < 1e-5, name
            continue
        scale = 1e-5 * np.nanmax(np.abs(expected)) if "InfoMeas2" not in name else 1e-1
        if name in ("AreaShape_CentralMoment_0_1", "AreaShape_CentralMoment_1_0"):
            scale = 1.0  # 0 but for rounding
        np.testing.assert_allclose(ours[where], expected[where], rtol=1e-6, atol=1e-6 * scale, err_msg=name)
        compared += 1
    assert compared > 450


def test_the_nearest_objects_are_those_of_a_search() -> None:
    labels, image = cells(seed=2)
    table = table_of(labels, image[:1])
    centres = table[["AreaShape_Center_Y", "AreaShape_Center_X"]].to_numpy()
    distance = np.linalg.norm(centres[:, None] - centres, axis=2)
    order = np.argsort(distance, axis=1)
    for k, name in ((1, "First"), (2, "Second")):
        np.testing.assert_array_equal(table[f"Neighbors_{name}ClosestObjectNumber_Adjacent"], order[:, k] + 1)


@given(labels=odd_labels(), channel=st.integers(0, 2))
@settings(max_examples=25, deadline=None)
def test_odd_objects_are_measured_as_scikit_image_does(labels: np.ndarray, channel: int) -> None:
    from skimage.measure import regionprops_table

    image = np.random.default_rng(channel).random((1, *labels.shape))
    table = table_of(labels, image)
    names = {
        "Area": "area",
        "BoundingBoxArea": "area_bbox",
        "ConvexArea": "area_convex",
        "Eccentricity": "eccentricity",
        "EquivalentDiameter": "equivalent_diameter_area",
        "EulerNumber": "euler_number",
        "Extent": "extent",
        "MajorAxisLength": "axis_major_length",
        "MinorAxisLength": "axis_minor_length",
        "Perimeter": "perimeter",
        "Solidity": "solidity",
        "Center_X": "centroid-1",
    }
    wanted = {name.partition("-")[0] for name in names.values()} | {"moments_hu", "intensity_std"}
    peer = regionprops_table(labels, image[0], properties=tuple(wanted))
    names |= {f"HuMoment_{k}": f"moments_hu-{k}" for k in range(7)}
    for ours, theirs in names.items():
        # Axes are square roots of differences: of a line they are 0 but for rounding.
        tolerance = 1e-6 if "Axis" in ours or "Ecc" in ours else 1e-9
        np.testing.assert_allclose(
            table[f"AreaShape_{ours}"], peer[theirs], rtol=1e-6, atol=tolerance, err_msg=f"{ours} {labels.tolist()}"
        )
    np.testing.assert_allclose(table["Intensity_StdIntensity_A"], peer["intensity_std"], rtol=1e-6, atol=1e-12)
