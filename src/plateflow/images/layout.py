"""Where a well's fields lie in its image.

A well is one image, axes t c z y x, in pixels; its fields lie at their stage positions, rounded to whole pixels, with
the top left corner of the box around them at the origin. If any field that has planes has no position, or two lie on
each other, all of a well's fields lie in a grid with a gap between them. Where fields overlap, the first in order wins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from plateflow.errors import RawDataError
from plateflow.plates.units import SMALLEST_UM
from plateflow.touching import on_each_other

if TYPE_CHECKING:
    import pandas as pd

GRID_GAP_PX = 32
PREVIEW_PX = 1024
"""Largest height and width of the image in the store where the pixels stay in the raw plate."""
PLATE_UM = 130_000
"""Fields can't lie further apart than a plate is long: 127.76 mm (ANSI SLAS 1-2004); a well may be all of it."""
SCATTERED = 16
"""In a picture of an image with more than this many times the pixels of its fields, these are drawn side by side."""
SPARSE = 400
"""An image may have this many times the pixels of its fields even if these are smaller than light shows any."""
Region = tuple[slice, slice]
"""Rows and columns of an image or of a canvas."""


@dataclass(frozen=True, kw_only=True)
class FieldBox:
    """A field's place in its well's image, in px."""

    name: str
    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> Region:
        """The field in an array (..., y, x) of the image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True, kw_only=True)
class WellLayout:
    """A well's image and the fields in it.

    Attributes:
        shape: of the image, (t, c, z, y, x).
        dtype: of the image: the least that holds all channels of the plate.
        fields: in the manifest's order; where they overlap the first wins.
        channels: names of those that the well has, in the order of the image's axis.
        z_planes: the z planes of each channel; stacks may differ.
        z_at: the same at each time point, where they differ between those; else empty.
        pixel_um: (z, y, x) in um; 1.0 along an axis of unknown size, see `unit_known`.
        unit_known: whether y and x are known in um.
        z_known: whether the distance of z planes is known in um.
        placement: "stage" if the fields lie at their positions; "grid" if these are unknown; "untrusted" if
            they are in a grid because their positions would lay them on each other, or some have none.
        preview: how often the image in the store is halved, if the pixels stay in the raw plate; else None.
    """

    shape: tuple[int, int, int, int, int]
    dtype: str
    fields: tuple[FieldBox, ...]
    channels: tuple[str, ...]
    z_planes: tuple[tuple[int, ...], ...]
    pixel_um: tuple[float, float, float]
    unit_known: bool
    placement: str
    z_known: bool = False
    preview: int | None = None
    z_at: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @property
    def scattered(self) -> bool:
        """Whether fields take so little of the image that in a small picture of it there would be next to nothing."""
        return self.shape[-2] * self.shape[-1] > SCATTERED * sum(box.height * box.width for box in self.fields)

    def to_json(self) -> dict[str, Any]:
        """As the image's `zarr.json` holds it: `z_at` where it is needed."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values if self.z_at else {name: value for name, value in values.items() if name != "z_at"}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WellLayout:
        """Back from `to_json`."""
        return _adapter().validate_python(value)

    def stack(self, channel: str, t: int) -> tuple[int, ...]:
        """The z planes of a channel at a time point; none where it wasn't taken."""
        if channel not in self.channels:
            return ()
        return (self.z_at[t] if self.z_at else self.z_planes)[self.channels.index(channel)]

    def shows(self, channels: Sequence[str], t: int | None = None) -> bool:
        """Whether all of some channels were taken, at a time point, or at any one."""
        times = range(self.shape[0]) if t is None else [t]
        return any(all(self.stack(channel, at) for channel in channels) for at in times)

    def label_shape(self, z_mode: str) -> tuple[int, int, int, int]:
        """The shape (t, z, y, x) of label arrays: z is 1 unless every plane is kept."""
        t, _, z, y, x = self.shape
        return t, z if z_mode == "keep" else 1, y, x


@cache
def _adapter() -> TypeAdapter[WellLayout]:
    return TypeAdapter(WellLayout)


def shared(first: Region, second: Region) -> tuple[Region, Region] | None:
    """What two regions of an image share, relative to the first and to the second; None if they share nothing."""
    both = list(zip(first, second, strict=True))
    limits = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in both]
    if any(start >= stop for start, stop in limits):
        return None
    (a_y, a_x), (b_y, b_x) = (
        [slice(start - side.start, stop - side.start) for (start, stop), side in zip(limits, region, strict=True)]
        for region in (first, second)
    )
    return (a_y, a_x), (b_y, b_x)


def halved(region: Region, level: int) -> Region:
    """A region of level 0 at a level, of at least one px."""
    ys, xs = (slice(side.start >> level, max(side.stop >> level, (side.start >> level) + 1)) for side in region)
    return ys, xs


def well_layout(planes: pd.DataFrame, metadata: Mapping[str, Any]) -> WellLayout:
    """The layout of a well.

    Raises:
        RawDataError: the positions and the pixel size cannot both be right.
    """
    size = metadata["pixel_size_um"]
    dy, dx = size or (1.0, 1.0)
    first = planes.groupby("field", sort=False)[["y_um", "x_um", "height", "width"]].first()
    names, heights, widths = list(first.index), first["height"].astype(int), first["width"].astype(int)
    tallest, widest = int(heights.max()), int(widths.max())
    corners = first[["y_um", "x_um"]].to_numpy(float)
    known = ~np.isnan(corners).any(axis=1)
    places, placement = grid(len(names), tallest, widest), "grid"
    if size is not None and known.any():
        relative = (corners - corners[known].min(axis=0)) / (dy, dx)
        on = on_each_other(relative, first[["height", "width"]].min().to_numpy(float))
        has_planes = planes.groupby("field", sort=False)["path"].any().to_numpy(bool)
        placement = "stage" if (known | ~has_planes).all() and on.sum() == known.sum() else "untrusted"
    if placement == "stage":  # what has no plane to show lies below, and moves no other field
        below = np.array((relative[known, 0].max() + tallest + GRID_GAP_PX, 0))
        relative[~known] = np.reshape(grid(int((~known).sum()), tallest, widest), (-1, 2)) + below
        places = [(round(y), round(x)) for y, x in relative.tolist()]
    fields = tuple(
        FieldBox(name=name, y=y, x=x, height=int(height), width=int(width))
        for name, (y, x), height, width in zip(names, places, heights, widths, strict=True)
    )
    height, width = max(box.y + box.height for box in fields), max(box.x + box.width for box in fields)
    where = f"{metadata['plate']}: well {planes['well'].iloc[0]}"
    if placement == "stage" and (extent := max(height * dy, width * dx)) > PLATE_UM:
        raise RawDataError(
            "the fields of a well lie further apart than a plate is long",
            where=where,
            why=f"by their positions they take {extent / 1000:,.0f} mm, and a plate is 128 mm long",
            remedy="correct the positions, or their unit, in the metadata; if they are in pixels, set pixel_size_um in "
            "the plate sheet",
        )
    if min(dy, dx) < SMALLEST_UM and height * width > SPARSE * max(1, sum(box.height * box.width for box in fields)):
        raise RawDataError(
            "the positions of the fields and the pixel size contradict each other",
            where=where,
            why=f"with pixels of {dy} x {dx} µm its fields would lie in an image of {height} x {width} px",
            remedy="set pixel_size_um in the plate sheet",
        )
    taken: dict[tuple[str, int], set[int]] = {}
    for channel, t, z in zip(planes["channel"], planes["t"].tolist(), planes["z"].tolist(), strict=True):
        taken.setdefault((channel, t), set()).add(z)
    own, n_t = {channel for channel, _ in taken}, int(planes["t"].max()) + 1
    channels = tuple(channel["name"] for channel in metadata["channels"] if channel["name"] in own)
    stacks = [tuple(tuple(sorted(taken.get((name, t), ()))) for name in channels) for t in range(n_t)]
    steps = np.abs(np.diff(planes.groupby("z")["z_um"].first().to_numpy(float)))
    step = float(np.median(steps)) if len(steps) else math.nan
    z_step = round(step, 6) if step > 0 else None  # one plane, or not known
    return WellLayout(
        shape=(n_t, len(channels), int(planes["z"].max()) + 1, height, width),
        dtype=max((channel["dtype"] for channel in metadata["channels"]), key=lambda kind: np.dtype(kind).itemsize),
        fields=fields,
        channels=channels,
        z_planes=tuple(tuple(sorted(set().union(*at))) for at in zip(*stacks, strict=True)),
        z_at=() if len(set(stacks)) == 1 else tuple(stacks),
        pixel_um=(z_step or 1.0, float(dy), float(dx)),
        unit_known=size is not None,
        placement=placement,
        z_known=z_step is not None,
        preview=math.ceil(math.log2(max(1.0, max(height, width) / PREVIEW_PX))) if metadata.get("in_place") else None,
    )


def grid(n: int, height: int, width: int) -> list[tuple[int, int]]:
    """The top left corners (y, x) of n boxes of this size in a grid with gaps, row by row."""
    across = math.ceil(math.sqrt(n))
    return [(i // across * (height + GRID_GAP_PX), i % across * (width + GRID_GAP_PX)) for i in range(n)]
