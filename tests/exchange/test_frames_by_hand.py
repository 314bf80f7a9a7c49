"""Time series and volumes, in wells whose fields don't touch: corrected by hand, viewed, and handed to programs."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
sys.path.insert(0, str(Path(__file__).parents[1] / "viewer"))
from cytotable_peer import convert
from framed_plate import APART, SIDE, framed
from planted_plate import Planted
from viewed import get, serving

from plateflow.exchange.corrections import Imported, import_items
from plateflow.exchange.images import PROGRAMS, digest_of, export_images, read_items
from plateflow.exchange.tables import export_tables
from plateflow.project import Project
from plateflow.report.methods import paragraph
from plateflow.report.page import verdict
from plateflow.report.view import View
from plateflow.state.corrections import discard
from plateflow.viewer.plates import Plates

WELL, ROWS = "A02", slice(36, 42)
"""Corrected in the first field, at the second time point; where an object is drawn, in y and x."""
KEYS = ["Metadata_Well", "ObjectNumber"]
ONE_PLANE = pytest.mark.parametrize("done", ["series"], indirect=True)
"""Of what knows no planes, or takes long."""


@pytest.fixture(scope="module", params=["series", "volumes"])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Two time points of a plane, or of five."""
    planted = framed(tmp_path_factory.mktemp("framed"), times=2, planes=1 if request.param == "series" else 5)
    planted.run("features", "aggregate")
    return planted


def is_series(planted: Planted) -> bool:
    return planted.config.z != "keep"


def correct(planted: Planted, folder: Path, label_set: str, change: Callable[[np.ndarray], np.ndarray]) -> Imported:
    """Export the well, change canvas 2 of 4 (the first field at the second time point), and import all."""
    export_images(planted.plate, "napari", WELL, label_set, folder)
    items = list(read_items(folder))
    assert [item.canvas for item in items] == [0, 1, 2, 3]
    tifffile.imwrite(items[2].file, change(items[2].read()))
    return import_items(planted.plate, items, by="ada", split=False)


def erased_and_drawn(number: int) -> Callable[[np.ndarray], np.ndarray]:
    """Erase an object, and draw one where there is none."""

    def change(labels: np.ndarray) -> np.ndarray:
        assert number in labels and not labels[..., ROWS, ROWS].any()
        drawn = np.where(labels == number, 0, labels)
        drawn[..., ROWS, ROWS] = 5000
        return drawn

    return change


@pytest.fixture(scope="module")
def corrected(done: Planted, tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, list[str]]:
    """Of the 8 objects that there are in canvas 2 (19 to 26), cell 20 and nucleus 21 are erased."""
    folder = tmp_path_factory.mktemp("corrected")
    planted = done.copy(folder)
    said = correct(planted, folder / "cells", "cells", erased_and_drawn(20)).lines
    said += correct(planted, folder / "nuclei", "nuclei", erased_and_drawn(21)).lines
    planted.run("features", "aggregate")
    return planted, said


def arrays(planted: Planted, name: str) -> np.ndarray:
    return zarr.open_array(planted.paths.image(WELL) / "labels" / name / "0", mode="r")[:]


@ONE_PLANE
def test_labels_there_and_back_by_each_program(done: Planted, tmp_path: Path) -> None:
    for program in PROGRAMS:
        export_images(done.plate, program, f"{WELL},A01", "cells", tmp_path / program)
        items = list(read_items(tmp_path / program))
        assert [item.well for item in items] == [WELL] * 4 + ["A01"] * 4
        assert [digest_of(item.read()) for item in items] == [item.exported for item in items]
        index = json.loads((tmp_path / program / "plateflow.json").read_text())["items"]
        assert [(item["canvas"], item["t"]) for item in index[:4]] == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_only_the_canvas_that_was_corrected_has_other_labels(corrected: tuple[Planted, list[str]]) -> None:
    planted, said = corrected
    kept = [line for line in said if "as exported, not imported" not in line]
    assert kept == [f"{WELL} {name}: 7 kept, 0 changed, 1 added, 1 removed" for name in ("cells", "nuclei")]
    for name, erased in (("cells", 20), ("nuclei", 21)):
        before, now = arrays(planted, name), arrays(planted, f"{name}_corrected")
        assert not (before != now)[0].any() and not (before != now)[..., APART:].any()
        wanted = np.where(before == erased, 0, before)
        wanted[1, ..., ROWS, ROWS] = before.max() + 1
        np.testing.assert_array_equal(now, wanted)
        objects = pd.read_parquet(planted.paths.objects(f"{name}_corrected", WELL)).set_index("label")
        assert sorted(objects.index) == np.unique(now)[1:].tolist()
        new = objects.loc[before.max() + 1]
        assert new["canvas"] == 2 and np.isnan(new["flow_error"])
        assert now[1, int(new["seed_z"]), int(new["seed_y"]), int(new["seed_x"])] == new.name
        assert new["area_px"] == 36 * len(now[0])


def test_cells_are_measured_with_both_corrected_label_sets(done: Planted, corrected: tuple[Planted, list[str]]) -> None:
    planted, _ = corrected
    before, now = (each.cells(WELL).set_index("ObjectNumber") for each in (done, planted))
    new = int(before.index.max()) + 1
    assert [*now.index] == sorted({*before.index, new} - {20})
    assert now.loc[new, ["Metadata_Time", "Nuclei_Number_Object_Number", "Metadata_Site"]].tolist() == [1, new, "0"]
    assert now.loc[21, "Metadata_Match_Nuclei"] == "anucleate" and np.isnan(now.loc[21, "Nuclei_Number_Object_Number"])
    others = before.index.difference([20, 21])
    pd.testing.assert_frame_equal(now.loc[others], before.loc[others])
    size = "Volume" if "Cells_AreaShape_Volume" in now else "Area"
    assert now.loc[new, f"Cells_AreaShape_{size}"] == 36 * (1 if is_series(planted) else 5)
    for well in ("A01", "A03"):
        assert planted.paths.cells(well).read_bytes() == done.paths.cells(well).read_bytes()


def test_tables_and_page_mark_the_well_once_and_count_by_time_point(
    done: Planted, corrected: tuple[Planted, list[str]]
) -> None:
    planted, _ = corrected
    wells = pd.read_csv(planted.paths.table("wells.csv")).set_index(["Metadata_Well", "Metadata_Time"])
    marks = wells["Metadata_Corrected"].fillna("")
    assert marks[marks != ""].to_dict() == {(WELL, 0): "cells,nuclei", (WELL, 1): "cells,nuclei"}
    assert wells.loc[WELL, ["Count_Cells", "Count_Nuclei"]].values.tolist() == [[18, 18], [16, 16]]
    before = pd.read_csv(done.paths.table("wells.csv")).set_index(["Metadata_Well", "Metadata_Time"])
    pd.testing.assert_frame_equal(wells.drop(columns="Metadata_Corrected").drop(WELL), before.drop(WELL))
    assert verdict(View.read(planted.plate))["why"][-1] == "Labels of 1 well were corrected by hand."
    marks = [row.get("Metadata_Corrected") for row in View.read(planted.plate).by_well.to_dict("records")]
    assert marks == ["", "cells,nuclei", "", ""]
    assert "In 1 well labels of cells and nuclei were corrected by hand." in paragraph(View.read(planted.plate))[0]


def test_corrections_that_are_discarded_leave_the_tables_of_before(
    done: Planted, corrected: tuple[Planted, list[str]], tmp_path: Path
) -> None:
    planted = corrected[0].copy(tmp_path)
    discard(planted.paths, [(WELL, "nuclei")])
    planted.run("features")
    assert planted.plate.outcomes("features").required(WELL).info["corrected"] == ["cells"]
    assert planted.cells(WELL).set_index("ObjectNumber").loc[21, "Metadata_Match_Nuclei"] == "one_to_one"
    discard(planted.paths, [(WELL, "cells")])
    planted.run("features", "aggregate")
    for name in ("cells/A02.parquet", "wells.csv", "wells.parquet", "normalised.parquet"):
        assert (planted.paths.root / name).read_bytes() == (done.paths.root / name).read_bytes()
    assert sorted(path.name for path in (planted.paths.image(WELL) / "labels").iterdir()) == [
        "cells", "nuclei", "zarr.json"
    ]  # fmt: skip


def test_the_viewer_shows_corrected_labels_at_their_time_and_plane(corrected: tuple[Planted, list[str]]) -> None:
    planted, _ = corrected
    new = int(arrays(planted, "cells").max()) + 1
    with serving(Plates(planted.root / "results", Project(config=planted.config, plates={"p": planted.plate}))) as run:
        about = json.loads(get(run, f"/info/p/{WELL}"))
        labels = [label["name"] for label in about["labels"]]
        assert [label["name"] for label in about["labels"] if label["on"]] == ["nuclei_corrected", "cells_corrected"]
        asked = ",".join(f"{number}-ffffff" for number in range(len(labels)))
        for t, before, now in ((0, 9, 9), (1, 0, new)):
            there = f"y={ROWS.start}&x={ROWS.start}&t={t}&z={about['z'].replace(' ', '%20')}&labels={asked}"
            wanted = {"nuclei": before, "nuclei_corrected": now, "cells": before, "cells_corrected": now}
            assert json.loads(get(run, f"/label/p/{WELL}?{there}")) == wanted


def test_ngio_finds_tables_with_the_labels_that_were_measured(corrected: tuple[Planted, list[str]]) -> None:
    ngio = pytest.importorskip("ngio")
    planted, _ = corrected
    plate = ngio.open_ome_zarr_plate(str(planted.paths.store))
    n_cells = 0
    for place, image in plate.get_images(max_workers=1).items():
        well = place.replace("/", "")[:3]
        if well == "A04":  # it is left out
            assert image.list_tables() == ["fields"]
            continue
        table = image.get_table("cells")
        assert table.reference_label == ("cells_corrected" if well == WELL else "cells")
        pd.testing.assert_frame_equal(table.dataframe, planted.cells(well).set_index("ObjectNumber"))
        labels = image.get_label(table.reference_label, path="0")
        assert set(np.unique(labels.get_as_numpy())) - {0} == set(table.dataframe.index)
        for field, region in zip("01", image.get_table("fields").rois(), strict=True):
            own = labels.get_roi(region)
            assert own.shape == (2, 1 if is_series(planted) else 5, SIDE, SIDE)
            numbers = table.dataframe.index[table.dataframe["Metadata_Site"] == field]
            assert set(np.unique(own)) - {0} == set(numbers)
        n_cells += len(table.dataframe)
    together = plate.concatenate_image_tables("cells", index_key="cell", strict=False, max_workers=1)
    assert len(together.dataframe) == n_cells


def cells_of(planted: Planted) -> pd.DataFrame:
    return pd.concat([planted.cells(well) for well in (WELL, "A03")]).set_index(KEYS)


def test_csv_has_a_file_for_each_well_that_was_measured(corrected: tuple[Planted, list[str]], tmp_path: Path) -> None:
    planted, _ = corrected
    export_tables(planted.plate, "csv", tmp_path / "csv")
    files = {file.stem: pd.read_csv(file) for file in (tmp_path / "csv" / "cells").iterdir()}
    assert {well: len(table) for well, table in files.items()} == {"A01": 0, WELL: 34, "A03": 26}
    found = pd.concat([files[WELL], files["A03"]]).set_index(KEYS)
    assert set(found.loc[WELL, "Metadata_Corrected"]) == {"cells,nuclei"} and set(files["A01"]) == set(files[WELL])
    for name, column in cells_of(planted).items():
        if not name.startswith("Metadata_"):
            np.testing.assert_array_equal(found[name].to_numpy(np.float32), column.to_numpy(np.float32), name)


def test_anndata_has_types_though_its_first_well_is_empty(corrected: tuple[Planted, list[str]], tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    planted, _ = corrected
    export_tables(planted.plate, "anndata", tmp_path / "h5ad")
    data, cells = anndata.read_h5ad(tmp_path / "h5ad" / "cells.h5ad"), cells_of(planted)
    assert list(data.obs_names) == list(cells["Metadata_ObjectID"])
    np.testing.assert_array_equal(data.X, cells[list(data.var_names)].to_numpy(np.float32))
    kinds = data.obs[["Metadata_Time", "ObjectNumber", "Metadata_Used", "Metadata_Well"]].dtypes.astype(str)
    assert list(kinds) == ["int32", "int64", "bool", "category"]
    assert list(data.obs["Metadata_Time"]) == list(cells["Metadata_Time"])
    axes = "XY" if is_series(planted) else "XYZ"
    np.testing.assert_array_equal(data.obsm["spatial"], cells[[f"Cells_Location_Center_{axis}_um" for axis in axes]])


@ONE_PLANE
def test_cytotable_takes_each_time_point_for_an_image(
    corrected: tuple[Planted, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted, _ = corrected
    export_tables(planted.plate, "cytotable", tmp_path / "tables")
    found, wanted = convert(tmp_path / "tables", monkeypatch), cells_of(planted)
    found = found.rename(columns={"Metadata_ObjectNumber": "ObjectNumber"}).set_index(KEYS).loc[wanted.index]
    assert wanted["Nuclei_Number_Object_Number"].isna().sum() == 1
    # a cell that its nucleus fills has no cytoplasm, but a row there, as CytoTable joins by it
    names = [name for name in wanted if not name.startswith("Metadata_") and name != "Cytoplasm_Number_Object_Number"]
    for name in names:
        theirs = f"Metadata_{name}" if "_Parent_" in name else name
        np.testing.assert_array_equal(found[theirs].to_numpy(np.float32), wanted[name].to_numpy(np.float32), name)
    images = pd.concat([pd.read_csv(path) for path in sorted((tmp_path / "tables").rglob("Image.csv"))])
    assert images["ImageNumber"].tolist() == list(range(1, 9))
    places = images.set_index("ImageNumber").loc[found["Metadata_ImageNumber"], ["Metadata_Time", "Metadata_Site"]]
    assert places["Metadata_Time"].tolist() == wanted["Metadata_Time"].tolist()
    assert places["Metadata_Site"].astype(str).tolist() == wanted["Metadata_Site"].tolist()
