"""Families on hand-worked objects, and equality with scikit-image where that is the definition."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from feature_scenes import cells
from skimage.draw import disk, ellipse
from skimage.measure import regionprops_table

from plateflow.errors import PlateflowError
from plateflow.features import column_features, feature, measure


def some_objects() -> np.ndarray:
    labels = np.zeros((60, 80), np.uint32)
    labels[ellipse(15, 20, 9, 14)] = 3
    labels[disk((40, 30), 8)] = 4
    labels[38:42, 28:32] = 0  # a hole
    labels[30:50, 60:62] = 11
    labels[0:4, 70:80] = 12  # at the border
    return labels


def test_a_rectangle_has_the_values_worked_out_by_hand() -> None:
    labels = np.zeros((12, 12), np.uint16)
    labels[2:6, 3:9] = 5  # 4 high, 6 wide
    image = np.zeros((1, 12, 12), np.float32)
    image[0, 2:6, 3:9] = np.arange(24).reshape(4, 6)
    table = measure(image, {"Nuclei": labels}, channels=["DNA"], pixel_size_um=0.5)
    assert len(table) == 1
    got = table.iloc[0].to_dict()
    assert got["ObjectNumber"] == 5 == got["Nuclei_Number_Object_Number"]
    expected = {
        "AreaShape_Area": 24,
        "AreaShape_Area_um2": 6,
        "AreaShape_Center_Y": 3.5,
        "AreaShape_Center_X": 5.5,
        "AreaShape_BoundingBoxMinimum_X": 3,
        "AreaShape_BoundingBoxMaximum_X": 9,
        "AreaShape_Perimeter": 16,  # through the centres of the border's pixels: 2 * (3 + 5)
        "AreaShape_FormFactor": 4 * np.pi * 24 / 16**2,
        "AreaShape_Compactness": 16**2 / (4 * np.pi * 24),
        "AreaShape_EquivalentDiameter": np.sqrt(4 * 24 / np.pi),
        "AreaShape_Extent": 1,
        "AreaShape_Solidity": 1,
        "AreaShape_EulerNumber": 1,
        "AreaShape_MajorAxisLength": 4 * np.sqrt((6**2 - 1) / 12),
        "Intensity_IntegratedIntensity_DNA": 276,
        "Intensity_MeanIntensity_DNA": 11.5,
        "Intensity_StdIntensity_DNA": np.sqrt((24**2 - 1) / 12),
        "Intensity_MinIntensity_DNA": 0,
        "Intensity_MaxIntensity_DNA": 23,
        "Intensity_LowerQuartileIntensity_DNA": 6,  # CellProfiler's: sorted pixel number 24 / 4
        "Intensity_MedianIntensity_DNA": 12,
        "Intensity_UpperQuartileIntensity_DNA": 18,
    }
    for name, value in expected.items():
        assert got[f"Nuclei_{name}"] == pytest.approx(value), name
    assert abs(got["Nuclei_AreaShape_Orientation"]) == pytest.approx(90)


def test_values_are_those_of_scikit_image() -> None:
    labels = some_objects()
    image = np.random.default_rng(0).random((2, *labels.shape))
    table = measure(image, {"Cells": labels}, channels=["A", "B"], pixel_size_um=1.0)
    names = {
        "AreaShape_Area": "area",
        "AreaShape_Perimeter": "perimeter",
        "AreaShape_Solidity": "solidity",
        "AreaShape_Eccentricity": "eccentricity",
        "AreaShape_MajorAxisLength": "axis_major_length",
        "AreaShape_EulerNumber": "euler_number",
        "Intensity_MeanIntensity_B": "intensity_mean",
        "Intensity_StdIntensity_B": "intensity_std",
        "Intensity_MaxIntensity_B": "intensity_max",
        "Intensity_MinIntensity_B": "intensity_min",
    }
    reference = regionprops_table(labels, image[1], properties=("label", *names.values()))
    np.testing.assert_array_equal(table["ObjectNumber"], reference["label"])
    for ours, theirs in names.items():
        np.testing.assert_allclose(table[f"Cells_{ours}"], reference[theirs], rtol=1e-9, err_msg=ours)
    assert table["Cells_AreaShape_EulerNumber"].tolist() == [1, 0, 1, 1]


def test_one_pixel_and_a_line_give_numbers_or_nan_by_the_stated_rule() -> None:
    labels = np.zeros((8, 8), np.uint32)
    labels[1, 1] = 1
    labels[4, 0:8] = 2
    table = measure(np.full((1, 8, 8), 7.0), {"Cells": labels}, channels=["A"], pixel_size_um=1.0)
    pixel, line = table.iloc[0], table.iloc[1]
    assert pixel["Cells_AreaShape_Area"] == 1
    assert np.isnan(pixel["Cells_AreaShape_FormFactor"])
    assert np.isnan(pixel["Cells_AreaShape_Compactness"])
    assert pixel["Cells_Intensity_StdIntensity_A"] == 0
    assert pixel["Cells_Intensity_UpperQuartileIntensity_A"] == 7
    assert line["Cells_AreaShape_MinorAxisLength"] == 0
    assert line["Cells_AreaShape_Eccentricity"] == 1
    assert np.isfinite(line["Cells_AreaShape_FormFactor"])
    assert not np.isinf(table.to_numpy(float)).any()


def test_a_nan_pixel_makes_its_objects_intensities_nan_and_no_others() -> None:
    labels = np.zeros((6, 6), np.uint32)
    labels[0:2], labels[4:6] = 1, 2
    image = np.ones((1, 6, 6))
    image[0, 1, 3] = np.nan
    table = measure(image, {"Cells": labels}, channels=["A"], pixel_size_um=1.0)
    intensities = table.filter(like="Intensity")
    assert intensities.iloc[0].isna().all()
    assert intensities.iloc[1].notna().all()


def test_an_empty_image_has_every_column_and_no_row() -> None:
    nothing = {"Nuclei": np.zeros((9, 9), np.uint32), "Cells": np.zeros((9, 9), np.uint32)}
    one = {**nothing, "Cells": np.eye(9, dtype=np.uint32)}
    settings = {"channels": ["A", "B"], "pixel_size_um": 1.0, "families": "full"}
    empty, full = measure(np.zeros((2, 9, 9)), nothing, **settings), measure(np.zeros((2, 9, 9)), one, **settings)
    assert len(empty) == 0
    assert list(empty.columns) == list(full.columns)
    assert list(empty.dtypes) == list(full.dtypes)
    expected = column_features(["Nuclei", "Cells"], ["A", "B"], rows="Cells", families="full")
    assert list(empty.columns) == ["ObjectNumber", "Metadata_Match_Nuclei", *expected]
    assert not full.filter(like="Nuclei_AreaShape").notna().any(axis=None)


def test_positions_are_moved_to_the_images_origin() -> None:
    labels = some_objects()
    image = np.random.default_rng(1).random((1, *labels.shape))
    here = measure(image, {"Cells": labels}, channels=["A"], pixel_size_um=1.0)
    there = measure(image, {"Cells": labels}, channels=["A"], pixel_size_um=1.0, origin_px=(100, 7))
    moved = (there - here).iloc[0]
    assert moved["Cells_Location_CenterMassIntensity_Y_A"] == pytest.approx(100)
    assert moved["Cells_AreaShape_Center_Y"] == 100
    assert moved["Cells_AreaShape_BoundingBoxMaximum_X"] == 7
    assert moved[[name for name in moved.index if "_Y" not in name and "_X" not in name]].dropna().eq(0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((2, 5, 5))}, "isn't"),
        ({"labels": {"Cells": np.zeros((4, 5), np.uint8)}}, "the labels of Cells have the shape"),
        ({"labels": {"Cells": np.zeros((5, 5))}}, "not integers"),
        ({"labels": {}}, "no label image"),
        ({"families": "zernikes"}, "no feature family 'zernikes'"),
        ({"labels": {"Cells": -np.eye(5, dtype=int)}}, "hold negative numbers"),
        ({"rows": "Spots"}, "no labels of 'Spots'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:
    right = {"image": np.zeros((1, 5, 5)), "labels": {"Cells": np.eye(5, dtype=np.uint8)}, "families": "standard"}
    call = right | change
    with pytest.raises(PlateflowError, match=message):
        measure(call.pop("image"), call.pop("labels"), channels=["A"], pixel_size_um=1.0, **call)


def test_the_texture_of_equal_pixels_is_equal_whatever_lies_beside_them() -> None:
    """One dim object in a plane that is dark or over-exposed elsewhere; of 16 bits, of 12, and with ScanR's offset."""
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 200), np.uint8)
    labels[disk((30, 30), 10)] = 1
    labels[disk((120, 120), 40)] = 2
    plane = np.full((1, 200, 200), 100.0)
    plane[0, labels == 1] = 300 + np.rint(rng.normal(0, 20, (labels == 1).sum()))

    def textures(image: np.ndarray) -> pd.Series:
        table = measure(image, {"Cells": labels}, channels=["A"], pixel_size_um=1.0, families=["texture"])
        assert table["Cells_Texture_Entropy_A_3_00_256"][1] == 0  # of one intensity
        return table.filter(like="Texture").iloc[0]

    alone, bright = textures(plane), np.where(labels == 2, 65535.0, plane)
    assert alone["Cells_Texture_Contrast_A_3_00_256"] > 1000
    assert alone["Cells_Texture_Entropy_A_3_00_256"] > 6
    for same in (bright, plane * 16, plane + 32768):
        pd.testing.assert_series_equal(textures(same), alone, check_exact=True)


@pytest.mark.parametrize("value", [0.0, 65535.0])
def test_one_pixel_far_off_changes_the_texture_of_its_object_by_little(value: float) -> None:
    """A hot or a dead pixel; the object's own intensities are 40 grey levels of the camera."""
    rng = np.random.default_rng(0)
    labels = np.zeros((60, 60), np.uint8)
    labels[disk((30, 30), 18)] = 1
    plane = np.where(labels == 1, 300 + np.rint(rng.uniform(0, 40, labels.shape)), 100.0)[None]
    spoilt = plane.copy()
    spoilt[0, 30, 30] = value
    first, second = (
        measure(image, {"Cells": labels}, channels=["A"], pixel_size_um=1.0, families=["texture"]).iloc[0]
        for image in (plane, spoilt)
    )
    for name in ("Contrast", "Entropy", "Variance", "InverseDifferenceMoment"):
        assert second[f"Cells_Texture_{name}_A_3_00_256"] == pytest.approx(
            first[f"Cells_Texture_{name}_A_3_00_256"], rel=0.02
        )


@pytest.mark.parametrize(("threads", "chunk"), [(1, 1_000_000), (2, 300), (3, 1)])
def test_threads_and_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch, threads: int, chunk: int) -> None:
    labels, image = cells(count=12)
    settings = {"channels": ["A", "B", "C"], "pixel_size_um": 1.0, "families": "full"}
    first = measure(image, {"Cells": labels}, **settings)
    monkeypatch.setattr(feature, "THREADS", threads)
    monkeypatch.setattr(feature, "_CHUNK_PX", chunk)
    pd.testing.assert_frame_equal(measure(image, {"Cells": labels}, **settings), first, check_exact=True)


def test_memory_is_that_of_the_image() -> None:
    labels, image = cells(size=900, count=400)
    image = image.astype(np.float32)
    settings = {"channels": ["A", "B", "C"], "pixel_size_um": 1.0}
    measure(image[:, :99, :99], {"Cells": labels[:99, :99]}, **settings)
    tracemalloc.start()
    try:
        measure(image, {"Cells": labels}, **settings)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * image.nbytes
