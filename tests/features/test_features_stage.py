"""The stage on a small plate whose objects are the simulated truth."""

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted, plant

from plateflow.features.stage import nearest_field
from plateflow.images.illumination import profile
from plateflow.images.layout import FieldBox, read_layout, well_canvases
from plateflow.images.read import load_window
from plateflow.images.store import open_image
from plateflow.simulate.plate import Fault, WellPlan


@pytest.fixture(scope="module")
def run(planted: Planted) -> Planted:
    planted.run("features")
    return planted


def test_each_well_has_a_table_and_the_broken_one_none(run: Planted) -> None:
    assert run.journal("features") == ["C02", "B02", "B03", "B04", "B05", "B06", "C03"]  # left out ones come first
    written = {path.stem for path in run.paths.cells("B02").parent.iterdir()}
    assert written == {"B02", "B03", "B04", "B05", "B06", "C03"}
    entry = run.job("features").upstream("features")["C02", "", -1]
    assert (entry.state, entry.reason) == ("quarantined", "truncated")


def test_columns_are_the_same_in_every_well_the_empty_one_included(run: Planted) -> None:
    import pyarrow.parquet as pq

    schemas = {well: pq.read_schema(run.paths.cells(well)) for well in ("B02", "B05", "B06")}
    assert schemas["B02"].equals(schemas["B06"])
    assert schemas["B02"].equals(schemas["B05"])
    assert len(run.cells("B06")) == 0
    names = schemas["B02"].names
    assert names[:10] == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Row",
        "Metadata_Site",
        "Metadata_ObjectID",
        "Metadata_Column",
        "Metadata_Time",
        "Metadata_Z",
        "Metadata_Match_Nuclei",
        "ObjectNumber",
    ]
    assert "Nuclei_Intensity_MeanIntensity_DNA" in names
    assert "Cells_Quality_FlowError" in names


def test_values_are_those_of_the_labels_and_of_the_corrected_image(run: Planted) -> None:
    table = run.cells("B02")
    image = open_image(run.paths, "B02")
    labels = image["labels/cells/0"][0, 0]
    layout = read_layout(run.paths, "B02")
    np.testing.assert_array_equal(table["ObjectNumber"], np.unique(labels)[1:])
    row = table.iloc[len(table) // 2]
    mask = labels == row["ObjectNumber"]
    assert row["Cells_AreaShape_Area"] == mask.sum()
    assert row["Cells_AreaShape_Area_um2"] == pytest.approx(mask.sum() * 0.36)
    y, _ = np.nonzero(mask)
    assert row["Cells_AreaShape_Center_Y"] == pytest.approx(y.mean(), abs=1e-3)
    raw = image["0"][0, 2, 0].astype(float)
    light = profile(load_window(run.paths).profiles["Marker"], 256, 256)
    for box in layout.fields:
        raw[box.slices] /= light
    assert row["Cells_Intensity_MeanIntensity_Marker"] == pytest.approx(raw[mask].mean() / 65535, rel=1e-5)
    assert row["Cells_Quality_FlowError"] == pytest.approx(row["ObjectNumber"] / 1000)
    assert row["Metadata_ObjectID"] == f"demo/B02/{row['Metadata_Site']}/{row['ObjectNumber']}"
    assert (row["Metadata_Row"], row["Metadata_Column"]) == ("B", 2)
    # the simulated cells have their nucleus inside; the cytoplasm is what is left
    nuclei = image["labels/nuclei/0"][0, 0]
    assert row["Cytoplasm_AreaShape_Area"] == (mask & (nuclei == 0)).sum()
    at_border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    expected = np.isin(table["ObjectNumber"], at_border)
    np.testing.assert_array_equal(table["Cells_Quality_TouchesBorder"], expected)
    nucleus = row["Nuclei_Number_Object_Number"]
    assert (image["labels/nuclei/0"][0, 0][mask] == nucleus).any()
    assert row["Nuclei_Quality_CellProbability"] == pytest.approx(5 - nucleus / 1000)


def test_the_site_is_the_field_that_holds_the_centroid(run: Planted) -> None:
    table = run.cells("B02")
    second = table["Cells_AreaShape_Center_X"] > 255.5
    assert set(table["Metadata_Site"]) == {"1", "2"}
    assert (table["Metadata_Site"] == np.where(second, "2", "1")).all()
    assert set(run.cells("B05")["Metadata_Site"]) == {"2"}  # field 1 is broken


def test_a_point_outside_of_all_fields_gets_the_nearest() -> None:
    boxes = (FieldBox(name="a", y=0, x=0, height=10, width=10), FieldBox(name="b", y=10, x=8, height=10, width=10))
    y, x = np.array([9.4, 9.6, 2.0, 16.0, 9.0]), np.array([9.4, 9.4, 15.0, 2.0, 11.0])
    assert nearest_field(boxes, y, x).tolist() == ["a", "b", "a", "b", "b"]


def test_equal_work_gives_equal_bytes_and_nothing_is_done_twice(run: Planted) -> None:
    path = run.paths.cells("B03")
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    done = len(run.journal("features"))
    run.run("features")
    assert (len(run.journal("features")), path.stat().st_mtime_ns) == (done, stamp)
    run.paths.journal("features", "0").unlink()
    run.run("features")
    assert path.stat().st_mtime_ns > stamp
    assert path.read_bytes() == before


def test_new_labels_redo_their_well_alone(run: Planted) -> None:
    done = len(run.journal("features"))
    run.label(["B04"], version="2")
    run.run("features")
    assert run.journal("features")[done:] == ["B04"]


def test_a_well_that_is_now_left_out_loses_its_table(planted: Planted, tmp_path) -> None:
    plate = planted.copy(tmp_path)
    plate.run("features")
    from plateflow.state.journal import Entry, append_outcome

    entry = Entry(well="B02", fingerprint="new", state="quarantined", reason="nan", sequence=9)
    append_outcome(plate.paths.journal("tile", "0"), entry)
    plate.run("features")
    assert not plate.paths.cells("B02").exists()
    assert plate.job("features").upstream("features")["B02", "", -1].reason == "nan"


def test_the_nuclei_can_make_the_rows(planted: Planted, tmp_path) -> None:
    plate = planted.copy(tmp_path, features={"rows": "nuclei"})
    plate.run("features")
    table = plate.cells("B02")
    image = open_image(plate.paths, "B02")
    nuclei, cells = (image[f"labels/{name}/0"][0, 0] for name in ("nuclei", "cells"))
    assert len(table) == len(np.unique(nuclei)) - 1
    within = [(cells[nuclei == number] > 0).any() for number in table["ObjectNumber"]]
    assert table["Cells_Number_Object_Number"].notna().tolist() == within
    assert sum(within) > 50
    assert pd.api.types.is_integer_dtype(table["ObjectNumber"])


def test_an_object_inside_the_box_of_another_canvas_is_measured_once(tmp_path) -> None:
    broken = [Fault(kind="truncated", well="B02", field=field) for field in (1, 4, 5)]
    plan = WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0)
    plate = plant(tmp_path, [plan], faults=broken, fields=9)
    corner, bend = sorted(well_canvases(plate.paths, "B02", plate.config), key=lambda canvas: len(canvas.fields))
    assert ([box.name for box in corner.fields], len(bend.fields)) == (["3"], 5)
    assert bend.slices[1].stop == corner.slices[1].stop  # the bend's box covers the corner
    plate.run("features")
    table = plate.cells("B02")
    labels = open_image(plate.paths, "B02")["labels/cells/0"][0, 0]
    np.testing.assert_array_equal(table["ObjectNumber"], np.unique(labels)[1:])
    in_corner = np.isin(table["ObjectNumber"], np.unique(labels[corner.slices]))
    assert in_corner.sum() > 3
    assert (in_corner == (table["Metadata_Site"] == "3")).all()
    assert (table["Cells_Intensity_MeanIntensity_AGP"] > 0).all()
    assert (table["Cells_AreaShape_Area"] == np.bincount(labels.ravel())[table["ObjectNumber"]]).all()
