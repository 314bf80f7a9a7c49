"""Canvases: the fields of a well that touch, which are segmented as one.

Stages jitter, and positions are rounded to whole pixels: where fields touch there may be a gap of a px or two. Cells
across it would be cut in two, so it is filled on read with the edge of a field beside it (`Canvas.regions`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.images.layout import FieldBox, Region, WellLayout
from plateflow.touching import gaps_between, groups_of_touching, touching


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """Fields that touch or overlap: what is segmented as one.

    Attributes:
        index: its number in the well, over t, z and the place in the image.
        z: the z plane of the labels, the first of a volume: 0 unless every plane is kept.
        depth: planes of a volume; None for a canvas of one plane, which has no z axis.
        y, x, height, width: its box in the image, in px.
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

    @property
    def place(self) -> tuple[int, ...]:
        """t, z, y, x: the same in all label sets, while its number goes by the time points that one has."""
        return self.t, self.z, self.y, self.x

    def planes(self) -> list[Canvas]:
        """The planes of a volume, each as a canvas of one plane; the canvas itself if it is one."""
        if self.depth is None:
            return [self]
        return [replace(self, z=self.z + k, depth=None) for k in range(self.depth)]

    @property
    def slices(self) -> Region:
        """The canvas in an array (..., y, x) of the image."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def regions(self, *, with_gaps: bool = False) -> list[Region]:
        """The region of each field in an array (..., y, x) of the canvas; with or without the narrow gaps below and to
        the right of it, up to the fields that it touches.
        """
        corners, stops = _corners(self.fields)
        if with_gaps:
            near = touching(gaps_between(corners, stops))[..., None]
            stops = stops + np.where(near, corners[None] - stops[:, None], 0).max(axis=1).clip(0)
        limits = np.stack([corners, stops], axis=-1) - [[self.y], [self.x]]  # (field, axis, start and stop)
        return [(slice(*ys), slice(*xs)) for ys, xs in limits.tolist()]

    def owner(self) -> NDArray[np.int16]:
        """The number of the field to which each pixel of the canvas belongs, -1 outside of fields: (y, x).

        The narrow gaps between fields belong to the field above or to the left; where fields overlap, the first wins.
        """
        owner = np.full((self.height, self.width), -1, np.int16)
        for with_gaps in (True, False):
            for number, region in reversed(list(enumerate(self.regions(with_gaps=with_gaps)))):
                owner[region] = number
        return owner


def _corners(fields: Sequence[FieldBox]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Top left and bottom right corner (exclusive) of each field in its image in px, (n, 2) each."""
    boxes = np.array([(box.y, box.x, box.height, box.width) for box in fields], np.int64).reshape(-1, 4)
    return boxes[:, :2], boxes[:, :2] + boxes[:, 2:]


def canvases(
    layout: WellLayout, left_out: Collection[str], z_mode: str, dimensions: int = 2, channels: Sequence[str] = ()
) -> list[Canvas]:
    """The canvases of a well, numbered in the order of t, z, and the place of their top left corner.

    With 3 `dimensions` one volume of all planes, with 2 a canvas of each; at time points that all `channels` have.
    """
    fields = [box for box in layout.fields if box.name not in left_out]
    corners, stops = _corners(fields)
    groups = groups_of_touching(gaps_between(corners, stops))
    boxes = []
    for group in np.unique(groups):
        members = groups == group
        corner, stop = corners[members].min(axis=0), stops[members].max(axis=0)
        own = tuple(box for box, member in zip(fields, members, strict=True) if member)
        boxes.append((*corner.tolist(), *(stop - corner).tolist(), own))
    boxes.sort(key=lambda box: box[:2])
    made: list[Canvas] = []
    n_t, n_z, _, _ = layout.label_shape(z_mode)
    depth = n_z if dimensions == 3 else None
    for t in (t for t in range(n_t) if layout.shows(channels, t)):
        for z in range(1 if depth else n_z):
            for y, x, height, width, own in boxes:
                place = {"t": t, "z": z, "y": y, "x": x, "height": height, "width": width}
                made.append(Canvas(index=len(made), **place, fields=own, depth=depth))
    return made


def nearest_field(fields: Sequence[FieldBox], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """The name of the field that holds each point, (n,) of y and x in px of the image; the first where fields overlap.

    The centroid of an object that goes round a corner may lie in no field: it gets the nearest.
    """
    distance = [
        np.hypot(
            np.maximum(np.maximum(box.y - y, y - (box.y + box.height - 1)), 0),
            np.maximum(np.maximum(box.x - x, x - (box.x + box.width - 1)), 0),
        )
        for box in fields
    ]
    # Half a pixel, so that a centroid on the line between two fields that touch is in the first one.
    return np.array([box.name for box in fields], object)[np.argmin(np.floor(np.array(distance) + 0.5), axis=0)]
