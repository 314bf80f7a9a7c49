"""Preflight of the metadata: fields, positions, pixel sizes and clocks. Opens no file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.errors import PlateflowError, number_of
from plateflow.plates.reader import Index, examples
from plateflow.plates.units import LARGEST_UM, SMALLEST_UM
from plateflow.touching import TOUCH_PX, gaps_between, groups_of_touching

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """Something about a raw plate that the user should know: what, where, and what to do.

    Attributes:
        severity: error where the plate or a part of it cannot be used, warning where something is probably wrong, note
            where it may be intended (fields that overlap) but has consequences.
        well, field, file: where; empty where the problem concerns several.
    """

    severity: Severity
    plate: str
    what: str
    remedy: str = ""
    well: str = ""
    field: str = ""
    file: str = ""

    @classmethod
    def of_error(cls, plate: str, error: PlateflowError) -> Problem:
        """An error that stops a plate, or all of them: what is at fault stands in the plate's place then."""
        where = error.where.removeprefix(plate).removeprefix(": ").removeprefix(", ")
        what = ": ".join(part for part in (error.what, where, error.why) if part)
        return cls("error", plate, what, error.remedy)


def check_index(index: Index) -> Iterator[Problem]:
    """Yield what the index shows to be wrong, or to have consequences."""
    planes, plate = index.planes, str(index.metadata["plate"])
    for note in index.metadata["disagreements"]:
        yield Problem("warning", plate, note, "check whether the metadata are right")
    yield from _incomplete(plate, planes, listed=index.listed)
    yield from _one_file_for_several(plate, planes, index.root)
    yield from _pixel_sizes(plate, planes)
    yield from _positions(plate, planes)
    if index.times_s is not None:
        yield from _clocks(plate, planes, index.times_s)


def _incomplete(plate: str, planes: pd.DataFrame, *, listed: bool) -> Iterator[Problem]:
    """Wells with fewer fields than most, and planes that are missing in the metadata; `listed`: as in `Records`."""
    counts = planes.groupby("well", sort=False)["field"].nunique()
    usual = int(counts.mode().max())
    for well, count in counts[counts < usual].items():
        what = f"the well has {number_of(count, 'field[s]')}; most have {usual}"
        yield Problem("warning", plate, what, "nothing, if the acquisition was planned so", well=str(well))
    lacking = planes[(planes["state"] == "missing") & (planes["path"] == "")]
    for (well, field, reason), rows in lacking.groupby(["well", "field", "reason"], sort=False):
        cause = "" if reason == "no_record" else f"; the metadata say: {reason}"
        channels = ", ".join(rows["channel"].drop_duplicates())
        what = f"{number_of(len(rows), 'plane[s are| is]')} not in the plate (channels {channels}){cause}"
        helps = not listed and reason == "no_record"
        remedy = (
            "copy the measurement again" if helps else "nothing: the metadata have no file of it that could be copied"
        )
        remedy += "; the field is left out where the channel is needed"
        yield Problem("error", plate, what, remedy, well=str(well), field=str(field))


def _one_file_for_several(plate: str, planes: pd.DataFrame, root: Path) -> Iterator[Problem]:
    """Planes that the metadata take from the same page of the same file."""
    named = planes[planes["path"] != ""]
    shared = named[named.duplicated(["path", "page"], keep=False)]
    for (path, _), rows in shared.groupby(["path", "page"], sort=False):
        first, file = rows.iloc[0], str(root / str(path))
        places = examples(f"{r.well} field {r.field} {r.channel} t {r.t} z {r.z}" for r in rows.itertuples())
        what = f"one image stands for {len(rows)} planes, such as {places}"
        remedy = "check whether the metadata are right: the same pixels would be measured several times"
        yield Problem("warning", plate, what, remedy, well=first["well"], field=first["field"], file=file)


def _pixel_sizes(plate: str, planes: pd.DataFrame) -> Iterator[Problem]:
    remedy = "set pixel_size_um in the plate sheet, in µm"
    sizes = planes[["dy_um", "dx_um"]].dropna().drop_duplicates()
    if sizes.empty:
        yield Problem("note", plate, "the pixel size is unknown: sizes are measured in px", remedy)
    for dy, dx in sizes.itertuples(index=False):
        if not (SMALLEST_UM <= dy <= LARGEST_UM and SMALLEST_UM <= dx <= LARGEST_UM):
            span = f"{SMALLEST_UM:g}\N{EN DASH}{LARGEST_UM:g} µm"
            what = f"pixel size {dy:g} x {dx:g} µm is outside the range of a light microscope ({span})"
            yield Problem("error", plate, f"{what}; the unit is probably wrong", remedy)
        elif abs(dy / dx - 1) > 0.01:
            yield Problem("warning", plate, f"pixels are not square: {dy:g} x {dx:g} µm", remedy)


def _positions(plate: str, planes: pd.DataFrame) -> Iterator[Problem]:
    """Fields without a position, far from where they are in other wells, on top of each other, or apart."""
    pictures = planes.assign(path=planes["path"].replace("", None))
    fields = pictures.groupby(["well", "field"], sort=False).first().reset_index()
    placed = fields[["y_um", "x_um", "dy_um", "dx_um"]].notna().all(axis=1)
    fields = fields[placed | fields["path"].notna()]
    placed = placed[fields.index]
    if not placed.any():
        if planes["field"].nunique() > 1:
            what = "the positions of the fields are unknown: they are laid out in a grid"
            yield Problem("note", plate, what, "nothing, if they don't touch: cells at the fields' borders are cut")
        return
    if not placed.all():
        lacking = fields[~placed]
        names = examples(f"{row.well} field {row.field}" for row in lacking.itertuples())
        what = (
            f"{number_of(len(lacking), 'field[s have| has]')} no position: {names}; their wells are laid out in a grid"
        )
        remedy = "copy the metadata again, or go on: cells at the fields' borders are then cut"
        one_well = str(lacking["well"].iloc[0]) if lacking["well"].nunique() == 1 else ""
        yield Problem("warning", plate, what, remedy, well=one_well)
    fields = fields[placed & ~fields["well"].isin(fields.loc[~placed, "well"])]
    yield from _strays(plate, fields)
    layouts: dict[tuple[float, ...], tuple[pd.DataFrame, list[str]]] = {}  # of each the wells, as most have the same
    for well, rows in fields.groupby("well", sort=False):
        corners = rows[["y_um", "x_um"]].to_numpy() / rows[["dy_um", "dx_um"]].to_numpy()
        key = tuple(np.round(corners - corners.min(axis=0)).ravel().tolist())
        layouts.setdefault(key, (rows, []))[1].append(str(well))
    faults: dict[tuple[Severity, str, str], list[str]] = {}  # wells whose stage jitters by a pixel have the same
    for key, (rows, wells) in layouts.items():
        for fault in _neighbours(np.array(key).reshape(-1, 2), rows):
            faults.setdefault(fault, []).extend(wells)
    for (severity, what, remedy), wells in faults.items():
        several = f", in {len(wells)} wells: {examples(wells)}" if len(wells) > 1 else ""
        yield Problem(severity, plate, what + several, remedy, well="" if several else wells[0])


def _strays(plate: str, fields: pd.DataFrame) -> Iterator[Problem]:
    """Fields that lie more than half of their size away from where they are in most wells."""
    for axis, side, step in (("y_um", "height", "dy_um"), ("x_um", "width", "dx_um")):
        inside = fields[axis] - fields.groupby("well")[axis].transform("median")
        off = (inside - inside.groupby(fields["field"]).transform("median")).abs() / (fields[side] * fields[step])
        # Wells that lack fields have another median, and are reported already.
        complete = fields.groupby("well")["field"].transform("size") == fields["field"].nunique()
        for row, far in zip(fields[complete & (off > 0.5)].itertuples(), off[complete & (off > 0.5)], strict=True):
            what = f"along {axis[0]} the field lies {far:.1f} fields away from where it is in most wells"
            remedy = "check whether the metadata are right: cells at its border may be cut or doubled"
            yield Problem("warning", plate, what, remedy, well=str(row.well), field=str(row.field))


def _neighbours(corners: NDArray[np.float64], fields: pd.DataFrame) -> Iterator[tuple[Severity, str, str]]:
    """The worst overlap and gap of a well's fields (severity, what, remedy), by their corners in px, (n, 2)."""
    sides = fields[["height", "width"]].to_numpy(float)
    gaps, area = gaps_between(corners, corners + sides), sides.prod(axis=1)
    over = np.prod(np.maximum(-gaps, 0), axis=-1) / np.minimum(area[:, None], area[None])
    over[(gaps > -TOUCH_PX).any(axis=-1)] = 0
    np.fill_diagonal(over, 0)
    names = [str(name) for name in fields["field"]]
    worst = float(over.max(initial=0))
    if worst > 0:
        a, b = (names[i] for i in np.unravel_index(int(over.argmax()), over.shape))
        what = f"fields overlap, by up to {worst:.0%} (such as {a} and {b})"
        if worst > 0.5:
            yield "warning", what, "check whether positions and pixel size are right"
        else:
            yield "note", what, "nothing: where fields overlap the first is used, and each cell is counted once"
    group = groups_of_touching(gaps)
    if (group != group[0]).any():
        distance = float(gaps.max(axis=-1)[group[:, None] != group[None]].min())
        what = f"gaps between fields, of {distance:.0f} px and more"
        if distance < sides.min() / 10:
            remedy = "check whether positions and pixel size are right: cells in the gaps are cut"
            yield "warning", f"narrow {what}", remedy
        else:
            yield "note", what, "nothing, if the acquisition was planned so: cells at the fields' borders are cut"


def _clocks(plate: str, planes: pd.DataFrame, times: NDArray[np.float64]) -> Iterator[Problem]:
    """Fields whose later time points were taken before earlier ones."""
    taken = planes[["well", "field", "t"]].assign(taken=times).groupby(["well", "field", "t"], sort=True)["taken"].min()
    back = taken.groupby(level=["well", "field"]).diff() < 0
    for well, names in back[back].groupby(level="well"):
        fields = names.index.get_level_values("field").unique()
        several = number_of(len(fields), "field[s]")
        what = f"the clock runs backwards between time points in {several}: {examples(map(str, fields))}"
        remedy = "check whether time points are numbered in the order in which they were taken"
        yield Problem("warning", plate, what, remedy, well=str(well), field=str(fields[0]) if len(fields) == 1 else "")
