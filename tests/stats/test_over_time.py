"""What of a time series is compared: one time point, or a summary of all, against the slow and obvious way."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress
from simulated_wells import well_table

from plateflow.config import Stats
from plateflow.errors import ConfigError
from plateflow.paths import PlatePaths
from plateflow.stats.over_time import check_time, compared
from plateflow.stats.reference import COUNT_STEP, OVER_TIME, steps_between
from plateflow.stats.statistics import write_statistics
from plateflow.tables import read_table

SHAPE = (8, 12)


def series(curves: dict[str, list[float]], *, fields: int = 2) -> pd.DataFrame:
    """A well table with a count and a feature over time; NaN: the well isn't in use there."""
    rows = [
        {"Metadata_Plate": "p1", "Metadata_Well": well, "Metadata_Time": t, "Metadata_Reason": ""}
        | {"Metadata_FieldsUsed": np.nan if np.isnan(value) else fields, "Count_Cells": value, "F0": -value}
        for well, values in curves.items()
        for t, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=5), st.randoms())
def test_summaries_are_those_of_numpy_and_scipy(values: list[list[float]], random) -> None:
    wells = series({f"A{n:02d}": curve for n, curve in enumerate(values, 1)})
    order = list(range(len(wells)))
    random.shuffle(order)
    for how, slow in (("auc", np.trapezoid), ("slope", lambda curve: linregress(np.arange(4), curve).slope)):
        table = compared(wells.iloc[order].reset_index(drop=True), how).set_index("Metadata_Well")
        for n, curve in enumerate(values, 1):
            expected = slow(np.array(curve))
            assert table.loc[f"A{n:02d}", "F0"] == pytest.approx(-expected, rel=1e-9, abs=1e-6)
        assert (table[OVER_TIME] == how).all()
        assert "Metadata_Time" not in table


def test_by_hand() -> None:
    wells = series({"A01": [1, 2, 4], "A02": [5, 5, 5], "A03": [3, np.nan, 3], "A04": [np.nan] * 3}).assign(F0_MAD=1.0)
    area = compared(wells, "auc").set_index("Metadata_Well")
    assert area["Count_Cells"].tolist()[:2] == [4.5, 10]
    assert "F0_MAD" not in area
    assert compared(wells, "slope")["Count_Cells"].tolist()[:2] == [1.5, 0]
    assert area["Metadata_FieldsUsed"].tolist() == [2, 2, 0, 0]
    assert np.isnan(area.loc["A03", "F0"])
    reasons = ["", "", "no auc over time: not in use at time point 1", ""]
    assert area["Metadata_Reason"].tolist() == reasons
    last = compared(wells, "last").set_index("Metadata_Well")
    assert last["Count_Cells"].fillna(-1).tolist() == [4, 5, 3, -1]
    assert compared(wells, 1)["Metadata_Time"].tolist() == [1] * 4
    assert compared(wells, "each") is wells


def test_a_well_without_a_row_lacks_that_time_point() -> None:
    wells = series({"A01": [1, 2, 4], "A02": [1, 2, 4]}).drop(index=5)
    table = compared(wells, "slope").set_index("Metadata_Well")
    assert table["Metadata_FieldsUsed"].tolist() == [2, 0]
    assert table.loc["A02", "Metadata_Reason"] == "no slope over time: not in use at time point 2"


def test_a_time_point_that_no_well_has_is_a_gap() -> None:
    wells = series({"A01": [1, 2, 99, 8]}).drop(index=2).reset_index(drop=True)
    assert compared(wells, "auc")["Count_Cells"].tolist() == [1.5 + 2 * 5]
    assert compared(wells, "slope")["Count_Cells"][0] == pytest.approx(linregress([0, 1, 3], [1, 2, 8]).slope)


def test_planes_are_summarised_apart() -> None:
    wells = pd.concat([series({"A01": [z, 2 * z, 3 * z]}).assign(Metadata_Z=z) for z in (0, 1)])
    table = compared(wells.sort_values(["Metadata_Time", "Metadata_Z"], ignore_index=True), "slope")
    assert table[["Metadata_Z", "Count_Cells"]].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_the_step_of_counts_is_what_one_object_at_one_time_point_adds() -> None:
    wells = series({"A01": [1, 2, 4, 4], "A02": [1, 2, 4, 4]}, fields=4)
    more = wells.copy()
    for how in ("auc", "slope"):
        table = compared(wells, how)
        least = np.inf
        for t in range(4):
            more = wells.copy()
            more.loc[t, "Count_Cells"] += 1
            change = abs(compared(more, how)["Count_Cells"][0] - table["Count_Cells"][0])
            least = min(least, change)
        assert table[COUNT_STEP][0] == pytest.approx(least)
        assert steps_between(table, ["Count_Cells"])["Count_Cells"] == pytest.approx(least / 4)


@pytest.mark.parametrize(
    ("time", "times", "words"),
    [(3, 3, "numbered 0 to 2"), (1, 1, "numbered 0"), ("auc", 1, "one time point"), ("slope", 1, "one time point")],
)
def test_what_a_plate_can_not_have_is_refused(time: str | int, times: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_time(Stats(time=time), times, "p1")
    with pytest.raises(ValueError, match="valid integer"):
        Stats(time=True)
    for fine in ("each", "last", 0):
        check_time(Stats(time=fine), times, "p1")


@pytest.fixture(scope="module")
def grown() -> pd.DataFrame:
    """Three time points; hits differ by 20 SDs in how fast F0 rises, and start as all do."""
    wells = well_table(0, shape=SHAPE, features=2, hits=0, treatments=20, negatives=16, positives=8)
    rises = wells["Metadata_treatment"].isin([f"c{n:03d}" for n in range(5)])
    noise = np.random.default_rng(0).normal(0, 5, (3, len(wells)))
    tables = [wells.assign(Metadata_Time=t, F0=wells["F0"] + noise[t] + t * 100 * rises) for t in range(3)]
    return pd.concat(tables).sort_values(["Metadata_Well", "Metadata_Time"], ignore_index=True)


def test_hits_and_controls_are_those_of_the_summary(grown: pd.DataFrame, tmp_path: Path) -> None:
    found = {}
    for time in (0, 2, "last", "slope", "auc"):
        paths = PlatePaths.of("p1", results=tmp_path / str(time))
        info = write_statistics(paths, grown, ["F0", "F1"], Stats(time=time), SHAPE)
        assert len(info) == 1
        hits = read_table(paths.table("hits.csv"))
        found[time] = set(hits.loc[hits["Hit"], "Metadata_treatment"])
        own = {"Metadata_Time": time} if isinstance(time, int) else {OVER_TIME: time}
        for name in ("hits.csv", "controls.csv", "positions.csv", "effects.parquet", "normalised.parquet"):
            table = read_table(paths.table(name))
            columns = {key: table[key].unique().tolist() for key in ("Metadata_Time", OVER_TIME) if key in table}
            assert columns == {key: [value] for key, value in own.items()}, name
            assert COUNT_STEP not in table
        assert own.items() <= info[0].items()
    rising = {f"c{n:03d}" for n in range(5)}
    assert not rising & found[0]
    assert rising <= found[2] & found["last"] & found["auc"]
    assert rising <= found["slope"]
