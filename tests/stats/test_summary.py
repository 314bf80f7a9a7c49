"""summary.csv: few columns, in words, that spreadsheets open."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_wells import well_table

from plateflow.config import Stats
from plateflow.paths import PlatePaths
from plateflow.stats.statistics import write_statistics
from plateflow.stats.summary import FORMULA, MOST, best_features, distances, write_summary

SHAPE = (8, 12)
NAMES = [f"Cells_Intensity_MeanIntensity_{channel}" for channel in ("A", "B", "C")]


def plate(root: Path, **columns: object) -> tuple[PlatePaths, pd.DataFrame]:
    """Feature A separates the controls, B says the same, C does less well; with tables of statistics."""
    wells = well_table(0, shape=SHAPE, negatives=16, positives=8, treatments=30, features=3)
    wells = wells.rename(columns=dict(zip(["F0", "F1", "F2"], NAMES, strict=True)))
    noise = np.random.default_rng(1).normal(0, 10, len(wells))
    wells[NAMES[1]] = 7 * wells[NAMES[0]] + noise
    wells.loc[wells["Metadata_role"] == "positive", NAMES[2]] += 60
    wells = wells.assign(Metadata_State="ok", Metadata_Reason="", Count_Cells=40.0, **columns)
    wells.loc[3, ["Metadata_State", "Metadata_FieldsUsed"]] = ["missing", 0]
    paths = PlatePaths.of("p1", results=root)
    write_statistics(paths, wells, NAMES, Stats(), SHAPE)
    return paths, wells


def read(paths: PlatePaths) -> pd.DataFrame:
    return pd.read_csv(paths.table("summary.csv"), keep_default_na=False, dtype=str)


def test_a_row_per_well_says_what_matters_in_words(tmp_path: Path) -> None:
    paths, wells = plate(
        tmp_path, Share_Positive=0.25, Share_Positive_Low=0.1, Share_Positive_High=0.4, Share_Positive_N=100
    )
    told = write_summary(
        paths, wells, ["Metadata_role", "Metadata_treatment", "Metadata_dose"], Stats(), ["A", "B", "C"]
    )
    assert told == {"features": [NAMES[0], NAMES[2]], "omitted": []}  # B ranks the wells as A does
    table = read(paths)
    assert len(table) == len(wells)
    state, map_ = ["Plate", "Well", "State", "Reason", "Flags", "Fields used"], ["role", "treatment", "dose"]
    assert table.columns.tolist()[:9] == [*state, *map_]
    assert table.columns.tolist()[9] == "Cells: count per field"
    assert table.columns.tolist()[11:] == [
        "distance to the negative controls (SD)",
        "distance to the nearest positive control (SD)",
        "Cells: mean intensity, A",
        "Cells: mean intensity, C",
    ]
    assert table.iloc[0, 9:11].astype(float).tolist() == [10, 0.25]  # 40 cells in 4 fields
    assert float(table.loc[0, "Cells: mean intensity, A"]) == pytest.approx(wells.loc[0, NAMES[0]], rel=1e-6)
    assert table.loc[3, "State"] == "missing" and set(table.iloc[3, 9:]) == {""}


def test_distances_by_hand() -> None:
    """Negatives 8, 10, 12 (SD 2) and 0, 1, 2 (SD 1), positives around 20 and 1, another around 10 and 11."""
    values = [[8, 0], [10, 1], [12, 2], [19, 1], [20, 1], [21, 1], [10, 10], [10, 11], [10, 12], [14, 4], [10, np.nan]]
    roles = ["negative"] * 3 + ["positive"] * 6 + ["treatment"] * 2
    wells = pd.DataFrame({"Metadata_role": roles, "Metadata_FieldsUsed": 1, "Metadata_Time": 0})
    wells["Metadata_treatment"] = ["DMSO"] * 3 + ["a"] * 3 + ["b"] * 3 + ["x", "y"]
    wells = wells.join(pd.DataFrame(values, columns=["F", "G"], dtype=float))
    far = distances(wells, ["F", "G"], [], robust=False).to_numpy()
    assert far[9] == pytest.approx([(((14 - 10) / 2) ** 2 + 3**2) ** 0.5 / 2**0.5, ((3**2 + 3**2) / 2) ** 0.5])
    assert far[10] == pytest.approx([0, 0])  # G isn't known
    assert far[4] == pytest.approx([5 / 2**0.5, 0])
    few = wells.drop(index=0).reset_index(drop=True)
    assert distances(few, ["F", "G"], [], robust=False).isna().all(axis=None)


def test_distances_are_within_a_group_and_a_time_point() -> None:
    wells = well_table(0, shape=SHAPE, negatives=16, positives=8, treatments=30)
    other = wells.assign(Metadata_Line="2", F0=wells["F0"] * 10 + 3)
    later = wells.assign(Metadata_Time=1, Metadata_Line="1", F0=-wells["F0"])
    table = pd.concat([wells.assign(Metadata_Line="1"), other, later], ignore_index=True)
    far = distances(table, ["F0"], ["Metadata_Line"], robust=True).to_numpy().reshape(3, len(wells), 2)
    np.testing.assert_allclose(far[1], far[0])
    np.testing.assert_allclose(far[2], far[0])


def test_without_positive_controls_the_features_are_those_of_the_hits(tmp_path: Path) -> None:
    paths, wells = plate(tmp_path)
    wells = wells[wells["Metadata_role"] != "positive"].reset_index(drop=True)
    write_statistics(paths, wells, NAMES, Stats(), SHAPE)
    assert best_features(paths)[0] in NAMES[:2]
    none = wells.assign(Metadata_role="empty")
    write_statistics(paths, none, NAMES, Stats(), SHAPE)
    assert best_features(paths) == []
    write_summary(paths, none, [], Stats(), ["A", "B", "C"])
    assert "distance to the negative controls (SD)" in read(paths)


def test_a_large_map_leaves_room_for_what_matters(tmp_path: Path) -> None:
    constant = {f"Metadata_same{n}": "x" for n in range(5)}
    varied = {f"Metadata_free{n:02d}": [f"{n}-{i}" for i in range(96)] for n in range(40)}
    settings = Stats(group_by=["free39"])
    paths, wells = plate(tmp_path, **constant, **varied)
    mapped = ["Metadata_role", *constant, *varied]
    told = write_summary(paths, wells, mapped, settings, ["A", "B", "C"])
    table = read(paths)
    assert len(table.columns) == MOST
    assert table.columns.is_unique
    assert "free39" in table and "free00" in table and "same0" not in table
    assert {*told["omitted"]} >= set(constant)
    assert len(told["omitted"]) + len(table.columns) == 2 + 4 + 3 + 45 + 1 + 2 + len(told["features"])


def test_a_spreadsheet_takes_no_text_for_a_formula(tmp_path: Path) -> None:
    notes = {f"Metadata_{first}x": f"\r\n {first}HYPERLINK(1)\t2" for first in FORMULA}
    paths, wells = plate(tmp_path, **notes, **{"Metadata_µ": "-3 °C"})
    write_summary(paths, wells, [*notes, "Metadata_µ"], Stats(), ["A", "B", "C"])
    assert paths.table("summary.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    table = pd.read_csv(paths.table("summary.csv"), dtype=str)
    assert table.columns[0] == "Plate"
    assert len(table) == len(wells)
    for first in FORMULA:
        assert set(table[f"'{first}x"]) == {f"'{first}HYPERLINK(1) 2"}
    assert set(table["µ"]) == {"'-3 °C"}
    numbers = table["Cells: mean intensity, A"].dropna()
    assert not numbers.str.startswith("'").any()
