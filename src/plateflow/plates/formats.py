"""Formats of plates: how many rows and columns of wells there are, whatever part of them was imaged.

Rows and columns decide what lies at a plate's edge, so they aren't made of the wells that happen to have images. What
the user says counts, then what the vendor's metadata say if there are such plates, then the smallest of the usual ones
that holds all wells with images. `init` has a plate map say it, too, as a map may list the wells that weren't imaged.
"""

from collections.abc import Collection

import pandas as pd

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.paths import parse_well, well_name

FORMATS = {6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}
"""Number of wells -> rows and columns."""
USUAL = (96, 384, 1536)
"""Of these, the smallest that holds the wells is assumed where nothing says which plate it is."""


def plate_format(
    spec: PlateSpec, given: tuple[int, int] | None, planes: pd.DataFrame, notes: list[str]
) -> tuple[int, int]:
    """Rows and columns of a plate.

    Args:
        spec: the plate; its `format` is followed.
        given: rows and columns as the metadata state them, where they do.
        planes: hold `row` and `column`, from 0.
        notes: get a sentence where the metadata can't be followed.

    Raises:
        RawDataError: a well lies off the plate.
    """
    lowest = int(min(planes["row"].min(), planes["column"].min()))
    used = int(planes["row"].max()) + 1, int(planes["column"].max()) + 1
    span = (
        f"{spec.plate}: rows {planes['row'].min() + 1} to {used[0]}, columns {planes['column'].min() + 1} to {used[1]}"
    )
    if lowest < 0 or not _holds(FORMATS[1536], used):
        raise RawDataError(
            "a well lies off the plate",
            where=span,
            why="plates have at most 32 rows and 48 columns, counted from 1",
            remedy="fix the metadata, or the pattern in the plate sheet",
        )
    usual = next(FORMATS[wells] for wells in USUAL if _holds(FORMATS[wells], used))
    if spec.format is not None:
        rows, columns = chosen = FORMATS[spec.format]
        if not _holds(chosen, used):
            off = planes[(planes["row"] >= rows) | (planes["column"] >= columns)].iloc[0]
            raise RawDataError(
                f"a plate of {spec.format} wells can't hold the wells of this one",
                where=f"{spec.plate}: well {well_name(int(off['row']), int(off['column']))}",
                why=f"it has {rows} rows and {columns} columns",
                remedy=f"give another format, such as {usual[0] * usual[1]}, by `init --format` or in the plate sheet",
            )
        return chosen
    if given is None:
        return usual
    if given in FORMATS.values() and _holds(given, used):
        return given
    what = f"the metadata say {given[0]} x {given[1]} wells, but "
    what += "there are no such plates" if _holds(given, used) else f"wells reach row {used[0]} and column {used[1]}"
    notes.append(f"{what}: {usual[0]} x {usual[1]} are assumed; `init --format` says it otherwise")
    return usual


def format_by_map(mapped: Collection[str], wells: Collection[str]) -> int | None:
    """The format that a plate map tells of a plate of which the metadata tell none.

    Args:
        mapped: the wells that it lists.
        wells: those with images.

    Returns:
        the number of wells of the plate of which it lists all, else of the smallest of the `USUAL` that holds those of
        map and plate; None where the wells with images alone tell the same.
    """
    alone, told = (_smallest([parse_well(well) for well in listed]) for listed in (wells, [*mapped, *wells]))
    for number, (rows, columns) in FORMATS.items():
        every = {well_name(row, column) for row in range(rows) for column in range(columns)}
        if set(mapped) == every and every >= set(wells):
            told = number
    return told if told != alone else None


def _smallest(places: Collection[tuple[int, int]]) -> int | None:
    used = max(row for row, _ in places) + 1, max(column for _, column in places) + 1
    return next((wells for wells in USUAL if _holds(FORMATS[wells], used)), None)


def _holds(shape: tuple[int, int], used: tuple[int, int]) -> bool:
    return used[0] <= shape[0] and used[1] <= shape[1]
