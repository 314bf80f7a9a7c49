"""Preflight of what the metadata say: fields, positions, pixel sizes and clocks; opens no file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.plates.problem import Problem
from plateflow.plates.reader import Index, some

SMALLEST_UM, LARGEST_UM = 0.02, 20.0
"""Pixels of a light microscope lie in this span; what is outside is a mistake in the unit."""
TOUCH_PX = 2
"""Fields no farther apart than this touch, as in the design's canvas."""


def check_index(index: Index) -> Iterator[Problem]:
    """What the index itself shows to be wrong, or to have consequences."""
    planes, plate = index.planes, str(index.info["plate"])
    for note in index.info["disagreements"]:
        yield Problem(severity="warning", plate=plate, what=note, remedy="see whether the metadata are right")
    yield from _incomplete(plate, planes)
    yield from _one_file_for_several(plate, planes)
    yield from _pixel_sizes(plate, planes)
    yield from _positions(plate, planes)
    if index.times_s is not None:
        yield from _clocks(plate, planes, index.times_s)


def _incomplete(plate: str, planes: pd.DataFrame) -> Iterator[Problem]:
    """Wells with fewer fields than most, and planes that the metadata don't have."""
    counts = planes.groupby("well", sort=False)["field"].nunique()
    usual = int(counts.mode().max())
    for well, count in counts[counts < usual].items():
        yield Problem(
            severity="warning",
            plate=plate,
            well=str(well),
            what=f"the well has {count} fields; most have {usual}",
            remedy="nothing, if the acquisition was planned so",
        )
    lacking = planes[(planes["state"] == "missing") & (planes["path"] == "")]
    for (well, field, reason), rows in lacking.groupby(["well", "field", "reason"], sort=False):
        channels = ", ".join(rows["channel"].drop_duplicates())
        said = "" if reason == "no_record" else f"; the metadata say: {reason}"
        yield Problem(
            severity="error",
            plate=plate,
            well=str(well),
            field=str(field),
            what=f"{len(rows)} planes are not in the plate (channels {channels}){said}",
            remedy="copy the measurement again; as it is, the field is left out",
        )


def _one_file_for_several(plate: str, planes: pd.DataFrame) -> Iterator[Problem]:
    """Planes that the metadata take from the same page of the same file."""
    named = planes[planes["path"] != ""]
    shared = named[named.duplicated(["path", "page"], keep=False)]
    for (path, _), rows in shared.groupby(["path", "page"], sort=False):
        first = rows.iloc[0]
        yield Problem(
            severity="warning",
            plate=plate,
            well=first["well"],
            field=first["field"],
            file=str(path),
            what=f"one picture stands for {len(rows)} planes, such as {_places(rows)}",
            remedy="see whether the metadata are right: the same pixels would be measured several times",
        )


def _places(rows: pd.DataFrame) -> str:
    return some(f"{r.well} field {r.field} {r.channel} t {r.t} z {r.z}" for r in rows.itertuples())


def _pixel_sizes(plate: str, planes: pd.DataFrame) -> Iterator[Problem]:
    remedy = "set pixel_size_um in the plate sheet, in um"
    sizes = planes[["dy_um", "dx_um"]].dropna().drop_duplicates()
    if sizes.empty:
        yield Problem(
            severity="note", plate=plate, what="the pixel size isn't known: sizes are measured in px", remedy=remedy
        )
    for dy, dx in sizes.itertuples(index=False):
        if not (SMALLEST_UM <= dy <= LARGEST_UM and SMALLEST_UM <= dx <= LARGEST_UM):
            yield Problem(
                severity="error",
                plate=plate,
                what=f"the pixel size, {dy:g} x {dx:g} um, is none of a light microscope "
                f"({SMALLEST_UM:g} to {LARGEST_UM:g} um): its unit is probably wrong",
                remedy=remedy,
            )
        elif abs(dy / dx - 1) > 0.01:
            yield Problem(
                severity="warning", plate=plate, what=f"pixels aren't square: {dy:g} x {dx:g} um", remedy=remedy
            )


def _positions(plate: str, planes: pd.DataFrame) -> Iterator[Problem]:
    """Fields without a position, far from where they are in other wells, on each other, or apart."""
    fields = planes.groupby(["well", "field"], sort=False).first().reset_index()
    known = fields[["y_um", "x_um", "dy_um", "dx_um"]].notna().all(axis=1)
    if not known.any():
        if planes["field"].nunique() > 1:
            yield Problem(
                severity="note",
                plate=plate,
                what="the fields' positions aren't known: they are laid out in a grid",
                remedy="nothing, if they don't touch: cells at the fields' borders are cut",
            )
        return
    if not known.all():
        lost = fields[~known]
        names = some(f"{well} field {field}" for well, field in zip(lost["well"], lost["field"], strict=True))
        yield Problem(
            severity="warning",
            plate=plate,
            well=str(lost["well"].iloc[0]) if lost["well"].nunique() == 1 else "",
            what=f"{len(lost)} fields have no position: {names}; their wells are laid out in a grid",
            remedy="copy the metadata again, or go on: cells at the fields' borders are then cut",
        )
    fields = fields[known & ~fields["well"].isin(fields.loc[~known, "well"])]
    yield from _strays(plate, fields)
    seen: dict[tuple[float, ...], list[str]] = {}
    corners: dict[tuple[float, ...], pd.DataFrame] = {}
    for well, rows in fields.groupby("well", sort=False):
        at = rows[["y_um", "x_um"]].to_numpy() / rows[["dy_um", "dx_um"]].to_numpy()
        key = tuple(np.round(at - at.min(axis=0)).ravel().tolist())
        seen.setdefault(key, []).append(str(well))
        corners.setdefault(key, rows)
    told: dict[tuple[str, str], list[str]] = {}  # wells whose stage jitters by a pixel say the same
    remedies: dict[tuple[str, str], str] = {}
    for key, wells in seen.items():
        for severity, what, remedy in _neighbours(np.array(key).reshape(-1, 2), corners[key]):
            told.setdefault((severity, what), []).extend(wells)
            remedies[severity, what] = remedy
    for (severity, what), wells in told.items():
        one = len(wells) == 1
        yield Problem(
            severity=severity,  # type: ignore[arg-type]
            plate=plate,
            well=wells[0] if one else "",
            what=what if one else f"{what}, in {len(wells)} wells: {some(wells)}",
            remedy=remedies[severity, what],
        )


def _strays(plate: str, fields: pd.DataFrame) -> Iterator[Problem]:
    """Fields that lie elsewhere in their well than in most wells, by more than half of their size."""
    for axis, side, step in (("y_um", "height", "dy_um"), ("x_um", "width", "dx_um")):
        inside = fields[axis] - fields.groupby("well")[axis].transform("median")
        off = (inside - inside.groupby(fields["field"]).transform("median")).abs() / (fields[side] * fields[step])
        # wells that lack fields have another middle: those are told elsewhere
        whole = fields.groupby("well")["field"].transform("size") == fields["field"].nunique()
        for row, far in zip(fields[whole & (off > 0.5)].itertuples(), off[whole & (off > 0.5)], strict=True):
            yield Problem(
                severity="warning",
                plate=plate,
                well=str(row.well),
                field=str(row.field),
                what=f"along {axis[0]} the field lies {far:.1f} fields away from where it is in most wells",
                remedy="see whether the metadata are right: cells at its border may be cut or doubled",
            )


def _neighbours(corners: NDArray[np.float64], fields: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """What the worst pair of a well's fields shows: severity, what, remedy; corners in px (n, 2)."""
    sides = fields[["height", "width"]].to_numpy(float)
    ends = corners + sides
    gap = np.maximum(corners[:, None], corners[None]) - np.minimum(ends[:, None], ends[None])  # below 0: overlap
    over = np.prod(np.maximum(-gap, 0), axis=-1) / np.minimum(*np.broadcast_arrays(*_areas(sides)))
    over[(gap > -TOUCH_PX).any(axis=-1)] = 0
    np.fill_diagonal(over, 0)
    names = list(fields["field"])
    worst = float(over.max(initial=0))
    if worst > 0:
        a, b = (names[i] for i in np.unravel_index(int(over.argmax()), over.shape))
        serious = worst > 0.5
        yield (
            "warning" if serious else "note",
            f"fields overlap, by up to {worst:.0%} (such as {a} and {b})",
            "see whether positions and pixel size are right"
            if serious
            else "nothing: where fields overlap the first is used, and a cell is counted once",
        )
    group = np.arange(len(names))  # of fields that touch, by the least number in it
    touch = gap.max(axis=-1) <= TOUCH_PX
    for _ in names:
        group = np.where(touch, group[None], len(names)).min(axis=1)
    if (group != group[0]).any():
        distance = float(gap.max(axis=-1)[group[:, None] != group[None]].min())
        narrow = distance < sides.min() / 10
        yield (
            "warning" if narrow else "note",
            f"{'narrow gaps' if narrow else 'gaps'} between fields, of {distance:.0f} px and more",
            "see whether positions and pixel size are right: cells in the gaps are cut"
            if narrow
            else "nothing, if the acquisition was planned so: cells at the fields' borders are cut",
        )


def _areas(sides: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    area = sides.prod(axis=1)
    return area[:, None], area[None]


def _clocks(plate: str, planes: pd.DataFrame, times: NDArray[np.float64]) -> Iterator[Problem]:
    """Fields whose later time points were taken before earlier ones."""
    taken = planes[["well", "field", "t"]].assign(taken=times).groupby(["well", "field", "t"], sort=True)["taken"].min()
    back = taken.groupby(level=["well", "field"]).diff() < 0
    for well, names in back[back].groupby(level="well"):
        fields = names.index.get_level_values("field").unique()
        yield Problem(
            severity="warning",
            plate=plate,
            well=str(well),
            field=str(fields[0]) if len(fields) == 1 else "",
            what=f"the clock runs backwards between time points in {len(fields)} fields: {some(map(str, fields))}",
            remedy="see whether time points are numbered in the order in which they were taken",
        )
