"""Filters and populations: on tables made by hand, and on a small plate."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted
from simulated_wells import well_table as simulated

from plateflow.config import Config
from plateflow.errors import ConfigError
from plateflow.exchange.cells import CellTables
from plateflow.plates.platemap import read_plate_map
from plateflow.report import methods
from plateflow.report.gates import gates as section
from plateflow.report.page import render
from plateflow.report.view import View
from plateflow.stages.gating import gate, numbers_made_from
from plateflow.state.journal import Entry, append_outcome
from plateflow.state.requests import request
from plateflow.stats.effects import treatment_effects
from plateflow.stats.gates import Decision, PlateCells, decide, fails_by_area
from plateflow.stats.reference import shares_in, well_values
from plateflow.stats.rules import gates_of
from plateflow.stats.wells import map_column

CHANNELS = ["DNA", "Marker"]
MARKER, AREA, BORDER = "Cells_Intensity_MeanIntensity_Marker", "Nuclei_AreaShape_Area_um2", "Quality_TouchesBorder"


def config(nuclei: dict[str, Any] | None = None, cells: dict[str, Any] | None = None, **more: Any) -> Config:
    sets = {
        "nuclei": {"channels": ["DNA"], "filter": nuclei or {}},
        "cells": {"channels": ["DNA"], "filter": cells or {}},
    }
    return Config.model_validate({"segmentation": sets, "features": {"families": "minimal"}} | more)


def decided(settings: Config, wells: dict[str, dict[str, list[float]]], **more: Any) -> Decision:
    """What is decided of cells whose columns are given; those that aren't are 0."""
    gates = gates_of(settings, CHANNELS)
    n = {well: len(next(iter(columns.values()))) for well, columns in wells.items()}
    values = {
        well: {name: np.array(columns.get(name, [0.0] * n[well]), np.float32) for name in gates.needed}
        for well, columns in wells.items()
    }
    used = more.pop("used", {well: np.ones(n[well], bool) for well in wells})
    cells = PlateCells(values=values, used=used)
    return decide(gates, cells, **{"negatives": [], "kept": {}, "made_from": "", **more})


def test_objects_at_the_border_are_counted_but_not_included_unless_a_filter_says_so() -> None:
    wells = {"A01": {f"Cells_{BORDER}": [0, 1, 0], f"Nuclei_{BORDER}": [0, 0, np.nan]}}
    own = decided(config(), wells).wells["A01"]
    assert (own.counted.tolist(), own.included.tolist()) == ([True] * 3, [True, False, True])
    own = decided(config(cells={"border": True}), wells).wells["A01"]
    assert own.counted.tolist() == own.included.tolist() == [True, False, True]
    own = decided(config(cells={"border": False}), wells).wells["A01"]
    assert own.included.tolist() == [True, True, True]
    wells["A01"][f"Nuclei_{BORDER}"] = [1, 0, 0]  # the match of a row
    own = decided(config(cells={"border": False}), wells).wells["A01"]
    assert (own.counted.tolist(), own.included.tolist()) == ([True] * 3, [False, True, True])


def test_a_filter_leaves_out_rows_with_their_reasons_and_the_matches_that_fail() -> None:
    wells = {
        "A01": {
            AREA: [39, 40, 2000, 2001, np.nan],
            "Nuclei_Number_Object_Number": [11, 12, 13, 14, np.nan],
            "Cells_AreaShape_Solidity": [0.9, 0.5, 0.9, 0.5, 0.9],
            f"Cells_{BORDER}": [0, 0, 0, 0, 1],
        }
    }
    decision = decided(config({"area_um2": [40, 2000]}, {"solidity": ">0.8"}), wells)
    own = decision.wells["A01"]
    assert own.counted.tolist() == [False, False, True, False, True]  # a row without a nucleus fails no rule of nuclei
    assert own.included.tolist() == [False, False, True, False, False]
    keys = pd.DataFrame({"Metadata_Plate": "p", "Metadata_Well": "A01", "ObjectNumber": range(1, 6)})
    assert own.table(keys)["Metadata_ExcludedBy"].tolist() == [
        "nuclei area_um2",
        "cells solidity",
        "",
        "nuclei area_um2, cells solidity",
        "cells border",
    ]
    assert {name: sorted(numbers) for name, numbers in own.objects.items()} == {"nuclei": [11, 14]}
    areas = np.array([100, 159, 160, 8000, 8001])
    assert fails_by_area(decision, "nuclei", areas, 0.5).tolist() == [True, True, False, False, True]
    of_cytoplasm = config(
        cells={"Cytoplasm_AreaShape_Area": "<500"}, features={"families": "minimal", "rows": "nuclei"}
    )
    decision = decided(of_cytoplasm, {"A01": {AREA: [1.0]}})
    assert not fails_by_area(decision, "cells", np.array([400, 3000]), 0.5).any()  # that of cytoplasm isn't known
    summary = own.summary(np.array([True, True, True, False, True]))
    assert summary["Metadata_RowsIncluded"] == 1
    assert summary["Metadata_RowsExcludedBy"] == "nuclei area_um2 1, cells border 1, cells solidity 1"


def test_percentiles_of_filters_are_of_all_rows_in_use_those_of_populations_of_the_included_ones() -> None:
    marker = np.arange(200.0)
    border = (marker >= 100).astype(float)
    wells = {
        "A01": {MARKER: marker.tolist(), f"Cells_{BORDER}": border.tolist()},
        "A02": {MARKER: (1000 + marker).tolist()},
    }
    used = {"A01": marker >= 20, "A02": np.zeros(200, bool)}  # the other fields are left out
    settings = config(
        cells={MARKER: "<p90"}, populations={"positive": {"where": f"{MARKER} > negatives.p50 and {MARKER} >= 1"}}
    )
    decision = decided(settings, wells, used=used, negatives=["A01"])
    assert decision.frozen[f"filter: {MARKER} plate.p90"]["value"] == np.quantile(marker[20:], 0.9)
    threshold = decision.frozen[f"population: {MARKER} negatives.p50"]["value"]
    assert threshold == np.quantile(marker[20:100], 0.5)
    assert decision.wells["A01"].members["Positive"].tolist() == (marker > threshold).tolist()


def test_a_population_is_judged_where_values_are_and_shares_are_of_the_included() -> None:
    wells = {"A01": {MARKER: [1, 5, 6, np.nan, 7], f"Cells_{BORDER}": [0, 0, 0, 0, 1]}}
    settings = config(populations={"positive": {"where": [f"{MARKER} > 5", "Cells_AreaShape_Area >= 0"]}})
    own = decided(settings, wells).wells["A01"]
    assert own.members["Positive"].tolist()[:3] == [0, 0, 1]
    assert np.isnan(own.members["Positive"][3])
    summary = own.summary(np.ones(5, bool))
    assert summary["Share_Positive"] == pytest.approx(1 / 3)
    assert summary["Share_Positive_Low"] < 1 / 3 < summary["Share_Positive_High"]
    assert summary["Share_Positive_N"] == 3  # of 4 included rows, one has no value
    keys = pd.DataFrame({"ObjectNumber": range(5)})
    assert own.table(keys)["Metadata_Population_Positive"].tolist() == [False, False, True, pd.NA, True]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (f"{MARKER} > negatives.p99", "there are no negative controls"),
        (f"{MARKER} > p99", "percentile 99 of 40 cells isn't known: 100 are needed"),
        (f"{MARKER} > mixture", "don't part"),
    ],
)
def test_what_the_plate_doesnt_tell_has_no_shares_and_a_reason(rule: str, why: str) -> None:
    wells = {"A01": {MARKER: np.linspace(1, 2, 40).tolist()}}
    decision = decided(config(populations={"positive": {"where": rule}}), wells)
    assert np.isnan(decision.wells["A01"].members["Positive"]).all()
    assert np.isnan(decision.wells["A01"].summary(np.ones(40, bool))["Share_Positive"])
    (doubt,) = decision.doubts
    assert why in doubt


def test_numbers_stay_until_what_they_follow_from_changes() -> None:
    settings = config(populations={"positive": {"where": f"{MARKER} > negatives.p50"}})
    first = {"A01": {MARKER: np.arange(100.0).tolist()}}
    more = first | {"A02": {MARKER: np.arange(500.0, 600).tolist()}}
    asked: dict[str, Any] = {"negatives": ["A01", "A02"], "made_from": "one"}
    frozen = decided(settings, first, **asked).frozen
    key = f"population: {MARKER} negatives.p50"
    assert decided(settings, more, **asked).frozen[key]["value"] == 299.5  # without what was frozen
    stays = decided(settings, more, **asked, kept=frozen)
    assert stays.frozen == frozen  # a well that was fixed moves nothing
    (doubt,) = stays.doubts
    assert "frozen, from 100 cells of 1 well; from the 200 cells of 2 wells of today it would part 25% of them" in doubt
    alike = first | {"A02": {MARKER: np.arange(100.0).tolist()}}
    assert not decided(settings, alike, **asked, kept=frozen).doubts
    assert not decided(settings, {"A01": {MARKER: [1.0]}}, **asked, kept=frozen).doubts  # too few to tell
    moved = {
        "other parameters": (settings, asked | {"made_from": "two"}),
        "other negatives": (settings, asked | {"negatives": ["A01", "A02", "A03"]}),
        "another filter": (config(cells={"area_um2": ">-1"}, populations=settings.model_dump()["populations"]), asked),
    }
    for what, (changed, arguments) in moved.items():
        assert decided(changed, more, **arguments, kept=frozen).frozen[key]["value"] == 299.5, what


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            config({"Nuclei_AreaShape_Aria": ">1"}),
            "no column 'Nuclei_AreaShape_Aria'.*did you mean Nuclei_AreaShape_Area",
        ),
        (config({"Cells_AreaShape_Area": ">1"}), "isn't measured on nuclei.*put it into the filter of its label set"),
        (config({"Nuclei_Number_Object_Number": ">1"}), "no column"),
        (config(populations={"a": {"where": "Metadata_Well > 1"}}), "no column 'Metadata_Well'"),
        (
            config(populations={"a": {"where": "Cells_Intensity_MeanIntensity_Markr > 1"}}),
            "did you mean Cells_Intensity_MeanIntensity_Marker",
        ),
        (config(populations={"a": {"cell_cycle": "DAPI"}}), "Nuclei_Intensity_IntegratedIntensity_DAPI"),
        (config({"border": True}, features={"families": ["intensity"]}), "add quality to features.families"),
    ],
)
def test_a_column_that_the_cell_table_lacks_is_refused_with_the_nearest_one(settings: Config, words: str) -> None:
    import re

    with pytest.raises(ConfigError) as error:
        gates_of(settings, CHANNELS)
    assert re.search(words, str(error.value).replace("\n", " "))


def test_the_cell_cycle_is_of_nuclei_however_they_are_written() -> None:
    sets = {"Nuclei": {"channels": ["DNA"]}, "cells": {"channels": ["DNA"]}}
    settings = Config.model_validate({"segmentation": sets, "populations": {"cycle": {"cell_cycle": "DNA"}}})
    assert gates_of(settings, CHANNELS).populations == {"Cycle": "Nuclei_Intensity_IntegratedIntensity_DNA"}
    with pytest.raises(ValueError, match="the DNA of that plane alone"):
        Config.model_validate(settings.model_dump() | {"z": "keep"})


def test_values_are_compared_as_tables_hold_them() -> None:
    values = np.array([0.1, 0.8, 0.9], np.float32)
    wells = {"A01": {"Cells_AreaShape_Solidity": values.tolist(), MARKER: values.tolist()}}
    where = {"a": {"where": f"{MARKER} >= 0.9"}, "b": {"where": f"{MARKER} <= 0.1"}, "c": {"where": f"{MARKER} > 0.8"}}
    own = decided(config(cells={"solidity": [0.1, 0.9]}, populations=where), wells).wells["A01"]
    assert own.included.tolist() == [True, True, True]
    assert {name: members.tolist() for name, members in own.members.items()} == {
        "A": [0, 0, 1],
        "B": [1, 0, 0],
        "C": [0, 0, 1],
    }


def test_populations_called_as_the_ends_of_an_interval_are_compared() -> None:
    names = [f"Share_{name}{end}" for name in ("Low", "N", "Rows") for end in ("", "_Low", "_High", "_N")]
    assert shares_in(["Metadata_Well", *names, "Cells_AreaShape_Area"]) == ["Share_Low", "Share_N", "Share_Rows"]


def test_volumes_and_unmeasured_borders_have_no_default() -> None:
    assert gates_of(config(features={"families": ["intensity"]}), CHANNELS).unknown_border == ["nuclei", "cells"]
    deep = {"channels": ["DNA"], "dimensions": 3}
    volumes = Config.model_validate({"z": "keep", "segmentation": {"nuclei": deep}})
    assert gates_of(volumes, CHANNELS).rules == []
    own = decided(volumes, {"A01": {"any": [0.0] * 3}}).wells["A01"]  # no column decides: all count
    assert own.counted.tolist() == own.included.tolist() == [True] * 3


def test_shares_are_tested_by_their_angle_and_by_wells() -> None:
    wells = simulated(seed=3)
    rng = np.random.default_rng(4)
    role = wells["Metadata_role"].to_numpy()
    share = rng.binomial(300, np.where(role == "treatment", 0.3, 0.01)) / 300
    wells = wells.assign(Share_Positive=share, Share_Positive_N=300, Share_None=0.0, Share_None_N=300)
    effects = treatment_effects(wells, ["Share_Positive", "Share_None"], reference="negative")
    angles = np.arcsin(np.sqrt(share))
    negatives = angles[role == "negative"]
    first = wells.index[role == "treatment"][0]
    wells_of_first = effects.keys["Wells"].str.split(" ").map(lambda names: wells.loc[first, "Metadata_Well"] in names)
    own = (
        wells["Metadata_Well"].isin(effects.keys.loc[wells_of_first.to_numpy(), "Wells"].iloc[0].split(" ")).to_numpy()
    )
    expected = (angles[own].mean() - negatives.mean()) / negatives.std(ddof=1)
    assert effects.mean[np.flatnonzero(wells_of_first)[0], 0] == pytest.approx(expected)
    assert effects.mean[:, 1] == pytest.approx(0)  # all 0 %: compared as counts are, and not left out
    wells.loc[first, "Share_Positive_N"] = 19
    assert np.isnan(well_values(wells, ["Share_Positive"]).loc[first, "Share_Positive"])


POPULATIONS = {
    "positive": {"where": f"{MARKER} > negatives.p95"},
    "large": {"where": "Cells_AreaShape_Area > otsu"},
    "cycle": {"cell_cycle": "DNA"},
}


@pytest.fixture(scope="module")
def gated(measured: Planted, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    sets = measured.config.model_dump()["segmentation"]
    sets["nuclei"]["filter"] = {"border": True, "area_um2": ">80"}
    plate = measured.copy(tmp_path_factory.mktemp("gated"), segmentation=sets, populations=POPULATIONS)
    plate.run("aggregate")
    return plate


def test_the_well_table_is_of_the_cells_that_the_gates_let_through(gated: Planted) -> None:
    wells = pd.read_parquet(gated.paths.table("wells.parquet")).set_index("Metadata_Well")
    for well in ("B02", "C03"):
        cells, gates = gated.cells(well), pd.read_parquet(gated.paths.gates(well))
        assert gates["ObjectNumber"].tolist() == cells["ObjectNumber"].tolist()
        fails = (cells[f"Nuclei_{BORDER}"] == 1) | (cells[AREA] <= 80)
        included = ~fails & (cells[f"Cells_{BORDER}"] == 0)
        assert gates["Metadata_Included"].tolist() == included.tolist()
        assert 0 < included.sum() < (~fails).sum() < len(cells)
        assert wells.loc[well, "Count_Cells"] == (~fails).sum()
        nuclei = pd.read_parquet(gated.paths.objects("nuclei", well))
        failed = cells.loc[fails, "Nuclei_Number_Object_Number"].unique()
        small = nuclei["area_px"] * 0.6**2 <= 80
        assert wells.loc[well, "Count_Nuclei"] == (~nuclei["label"].isin(failed) & ~small).sum() < len(nuclei)
        assert wells.loc[well, MARKER] == pytest.approx(cells.loc[included, MARKER].astype(float).median())
        positive = gates.loc[included, "Metadata_Population_Positive"].astype(float)
        assert wells.loc[well, "Share_Positive"] == pytest.approx(positive.mean())
    assert "Share_Positive" in pd.read_csv(gated.paths.table("controls.csv"))["Feature"].tolist()
    assert "Share_Positive_Low" not in pd.read_parquet(gated.paths.table("normalised.parquet"))
    assert wells["Share_Cycle_G1"].isna().all()
    outcome = gated.plate.outcomes("aggregate").required()
    assert outcome.state == "flagged"
    assert "nuclei are too few for a fit" in outcome.detail
    assert [line for line in gated.plate.doubts() if "population Cycle" in line]
    assert {"gates/B02.parquet", "manifest/gates.json"} <= outcome.files.keys()
    assert json.loads(gated.paths.frozen_gates.read_text()) == outcome.info["gates"]["frozen"]


def test_the_page_shows_rules_populations_and_thresholds(gated: Planted) -> None:
    view = View.read(gated.plate)
    values = section(view)
    html = render("gates.html.j2", **values)
    found = view.aggregate.info["gates"]
    for rule in found["rules"]:
        assert f"<td><b>{rule['name']}</b></td>" in html
        assert f"{rule['failed']:,}" in html
    assert "Not told: " in html
    charts = {each["of"]: (each, spec) for each, spec in values["charts"]}
    each, spec = charts["population Positive"]
    (line,) = each["lines"]
    assert line[1] == "negatives.p95"
    assert [layer["mark"]["type"] for layer in spec["layer"]] == ["line", "rule", "text"]
    rows = spec["layer"][1]["data"]["values"]
    assert rows[0]["from"] == pytest.approx(line[2], rel=1e-5)
    n = sum(sum(counts) for counts in each["counts"].values())
    assert 0.97 * found["included"] <= n <= found["included"]


def test_columns_of_the_plate_map_dont_take_the_names_of_gates() -> None:
    names = ["Included", "ExcludedBy", "Population_A", "OverTime", "RowsIncluded", "line"]
    assert [map_column(name).removeprefix("Metadata_") for name in names] == [*(f"Map_{n}" for n in names[:-1]), "line"]


def test_the_methods_say_what_was_done_with_cells(gated: Planted) -> None:
    view = View.read(gated.plate)
    text = " ".join(methods.paragraph(view)[0])
    assert "Rows with cells at the border of the imaged area didn't enter medians." in text
    assert "Nuclei at the border of the imaged area were left out." in text
    assert f"Objects were counted and summarised where {AREA} > 80." in text
    assert "Cells were counted as large where" in text
    assert "cell cycle" not in text  # too few nuclei told it


def test_exports_say_what_was_decided_of_each_cell(gated: Planted) -> None:
    receipt = gated.paths.receipts("aggregate", "plate")
    assert receipt
    _, metadata = CellTables.of(gated.plate).read("B02")
    gates = pd.read_parquet(gated.paths.gates("B02"))
    for name in ("Metadata_Included", "Metadata_ExcludedBy", "Metadata_Population_Positive"):
        assert metadata[name].tolist() == gates[name].tolist(), name


def test_a_fixed_well_moves_no_threshold_and_a_lost_file_is_written_again(gated: Planted, tmp_path: Path) -> None:
    plate = gated.copy(tmp_path)
    plate_map = read_plate_map(plate.entry.plate_map, "demo")
    wells = [well for well in plate.plate.wells if well not in ("B06", "C02")]
    frozen = plate.paths.frozen_gates.read_bytes()

    def again(more: list[str]) -> bytes:
        gate(plate.plate, dict.fromkeys(more, ()), plate_map)
        return plate.paths.frozen_gates.read_bytes()

    plate.paths.frozen_gates.unlink()
    assert again(wells[1:]) == frozen  # from the journal, whatever wells there are
    request(plate.paths, kind="retry", stage="aggregate")
    assert again(wells[1:]) != frozen
    plate.config = Config.model_validate(plate.config.model_dump() | {"populations": {"a": POPULATIONS["large"]}})
    assert len(json.loads(again(wells))[""]) == 1


def test_groups_have_numbers_of_their_own(gated: Planted, tmp_path: Path) -> None:
    plate_map = read_plate_map(gated.entry.plate_map, "demo")
    wells = [well for well in gated.plate.wells if gated.paths.cells(well).exists()]
    lines = {well: "HeLa" if well in wells[:2] else "A549" for well in wells[:-1]}  # the last one is in no line
    plate_map = plate_map.assign(line=plate_map["well"].map(lines).fillna(""), role="negative")
    settings = {**gated.config.model_dump()["stats"], "group_by": ["line"]}
    large = {"where": "Cells_AreaShape_Area > negatives.p50"}
    plate = gated.copy(tmp_path, stats=settings, populations={"large": large})
    plate_map.loc[plate_map["well"] == wells[-1], "role"] = "empty"
    _, of_well, info = gate(plate.plate, dict.fromkeys(wells, ()), plate_map)
    for line in ("HeLa", "A549"):
        own = [well for well in wells if lines.get(well) == line]
        tables = [plate.cells(well)[pd.read_parquet(plate.paths.gates(well))["Metadata_Included"]] for well in own]
        expected = pd.concat(tables)["Cells_AreaShape_Area"].astype(float).quantile(0.5)
        frozen = info["frozen"][f"line {line}"]["population: Cells_AreaShape_Area negatives.p50"]
        assert frozen["value"] == pytest.approx(expected)
        assert all(of_well[well].frozen == info["frozen"][f"line {line}"] for well in own)
    assert [each["group"] for each in info["populations"]] == ["line HeLa", "line A549"]  # the empty well is no line
    assert {each["group"] for each in info["charts"]} >= {"line HeLa", "line A549"}
    assert info["rows"] == sum(len(plate.cells(well)) for well in wells)


def test_a_model_of_the_same_name_with_other_weights_freezes_anew(gated: Planted, tmp_path: Path) -> None:
    plate = gated.copy(tmp_path)

    def trained(weights: str, sequence: int) -> str:
        made = Entry(fingerprint=weights, label_set="nuclei", well="B02", info={"sha256": weights}, sequence=sequence)
        append_outcome(plate.paths.journal("infer", "0"), made)
        return numbers_made_from(plate.plate)

    assert trained("one", 900) != trained("two", 901)


def test_without_numbers_of_the_plate_nothing_is_frozen_and_former_tables_go(gated: Planted, tmp_path: Path) -> None:
    plate = gated.copy(tmp_path, populations={})
    entry = plate.plate.outcomes("features").required("C03")
    gone = dataclasses.replace(entry, state="quarantined", reason="crash", sequence=entry.sequence + 1)
    append_outcome(plate.paths.journal("features", "0"), Entry(**vars(gone)))
    plate.run("aggregate")
    assert not plate.paths.frozen_gates.exists()
    assert not plate.paths.gates("C03").exists()
    assert plate.paths.gates("B02").exists()
