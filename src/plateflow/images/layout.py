"""Where a well's fields lie in its image, and which of them are segmented as one.

A well is one image, axes t c z y x, in pixels; its fields lie at their stage positions, rounded to whole pixels, with
the top-left field's corner of the well's bounding box at the origin. Where any field of a well has no position, all of
that well lie in a grid with a gap between them. Where fields overlap, the first in order wins.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.paths import PlatePaths

GRID_GAP_PX = 32
TOUCH_PX = 2
"""Fields with a gap of so many px touch: stages jitter, and positions are rounded to whole pixels. Cells across such a
line would be cut in two, so it is filled on read with what lies at the field's edge beside it (`Canvas.reach`)."""
PREVIEW_PX = 1024
"""Height and width at most of the image in the store where the pixels stay in the raw plate."""
SPARSE = 400
"""An image may have this many times the pixels of its fields; more is a wrong pixel size, not a sparse well."""


@dataclass(frozen=True, kw_only=True)
class FieldBox:
    """A field's place in its well's image, in px."""

    name: str
    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The field in an array (..., y, x) of the image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


@dataclass(frozen=True, kw_only=True)
class WellLayout:
    """A well's image and the fields in it.

    Attributes:
        shape: of the image, (t, c, z, y, x).
        dtype: of its pixels.
        fields: in the manifest's order; where they overlap the first wins.
        channels: names, in the order of the image's axis.
        z_planes: of each channel the z planes that it has; stacks may differ.
        pixel_um: (z, y, x) in um; 1.0 along an axis of unknown size, see `unit_known`.
        unit_known: whether y and x are known in um.
        z_known: whether the distance of z planes is known in um.
        placement: "stage" where the fields lie at their positions; "grid" where these are unknown; "stacked" where
            they are in a grid because by the metadata they would lie on each other.
        preview: where the pixels stay in the raw plate, how often its image in the store is halved; else None.
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

    def to_json(self) -> dict[str, Any]:
        """As the image's `zarr.json` holds it."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> WellLayout:
        """Back from `to_json`."""
        return cls(
            shape=tuple(value["shape"]),
            dtype=value["dtype"],
            fields=tuple(FieldBox(**box) for box in value["fields"]),
            channels=tuple(value["channels"]),
            z_planes=tuple(tuple(planes) for planes in value["z_planes"]),
            pixel_um=tuple(value["pixel_um"]),
            unit_known=value["unit_known"],
            placement=value["placement"],
            z_known=value["z_known"],
            preview=value.get("preview"),
        )

    def label_shape(self, z_mode: str) -> tuple[int, int, int, int]:
        """The shape (t, z, y, x) of label arrays: z is 1 but where every plane is kept."""
        t, _, z, y, x = self.shape
        return t, z if z_mode == "keep" else 1, y, x


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Fields that touch (see `TOUCH_PX`) or overlap: what is segmented as one.

    Attributes:
        index: its number in the well, over t, z and the place in the image.
        t: time point.
        z: the z plane of the labels, the first of a volume: 0 but where every plane is kept.
        depth: planes of a volume; None for a canvas of one plane, which has no z axis.
        y, x, height, width: its box in the image, in px.
        fields: in the image's coordinates.
    """

    index: int
    t: int
    z: int
    y: int
    x: int
    height: int
    width: int
    fields: tuple[FieldBox, ...]
    depth: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """([z,] y, x) in px."""
        return (*(() if self.depth is None else (self.depth,)), self.height, self.width)

    def planes(self) -> list[Canvas]:
        """The planes of a volume, each as a canvas of one plane; the canvas itself if it is one."""
        if self.depth is None:
            return [self]
        return [replace(self, z=self.z + k, depth=None) for k in range(self.depth)]

    @property
    def slices(self) -> tuple[slice, slice]:
        """The canvas in an array (..., y, x) of the image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def reach(self) -> list[tuple[int, int]]:
        """How many px each field goes on below and to the right of it, over a gap of at most `TOUCH_PX`."""
        near = [[b for b in self.fields if not _apart(a, b)] for a in self.fields]
        return [
            (max(0, *(b.y - a.y - a.height for b in of_a)), max(0, *(b.x - a.x - a.width for b in of_a)))
            for a, of_a in zip(self.fields, near, strict=True)
        ]

    def owner(self) -> NDArray[np.int16]:
        """Of each pixel of the canvas the number of the field that it belongs to, -1 outside of fields: (y, x).

        The narrow gaps between fields belong to the field above or to the left; where fields lie, the first wins.
        """
        owner = np.full((self.height, self.width), -1, np.int16)
        for reach in (self.reach(), [(0, 0)] * len(self.fields)):
            for number in reversed(range(len(self.fields))):
                box, (down, right) = self.fields[number], reach[number]
                top, left = box.y - self.y, box.x - self.x
                owner[top : top + box.height + down, left : left + box.width + right] = number
        return owner


def well_layout(planes: pd.DataFrame, info: Mapping[str, Any]) -> WellLayout:
    """The layout of a well.

    Args:
        planes: the manifest's rows of this well.
        info: manifest/plate.json.

    Raises:
        PlateflowError: the positions and the pixel size can't both be right.
    """
    size = info["pixel_size_um"]
    dy, dx = size or (1.0, 1.0)
    first = planes.groupby("field", sort=False)[["y_um", "x_um", "height", "width"]].first()
    names, heights, widths = list(first.index), first["height"].astype(int), first["width"].astype(int)
    corners = first[["y_um", "x_um"]].to_numpy(float)
    relative = (corners - corners.min(axis=0)) / (dy, dx)
    if size is None or np.isnan(corners).any():
        placement = "grid"
    else:
        placement = "stacked" if _stacked(relative, heights.min(), widths.min()) else "stage"
    if placement == "stage":
        places = [(round(y), round(x)) for y, x in relative.tolist()]
    else:
        places = _grid(len(names), int(heights.max()), int(widths.max()))
    fields = tuple(
        FieldBox(name=name, y=y, x=x, height=int(height), width=int(width))
        for name, (y, x), height, width in zip(names, places, heights, widths, strict=True)
    )
    height, width = max(box.y + box.height for box in fields), max(box.x + box.width for box in fields)
    if height * width > SPARSE * max(1, sum(box.height * box.width for box in fields)):
        raise PlateflowError(
            "the fields' positions and the pixel size don't go together",
            where=f"{info['plate']}: well {planes['well'].iloc[0]}",
            why=f"at {dy} x {dx} um a pixel its fields would lie in an image of {height} x {width} px",
            remedy="set pixel_size_um in the plate sheet",
        )
    channels = tuple(channel["name"] for channel in info["channels"])
    z_step = _z_step(planes)
    stacks = {str(name): sorted(set(z.tolist())) for name, z in planes.groupby("channel")["z"]}
    return WellLayout(
        shape=(int(planes["t"].max()) + 1, len(channels), int(planes["z"].max()) + 1, height, width),
        dtype=str(planes["dtype"].iloc[0]),
        fields=fields,
        channels=channels,
        z_planes=tuple(tuple(stacks.get(name, ())) for name in channels),
        pixel_um=(z_step or 1.0, float(dy), float(dx)),
        unit_known=size is not None,
        placement=placement,
        z_known=z_step is not None,
        preview=math.ceil(math.log2(max(1.0, max(height, width) / PREVIEW_PX))) if info.get("in_place") else None,
    )


def _grid(n: int, height: int, width: int) -> list[tuple[int, int]]:
    across = math.ceil(math.sqrt(n))
    return [(i // across * (height + GRID_GAP_PX), i % across * (width + GRID_GAP_PX)) for i in range(n)]


def _stacked(corners: NDArray[np.float64], height: int, width: int) -> bool:
    """Whether two fields lie on each other by more than three quarters of their height and width."""
    apart = np.abs(corners[:, None] - corners[None])
    near = (apart[..., 0] < height / 4) & (apart[..., 1] < width / 4)
    return bool(near.sum() > len(corners))


def _z_step(planes: pd.DataFrame) -> float | None:
    """The distance of z planes in um; None where there is one plane, or where it isn't known."""
    heights = planes.groupby("z")["z_um"].first().to_numpy(float)
    steps = np.diff(heights)
    step = float(np.median(np.abs(steps))) if len(steps) else math.nan
    return round(step, 6) if step > 0 else None


def canvases(layout: WellLayout, left_out: Collection[str], z_mode: str, dimensions: int = 2) -> list[Canvas]:
    """The canvases of a well, numbered in the order of t, z, and the place of their top-left corner.

    Args:
        left_out: names of the fields that aren't used.
        z_mode: the configuration's `z`.
        dimensions: 3 makes one volume of all planes, 2 a canvas of each.
    """
    groups = _groups([box for box in layout.fields if box.name not in left_out])
    boxes = []
    for group in groups:
        y, x = min(box.y for box in group), min(box.x for box in group)
        height = max(box.y + box.height for box in group) - y
        width = max(box.x + box.width for box in group) - x
        boxes.append((y, x, height, width, tuple(group)))
    boxes.sort(key=lambda box: box[:2])
    made: list[Canvas] = []
    n_t, n_z, _, _ = layout.label_shape(z_mode)
    depth = n_z if dimensions == 3 else None
    for t in range(n_t):
        for z in range(1 if depth else n_z):
            for y, x, height, width, members in boxes:
                place = {"t": t, "z": z, "y": y, "x": x, "height": height, "width": width}
                made.append(Canvas(index=len(made), **place, fields=members, depth=depth))
    return made


def _groups(fields: list[FieldBox]) -> list[list[FieldBox]]:
    """Fields in groups that touch or overlap; each group in the fields' order."""
    group = list(range(len(fields)))
    for i, a in enumerate(fields):
        for j, b in enumerate(fields[:i]):
            if group[i] != group[j] and not _apart(a, b):
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if number == old else number for number in group]
    return [[box for box, number in zip(fields, group, strict=True) if number == n] for n in sorted(set(group))]


def _apart(a: FieldBox, b: FieldBox) -> bool:
    """Whether there is more than `TOUCH_PX` between two fields."""
    down, right = max(a.y - b.y - b.height, b.y - a.y - a.height), max(a.x - b.x - b.width, b.x - a.x - a.width)
    return max(down, right) > TOUCH_PX


def read_layout(paths: PlatePaths, well: str) -> WellLayout:
    """The layout of a well as ingest wrote it into the image's metadata.

    Raises:
        PlateflowError: the well has no image.
    """
    path = paths.image(well) / "zarr.json"
    try:
        attributes = json.loads(path.read_text())["attributes"]
    except FileNotFoundError:
        raise PlateflowError(
            "the well has no image", where=f"{paths.plate}/{well}: {path}", remedy="run `snakemake`; ingest makes it"
        ) from None
    return WellLayout.from_json(attributes["plateflow"]["layout"])


def nearest_field(fields: tuple[FieldBox, ...], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Name of the field that holds each point (px in the image): the first one where fields overlap, the nearest
    one for a centroid that lies in none (of an object round a corner)."""
    distance = [
        np.hypot(
            np.maximum(np.maximum(box.y - y, y - (box.y + box.height - 1)), 0),
            np.maximum(np.maximum(box.x - x, x - (box.x + box.width - 1)), 0),
        )
        for box in fields
    ]
    # Half a pixel, so that a centroid on the line between two fields that touch is in the first one.
    return np.array([box.name for box in fields], object)[np.argmin(np.floor(np.array(distance) + 0.5), axis=0)]
