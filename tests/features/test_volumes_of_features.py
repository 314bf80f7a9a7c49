"""Area, shape and intensity of objects that go through the z stack."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from plateflow.errors import PlateflowError
from plateflow.features import column_features, measure


def volume() -> tuple[np.ndarray, np.ndarray]:
    """A ball, a rod that touches the border, a flat sheet, one voxel."""
    z, y, x = np.mgrid[0:14, 0:30, 0:34]
    labels = np.zeros(z.shape, np.int32)
    labels[(z - 7) ** 2 + (y - 9) ** 2 + (x - 9) ** 2 <= 36] = 1
    labels[3:6, 20:24, 0:12] = 2
    labels[11, 20:28, 20:30] = 3
    labels[2, 5, 30] = 4
    image = np.stack([gaussian_filter(np.random.default_rng(0).random(z.shape), sigma) for sigma in (0.5, 2)])
    return labels, image


def test_volumes_equal_cp_measure() -> None:
    from cp_measure.bulk import get_core_measurements_3d

    labels, image = volume()
    table = measure(image, {"Cells": labels}, channels=["A", "B"], pixel_size_um=1.0)
    table = table.rename(columns=lambda name: name.removeprefix("Cells_"))
    core = get_core_measurements_3d(legacy=True)
    names = {"Volume", "SurfaceArea", "BoundingBoxVolume", "EquivalentDiameter", "EulerNumber", "Extent", "Solidity"}
    names |= {f"{part}_{axis}" for part in ("Center", "BoundingBoxMinimum", "BoundingBoxMaximum") for axis in "XYZ"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape = core["sizeshape"](labels, image[0])
        for name in names | {"MajorAxisLength", "MinorAxisLength"}:
            ours, theirs = table[f"AreaShape_{name}"].to_numpy(), np.array(shape[name], float)
            if name == "Solidity":  # a sheet and a voxel have no hull: NaN here, infinity there
                assert np.isnan(ours).tolist() == [False, False, True, True]
                ours, theirs = ours[:2], theirs[:2]
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6, err_msg=name)
        for k, channel in enumerate("AB"):
            for name, expected in core["intensity"](labels, image[k]).items():
                if "MAD" not in name:  # CellProfiler takes a third instead of the median in 3D
                    np.testing.assert_allclose(table[f"{name}_{channel}"], expected, rtol=1e-6, err_msg=name)
    inside = image[0][labels == 1]
    expected = np.median(np.abs(inside - np.median(inside)))
    assert table["Intensity_MADIntensity_A"].iloc[0] == pytest.approx(expected, rel=0.02)
    assert table["Quality_TouchesBorder"].tolist() == [0, 1, 0, 0]


def test_sizes_and_places_of_volumes_know_the_voxel() -> None:
    labels, image = volume()
    cells = {"Nuclei": np.where(labels == 1, 0, labels), "Cells": labels}
    table = measure(image, cells, channels=["A", "B"], pixel_size_um=(2.0, 0.5, 0.5), origin_px=(0, 100, 10))
    row = table.iloc[1]
    assert row["Cells_AreaShape_Volume"] == 3 * 4 * 12
    assert row["Cells_AreaShape_Volume_um3"] == 3 * 4 * 12 * 0.5
    assert (row["Cells_Location_Center_Z"], row["Cells_Location_Center_Z_um"]) == (4, 8)
    assert row["Cells_Location_Center_Y"] == row["Cells_AreaShape_Center_Y"] == 121.5
    assert row["Cells_Location_Center_Y_um"] == 121.5 / 2
    # the surface runs through the nearest voxels outside, so a side is one voxel longer at each end
    small = measure(image[:, :, :, 12:], {"Cells": labels[:, :, 12:]}, channels=["A", "B"], pixel_size_um=(1, 2, 2))
    assert small["Cells_AreaShape_SurfaceArea_um2"].iloc[-1] > small["Cells_AreaShape_SurfaceArea"].iloc[-1]
    assert table["Metadata_Match_Nuclei"].tolist() == ["anucleate", "one_to_one", "one_to_one", "one_to_one"]
    assert row[["Cytoplasm_AreaShape_Volume"]].isna().all()
    columns = column_features(["Nuclei", "Cells"], ["A", "B"], rows="Cells", ndim=3)
    assert list(columns) == list(table.columns[2:])


def test_a_volume_that_one_object_fills_and_an_empty_one() -> None:
    labels, image = volume()
    full = measure(image, {"Cells": np.ones_like(labels)}, channels=["A", "B"], pixel_size_um=1.0).iloc[0]
    assert full["Cells_AreaShape_Volume"] == labels.size
    assert full[["Cells_AreaShape_SurfaceArea", "Cells_Intensity_MeanIntensityEdge_A"]].isna().all()
    empty = measure(image, {"Cells": np.zeros_like(labels)}, channels=["A", "B"], pixel_size_um=1.0)
    assert len(empty) == 0
    assert list(empty.columns) == ["ObjectNumber", *column_features(["Cells"], ["A", "B"], rows="Cells", ndim=3)]


def test_a_family_that_is_flat_is_refused_by_name() -> None:
    labels, image = volume()
    with pytest.raises(PlateflowError, match="'texture' is only measured in 2D"):
        measure(image, {"Cells": labels}, channels=["A", "B"], pixel_size_um=1.0, families=["texture"])
