"""One small picture a well: the middle of its first field, with the outlines of what was found."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Config
from plateflow.features.stage import read_labels
from plateflow.images.layout import Canvas, well_canvases
from plateflow.images.read import Window, normalise, read_canvas
from plateflow.images.store import open_image
from plateflow.paths import PlatePaths

OUTLINES = ("#ffb000", "#4cc9f0", "#f15bb5")
"""Of the rows' label set, then of the others."""
_TINTS = np.array([(1.0, 1.0, 1.0), (0.25, 0.45, 1.0), (0.9, 0.2, 0.5)], np.float32)
GAMMA = 0.7
ACROSS = 12
"""Objects of the rows' label set that fit side by side."""


def edge_px(n_wells: int) -> int:
    """Edge of a thumbnail: smaller on larger plates, so that a page of 1536 wells can still be sent by mail."""
    return 240 if n_wells <= 120 else 160 if n_wells <= 400 else 96


def thumbnail(
    paths: PlatePaths, config: Config, well: str, window: Window, *, edge: int, diameter_px: float
) -> tuple[str, float]:
    """A well's picture as a data URL, and how many image pixels make one of its pixels.

    The channels in which objects are seen are laid over one another, the rows' in white, the next in blue, each from
    the low to the high end of the plate's intensity window, so that wells can be compared by eye.

    Args:
        edge: of the picture, px.
        diameter_px: typical diameter of the rows' objects in the image; NaN where there are none.
    """
    from skimage.segmentation import find_boundaries
    from skimage.transform import resize

    field = _first_field(well_canvases(paths, well, config)[0])
    canvas = _middle(field, edge, diameter_px)
    names = [config.rows, *(name for name in config.segmentation if name != config.rows)]
    channels = list(dict.fromkeys(config.segmentation[name].channels[0] for name in names))[: len(_TINTS)]
    planes = read_canvas(paths, well, field, channels, z_mode=config.z)
    planes = normalise(planes, window, channels=channels, well=well, canvas=field)
    planes = planes[:, canvas.y - field.y :, canvas.x - field.x :][:, : canvas.height, : canvas.width]
    size = (canvas.height, canvas.width)
    scale = max(max(size) / edge, 1.0)
    shape = (max(round(size[0] / scale), 1), max(round(size[1] / scale), 1))
    small = resize(planes, (len(channels), *shape), order=1, anti_aliasing=scale > 1)
    tints = _TINTS[: len(channels)] if len(channels) > 1 else _TINTS[:1]
    picture = np.tensordot(np.clip(small, 0, 1) ** GAMMA, tints, axes=(0, 0))
    picture = np.clip(picture, 0, 1)
    image = open_image(paths, well)
    at = np.ix_(
        *(np.minimum((np.arange(n) + 0.5) * scale, m - 1).astype(int) for n, m in zip(shape, size, strict=True))
    )
    for name, colour in reversed(list(zip(names, _colours(names), strict=True))):
        labels = read_labels(image, name, canvas)[at]
        picture[find_boundaries(labels, mode="inner")] = colour
    return _data_url((picture * 255).astype(np.uint8)), scale


def _first_field(canvas: Canvas) -> Canvas:
    box = canvas.fields[0]
    return replace(canvas, y=box.y, x=box.x, height=box.height, width=box.width, fields=(box,))


def _middle(field: Canvas, edge: int, diameter_px: float) -> Canvas:
    wanted = edge if np.isnan(diameter_px) else max(edge // 2, round(ACROSS * diameter_px))
    height, width = min(wanted, field.height), min(wanted, field.width)
    y, x = field.y + (field.height - height) // 2, field.x + (field.width - width) // 2
    return replace(field, y=y, x=x, height=height, width=width)


def _colours(names: Sequence[str]) -> list[NDArray[np.float32]]:
    return [
        np.array([int(OUTLINES[i % len(OUTLINES)][k : k + 2], 16) / 255 for k in (1, 3, 5)], np.float32)
        for i in range(len(names))
    ]


def _data_url(picture: NDArray[np.uint8]) -> str:
    import imagecodecs

    data: Any = imagecodecs.jpeg8_encode(picture, level=80, subsampling="444")
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def profile_url(profile: NDArray[np.float32]) -> str:
    """An illumination profile as a grey picture, its least value black and its greatest white."""
    import imagecodecs

    low, high = float(profile.min()), float(profile.max())
    grey = ((profile - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(imagecodecs.png_encode(grey)).decode()
