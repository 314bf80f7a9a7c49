"""Objects from objects, and spots in them, over time points and planes that not all label sets have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from framed_plate import framed
from planted_plate import LABEL_SETS, Planted

from plateflow.config import Config
from plateflow.exchange.images import export_images, read_items
from plateflow.segment.growth import grow_evenly


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Two time points, of which A02 shows DNA alone at the first: there are nuclei and rings, but no cells."""
    root = tmp_path_factory.mktemp("series")
    plate = framed(root, times=2)
    for file in (root / "raw").glob("A02_*_t0_*_AGP.tif"):
        file.unlink()
    sets = LABEL_SETS | {
        "halo": {"ring": {"from": "nuclei", "inner_um": 0, "outer_um": 2}},
        "spread": {"propagate": {"from": "nuclei", "channels": ["AGP"]}},
    }
    foci = {"channel": "DNA", "within": "nuclei", "diameter_px": 4, "threshold": 0.001}
    spots = {"foci": foci, "dots": foci | {"channel": "AGP", "within": "halo"}}
    plate.config = Config.model_validate(plate.config.model_dump() | {"segmentation": sets, "spots": spots})
    plate.run("ingest", "tile", "normalise")
    plate.label()
    plate.run("features")
    return plate


def test_sets_grow_and_spots_are_found_at_the_time_points_that_their_own_set_has(
    series: Planted, tmp_path: Path
) -> None:
    group = series.paths.image("A02") / "labels"
    labels = {name: zarr.open_array(group / name / "0", mode="r")[:, 0] for name in ("nuclei", "halo", "spread")}
    for t in (0, 1):
        np.testing.assert_array_equal(labels["halo"][t], grow_evenly(labels["nuclei"][t], radius=2, inner=0))
    assert not labels["spread"][0].any()
    assert labels["spread"][1].any()
    nuclei = pd.read_parquet(series.paths.objects("nuclei", "A02"))
    spread = pd.read_parquet(series.paths.objects("spread", "A02")).set_index("label")
    assert set(nuclei["canvas"]) == {0, 1, 2, 3}, "two fields, twice"
    assert (spread["canvas"] == nuclei.set_index("label")["canvas"][spread.index] - 2).all(), (
        "it has the second time alone"
    )
    table = series.cells("A02")
    assert set(table["Metadata_Time"]) == {1}
    np.testing.assert_array_equal(table["Halo_Number_Object_Number"], table["Nuclei_Number_Object_Number"])
    assert (table["Nuclei_Children_Foci_Count"] == 1).all()
    spots = pd.read_parquet(series.paths.spots("foci", "A02"))
    assert spots[["canvas", "t", "label"]].sort_values("label", ignore_index=True).to_numpy().tolist() == [
        [canvas, canvas // 2, label] for canvas, label in nuclei[["canvas", "label"]].to_numpy().tolist()
    ]
    assert spots["spot"].tolist() == list(range(1, len(nuclei) + 1))
    assert set(pd.read_parquet(series.paths.spots("dots", "A02"))["t"]) <= {1}
    export_images(series.plate, "napari", "A02", "nuclei", tmp_path / "out")
    for item in read_items(tmp_path / "out"):
        points = pd.read_csv(tmp_path / "out" / item.file.name.replace("_labels.tif", "_foci.csv"))
        here = item.read()
        near = np.rint(points[["axis-0", "axis-1"]].to_numpy()).astype(int)
        assert sorted(here[tuple(near.T)]) == np.unique(here[here > 0]).tolist()


def test_in_each_plane_that_is_kept_objects_grow_by_themselves(tmp_path: Path) -> None:
    plate = framed(tmp_path / "first", times=1, planes=4)
    sets = LABEL_SETS | {"halo": {"ring": {"from": "nuclei", "inner_um": 0, "outer_um": 2}}}
    flat = plate.copy(tmp_path / "flat", segmentation=sets)
    flat.run("ingest", "tile", "normalise")
    flat.label()
    flat.run("features")
    nuclei, halo = (zarr.open_array(flat.paths.image("A02") / "labels" / name / "0")[0] for name in ("nuclei", "halo"))
    assert (
        [bool(plane.any()) for plane in halo] == [bool(plane.any()) for plane in nuclei] == [False, False, True, False]
    )
    np.testing.assert_array_equal(halo[2], grow_evenly(nuclei[2], radius=2, inner=0))
    table = flat.cells("A02")
    with_nucleus = table["Nuclei_Number_Object_Number"].notna()
    assert (with_nucleus == (table["Metadata_Z"] == 2)).all()
    np.testing.assert_array_equal(table["Halo_Number_Object_Number"], table["Nuclei_Number_Object_Number"])
