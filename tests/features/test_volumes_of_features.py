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
    names = {"Volume", "BoundingBoxVolume", "EquivalentDiameter", "EulerNumber", "Extent", "Solidity"}
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
    assert table["Metadata_Match_Nuclei"].tolist() == ["anucleate", "one_to_one", "one_to_one", "one_to_one"]
    assert row[["Cytoplasm_AreaShape_Volume"]].isna().all()
    columns = column_features(["Nuclei", "Cells"], ["A", "B"], rows="Cells", ndim=3)
    assert list(columns) == list(table.columns[2:])


@pytest.mark.parametrize(("size", "radius"), [((1.0, 0.25, 0.25), 5.0), ((2.0, 0.5, 0.5), 8.0), ((0.5, 0.5, 0.5), 5.0)])
def test_a_ball_has_the_lengths_and_the_surface_of_a_ball(size: tuple[float, float, float], radius: float) -> None:
    """Whatever the distance of planes; marching cubes go round the steps of voxels: 8 to 18 % too far."""
    n = np.ceil(radius / np.array(size)).astype(int) + 1
    z, y, x = (np.moveaxis(np.indices(2 * n + 1), 0, -1) - n).transpose(3, 0, 1, 2) * np.reshape(size, (3, 1, 1, 1))
    ball = (z**2 + y**2 + x**2 <= radius**2).astype(np.uint16)
    image = np.where(z > 0, 2.0, 1.0)
    row = measure(image[None], {"Cells": ball}, channels=["A"], pixel_size_um=size).iloc[0]
    shape = row.filter(like="AreaShape").rename(lambda name: name.removeprefix("Cells_AreaShape_"))
    for name in ("EquivalentDiameter", "MajorAxisLength", "MinorAxisLength"):
        assert shape[f"{name}_um"] == pytest.approx(2 * radius, rel=0.04), name
        assert shape[name] == pytest.approx(shape[f"{name}_um"] / size[1]), name
    assert shape["Volume_um3"] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    assert 1.07 < shape["SurfaceArea_um2"] / (4 * np.pi * radius**2) < 1.18
    assert shape["SurfaceArea"] == pytest.approx(shape["SurfaceArea_um2"] / size[1] ** 2)
    masses = (image * ball).ravel()
    moved = np.average(z.ravel(), weights=masses) / size[1]
    assert row["Cells_Intensity_MassDisplacement_A"] == pytest.approx(moved)
    unknown = measure(image[None], {"Cells": ball}, channels=["A"], pixel_size_um=np.nan).iloc[0]
    assert unknown["Cells_AreaShape_Volume"] == ball.sum()
    assert unknown[["Cells_AreaShape_MajorAxisLength", "Cells_AreaShape_SurfaceArea"]].isna().all()


@pytest.mark.parametrize(("planes", "touches"), [((2, 5), 0), ((1, 5), 0), ((0, 5), 1), ((3, 7), 0), ((3, 8), 1)])
def test_what_the_first_or_the_last_plane_cuts_touches_the_border(planes: tuple[int, int], touches: int) -> None:
    labels = np.zeros((8, 20, 20), np.uint16)
    labels[slice(*planes), 8:12, 8:12] = 3
    table = measure(np.ones((1, 8, 20, 20)), {"Cells": labels}, channels=["A"], pixel_size_um=1.0)
    assert table["Cells_Quality_TouchesBorder"].tolist() == [touches]


def test_a_volume_that_one_object_fills_and_an_empty_one() -> None:
    labels, image = volume()
    full = measure(image, {"Cells": np.ones_like(labels)}, channels=["A", "B"], pixel_size_um=1.0).iloc[0]
    assert full["Cells_AreaShape_Volume"] == labels.size
    assert np.isnan(full["Cells_Intensity_MeanIntensityEdge_A"])
    sides = 2 * (14 * 30 + 14 * 34 + 30 * 34)
    assert full["Cells_AreaShape_SurfaceArea"] == pytest.approx(sides, rel=0.03), "closed where the image ends"
    empty = measure(image, {"Cells": np.zeros_like(labels)}, channels=["A", "B"], pixel_size_um=1.0)
    assert len(empty) == 0
    assert list(empty.columns) == ["ObjectNumber", *column_features(["Cells"], ["A", "B"], rows="Cells", ndim=3)]


def test_a_family_that_is_flat_is_refused_by_name() -> None:
    labels, image = volume()
    with pytest.raises(PlateflowError, match="'texture' is only measured in 2D"):
        measure(image, {"Cells": labels}, channels=["A", "B"], pixel_size_um=1.0, families=["texture"])
