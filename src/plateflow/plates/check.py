"""Preflight: what is wrong with a raw plate, and what changed in it since it was ingested, before any compute."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from plateflow.config import Config, PlateEntry, PlateflowError
from plateflow.paths import PlatePaths
from plateflow.plates.pixels import PlaneError
from plateflow.plates.plate import index_plate, read_row
from plateflow.plates.platemap import read_plate_map
from plateflow.plates.reader import some

_REMEDIES = {
    "missing": "copy the file from the instrument again; without it the field is left out",
    "wrong_type": "nothing, if the instrument marked the image as invalid so (Harmony: 32 bits); the field is left out",
}
_READ_AGAIN = "copy the file from the instrument again; as it is, the field is left out"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with a raw plate: what, where, and what to do.

    Attributes:
        severity: error where the plate, or a part of it, can't be used; warning where it goes on.
        plate, well, field, file: where; empty where it concerns all.
        what: one sentence.
        remedy: what the user can do.
    """

    severity: Literal["error", "warning"]
    plate: str
    well: str = ""
    field: str = ""
    file: str = ""
    what: str
    remedy: str = ""


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
        deep: decode every file; otherwise headers and lengths are looked at.
    """
    try:
        index = index_plate(entry)
    except PlateflowError as error:
        return [_as_problem(entry, error)]
    problems = [
        Problem(severity="warning", plate=entry.plate, what=note, remedy="see whether the metadata are right")
        for note in index.info["disagreements"]
    ]
    try:
        check_channels(config, index.info)
    except PlateflowError as error:
        problems.append(_as_problem(entry, error))
    problems += _incomplete(entry, index.planes)
    problems += _damaged(entry, index.planes, deep=deep)
    if entry.plate_map is not None:
        problems += _unmapped(entry, index.info["wells"])
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


def _as_problem(entry: PlateEntry, error: PlateflowError) -> Problem:
    where = error.where.removeprefix(f"{entry.plate}: ")
    what = ": ".join(part for part in (error.what, where, error.why) if part)
    return Problem(severity="error", plate=entry.plate, what=what, remedy=error.remedy)


def _incomplete(entry: PlateEntry, planes: pd.DataFrame) -> Iterator[Problem]:
    """Wells with fewer fields than most, and planes that the metadata don't have."""
    counts = planes.groupby("well", sort=False)["field"].nunique()
    usual = int(counts.mode().max())
    for well, count in counts[counts < usual].items():
        yield Problem(
            severity="warning",
            plate=entry.plate,
            well=str(well),
            what=f"the well has {count} fields; most have {usual}",
            remedy="nothing, if the acquisition was planned so",
        )
    lacking = planes[planes["reason"] == "no_record"]
    for (well, field), rows in lacking.groupby(["well", "field"], sort=False):
        channels = ", ".join(rows["channel"].drop_duplicates())
        yield Problem(
            severity="error",
            plate=entry.plate,
            well=str(well),
            field=str(field),
            what=f"{len(rows)} planes are not in the plate (channels {channels})",
            remedy="copy the measurement again; as it is, the field is left out",
        )


def _damaged(entry: PlateEntry, planes: pd.DataFrame, *, deep: bool) -> Iterator[Problem]:
    """Planes that can't be read."""

    def look(row: dict[Any, Any]) -> PlaneError | None:
        try:
            read_row(row, decode=deep)
        except PlaneError as error:
            return error
        return None

    rows = planes[planes["path"] != ""].to_dict("records")
    with ThreadPoolExecutor(4) as pool:
        for row, error in zip(rows, pool.map(look, rows), strict=True):
            if error is not None:
                yield Problem(
                    severity="error",
                    plate=entry.plate,
                    well=row["well"],
                    field=row["field"],
                    file=row["path"],
                    what=f"channel {row['channel']}: {error.reason}: {error.detail}",
                    remedy=_REMEDIES.get(error.reason, _READ_AGAIN),
                )


def _unmapped(entry: PlateEntry, wells: list[str]) -> Iterator[Problem]:
    """A plate map that can't be read, and wells that only one of map and plate has."""
    assert entry.plate_map is not None
    try:
        mapped = list(read_plate_map(entry.plate_map)["well"])
    except PlateflowError as error:
        yield _as_problem(entry, error)
        return
    for names, what in (
        (set(wells) - set(mapped), "wells of the plate are not in the plate map"),
        (set(mapped) - set(wells), "wells of the plate map are not in the plate"),
    ):
        if names:
            yield Problem(
                severity="warning",
                plate=entry.plate,
                file=entry.plate_map,
                what=f"{len(names)} {what}: {some(names)}",
                remedy="mend the plate map, or see whether it is another plate's",
            )
