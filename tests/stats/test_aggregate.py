"""The tables of a small plate."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted

from plateflow.config import PlateEntry
from plateflow.stats.wells import well_table


@pytest.fixture(scope="module")
def wells(measured: Planted) -> pd.DataFrame:
    return pd.read_parquet(measured.paths.table("wells.parquet")).set_index("Metadata_Well")


def test_every_well_has_a_row_with_its_place_and_its_treatment(wells: pd.DataFrame) -> None:
    assert wells.index.tolist() == ["B02", "B03", "B04", "B05", "B06", "C02", "C03"]
    assert wells.loc["C03", ["Metadata_Row", "Metadata_Column"]].tolist() == ["C", 3]
    assert wells.loc["B05", ["Metadata_role", "Metadata_treatment"]].tolist() == ["treatment", "compound-1"]
    assert wells["Metadata_dose"].fillna(-1).tolist() == [0, 0, 1, 10, -1, 0, 1]


def test_counts_and_medians_are_those_of_the_cells(measured: Planted, wells: pd.DataFrame) -> None:
    cells = measured.cells("B03")
    assert wells.loc["B03", "Count_Cells"] == len(cells)
    nuclei = pd.read_parquet(measured.paths.objects("nuclei", "B03"))
    assert wells.loc["B03", "Count_Nuclei"] == len(nuclei)
    for name in ("Cells_AreaShape_Area", "Nuclei_Intensity_MeanIntensity_DNA", "Cells_Quality_FlowError"):
        assert wells.loc["B03", name] == pytest.approx(cells[name].median()), name
    assert not {"Cells_AreaShape_Center_X", "Nuclei_Number_Object_Number", "ObjectNumber"} & set(wells.columns)


def test_the_empty_well_counts_zero_and_the_broken_one_nothing(wells: pd.DataFrame) -> None:
    assert wells.loc["B06", "Count_Cells"] == 0
    assert np.isnan(wells.loc["B06", "Cells_AreaShape_Area"])
    assert wells.loc["C02", ["Metadata_State", "Metadata_Reason"]].tolist() == ["quarantined", "truncated"]
    assert np.isnan(wells.loc["C02", "Count_Cells"])
    assert wells.loc["C02", "Metadata_FieldsUsed"] == 0


def test_flags_name_what_is_wrong_and_nothing_else(wells: pd.DataFrame) -> None:
    flags = wells["Metadata_Flags"].str.split(",").map(lambda names: set(names) - {"", "intensity"}).to_dict()
    assert flags["B05"] == {"fields"}
    assert flags["B06"] == {"empty"}
    assert "focus" in flags["B03"]
    assert not flags["B02"] | flags["B04"] | flags["C02"] | flags["C03"]
    assert wells["Metadata_State"].to_dict() | {"B02": 0, "B04": 0, "C03": 0} == {
        "B02": 0,
        "B03": "flagged",
        "B04": 0,
        "B05": "flagged",
        "B06": "flagged",
        "C02": "quarantined",
        "C03": 0,
    }
    assert wells.loc["B05", ["Metadata_FieldsUsed", "Metadata_FieldsLeftOut"]].tolist() == [1, "1"]


def test_the_csv_says_the_same(measured: Planted, wells: pd.DataFrame) -> None:
    read = pd.read_csv(measured.paths.table("wells.csv"), keep_default_na=True).set_index("Metadata_Well")
    assert list(read.columns) == list(wells.columns)
    np.testing.assert_allclose(read["Cells_AreaShape_Area"], wells["Cells_AreaShape_Area"], rtol=1e-6)


def test_the_quality_table_has_each_field_and_channel(measured: Planted) -> None:
    qc = pd.read_parquet(measured.paths.table("qc.parquet"))
    assert len(qc) == 7 * 2 * 3
    blurred = qc[(qc["Metadata_Well"] == "B03") & (qc["Metadata_Channel"] == "DNA")].set_index("Metadata_Site")
    assert blurred["Flags"].to_dict() == {"1": "", "2": "focus"}
    broken = qc[qc["Metadata_Well"] == "B05"].set_index(["Metadata_Site", "Metadata_Channel"])
    assert broken.loc[("1", "DNA"), ["State", "Reason"]].tolist() == ["quarantined", "truncated"]
    cells = measured.cells("B05")
    assert broken.loc[("2", "DNA"), "Objects"] == len(cells)


def test_the_dictionary_explains_every_measured_column(measured: Planted) -> None:
    dictionary = json.loads(measured.paths.table("features.json").read_text())
    columns = measured.cells("B02").columns
    assert list(dictionary) == [name for name in columns if not name.startswith("Metadata") and name != "ObjectNumber"]
    entry = dictionary["Nuclei_Intensity_MeanIntensity_DNA"]
    assert (entry["compartment"], entry["channel"], entry["family"]) == ("Nuclei", "DNA", "intensity")
    assert all(item["definition"] and item["unit"] and item["source"] for item in dictionary.values())


def test_the_journal_has_what_the_window_is_compared_with(measured: Planted) -> None:
    info = measured.job("aggregate").upstream("aggregate")["", "", -1].info
    assert info["drift"] == {"DNA": 0, "AGP": 0, "Marker": 0}
    assert info.keys() == {"window now", "drift"}
    window = json.loads(measured.paths.window.read_text())["channels"]["DNA"]
    assert info["window now"]["DNA"] == [window["low"], window["high"]]


def test_a_changed_map_redoes_the_tables_and_the_same_map_nothing(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    path = tmp_path / "map.csv"
    path.write_text("well,role,treatment,dose,State,batch\nB2,positive,staurosporine,3,odd,7\nH12,treatment,late,1,,\n")
    plate.entry = PlateEntry(plate="demo", path=plate.entry.path, plate_map=str(path))
    plate.run("features", "aggregate")
    assert len(plate.journal("features")) == 7
    assert len(plate.journal("aggregate")) == 2
    table = pd.read_parquet(plate.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert table.loc["B02", ["Metadata_treatment", "Metadata_batch", "Metadata_Map_State"]].tolist() == [
        "staurosporine",
        "7",
        "odd",
    ]
    assert table.loc["H12", ["Metadata_State", "Metadata_Reason"]].tolist() == ["not_acquired", ""]
    assert len(table) == 8
    before = plate.paths.table("wells.parquet").read_bytes()
    path.write_text(path.read_text().replace("B2,", "B02,"))  # says the same
    plate.run("aggregate")
    assert len(plate.journal("aggregate")) == 2
    plate.paths.journal("aggregate", "plate").unlink()
    plate.run("aggregate")
    assert plate.paths.table("wells.parquet").read_bytes() == before


def test_without_a_map_the_wells_are_those_of_the_plate(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    plate.entry = PlateEntry(plate="demo", path=plate.entry.path)
    gone = plate.paths.cells("H12")
    gone.write_bytes(plate.paths.cells("B02").read_bytes())  # of a well that the plate had once
    plate.run("aggregate")
    assert not gone.exists()
    table = pd.read_parquet(plate.paths.table("wells.parquet"))
    assert len(table) == 7
    assert "Metadata_role" not in table


def test_wells_are_in_the_plates_order_up_to_1536() -> None:
    row = {"Metadata_State": "ok", "Metadata_Reason": "", "Metadata_Flags": "", "Metadata_FieldsLeftOut": ""}
    table = well_table("p", dict.fromkeys(("AA01", "B10", "B02", "Z48", "A01"), row), None)
    assert table["Metadata_Well"].tolist() == ["A01", "B02", "B10", "Z48", "AA01"]
    assert table["Metadata_Row"].tolist()[-1] == "AA"
