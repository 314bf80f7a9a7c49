"""One picture per well: all its fields, from the level of the pyramid that suffices, and its objects' outlines."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Config
from plateflow.images.well import WellImage
from plateflow.project import Plate

OUTLINES = ("#ffb000", "#ffffff", "#f15bb5")
"""Of the label set that makes the rows, then of the others."""
TRUE, SEEN = OUTLINES[0], "#3fd0ff"
"""Of labels that are known, and of what a model found."""
CLEAR_PX = 6
"""Objects at least this wide in the picture get full outlines; those of smaller ones are fainter."""
NUCLEI_TINT = (0.1, 0.3, 1.0)
TINTS = ((0.35, 0.6, 0.4), (0.8, 0.2, 0.5))
"""Of the channels that do not show nuclei."""
GAMMA = 0.7
NO_FIELD = 0.25
"""Grey where no field in use lies, so that a field left out is not taken for an empty one."""
EDGES = (640, 420, 320, 240, 180, 128)
"""Px: height or width of a picture, whichever is larger; the greatest that its share of the page allows."""
PICTURES, LEAST_SHARE = 8_000_000, 15_000
"""Characters of the page: what the pictures of all wells may take, and what one may in any case (1536: 23 million)."""
PX_PER_CHARACTER = 9
"""A picture with cells, and its outlines, takes at least a character for as many px: larger ones needn't be tried."""
THREADS = 4
"""Wells whose pictures are made at a time: reading, shrinking and encoding let other threads go on."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A well's picture as a page holds it.

    Attributes:
        url: the pixels, without outlines.
        overlays: by label set, its outlines on a transparent ground.
        size: width and height of all of them in px.
    """

    url: str
    overlays: dict[str, str]
    size: tuple[int, int]

    @property
    def characters(self) -> int:
        """What it takes of a page."""
        return len(self.url) + sum(map(len, self.overlays.values()))


def pictures(plate: Plate, wells: Sequence[str]) -> dict[str, Picture]:
    """Of each well its picture, as large as its share of the page allows."""
    share = max(PICTURES // max(len(wells), 1), LEAST_SHARE)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(wells, pool.map(lambda well: picture(plate, well, at_most=share), wells), strict=True))


def picture(plate: Plate, well: str, *, at_most: int) -> Picture:
    """A well's picture: all fields in use at their places, the rest grey, and the outlines of each label set.

    The channels in which objects are segmented are laid over one another, that of nuclei in blue, each from the low to
    the high limit of the plate's intensity window, so that wells can be compared by eye. A series is shown at its first
    time point with rows, and in its middle plane where each z plane has its own labels.

    Args:
        plate: the well's.
        well: its name.
        at_most: characters of the page that it may take (the smallest of EDGES takes what it needs); a smaller image
            is not enlarged.
    """
    config, image = plate.config, WellImage.open(plate.paths, well)
    edges = [edge for edge in EDGES if edge**2 <= at_most * PX_PER_CHARACTER] or EDGES[-1:]
    level = image.preview_level(edges[0])
    first, *canvases = plate.canvases(well, config.row_label_set)
    fields = [
        box for canvas in (first, *canvases) if (canvas.t, canvas.z) == (first.t, first.z) for box in canvas.fields
    ]
    tints = {name: tint for name, tint in channel_tints(config).items() if image.layout.stack(name, first.t)}
    planes = image.preview(level, fields, list(tints), config.z, first.t)
    pixels = shown(planes, [image.window.limits(channel) for channel in tints], list(tints.values()))
    labels = {
        name: image.preview_labels(level, plate.labels_name(well, name), first.t)
        for name in label_sets(config)
        if image.layout.shows(config.segmentation[name].channels, first.t)
    }
    pixels = shrunk(pixels, edges[0])
    best, *larger = reversed(edges)  # the small ones cost least
    made = _encoded(pixels, labels, best)
    for edge in larger:
        if made.characters * edge / best > at_most:  # what a picture takes grows faster than its edge
            break
        tried = _encoded(pixels, labels, edge)
        if tried.characters > at_most:
            break
        made, best = tried, edge
    return made


def _encoded(pixels: NDArray[np.float32], labels: Mapping[str, NDArray[np.uint32]], edge: int) -> Picture:
    """A picture YXS, 0 to 1, and the outlines of labels YX, at most `edge` px high and wide."""
    smaller, overlays = shrunk(pixels, edge), {}
    for (name, whole), code in zip(labels.items(), cycle(OUTLINES)):
        sides = zip(smaller.shape[:2], whole.shape, strict=True)  # the pixels may have been shrunk before
        small = whole[np.ix_(*(((np.arange(few) + 0.5) * many / few).astype(int) for few, many in sides))]
        overlay = np.empty((*small.shape, 4), np.uint8)
        overlay[..., :3] = colour(code) * 255  # where it is clear, too, which takes fewer bytes
        overlay[..., 3] = outlines(small) * round(255 * _opacity(small))
        overlays[name] = data_url(overlay, lossless=True)
    height, width = smaller.shape[:2]
    return Picture(url=data_url((smaller * 255).astype(np.uint8)), overlays=overlays, size=(width, height))


def label_sets(config: Config) -> list[str]:
    """The label sets, that of the rows first: each has the colour of OUTLINES in its place."""
    return list(dict.fromkeys((config.row_label_set, *config.segmentation)))


def shown(
    pixels: NDArray[np.float32], limits: Sequence[tuple[float, float]], tints: Sequence[tuple[float, float, float]]
) -> NDArray[np.float32]:
    """Channels laid over one another: (y, x, red green blue), from 0; above 1 where channels add up.

    Args:
        pixels: (channel, y, x), NaN where no field lies, or the one there lacks the channel.
        limits: of each channel the values that are shown black and at full brightness.
        tints: its colour.
    """
    picture = np.zeros((3, *pixels.shape[1:]), np.float32)
    for plane, (low, high), tint in zip(pixels, limits, tints, strict=True):
        seen = np.clip((plane - low) / (high - low), 0, 1) ** GAMMA
        seen[np.isnan(seen)] = 0
        for number, part in enumerate(tint):  # a plane by itself: in rows of three numbers it takes twice the time
            picture[number] += seen * np.float32(part)
    picture[:, np.isnan(pixels).all(axis=0)] = NO_FIELD
    return np.moveaxis(picture, 0, -1)


def shrunk(picture: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """A picture YXS, 0 to 1, at most `edge` px high and wide; a smaller one stays as large as it is."""
    shrink = max(max(picture.shape[:2]) / edge, 1.0)
    if shrink > 1:
        down, across = (_means(side, max(round(side / shrink), 1)) for side in picture.shape[:2])
        planes = [(across @ np.ascontiguousarray((down @ plane).T)).T for plane in np.moveaxis(picture, -1, 0)]
        picture = np.stack(planes, axis=-1)
    return np.ascontiguousarray(picture.clip(0, 1))


@lru_cache(maxsize=32)
def _means(side: int, smaller: int) -> Any:
    """The matrix (smaller, side) of means over equal parts of a side, pixels at their ends by what lies in each."""
    from scipy.sparse import csr_array

    ends = np.arange(smaller + 1) * (side / smaller)
    place = np.arange(side)
    share = np.minimum(ends[1:, None], place + 1) - np.maximum(ends[:-1, None], place)
    return csr_array((share.clip(0) * (smaller / side)).astype(np.float32))


def channel_tints(config: Config) -> dict[str, tuple[float, float, float]]:
    """The channels to show, the first of each label set, with their colours (red, green, blue from 0 to 1)."""
    nuclear = {item.channels[0] for name, item in config.segmentation.items() if name.lower().startswith("nuc")}
    channels = dict.fromkeys(item.channels[0] for item in config.segmentation.values())
    if len(channels) == 1:
        return dict.fromkeys(channels, (1.0, 1.0, 1.0))
    others = iter(TINTS)
    tints = {channel: NUCLEI_TINT if channel in nuclear else next(others, None) for channel in channels}
    return {channel: tint for channel, tint in tints.items() if tint is not None}


def hex_colour(tint: tuple[float, float, float]) -> str:
    """A colour as style sheets write it."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in tint)


def outlines(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Where a label differs from the one below or to the right: lines of one pixel, between touching objects too."""
    lines = np.zeros(labels.shape, bool)
    lines[:-1] = labels[:-1] != labels[1:]
    lines[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return lines


def _opacity(labels: NDArray[np.uint32]) -> float:
    """Of outlines: lower where objects are small, else there would be nothing but lines."""
    width = np.sqrt(np.count_nonzero(labels) / max(len(np.unique(labels)) - 1, 1))
    return float(min(width / CLEAR_PX, 1) ** 2)


def colour(code: str) -> NDArray[np.float32]:
    """A colour as style sheets write it, as red, green and blue from 0 to 1."""
    return np.array([int(code[k : k + 2], 16) / 255 for k in (1, 3, 5)], np.float32)


def data_url(picture: NDArray[np.uint8], *, lossless: bool = False) -> str:
    """A picture YXS, RGB or RGBA, as a page holds it."""
    import imagecodecs

    level, method = (None, 4) if lossless else (50, 4)
    data: Any = imagecodecs.webp_encode(picture, level=level, lossless=lossless, method=method)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def profile_url(profile: NDArray[np.float32]) -> str:
    """An illumination profile as a grey picture, its least value black and its greatest white."""
    import imagecodecs

    low, high = float(profile.min()), float(profile.max())
    grey = ((profile - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(imagecodecs.png_encode(grey)).decode()
