"""Tables that other programs read: with those programs, compared value by value with the cell tables."""

import csv
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from cytotable_peer import convert
from planted_plate import Planted

from plateflow.errors import ArgumentError, ResultsError
from plateflow.exchange import cytotable, h5ad
from plateflow.exchange.cells import USED
from plateflow.exchange.tables import export_tables
from plateflow.features.words import in_words
from plateflow.state.requests import request

LEFT_OUT = "C02"


def cells_of(measured: Planted) -> pd.DataFrame:
    """All cells of the plate, in its order."""
    return pd.concat([pd.read_parquet(path) for path in sorted(measured.paths.cells("B02").parent.iterdir())])


def measurements(measured: Planted) -> list[str]:
    """The columns that are no metadata."""
    table = measured.cells("B02")
    return [name for name in table if not name.startswith("Metadata_") and name != "ObjectNumber"]


@pytest.fixture(scope="module", params=["cytotable", "anndata", "csv"])
def exported(request: pytest.FixtureRequest, measured: Planted, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("exported") / "tables"
    return request.param, folder, export_tables(measured.plate, request.param, folder)


def test_it_says_what_there_is_and_leaves_nothing_else(exported: Any) -> None:
    _, folder, lines = exported
    assert lines[0].startswith(f"{folder}: 6 wells, ")
    assert all("partial" not in line for line in lines)
    assert [path.name for path in folder.parent.iterdir()] == ["tables"]


def test_a_folder_that_exists_is_refused(measured: Planted, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    for there in (tmp_path / "tables", tmp_path / "link"):
        if there.name == "link":
            there.symlink_to(tmp_path / "nowhere")
        with pytest.raises(ArgumentError, match="exists already"):
            export_tables(measured.plate, "csv", there)


@pytest.mark.parametrize("form", ["cytotable", "anndata", "csv"])
def test_a_damaged_table_leaves_nothing_behind(measured: Planted, tmp_path: Path, form: str) -> None:
    plate = measured.copy(tmp_path)
    path = plate.paths.cells("C03")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(ResultsError, match=r"isn't as it was written(.|\n)*C03"):
        export_tables(plate.plate, form, tmp_path / "out" / "tables")
    assert not list((tmp_path / "out").iterdir())


def test_a_plate_without_tables_is_refused(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    for journal in plate.paths.journals("aggregate"):
        journal.unlink()
    with pytest.raises(ResultsError, match="no tables yet"):
        export_tables(plate.plate, "csv", tmp_path / "tables")


def test_cells_that_were_measured_after_the_well_table_are_refused(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    request(plate.paths, kind="retry", stage="features", well="B02")
    export_tables(plate.plate, "csv", tmp_path / "before")  # what is there fits, whatever is asked
    plate.run("features")
    with pytest.raises(ResultsError, match=r"don't fit each other[\s\S]*cells were measured"):
        export_tables(plate.plate, "csv", tmp_path / "tables")
    plate.run("aggregate")
    export_tables(plate.plate, "csv", tmp_path / "tables")


def test_csv_is_the_cell_tables(measured: Planted, tmp_path: Path) -> None:
    export_tables(measured.plate, "csv", tmp_path / "tables")
    files = sorted((tmp_path / "tables" / "cells").iterdir())
    assert [file.stem for file in files] == ["B02", "B03", "B04", "B05", "B06", "C03"]
    for file in files:
        wanted, found = measured.cells(file.stem), pd.read_csv(file)
        assert len(found) == len(wanted)
        for name in measurements(measured):
            np.testing.assert_array_equal(found[name].to_numpy(np.float32), wanted[name].to_numpy(np.float32), name)
    found = pd.read_csv(tmp_path / "tables" / "cells" / "B04.csv")
    assert set(found["Metadata_treatment"]) == {"compound-1"}
    assert set(found["Metadata_dose"]) == {1.0}
    with (tmp_path / "tables" / "features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["column"] for row in rows] == measurements(measured)
    assert {row["words"] for row in rows} == {in_words(row["column"], measured.plate.channels) for row in rows}


def test_cells_of_excluded_fields_are_marked(measured: Planted, tmp_path: Path) -> None:
    """A field of B03 is out of focus: the well table goes without its cells."""
    export_tables(measured.plate, "csv", tmp_path / "tables")
    cells = pd.read_csv(tmp_path / "tables" / "cells" / "B03.csv", dtype={"Metadata_Site": str})
    wells = pd.read_parquet(measured.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert set(cells.loc[~cells[USED], "Metadata_Site"]) == {"2"}
    assert cells[USED].sum() == wells.loc["B03", "Count_Cells"] < len(cells)


def test_anndata_holds_the_cell_tables(measured: Planted, tmp_path: Path) -> None:
    export_tables(measured.plate, "anndata", tmp_path / "tables")
    data, cells = anndata.read_h5ad(tmp_path / "tables" / h5ad.FILE), cells_of(measured)
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X, cells[list(data.var_names)].to_numpy(np.float32))
    assert data.obs_names.is_unique
    assert list(data.obs_names) == list(cells["Metadata_ObjectID"])
    dictionary = measured.plate.paths.table("features.json")
    features = pd.read_json(dictionary).T
    assert list(data.var_names) == list(features.index[features["kind"] == "measurement"])
    for table in (data.obs, data.var):
        kinds = {name: kind for name, kind in table.dtypes.items() if kind == np.dtype(object)}
        assert kinds.keys() <= {"words", "definition"}, "text is categories"
    assert data.obs["Metadata_Well"].dtype == "category"
    assert [data.obs[name].dtype for name in (USED, "ObjectNumber")] == [np.dtype(bool), np.dtype(np.int64)]
    assert set(data.obs.loc[data.obs["Metadata_Well"] == "B05", "Metadata_dose"]) == {10.0}
    assert data.var.loc["Cells_Intensity_MeanIntensity_DNA", "channel"] == "DNA"
    assert data.var.loc["Cells_AreaShape_Area_um2", "unit"] == "µm²"
    positions = cells[["Cells_Location_Center_X_um", "Cells_Location_Center_Y_um"]]
    np.testing.assert_array_equal(data.obsm["spatial"], positions)
    assert data.uns["spatial_unit"] == "µm"
    assert data.uns["plate"] == "demo"
    numbers = data.obs["Nuclei_Number_Object_Number"]
    np.testing.assert_array_equal(numbers, cells["Nuclei_Number_Object_Number"])


def test_components_are_those_of_scaled_measurements(measured: Planted, tmp_path: Path) -> None:
    """Against a singular value decomposition of all cells."""
    export_tables(measured.plate, "anndata", tmp_path / "tables")
    data = anndata.read_h5ad(tmp_path / "tables" / h5ad.FILE)
    values = data.to_df().astype(np.float64)
    spread = 1.4826 * (values - values.median()).abs().median()
    scaled = ((values - values.median()) / spread.where(spread > 0)).clip(-h5ad.CLIP, h5ad.CLIP).fillna(0).to_numpy()
    left, singular, _ = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    found = data.obsm["X_pca"]
    assert found.shape == (data.n_obs, h5ad.COMPONENTS)
    np.testing.assert_allclose(np.abs(found[:, :5]), np.abs(left * singular)[:, :5], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(data.uns["pca"]["variance"][:5], singular[:5] ** 2 / (len(scaled) - 1), rtol=1e-6)
    assert data.varm["PCs"].shape == (data.n_vars, h5ad.COMPONENTS)
    assert not data.varm["PCs"][~(spread > 0).to_numpy()].any()


def test_components_of_nothing() -> None:
    assert h5ad.components(np.zeros((5, 3), np.float32)) is None
    assert h5ad.components(np.zeros((0, 3), np.float32)) is None
    empty = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    empty[:, 1] = np.nan
    found = h5ad.components(empty)
    assert found is not None
    assert np.isfinite(found.of(empty)).all()
    assert not found.loadings[1].any()


def test_without_anndata_it_says_what_to_install(
    measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anndata.io", None)
    with pytest.raises(ArgumentError, match=r"anndata(.|\n)*pip install 'anndata>=0.12'"):
        export_tables(measured.plate, "anndata", tmp_path / "tables")
    assert not list(tmp_path.iterdir())


def test_cytotable_makes_the_cell_tables_of_it(
    measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row per cell, with or without a nucleus; every value, exactly."""
    source = tmp_path / "tables"
    export_tables(measured.plate, "cytotable", source)
    for folder in sorted(source.iterdir())[3:]:  # of six wells; each takes seconds
        shutil.rmtree(folder)
    found, wanted = convert(source, monkeypatch), cells_of(measured)
    wanted = wanted[wanted["Metadata_Well"].isin([folder.name for folder in source.iterdir()])]
    keys = ["Metadata_Well", "ObjectNumber"]
    found = found.rename(columns={"Metadata_ObjectNumber": "ObjectNumber"}).set_index(keys).sort_index()
    wanted = wanted.set_index(keys).sort_index()
    assert wanted["Nuclei_Number_Object_Number"].isna().any(), "cells without a nucleus are what is easily lost"
    assert list(found.index) == list(wanted.index)
    for name in measurements(measured):
        rest = name.partition("_")[2]
        theirs = f"Metadata_{name}" if rest.startswith("Parent_") else name
        column = found[theirs].to_numpy(np.float32)
        np.testing.assert_array_equal(column, wanted[name].to_numpy(np.float32), err_msg=name)
    images = pd.concat([pd.read_csv(path, dtype={"Metadata_Site": str}) for path in sorted(source.rglob("Image.csv"))])
    assert images["ImageNumber"].is_unique
    sites = images.set_index("ImageNumber")["Metadata_Site"]
    assert list(found["Metadata_ImageNumber"].map(sites)) == list(wanted["Metadata_Site"])


def test_pieces_of_a_well_hold_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cytotable, "ROWS_OF_A_FILE", 4)
    images = np.array([1, 2, 1, 3, 3, 3, 3, 3, 2, 4])
    pieces = [images[rows].tolist() for rows in cytotable._pieces(images)]
    assert pieces == [[1, 1, 2, 2], [3, 3, 3, 3, 3], [4]]
    assert list(cytotable._pieces(np.array([], int))) == []


def test_a_plate_without_cells_or_nuclei_is_refused(measured: Planted, tmp_path: Path) -> None:
    nuclei = {"segmentation": {"nuclei": {"channels": ["DNA"]}}}
    plate = measured.copy(tmp_path, **nuclei)
    plate.run("features", "aggregate")
    with pytest.raises(ArgumentError, match=r"joins cells, nuclei and cytoplasm(.|\n)*--tables csv"):
        export_tables(plate.plate, "cytotable", tmp_path / "tables")
    assert not os.path.lexists(tmp_path / "tables")
