"""The sections on controls, hits and position effects, on a plate with known effects."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert

sys.path.insert(0, str(Path(__file__).parents[1] / "stats"))

from simulated_wells import SHAPE, well_table

from plateflow.config import Config, PlateSpec, Stats
from plateflow.files import write_json
from plateflow.paths import parse_well, row_name
from plateflow.project import Plate
from plateflow.report import charts, screening
from plateflow.report.page import render
from plateflow.report.view import View
from plateflow.report.wells import label_of
from plateflow.state.journal import Entry
from plateflow.stats.doses import four_parameters
from plateflow.stats.effects import dose_text
from plateflow.stats.statistics import write_statistics
from plateflow.tables import read_table, records


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Controls 20 SD apart, 32 hits of 4 SD, a compound in eight doses, an edge 3 SD brighter in F1."""
    wells = well_table(0, positives=16, features=2).assign(Metadata_FieldsExcluded="")
    places = [parse_well(well) for well in wells["Metadata_Well"]]
    wells["Metadata_Row"] = [row_name(row) for row, _ in places]
    wells["Metadata_Column"] = [column + 1 for _, column in places]
    edge = [row in (0, SHAPE[0] - 1) or column in (0, SHAPE[1] - 1) for row, column in places]
    wells["F1"] += 15 * np.array(edge)
    empty = wells.index[wells["Metadata_role"] == "empty"][:16]
    dose = np.repeat(np.geomspace(0.01, 100, 8), 2)
    wells.loc[empty, "Metadata_role"] = "treatment"
    wells.loc[empty, "Metadata_treatment"] = "<b>Säure, 5 %</b>"
    wells.loc[empty, "Metadata_dose"] = dose
    wells.loc[empty, "F0"] += four_parameters(dose, 0, 100, 0.0, 1.0)
    wells.loc[3, ["Metadata_FieldsExcluded", "Metadata_Flags"]] = ["2,4", "focus"]
    wells["Metadata_treatment"] = wells["Metadata_treatment"].replace({"c000": "101", "c001": "NA"})
    plate = plate_of(tmp_path_factory.mktemp("results"))
    info = write_statistics(plate.paths, wells, ["F0", "F1"], Stats(), SHAPE)
    return view_of(plate, wells, info)


def plate_of(results: Path) -> Plate:
    plate = Plate(config=Config(results=str(results)), spec=PlateSpec(plate="p1", path="raw"))
    write_json(plate.paths.metadata, {"channels": [{"name": "DNA"}], "wells": [], "format": list(SHAPE)})
    return plate


def view_of(plate: Plate, wells: pd.DataFrame, info: list[dict[str, Any]]) -> View:
    return View(
        plate=plate,
        wells=wells,
        not_acquired=[],
        qc=pd.DataFrame(),
        aggregate=Entry(info={"frames": info}),
    )


DOT = 'aria-roledescription="circle"'


def drawn(spec: dict[str, Any]) -> str:
    """The chart as the library draws it."""
    return vl_convert.vegalite_to_svg(spec)


def test_controls_with_verdict_table_and_a_dot_a_well(view: View) -> None:
    made = screening.controls(view)
    html = render("controls.html.j2", **made)
    assert '<p class="verdict good">Good</p>' in html
    assert "positive control nocodazole: good; 1 of 2 features have Z" in html
    assert html.index('data-value="F0"') < html.index('data-value="F1"')
    assert '<abbr title="F0" tabindex="0">F0</abbr>' in html
    assert len(made["charts"]) == 1
    name, words, chart = made["charts"][0]
    assert (name, words) == ("F0", "F0")
    assert {"DMSO 1", "nocodazole 1"} <= {dot["treatment"] for dot in chart["data"]["values"]}
    svg = drawn(chart)
    assert svg.count(DOT) == 384
    assert "negative" in svg


def test_hits_with_reasons_rank_chart_and_curve(view: View) -> None:
    made = screening.hits(view)
    html = render("hits.html.j2", **made)
    assert f"{made['summary']['hits']} of 168 treatments are hits" in html
    assert 32 <= made["summary"]["hits"] <= 44
    assert "<b>Säure" not in html
    assert "&lt;b&gt;Säure, 5 %&lt;/b&gt;" in html
    assert f"{view.wells.loc[3, 'Metadata_Well']} (field 2, 4: focus)" in html
    names = read_table(view.plate.paths.table("hits.csv"))["Metadata_treatment"]
    assert {"101", "NA"} <= set(names)
    assert html.count("<tr>") - html.count("<thead>") == 168 + len(made["leads"])
    assert "more in <code>" not in html
    assert drawn(made["rank"]).count(DOT) == 168
    dots = [item for item in made["rank"]["layer"][1]["data"]["values"] if item["name"]]
    best = read_table(view.plate.paths.table("hits.csv")).head(screening.NAMED)
    doses = [dose_text(dose, None) for dose in best["Metadata_dose"]]
    assert [dot["name"] for dot in dots] == [f"{a} {b}" for a, b in zip(best["Metadata_treatment"], doses, strict=True)]
    assert {dot["kind"] for dot in dots} == {"hit"}
    ((row, curve),) = made["curves"]
    assert row["EC50"] == pytest.approx(1, rel=0.5)
    assert drawn(curve).count(DOT) == 16


def test_doses_have_their_unit_and_one_that_is_missing_is_nothing() -> None:
    wells = pd.DataFrame(
        {
            "Metadata_Well": ["A01", "A02", "A03", "A04"],
            "Metadata_State": "ok",
            "Metadata_Flags": "",
            "Metadata_role": ["negative", "treatment", "treatment", "treatment"],
            "Metadata_treatment": ["DMSO", "drug", "drug", "drug"],
            "Metadata_dose": [0.0, 0.3, 3.0, np.nan],
            "Metadata_dose_unit": ["uM", "uM", "uM", ""],
            "F": 1.0,
        }
    )
    chart = charts.groups(wells)
    assert chart is not None
    assert [item["group"] for item in chart["data"]["values"]] == ["DMSO", "drug 0.3 uM", "drug 3 uM", "drug"]
    labels = [label_of(row) for row in records(wells)]
    assert labels == ["DMSO 0 uM", "drug 0.3 uM", "drug 3 uM", "drug"]


def test_each_table_is_read_once_for_all_frames(view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        "plateflow.report.view.read_table", lambda path, *text: read.append(path.name) or read_table(path, *text)
    )
    both = pd.concat([view.wells, view.wells.assign(Metadata_Time=1)])
    frames = replace(view, wells=both, tables={}).frames
    assert len(frames) == 2
    for frame in frames[:1] * 2:
        for section in (screening.controls, screening.hits, screening.positions):
            section(frame)
    assert sorted(read) == ["controls.csv", "doses.csv", "hits.csv", "positions.csv"]


def test_the_edge_is_named_and_drawn(view: View) -> None:
    made = screening.positions(view)
    html = render("positions.html.j2", **made)
    assert "Edge: 1 of 2 features differ; row: 0 of 2 features differ; column: 0 of 2 features differ." in html
    assert '<abbr title="F1" tabindex="0">F1</abbr></b></td><td>edge</td>' in html
    assert 'By row and by column: <abbr title="F1" tabindex="0">F1</abbr>' in html
    rows, columns = map(drawn, made["charts"])
    assert ">row<" in rows and ">column<" in columns


def test_features_of_reasons_are_in_words_whether_they_separate_or_not(view: View) -> None:
    name = "Cells_Intensity_MeanIntensity_DNA"
    told = replace(view, wells=view.wells.assign(**{name: 1.0}))
    for start in ("positive control best (a): good; best ", "poor; it differs in no feature; nearest "):
        reason = screening.in_reason(told, f"{start}{name} (Z' 0.40, q 0.2)")
        assert reason == f"{start}Cells: mean intensity, DNA (Z' 0.40, q 0.2)"
    few = "too few wells: 1 negative control; 3 are needed"
    assert screening.in_reason(told, few) == few


def test_without_a_reference_or_an_effect_the_sections_say_so(view: View, tmp_path: Path) -> None:
    wells = view.wells.drop(columns=["Metadata_Time", "Metadata_role", "Metadata_treatment", "Metadata_dose"]).assign(
        F1=5.0
    )
    plate = plate_of(tmp_path)
    info = write_statistics(plate.paths, wells, ["F1"], Stats(), SHAPE)
    bare = view_of(plate, wells, info)
    assert "0 negative controls and 0 positive controls" in render("controls.html.j2", **screening.controls(bare))
    hits = render("hits.html.j2", **screening.hits(bare))
    assert "No hits can be called: the plate has no plate map." in hits
    assert "data-chart" not in hits
    (one,) = write_statistics(plate.paths, well_table(0, negatives=1), ["F0"], Stats(), SHAPE)
    assert one["hits"]["why none"] == "too few wells to compare with: 1 negative control in use, 3 are needed"
    assert "Edge: not tested" in render("positions.html.j2", **screening.positions(bare))
