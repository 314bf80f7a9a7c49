"""Preflight: what is wrong with a raw plate, and what changed in it since it was ingested, before any compute."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from plateflow.config import Config, PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import PlatePaths, parse_well
from plateflow.plates.check_index import check_index
from plateflow.plates.check_pixels import check_pixels
from plateflow.plates.plate import index_plate
from plateflow.plates.platemap import read_plate_map
from plateflow.plates.problem import Problem, as_problem
from plateflow.plates.reader import some


def check_channels(config: Config, info: Mapping[str, Any]) -> None:
    """Check that a plate has the channels that the label sets name.

    Raises:
        PlateflowError: a channel isn't there; names the nearest.
    """
    known = [channel["name"] for channel in info["channels"]]
    for name, label_set in config.segmentation.items():
        for channel in label_set.channels:
            if channel not in known:
                near = difflib.get_close_matches(channel, known, n=1, cutoff=0.4)
                raise PlateflowError(
                    f"the plate has no channel {channel!r}",
                    where=f"{info['plate']}: segmentation.{name}.channels",
                    why=f"its channels are {', '.join(known)}",
                    remedy=f"did you mean {near[0]!r}?" if near else "name one of these in the configuration",
                )


def check_plate(entry: PlateEntry, config: Config, *, deep: bool = False) -> list[Problem]:
    """All problems of a raw plate that can be seen before it is computed.

    Args:
        entry: the plate.
        config: for the channels that the label sets name.
        deep: decode every file; otherwise headers and lengths are looked at, and the pixels of a sample.
    """
    try:
        index = index_plate(entry)
    except PlateflowError as error:
        return [as_problem(entry, error)]
    problems = list(check_index(index))
    try:
        check_channels(config, index.info)
    except PlateflowError as error:
        problems.append(as_problem(entry, error))
    problems += check_pixels(index, deep=deep)
    if entry.plate_map is not None:
        problems += _unmapped(entry, index.info)
    return problems


def changed_files(entry: PlateEntry, paths: PlatePaths) -> list[str]:
    """The raw files that are new, changed or gone since ingest, each with what happened; none before the first ingest.

    Raises:
        PlateflowError: the plate can't be indexed any more.
    """
    if not paths.planes.is_file():
        return []
    key = ["path", "page", "well", "field", "channel", "t", "z"]
    stat = ["size_bytes", "mtime_ns"]
    old, new = pd.read_parquet(paths.planes, columns=key + stat), index_plate(entry).planes[key + stat]
    both = old.merge(new, how="outer", on=key, suffixes=("_old", "_new"), indicator=True)
    changes: dict[str, str] = {}
    for row in both.to_dict("records"):
        there_before, there_now = row["size_bytes_old"] >= 0, row["size_bytes_new"] >= 0
        if there_before and not there_now:
            changes[row["path"]] = "gone"
        elif there_now and not there_before:
            changes[row["path"]] = "new"
        elif there_now and any(row[f"{name}_old"] != row[f"{name}_new"] for name in stat):
            changes[row["path"]] = "changed"
    return [f"{path}: {change}" for path, change in sorted(changes.items())]


def _unmapped(entry: PlateEntry, info: Mapping[str, Any]) -> Iterator[Problem]:
    """A plate map that can't be read, and wells that only one of map and plate has."""
    assert entry.plate_map is not None
    try:
        mapped = set(read_plate_map(entry.plate_map, entry.plate)["well"])
    except PlateflowError as error:
        yield as_problem(entry, error)
        return
    wells, (rows, columns) = set(info["wells"]), info["format"]
    off = {well for well in mapped if not (parse_well(well)[0] < rows and parse_well(well)[1] < columns)}
    for names, what in (
        (wells - mapped, "wells of the plate are not in the plate map"),
        (mapped - wells - off, "wells of the plate map are not in the plate"),
        (off, f"wells of the plate map lie off the plate of {rows} x {columns} wells"),
    ):
        if names:
            yield Problem(
                severity="warning",
                plate=entry.plate,
                file=entry.plate_map,
                what=f"{len(names)} {what}: {some(names)}",
                remedy="mend the plate map, or see whether it is another plate's",
            )
