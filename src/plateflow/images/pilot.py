"""A few fields of a raw plate, read before any stage: those that `plateflow pilot` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError, RawDataError
from plateflow.images.depth import planes_read, project
from plateflow.images.layout import well_layout
from plateflow.paths import parse_well, wells_named
from plateflow.plates.pixels import PlaneError, camera_tops, saturation_level
from plateflow.plates.raw import RawFolder

if TYPE_CHECKING:
    from plateflow.plates import RawPlate


@dataclass(frozen=True, kw_only=True)
class PilotField:
    """The middle of a raw field.

    Attributes:
        planes: YX by channel, float32 raw values of one time point, z planes made one.
        saturated: by channel, the fraction of the whole field's pixels that are saturated.
        shape: height and width of the whole field, px.
        taken: which time point and z plane is shown, in words, where there are several; else empty.
    """

    well: str
    name: str
    planes: dict[str, NDArray[np.float32]]
    saturated: dict[str, float]
    shape: tuple[int, int]
    taken: str


def choose_wells(plate: RawPlate, asked: str) -> list[str]:
    """The wells to look at: those that are named (`B03,C05`), or a number of them, spread over the plate.

    Raises:
        PlateflowError: a well has no images, or the text is neither a number above 0 nor names of wells.
    """
    there = set(plate.planes.loc[plate.planes["size_bytes"] >= 0, "well"])
    wells = [well for well in plate.metadata["wells"] if well in there]
    where = f"--wells {asked}"
    if not wells:
        raise RawDataError("no well of the plate has an image", where=str(plate.root), remedy="see `plateflow check`")
    if asked.isdecimal() and int(asked):
        return _spread(wells, int(asked))
    try:
        named = wells_named(asked.split(","))
    except ValueError as error:
        remedy = "give a number above 0, or names of wells such as B03,C05"
        raise PlateflowError(str(error), where=where, remedy=remedy) from None
    if absent := [well for well in named if well not in wells]:
        listed = ", ".join(wells[:20]) + ", ..." * (len(wells) > 20)
        raise PlateflowError(f"the plate has no image of {', '.join(absent)}", where=where, remedy=f"it has {listed}")
    return named


def _spread(wells: Sequence[str], number: int) -> list[str]:
    """So many wells, or all of fewer, in the plate's order: those nearest to the points of a Hammersley set.

    Its points cover a square evenly: the one beside (i + 0.5) / n has the mirrored binary digits of i.
    """
    places, number = np.array([parse_well(well) for well in wells], float), min(number, len(wells))
    first, sides = places.min(axis=0), np.ptp(places, axis=0)
    chosen: list[int] = []
    for i in range(number):
        mirrored = int(f"{i:b}"[::-1], 2) / 2 ** i.bit_length()
        point = first + np.array([mirrored + 0.5 / number, (i + 0.5) / number]) * sides
        distance = ((places - point) ** 2).sum(axis=1)
        distance[chosen] = np.inf
        chosen.append(int(distance.argmin()))
    return [wells[k] for k in sorted(chosen)]


def read_field(plate: RawPlate, well: str, *, z_mode: str, edge: int) -> PilotField:
    """Read the middle one of a well's fields, all channels that were taken of it.

    Args:
        z_mode: `z` of the configuration; of `keep` the middle plane is shown.
        edge: px; of a larger field the middle is kept.

    Raises:
        PlaneError: a plane of it can't be read; the message names field and channel.
        RawDataError: the machine is at fault.
        ConfigError: `z_mode` names a plane that a channel lacks.
    """
    of_well = plate.planes[plate.planes["well"] == well]
    layout, folder = well_layout(of_well, plate.metadata), RawFolder(plate.root)
    imaged = of_well[of_well["size_bytes"] >= 0]
    fields = list(dict.fromkeys(imaged["field"]))
    name = fields[len(fields) // 2]
    rows = of_well[of_well["field"] == name]
    t = int(imaged.loc[imaged["field"] == name, "t"].min())
    planes: dict[str, NDArray[np.float32]] = {}
    saturated: dict[str, float] = {}
    central, tops = layout.shape[2] // 2, camera_tops(plate.metadata)
    shape = (0, 0)
    for channel in layout.channels:
        stack = layout.stack(channel, t)
        where = f"{plate.metadata['plate']}: {well} field {name}, channel {channel}"
        if not stack:
            continue
        nearest = min(stack, key=lambda z: abs(z - central))
        wanted = planes_read(layout, channel, z_mode, nearest, t=t, where=where)
        taken = rows[(rows["channel"] == channel) & (rows["t"] == t) & rows["z"].isin(wanted)]
        try:
            raw = [folder.read(row) for row in taken.to_dict("records")]
        except PlaneError as error:
            raise PlaneError(error.reason, f"field {name}, channel {channel}: {error.detail}") from error
        if not raw:
            continue
        counts = np.sum([np.bincount(plane.ravel(), minlength=2**16) for plane in raw], axis=0)
        level = saturation_level(counts, tops[channel])
        saturated[channel], shape = float(counts[level:].sum() / counts.sum()), raw[0].shape
        out = np.zeros(shape, np.float32)
        project(raw, z_mode, out)
        top, left = (max(0, (side - edge) // 2) for side in shape)
        planes[channel] = out[top : top + edge, left : left + edge].copy()
    note = [f"time point {t} of {layout.shape[0]} (counted from 0)"] * (layout.shape[0] > 1)
    note += [f"z plane {central} (counted from 0)"] * (z_mode == "keep" and layout.shape[2] > 1)
    return PilotField(well=well, name=str(name), planes=planes, saturated=saturated, shape=shape, taken=", ".join(note))
