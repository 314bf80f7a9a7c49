"""The tables of a small plate."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted
from scipy.stats import median_abs_deviation
from simulated_wells import well_table as simulated

from plateflow.config import PlateSpec, Stats
from plateflow.errors import PlateflowError
from plateflow.files import stamp_of
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.state.journal import append_outcome
from plateflow.stats.statistics import write_statistics
from plateflow.stats.wells import read_cells, well_table


@pytest.fixture(scope="module")
def wells(measured: Planted) -> pd.DataFrame:
    return pd.read_parquet(measured.paths.table("wells.parquet")).set_index("Metadata_Well")


def included(plate: Planted, well: str) -> "pd.Series[bool]":
    """Which cells of a well enter medians: those of which no object touches the border of its canvas."""
    cells = plate.cells(well)
    return (cells["Cells_Quality_TouchesBorder"] != 1) & (cells["Nuclei_Quality_TouchesBorder"] != 1)


def test_every_well_has_a_row_with_its_place_and_its_treatment(wells: pd.DataFrame) -> None:
    assert wells.index.tolist() == ["B02", "B03", "B04", "B05", "B06", "C02", "C03"]
    assert wells.loc["C03", ["Metadata_Row", "Metadata_Column"]].tolist() == ["C", 3]
    assert wells.loc["B05", ["Metadata_role", "Metadata_treatment"]].tolist() == ["treatment", "compound-1"]
    assert wells["Metadata_dose"].fillna(-1).tolist() == [0, 0, 1, 10, -1, 0, 1]


def test_counts_medians_and_spreads_are_those_of_the_cells(measured: Planted, wells: pd.DataFrame) -> None:
    cells = measured.cells("B04")
    assert wells.loc["B04", "Count_Cells"] == len(cells)
    nuclei = pd.read_parquet(measured.paths.objects("nuclei", "B04"))
    assert wells.loc["B04", "Count_Nuclei"] == len(nuclei)
    for name in ("Cells_AreaShape_Area", "Nuclei_Intensity_MeanIntensity_DNA", "Cells_Quality_FlowError"):
        values = cells.loc[included(measured, "B04"), name].dropna().astype(float)
        assert wells.loc["B04", name] == pytest.approx(values.median()), name
        assert wells.loc["B04", f"{name}_MAD"] == pytest.approx(median_abs_deviation(values)), name
        assert wells.loc["B04", f"{name}_Q25"] == pytest.approx(values.quantile(0.25)), name
        assert wells.loc["B04", f"{name}_Q75"] == pytest.approx(values.quantile(0.75)), name
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


def test_fields_out_of_focus_are_left_out_and_listed(measured: Planted, wells: pd.DataFrame, tmp_path: Path) -> None:
    used = ["Metadata_FieldsUsed", "Metadata_FieldsLeftOut", "Metadata_FieldsExcluded"]
    assert wells.loc["B03", used].tolist() == [1, "", "2"]
    assert wells.loc["B06", used].tolist() == [2, "", ""]  # empty may be what the treatment does
    cells = measured.cells("B03")
    cells = cells[cells["Metadata_Site"] == "1"]
    assert wells.loc["B03", "Count_Cells"] == len(cells)
    whole = cells[included(measured, "B03")[cells.index]]
    assert wells.loc["B03", "Cells_AreaShape_Area"] == pytest.approx(whole["Cells_AreaShape_Area"].median())
    nuclei = pd.read_parquet(measured.paths.objects("nuclei", "B03"))
    assert wells.loc["B03", "Count_Nuclei"] == (nuclei["seed_x"] < 256).sum() < len(nuclei)

    plate = measured.copy(tmp_path / "all", stats={"exclude_flags": []})
    plate.run("aggregate")
    table = pd.read_parquet(plate.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert table.loc["B03", used].tolist() == [2, "", ""]
    assert table.loc["B03", "Count_Cells"] == len(measured.cells("B03"))
    assert len(plate.journal("features")) == 7  # a setting of the statistics measures nothing again

    plate = measured.copy(
        tmp_path / "more", stats={"exclude_flags": ["empty", "intensity"]}, quality={"intensity_mad": 0.01}
    )
    plate.run("aggregate")
    table = pd.read_parquet(plate.paths.table("wells.parquet")).set_index("Metadata_Well")
    off = table.index[table["Metadata_Flags"].str.contains("intensity")]
    assert len(off) > 2
    assert (table.loc[off, "Metadata_FieldsUsed"] == 0).all()
    assert table.loc[off, ["Count_Cells", "Cells_AreaShape_Area"]].isna().all().all()
    assert table.loc["B06", used].tolist() == [0, "", "1,2"]


def test_a_well_whose_positions_cannot_be_trusted_is_never_ok(
    measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plate = measured.copy(tmp_path, quality={"intensity_mad": 1e6})
    info = plate.plate.metadata | {"untrusted_positions": ["B04"]}  # as ingest writes it
    monkeypatch.setattr(Plate, "metadata", info)
    plate.run("aggregate")
    table = pd.read_parquet(plate.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert table.loc["B04", ["Metadata_State", "Metadata_Flags"]].tolist() == ["flagged", "positions"]
    assert table.loc["B02", ["Metadata_State", "Metadata_Flags"]].tolist() == ["ok", ""]


def test_medians_by_field_are_written_on_request(measured: Planted, tmp_path: Path) -> None:
    assert not measured.paths.table("fields.parquet").exists()
    plate = measured.copy(tmp_path, stats={"by_field": True})
    plate.run("aggregate")
    fields = pd.read_parquet(plate.paths.table("fields.parquet")).set_index(["Metadata_Well", "Metadata_Site"])
    assert ("B03", "1") in fields.index
    assert not {("B03", "2"), ("B05", "1")} & set(fields.index)
    assert fields.loc["B06", "Count_Cells"].tolist() == [0, 0]  # nothing was found there, which is a result
    assert fields.loc["B06", "Cells_AreaShape_Area"].isna().all()
    cells = measured.cells("C03")
    for site, rows in cells.groupby("Metadata_Site"):
        row = fields.loc[("C03", site)]
        assert row["Count_Cells"] == len(rows)
        whole = rows[included(measured, "C03")[rows.index]]
        assert row["Cells_AreaShape_Area"] == pytest.approx(whole["Cells_AreaShape_Area"].median())


def test_normalised_values_and_the_tables_of_statistics(measured: Planted, wells: pd.DataFrame, tmp_path: Path) -> None:
    name = "Nuclei_AreaShape_Area"
    plate = measured.copy(tmp_path, stats={"normalise": "plate standard"})
    plate.run("aggregate")
    z = pd.read_parquet(plate.paths.table("normalised.parquet")).set_index("Metadata_Well")
    used = wells.loc[["B02", "B03", "B04", "B05", "C03"], name]
    assert z.loc["B04", name] == pytest.approx((wells.loc["B04", name] - used.mean()) / used.std(), rel=1e-5)
    # Two negatives are in use: what they are too few for is said, and nothing comes of it.
    assert pd.read_parquet(measured.paths.table("normalised.parquet"))[name].isna().all()
    (info,) = measured.plate.outcomes("aggregate").required().info["frames"]
    assert info["controls"]["grade"] == "unknown"
    assert "0 positive controls" in info["controls"]["reasons"][0]
    assert info["hits"] == {
        "hits": 0,
        "treatments": 2,
        "why none": "too few wells to compare with: 2 negative controls in use, 3 are needed",
    }
    hits = pd.read_csv(measured.paths.table("hits.csv"))
    assert hits["Metadata_treatment"].tolist() == ["compound-1"] * 2
    assert hits["Replicates"].tolist() == [2, 1]
    assert not hits["Hit"].any()
    for table in ("controls.csv", "positions.csv", "doses.csv"):
        assert "Metadata_Plate" in pd.read_csv(measured.paths.table(table))


def test_the_false_discovery_rate_decides_what_is_a_hit(tmp_path: Path) -> None:
    wells = simulated(0, effect=3.0)
    found = []
    for fdr in (0.001, 0.2):
        paths = PlatePaths.of("p1", results=tmp_path / str(fdr))
        (info,) = write_statistics(paths, wells, ["F0"], Stats(fdr=fdr), (16, 24))
        found.append(info["hits"]["hits"])
    assert found[0] < 20 < found[1]


def test_names_with_umlauts_commas_and_quotes_go_through_all_tables(tmp_path: Path) -> None:
    name = 'Ölsäure, "10 %"; ß'
    wells = simulated(0, effect=9.0)
    wells["Metadata_treatment"] = wells["Metadata_treatment"].replace({"c000": name, "nocodazole": "Gift, grün"})
    paths = PlatePaths.of("p1", results=tmp_path)
    (info,) = write_statistics(paths, wells, ["F0"], Stats(), (16, 24))
    hits = pd.read_csv(paths.table("hits.csv"))
    assert hits.loc[hits["Metadata_treatment"] == name, "Hit"].tolist() == [True]
    assert pd.read_csv(paths.table("controls.csv"))["Positive"].tolist() == ["Gift, grün"]
    assert info["controls"]["reasons"][0].startswith("positive control Gift, grün: good")


def test_a_column_that_some_wells_lack_is_nan_there_and_the_rest_goes_on(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    name = "Cells_Intensity_MeanIntensity_Marker"
    table = plate.paths.cells("B04")
    plate.cells("B04").drop(columns=name).to_parquet(table)
    entry = plate.plate.outcomes("features").required("B04")
    entry = replace(entry, files={plate.paths.key_of(table): stamp_of(table)}, sequence=entry.sequence + 1)
    append_outcome(plate.paths.journal("features", "0"), entry)
    plate.paths.journal("aggregate", "plate").unlink()
    plate.run("aggregate")
    table = pd.read_parquet(plate.paths.table("wells.parquet")).set_index("Metadata_Well")
    assert np.isnan(table.loc["B04", name])
    assert np.isfinite(table.loc[["B04", "C03"], ["Cells_AreaShape_Area", "Count_Cells"]].to_numpy(float)).all()
    assert np.isfinite(table.loc["C03", name])


def test_a_well_twice_in_the_map_is_named_and_another_plate_goes_on(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    path = tmp_path / "map.csv"
    path.write_text("well,role,treatment\nB02,negative,DMSO\nB3,treatment,x\nB03,treatment,y\n")
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path, plate_map=str(path))
    with pytest.raises(PlateflowError, match=r"B03 twice(.|\n)*map.csv, line 4(.|\n)*line 3"):
        plate.run("aggregate")
    path.write_text(path.read_text().replace("B3,", "B4,"))
    plate.run("aggregate")


def test_the_plate_map_is_read_once_so_that_tables_and_fingerprint_agree(
    measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plateflow.plates import platemap

    plate, reads = measured.copy(tmp_path), []
    plate.paths.journal("aggregate", "plate").unlink()
    read = platemap.read_plate_map
    monkeypatch.setattr(platemap, "read_plate_map", lambda *place: reads.append(place) or read(*place))
    plate.run("aggregate")
    assert len(reads) == 1


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
    assert entry["pixels"].startswith("raw values, ") and "scaled by the largest value" in entry["pixels"]
    assert all(bool(item["channel"]) == bool(item["pixels"]) for item in dictionary.values())
    assert all(item["definition"] and item["unit"] and item["source"] for item in dictionary.values())


def test_the_journal_has_what_the_window_is_compared_with(measured: Planted) -> None:
    info = measured.plate.outcomes("aggregate").required().info
    assert info["drift"] == {"DNA": 0, "AGP": 0, "Marker": 0}
    assert info.keys() == {"window now", "drift", "raw values", "doubts", "segmentation", "frames", "summary", "gates"}
    assert info["doubts"] == info["segmentation"] == []
    window = json.loads(measured.paths.window.read_text())["channels"]["DNA"]
    assert info["window now"]["DNA"] == [window["low"], window["high"]]


def test_a_changed_map_redoes_the_tables_and_the_same_map_nothing(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    path = tmp_path / "map.csv"
    path.write_text("well,role,treatment,dose,State,batch\nB2,positive,staurosporine,3,odd,7\nH12,treatment,late,1,,\n")
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path, plate_map=str(path))
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


def test_another_format_redoes_the_tables_as_other_wells_lie_at_the_edge(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    plate.entry = plate.entry.model_copy(update={"format": 384})
    plate.run("ingest", "aggregate")
    assert plate.plate.metadata["format"] == [16, 24]
    assert len(plate.journal("aggregate")) == 2
    plate.run("aggregate")
    assert len(plate.journal("aggregate")) == 2


def test_without_a_map_the_wells_are_those_of_the_plate(measured: Planted, tmp_path: Path) -> None:
    plate = measured.copy(tmp_path)
    plate.entry = PlateSpec(plate="demo", path=plate.entry.path)
    gone = plate.paths.cells("H12")
    gone.write_bytes(plate.paths.cells("B02").read_bytes())  # of a well that the plate had once
    plate.run("aggregate")
    assert not gone.exists()
    table = pd.read_parquet(plate.paths.table("wells.parquet"))
    assert len(table) == 7
    assert "Metadata_role" not in table


def test_wells_are_in_the_plates_order_up_to_1536() -> None:
    rows = [
        {"Metadata_Well": well, "Metadata_Time": 0, "Metadata_State": "ok"}
        for well in ("AA01", "B10", "B02", "Z48", "A01")
    ]
    table = well_table("p", rows, np.empty((5, 0)), None)
    assert table["Metadata_Well"].tolist() == ["A01", "B02", "B10", "Z48", "AA01"]
    assert table["Metadata_Row"].tolist()[-1] == "AA"


def test_summaries_pass_over_nan_as_numpy_does(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(57, 230)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[:, 7] = np.nan
    names = [f"Cells_F_{n}" for n in range(230)]
    sites = np.array(["1", "2", "10"])[np.arange(57) % 3]
    pd.DataFrame(values, columns=names).assign(Metadata_Site=sites).to_parquet(tmp_path / "B02.parquet")
    used = values[sites != "2"].astype(float)
    (found,) = read_cells(tmp_path / "B02.parquet", names, [{}], without=["2"], count_by_field="Count_Cells")
    assert (found.rows, set(found.fields)) == (38, {"1", "10"})
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        median = np.nanmedian(used, axis=0)
        spreads = {
            "": median,
            "_MAD": np.nanmedian(np.abs(used - median), axis=0),
            "_Q25": np.nanquantile(used, 0.25, axis=0),
            "_Q75": np.nanquantile(used, 0.75, axis=0),
        }
        by_field = np.nanmedian(values[sites == "10"].astype(float), axis=0)
    np.testing.assert_allclose(found.values, list(spreads.values()), rtol=1e-12)
    np.testing.assert_allclose([found.fields["10"][name] for name in names], by_field, rtol=1e-12)
    assert found.fields["10"]["Count_Cells"] == 19
