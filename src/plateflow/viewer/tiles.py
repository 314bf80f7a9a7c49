"""Tiles of a well's image: its channels in the plate's intensity window, laid over one another, with objects outlined.

They are drawn from the level of the pyramid that is asked for, by the same functions as the pictures in a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.images.canvas import canvases
from plateflow.images.layout import FieldBox, Region, WellLayout
from plateflow.images.well import WellImage
from plateflow.report.thumbnails import colour, outlines, shown

TILE_PX = 512
"""Near the chunks of the store."""
OVERLAP_PX = 1
"""Without any, OpenSeadragon stretches each tile by a pixel, so that no line is seen between them."""


class RequestError(ValueError):
    """What was asked for isn't there, or isn't understood."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is drawn, and how.

    Attributes:
        channels: each with its colour, such as #3366ff.
        labels: names of labels in the store, each with the colour of their outlines; the first lie on top.
        light: whether pixels are corrected for illumination.
        t: the time point.
        z: max, mean or `plane N`.
    """

    channels: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    light: bool = True
    t: int = 0
    z: str = "max"

    @classmethod
    def of(cls, query: Mapping[str, str], layout: WellLayout, names: Sequence[str]) -> Look:
        """From the query of an address: `channels=0-3366ff,2-ffffff` (by number), `labels` likewise, `light`, `t`, `z`.

        Args:
            names: of the labels that the well has.

        Raises:
            RequestError: it names something that the well hasn't.
        """
        z = query.get("z", "max")
        plane = z.removeprefix("plane ")
        if z not in ("max", "mean") and not (z.startswith("plane ") and _number(plane, layout.shape[2]) is not None):
            raise RequestError(f"there is no plane {z!r}")
        if (t := _number(query.get("t", "0"), layout.shape[0])) is None:
            raise RequestError(f"there is no time point {query['t']!r}")
        channels = _coloured(query.get("channels", ""), layout.channels)
        labels = _coloured(query.get("labels", ""), names)
        return cls(channels=channels, labels=labels, light=query.get("light", "1") != "0", t=t, z=z)


def _number(text: str, limit: int) -> int | None:
    """A whole number from 0 that is below a limit."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else limit
    return number if number < limit else None


def _coloured(text: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}  # each once: what is drawn a thousand times takes a thousand times the memory
    for part in filter(None, text.split(",")):
        number, _, code = part.partition("-")
        index = _number(number, len(names))
        if index is None or len(code) != 6 or set(code) - set("0123456789abcdefABCDEF"):
            raise RequestError(f"{part!r} is no number of a channel or of labels with a colour, such as 0-3366ff")
        found[names[index]] = f"#{code}"
    return tuple(found.items())


def n_levels(image: WellImage) -> int:
    """How many levels an image can be drawn from, each half as large; of one in place, down to the store's preview."""
    preview = image.layout.preview
    return image.levels if preview is None or image.layout.scattered else preview + 1


def parts(layout: WellLayout) -> list[Region]:
    """The regions of an image that are shown: all of it, or where its fields are scattered each group that touches."""
    if layout.scattered:
        return [canvas.slices for canvas in canvases(layout, (), "max") if canvas.t == 0]
    return [(slice(0, layout.shape[-2]), slice(0, layout.shape[-1]))]


def region_of(image: WellImage, level: int, part: int = 0) -> Region:
    """A part of the image, in px of a level.

    Raises:
        RequestError: there is no such level or part.
    """
    regions = parts(image.layout)
    if not (0 <= level < n_levels(image) and 0 <= part < len(regions)):
        raise RequestError(f"there is no level {level} of part {part}")
    ys, xs = (
        slice(side.start >> level, (side.start >> level) - (-(side.stop - side.start) // 2**level))
        for side in regions[part]
    )
    return ys, xs


def tile_region(image: WellImage, level: int, x: int, y: int, part: int = 0) -> Region:
    """The region of a tile, in px of its level: `TILE_PX` high and wide, and `OVERLAP_PX` more towards its neighbours.

    Raises:
        RequestError: there is no such tile.
    """
    ys, xs = region_of(image, level, part)
    top, left = ys.start + y * TILE_PX, xs.start + x * TILE_PX
    if x < 0 or y < 0 or top >= ys.stop or left >= xs.stop:
        raise RequestError(f"there is no tile {x}, {y} at level {level}")
    return (
        slice(max(top - OVERLAP_PX, ys.start), min(top + TILE_PX + OVERLAP_PX, ys.stop)),
        slice(max(left - OVERLAP_PX, xs.start), min(left + TILE_PX + OVERLAP_PX, xs.stop)),
    )


def labels_in(image: WellImage, name: str, look: Look, level: int, region: Region) -> NDArray[np.uint32] | None:
    """The labels (y, x) in a region of a level, smaller at the image's border; None where each plane has its own
    labels, and planes are projected.
    """
    beyond = max(level - (image.levels - 1), 0)  # of images in place
    array = image.array(f"labels/{name}/{level - beyond}")
    plane = 0
    if array.shape[1] > 1:
        if not look.z.startswith("plane "):
            return None
        plane = int(look.z.removeprefix("plane "))
    ys, xs = (slice(side.start << beyond, side.stop << beyond, 1 << beyond) for side in region)
    # zarr's arrays take no steps
    found: NDArray[np.uint32] = array[look.t, plane, ys.start : ys.stop, xs.start : xs.stop]
    return found[:: ys.step, :: xs.step]


def draw(image: WellImage, fields: Sequence[FieldBox], look: Look, level: int, region: Region) -> NDArray[np.uint8]:
    """A region of a level as a picture (y, x, red green blue).

    Grey is where no field in use lies. A pixel is part of an outline where its label differs from that below it or to
    its right, whichever tile these are in.
    """
    sides = [side.stop - side.start for side in region]
    channels = [(name, code) for name, code in look.channels if _taken(image.layout, name, look)]
    names = [name for name, _ in channels]
    pixels = image.region(level, region, fields, names or image.layout.channels[:1], look.z, look.t, light=look.light)
    if not names:  # where fields lie, and nothing else
        pixels = np.where(np.isnan(pixels), pixels, 0)
    limits = [image.window.limits(name) for name in names] or [(0.0, 1.0)]
    tints = [tuple(colour(code).tolist()) for _, code in channels] or [(0.0, 0.0, 0.0)]
    picture = np.clip(shown(pixels, limits, tints), 0, 1)
    ys, xs = region
    further = slice(ys.start, ys.stop + 1), slice(xs.start, xs.stop + 1)
    for name, code in reversed(look.labels):
        labels = labels_in(image, name, look, level, further)
        if labels is not None:
            picture[outlines(labels)[: sides[0], : sides[1]]] = colour(code)
    return (picture * 255).astype(np.uint8, order="C")  # as encoders take it


def _taken(layout: WellLayout, channel: str, look: Look) -> bool:
    """Whether a channel has what is looked at: `plane N` is also that of a channel with a single one."""
    stack = layout.stack(channel, look.t)
    return bool(stack) and (not look.z.startswith("plane ") or len(stack) == 1 or int(look.z[6:]) in stack)


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """A picture as WebP without loss: what is on the screen is what was drawn.

    A tile takes 36 ms and 0.5 MB so, with losses (quality 90) 18 ms and 0.35 MB, as PNG 42 ms and 0.5 MB.
    """
    import imagecodecs

    data: Any = imagecodecs.webp_encode(picture, lossless=True, level=0, method=0)
    return bytes(data)
