"""Wells of a plate with other channels, stacks and times: what each should have, and what is said where they differ."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from plateflow.plates import open_plate
from plateflow.plates.check_index import check_index
from plateflow.plates.plate import RawPlate

PATTERN = r"(?P<well>[A-P]\d\d)_s(?P<field>\d)_t(?P<t>\d)_z(?P<z>\d)_(?P<channel>\w+)\.tif"
SAME: dict[str, Any] = {"fields": 1, "times": 1, "depth": 2, "channels": ("DNA",)}


def write(folder: Path, wells: dict[str, dict[str, Any]], without: str = "") -> RawPlate:
    """A plate of small files: by well, what differs from SAME; `without` the files named so."""
    for well, own in wells.items():
        fields, times, depth, channels = (SAME | own).values()
        for field, t, z, channel in product(range(fields), range(times), range(depth), channels):
            tifffile.imwrite(folder / f"{well}_s{field}_t{t}_z{z}_{channel}.tif", np.zeros((4, 4), np.uint16))
    for path in folder.glob(without) if without else ():
        path.unlink()
    return open_plate(folder, pattern=PATTERN)


@pytest.mark.parametrize(
    ("wells", "without", "notes"),
    [
        ({"A01": {}, "A02": {}}, "", []),
        ({"A01": {}, "A02": {}, "A03": {"depth": 5}}, "", ["A03: 5 z planes where most have 2 (DNA)"]),
        ({"A01": {}, "A02": {}, "A03": {"depth": 1}}, "", ["A03: 1 z plane where most have 2 (DNA)"]),
        ({"A01": {}, "A02": {"channels": ("DNA", "GFP")}}, "", ["A01: no channel GFP"]),
        ({"A01": {"times": 2}, "A02": {}, "A03": {}}, "", ["A01: 2 time points where most have 1 (DNA)"]),
        (
            {"A01": {"times": 3, "channels": ("DNA", "BF")}},
            "*_t1_*DNA.tif",
            ["A01: planes at only some time points (DNA)"],
        ),
        (
            {"A01": {"times": 2, "channels": ("DNA", "GFP")}},
            "*_t1_z1_*",
            ["A01: fewer z planes at some time points than at others (DNA, GFP)"],
        ),
    ],
)
def test_what_no_field_of_a_well_has_is_not_missing_but_said(
    tmp_path: Path, wells: dict[str, dict[str, Any]], without: str, notes: list[str]
) -> None:
    plate = write(tmp_path, wells, without)
    assert set(plate.planes["state"]) == {"ok"}
    said = [
        note.replace("; unless that was planned, something was lost", "") for note in plate.metadata["disagreements"]
    ]
    assert said == [f"1 well has {what}: {well}" for well, _, what in (note.partition(": ") for note in notes)]


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("A01_s1_*_GFP.tif", [("1", 0, 0, "GFP"), ("1", 0, 1, "GFP"), ("1", 1, 0, "GFP"), ("1", 1, 1, "GFP")]),
        ("A01_s0_t1_z1_DNA.tif", [("0", 1, 1, "DNA")]),
        ("A01_*_t1_z1_DNA.tif", []),
    ],
)
def test_what_another_field_of_the_well_has_is_missing(tmp_path: Path, without: str, missing: list[Any]) -> None:
    plate = write(tmp_path, {"A01": {"fields": 2, "times": 2, "channels": ("DNA", "GFP")}}, without)
    planes = plate.planes[plate.planes["state"] == "missing"]
    assert list(zip(*(planes[name] for name in ("field", "t", "z", "channel")), strict=True)) == sorted(missing)


def test_a_copy_helps_only_where_a_file_can_be_lost(tmp_path: Path) -> None:
    wells = {"A01": {"fields": 2, "depth": 1, "channels": ("DNA", "GFP")}}
    told = [problem.remedy for problem in check_index(write(tmp_path, wells, "A01_s1_*_GFP.tif")) if problem.field]
    assert told == ["copy the measurement again; the field is left out where the channel is needed"]
    lines = [f"{path.name},A01,{path.name[5]},{path.stem[-3:]}" for path in tmp_path.glob("*.tif")]
    (tmp_path / "table.csv").write_text("\n".join(["path,well,field,channel", *lines]))
    table = open_plate(tmp_path, pattern="table.csv")
    told = [problem.remedy for problem in check_index(table) if problem.field]
    assert told[0].startswith("nothing: the metadata have no file of it") and len(told) == 1
