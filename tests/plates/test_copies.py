"""Fields that were taken twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from vendors import LAYOUTS

from plateflow.plates import open_plate
from plateflow.plates.copies import later_copies
from plateflow.simulate.layout import PlateDescription, Record

GRID = [(y, x) for y in (0.0, 90.0, 180.0) for x in (0.0, 90.0, 180.0)]
"""Nine fields of 100 px that overlap by a tenth."""


def planes(wells: dict[str, list[tuple[float, float]]], **columns: object) -> pd.DataFrame:
    rows = [
        {"well": well, "field": str(n + 1), "y_um": y / 2, "x_um": x / 2}
        for well, places in wells.items()
        for n, (y, x) in enumerate(places)
    ]
    table = pd.DataFrame(rows).assign(dy_um=0.5, dx_um=0.5, height=100, width=100, state="ok")
    return table.assign(**columns)


def test_a_place_that_was_taken_again_is_left_out() -> None:
    assert later_copies(planes({"A01": GRID})) == set()
    for shift in (0.0, 1.0, 20.0):
        table = planes({"A01": GRID, "A02": [*GRID, (90 + shift, shift)]})
        assert later_copies(table) == {("A02", "10")}
        assert later_copies(table.assign(time_s=range(19, 0, -1))) == {("A02", "4")}  # by the clock it is the later one
    once = {"A01": [(0.0, 0.0)], "A02": [(0.0, 0.0)]}
    assert later_copies(planes(once | {"A03": [(0.0, 0.0)] * 2})) == {("A03", "2")}
    for doubtful in ([(0.0, 0.0)] * 4, [(y / 5, x / 5) for y, x in GRID]):  # more than half of the well
        assert later_copies(planes(once | {"A03": doubtful})) == set()


def test_what_was_taken_again_for_want_of_a_plane_stays() -> None:
    table = planes({"A01": GRID, "A02": [*GRID, (0.0, 0.0)]})
    table.loc[9, "state"] = "missing"
    assert later_copies(table) == {("A02", "1")}


def test_a_place_that_was_taken_twice_in_all_wells() -> None:
    assert later_copies(planes({well: [*GRID, (0.0, 0.0)] for well in ("A01", "A02")})) == {
        *(("A01", "10"), ("A02", "10"))
    }


@pytest.mark.parametrize(
    "places",
    [
        [(0.0, 0.0)] * 9,  # positions that were never set
        [(y / 5, x / 5) for y, x in GRID],  # a pixel size that is five times too large
        [(0.0, 0.0), (0.0, 18.0), (0.0, 36.0)],
        [(float("nan"), float("nan"))] * 4,
    ],
)
def test_positions_that_cannot_be_right_make_no_copies(places: list[tuple[float, float]]) -> None:
    assert later_copies(planes({"A01": places, "A02": places})) == set()


@pytest.mark.parametrize("layout", ["harmony", "imagexpress", "yokogawa", "omezarr", "load_data"])
def test_the_later_copy_is_not_in_the_manifest_and_is_named(tmp_path: Path, layout: str) -> None:
    about = PlateDescription(name="p", plate_shape=(8, 12), field_shape=(100, 100), pixel_size_um=0.5)
    writer = LAYOUTS[layout](tmp_path, about)
    for column, places in ((1, GRID), (2, [*GRID, (0.0, 0.0)])):
        for field, (y, x) in enumerate(places):
            place = {"row": 1, "column": column, "field": field, "y_um": y / 2, "x_um": x / 2}
            record = Record(**place, channel=0, channel_name="DNA")
            writer.write(record, np.full((100, 100), field + 1, np.uint16))
    writer.finish()
    plate = open_plate(writer.raw)
    assert plate.planes.groupby("well")["field"].nunique().to_dict() == {"B02": 9, "B03": 9}
    assert plate.metadata["fields"] == 9
    (note,) = (note for note in plate.metadata["disagreements"] if "taken twice" in note)
    assert "B03 field 10" in note
