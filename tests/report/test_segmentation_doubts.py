"""What page, status, screen and the end of a run say of a plate whose segmentation found nothing."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted
from test_report import text_of

from plateflow.cli.status import overview
from plateflow.project import Project
from plateflow.report.screen import write_screen
from plateflow.stages.stale import to_do


@pytest.fixture(scope="module")
def empty(measured: Planted, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The small plate as if no nucleus and no cell had been found."""
    root = tmp_path_factory.mktemp("empty")
    (root / "truth").mkdir()
    for path in measured.truth.glob("*.npz"):
        with np.load(path) as file:
            np.savez(root / "truth" / path.name, **{name: np.zeros_like(file[name]) for name in file.files})
    plate = dataclasses.replace(measured.copy(root), truth=root / "truth")
    for shards in plate.paths.root.glob("plate.zarr/*/*/*/labels/*/*/c"):
        shutil.rmtree(shards)
    plate.label(version="2")
    plate.run("features", "aggregate", "report")
    return plate


def test_the_verdict_says_so_and_leads_to_the_wells(empty: Planted) -> None:
    page = empty.paths.table("report.html").read_text()
    text = text_of(page)
    assert 'class="verdict bad"' in page
    assert "Complete, but left out: 1 well and 1 field, and look at the segmentation" in text
    assert "No nuclei were found." in text
    assert "100% of what is bright in AGP is in none of the cells (median of the plate); worst: B02 100%" in text
    assert '<a href="#well-B02">B02</a>' in page
    assert 'id="well-B02"' in page
    assert "B02 (nuclei 100%, cells 100%)" in text  # the flags


def test_the_well_table_has_numbers_and_flags(empty: Planted) -> None:
    wells = pd.read_parquet(empty.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert wells.loc["B02", "Metadata_Nuclei_Uncovered"] == wells.loc["B02", "Metadata_Cells_Uncovered"] == 1
    assert "uncovered" in wells.loc["B02", "Metadata_Flags"].split(",")
    assert np.isnan(wells.loc["B06", "Metadata_Nuclei_Uncovered"])  # a blank well
    assert "uncovered" not in wells.loc["B06", "Metadata_Flags"]
    own = ["Diameter_px", "Unmatched", "Dropped"]
    assert wells.loc["B02", [f"Metadata_Cells_{name}" for name in own]].isna().all()


def test_of_true_objects_little_is_uncovered_and_nothing_is_flagged(measured: Planted) -> None:
    wells = pd.read_parquet(measured.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert wells["Metadata_Nuclei_Uncovered"].max() < 0.3
    assert wells["Metadata_Cells_Uncovered"].max() < 0.3
    assert 15 < wells.loc["B02", "Metadata_Nuclei_Diameter_px"] < 27
    assert not wells["Metadata_Flags"].str.contains("size|uncovered|unmatched|flow_check").any()
    assert measured.plate.doubts() == []


def test_status_and_the_page_over_all_plates_name_it(empty: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    overview(empty.plate, to_do(empty.plate, files=False))
    output = " ".join(capsys.readouterr().out.split())
    assert "demo: look at the segmentation: no nuclei were found; 100% of what is bright in DNA is in none" in output
    assert output.count("look at the segmentation") == 2  # once for each label set
    assert output.count("check channels, diameter and model of segmentation.nuclei") == 1
    text = text_of(write_screen(Project.of(empty.config, {"demo": empty.entry})))
    assert "1 plate is to be looked at: see its verdict: demo." in text
