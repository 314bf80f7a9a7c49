"""Groups of the plate map: each is compared with its own negatives alone, as if it were a plate of its own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_wells import well_table

from plateflow.chain import parameters
from plateflow.config import Config, PlateSpec, Stats
from plateflow.errors import ConfigError
from plateflow.paths import PlatePaths
from plateflow.plates.check import pooled_wells
from plateflow.project import Plate, Project
from plateflow.report.page import render
from plateflow.report.screen import write_screen
from plateflow.report.view import View
from plateflow.state.journal import Entry, append_outcome
from plateflow.stats.groups import check_groups, groups_without_hits
from plateflow.stats.statistics import write_statistics
from plateflow.tables import read_table, write_table

SHAPE = (8, 12)
LINES = Stats(group_by=["CellLine"])
TABLES = ["controls.csv", "doses.csv", "effects.parquet", "hits.csv", "normalised.parquet", "positions.csv"]


def two_lines(seed: int = 0, *, plate: str = "p1") -> pd.DataFrame:
    """A plate with two lines, called 1 and 2, in alternate wells of each kind; line 2 is much brighter."""
    kinds = {"negatives": 16, "positives": 16, "treatments": 28, "hits": 8}
    wells = well_table(seed, shape=SHAPE, features=2, plate=plate, **kinds)
    number = wells.groupby("Metadata_role").cumcount()
    wells["Metadata_CellLine"] = np.where(number % 2, "2", "1").astype(object)
    wells.loc[wells["Metadata_role"] == "empty", "Metadata_CellLine"] = np.nan
    second = wells["Metadata_CellLine"] == "2"
    wells.loc[second, ["F0", "F1"]] *= 10
    return wells


def written(root: Path, wells: pd.DataFrame, settings: Stats = LINES) -> tuple[PlatePaths, list[dict]]:
    paths = PlatePaths.of(wells["Metadata_Plate"].iloc[0], results=root)
    info = write_statistics(paths, wells, ["F0", "F1"], settings, SHAPE)
    append_outcome(paths.journal("aggregate", "plate"), Entry(fingerprint="x", info={"frames": info}))
    write_table(paths.table("wells.parquet"), wells)
    return paths, info


def test_every_statistic_of_a_group_is_that_of_a_plate_of_its_own(tmp_path: Path) -> None:
    wells = two_lines()
    both, info = written(tmp_path / "both", wells)
    assert [frame["Metadata_CellLine"] for frame in info] == ["1", "2"]  # empty wells, of no line, are no group
    for line, found in zip("12", info, strict=True):
        own = wells[wells["Metadata_CellLine"] == line].reset_index(drop=True)
        alone, expected = written(tmp_path / line, own, Stats())
        assert found == expected[0] | {"Metadata_CellLine": line}
        for name in TABLES:
            table = read_table(both.table(name), ["Metadata_CellLine"])
            table = table[table["Metadata_CellLine"] == line].reset_index(drop=True)
            other = read_table(alone.table(name), ["Metadata_CellLine"])
            if name != "normalised.parquet":
                table = table.drop(columns="Metadata_CellLine")
            assert len(table) or name == "doses.csv"
            pd.testing.assert_frame_equal(table, other, obj=name)
    z = read_table(both.table("normalised.parquet"))
    assert z["Metadata_Well"].tolist() == wells["Metadata_Well"].tolist()
    negatives = z[z["Metadata_role"] == "negative"].groupby("Metadata_CellLine")[["F0", "F1"]].median()
    assert negatives.abs().max(axis=None) < 1e-6
    assert set(read_table(both.table("hits.csv"))["Metadata_CellLine"]) == {1, 2}


def test_a_group_without_enough_negatives_borrows_none(tmp_path: Path) -> None:
    wells = two_lines()
    lost = wells.index[(wells["Metadata_role"] == "negative") & (wells["Metadata_CellLine"] == "2")][2:]
    wells.loc[lost, "Metadata_FieldsUsed"] = 0
    paths, info = written(tmp_path, wells)
    assert info[0]["hits"]["why none"] == "" and info[0]["hits"]["hits"] > 0
    why = "too few wells to compare with: 2 negative controls in use, 3 are needed"
    assert info[1]["hits"] == {"hits": 0, "treatments": info[1]["hits"]["treatments"], "why none": why}
    assert info[1]["controls"]["grade"] == "unknown"
    second = read_table(paths.table("normalised.parquet")).query("Metadata_CellLine == '2'")
    assert second[["F0", "F1"]].isna().all(axis=None)


def test_a_group_without_treatments_says_so(tmp_path: Path) -> None:
    wells = two_lines()
    wells = wells[~((wells["Metadata_role"] == "treatment") & (wells["Metadata_CellLine"] == "2"))]
    info = written(tmp_path, wells)[1]
    assert info[1]["hits"]["why none"] == "the group has no treatments"


def test_groups_of_the_same_name_are_pooled_over_plates_and_no_others(tmp_path: Path) -> None:
    config = Config(results=str(tmp_path), stats=LINES)
    for seed in (0, 1):
        wells = two_lines(0, plate=f"p{seed}").assign(Metadata_State="ok", Count_Nuclei=100)
        wells[["Metadata_FieldsLeftOut", "Metadata_FieldsExcluded"]] = ""
        if seed:
            wells["Metadata_CellLine"] = wells["Metadata_CellLine"].replace({"2": "3"})
        written(tmp_path, wells)
    specs = {name: PlateSpec(plate=name, path="raw") for name in ("p0", "p1")}
    for spec in specs.values():
        metadata = Plate(config=config, spec=spec).paths.metadata
        metadata.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_text('{"channels": [], "wells": [], "format": [16, 24]}')
    page = write_screen(Project.of(config, specs))
    hits = read_table(tmp_path / "screen" / "hits.csv", ["Metadata_CellLine"])
    plates = hits.groupby("Metadata_CellLine")["Plates"].unique().map(sorted).to_dict()
    assert plates == {"1": ["p0 p1"], "2": ["p0"], "3": ["p1"]}
    summary = read_table(tmp_path / "screen" / "plates.csv", ["Metadata_CellLine"])
    keys = summary[["Metadata_Plate", "Metadata_CellLine"]].to_numpy().tolist()
    assert keys == [["p0", "1"], ["p0", "2"], ["p1", "1"], ["p1", "3"]]
    assert "CellLine</th>" in page
    assert "<option>time point 0, CellLine 3</option>" in page
    assert "1: good; 2: good" in page


def test_shares_are_followed_over_plates(tmp_path: Path) -> None:
    specs = {name: PlateSpec(plate=name, path="raw") for name in ("p1", "p2")}
    for name in specs:
        wells = well_table(0, shape=SHAPE, features=1, negatives=16, positives=16, treatments=20, plate=name)
        expected = np.where(wells["Metadata_role"] == "positive", 0.6, 0.02)
        share = np.random.default_rng(0).binomial(300, expected) / 300
        wells = wells.assign(Metadata_State="ok", Count_Nuclei=100, Share_Low=share, Share_Low_Low=0.0, Share_Low_N=300)
        wells[["Metadata_FieldsLeftOut", "Metadata_FieldsExcluded"]] = ""
        paths = PlatePaths.of(name, results=tmp_path)
        info = write_statistics(paths, wells, ["F0"], Stats(), SHAPE)
        assert "Share_Low" in info[0]["controls"]["best"]
        append_outcome(paths.journal("aggregate", "plate"), Entry(fingerprint="x", info={"frames": info}))
        write_table(paths.table("wells.parquet"), wells)
        paths.metadata.parent.mkdir(parents=True, exist_ok=True)
        paths.metadata.write_text('{"channels": [], "wells": [], "format": [8, 12]}')
    page = write_screen(Project.of(Config(results=str(tmp_path)), specs))
    assert "Low: share of cells" in page


def test_sections_show_groups_apart(tmp_path: Path) -> None:
    wells = two_lines().assign(Metadata_FieldsExcluded="")
    _, info = written(tmp_path, wells)
    plate = Plate(config=Config(results=str(tmp_path), stats=LINES), spec=PlateSpec(plate="p1", path="raw"))
    view = View(plate=plate, wells=wells, not_acquired=[], qc=pd.DataFrame(), aggregate=Entry(info={"frames": info}))
    assert [cut.group for cut in view.shown_together[0]] == ["CellLine 1", "CellLine 2"]
    first, second = view.cuts
    assert first.summary["hits"] == info[0]["hits"] and second.summary == info[1]
    assert set(second.table("hits.csv")["Metadata_CellLine"]) == {"2"}
    assert second.wells["F0"].median() > 9 * first.wells["F0"].median()
    html = render("groups.html.j2", groups=[(cut.group, "") for cut in view.cuts])
    assert html.count('<h3 class="group">CellLine') == 2


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (None, "the plate has no plate map"),
        ({"Cell_Line": ["a", "b"]}, "did you mean 'Cell_Line'?"),
        ({"CellLine": ["", ""]}, "the column is empty"),
    ],
)
def test_a_column_that_the_map_lacks_is_refused(columns: dict | None, words: str) -> None:
    plate_map = columns and pd.DataFrame({"well": ["A01", "A02"], **columns})
    with pytest.raises(ConfigError, match="no column 'CellLine'") as error:
        check_groups(LINES, plate_map, "p1")
    assert words in str(error.value)
    check_groups(LINES, pd.DataFrame({"well": ["A01"], "CellLine": ["a"]}), "p1")


@pytest.mark.parametrize("name", ["role", "Metadata_treatment", "dose", "well", "Replicates"])
def test_what_is_compared_is_no_group(name: str) -> None:
    with pytest.raises(ValueError, match="tells no groups"):
        Stats(group_by=[name])


def test_a_column_that_splits_the_negatives_is_told_until_it_is_named() -> None:
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 7)]
    table = pd.DataFrame({"well": wells, "role": "negative", "treatment": "DMSO", "dose": np.nan})
    table.loc[12:, ["role", "treatment"]] = ["treatment", "drug"]
    table["CellLine"] = ["A549", "HeLa"] * 12
    table["clone"] = ["a", "b"] * 12  # says the same
    table["replicate"] = ["1", "2"] * 12
    told = list(pooled_wells(table))
    assert [text.split()[0] for text in told] == ["CellLine", "clone"]
    assert list(pooled_wells(table, ["CellLine"])) == []
    table["donor"] = ["x", "x", "y", "y"] * 6
    assert [text.split()[0] for text in pooled_wells(table, ["CellLine"])] == ["donor"]
    assert list(pooled_wells(table, ["CellLine", "donor"])) == []


def test_a_group_with_treated_wells_and_too_few_negatives_is_told() -> None:
    wells = [f"A{column:02d}" for column in range(1, 11)]
    table = pd.DataFrame({"well": wells, "role": ["negative"] * 5 + ["treatment"] * 5, "treatment": "x", "dose": 1.0})
    table["line"] = ["HeLa"] * 3 + ["A549", ""] + ["HeLa", "HeLa", "A549", "A549", "HeLa"]
    assert list(groups_without_hits(table, Stats(group_by=["line"]))) == [
        "line A549 has 1 negative control: hits need 3 in each group"
    ]
    assert list(groups_without_hits(table, Stats())) == []
    lacking = table.assign(line=["HeLa"] * 5 + [""] * 5)  # treated wells without a line
    by_plate = Stats(group_by=["line"], normalise="plate robust")
    assert list(groups_without_hits(table, by_plate)) == []
    told = "line (nothing) has 0 negative controls: hits need 3 in each group"
    assert list(groups_without_hits(lacking, Stats(group_by=["line"]))) == [told]


def test_groups_and_time_change_a_fingerprint_only_where_they_are_given() -> None:
    spec = PlateSpec(plate="p1", path="raw")
    usual = parameters(Config(), "aggregate", spec)["stats"]
    assert not {"group_by", "time"} & set(usual)
    named = parameters(Config(stats=Stats(group_by=["Metadata_CellLine"], time=2)), "aggregate", spec)["stats"]
    assert named == usual | {"group_by": ["CellLine"], "time": 2}
