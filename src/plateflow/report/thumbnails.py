"""One small picture per well: all its fields, from the level of the pyramid that suffices, with objects outlined."""

from __future__ import annotations

import base64
from collections.abc import Sequence
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


def edge_px(n_wells: int) -> int:
    """Edge of a thumbnail: smaller on larger plates, so that a page of 1536 wells can still be mailed."""
    return 320 if n_wells <= 120 else 160 if n_wells <= 400 else 96


def thumbnail(plate: Plate, well: str, *, edge: int) -> str:
    """A well's picture as a data URL: all fields in use at their places, the rest grey, and the objects outlined.

    The channels in which objects are segmented are laid over one another, that of nuclei in blue, each from the low to
    the high limit of the plate's intensity window, so that wells can be compared by eye. A series is shown at its first
    time point with rows, and in its middle plane where each z plane has its own labels.

    Args:
        plate: the well's.
        well: its name.
        edge: height or width of the picture in px, whichever is larger; a smaller image is not enlarged.
    """
    config, image = plate.config, WellImage.open(plate.paths, well)
    level = image.preview_level(edge)
    first, *canvases = plate.canvases(well, config.row_label_set)
    fields = [
        box for canvas in (first, *canvases) if (canvas.t, canvas.z) == (first.t, first.z) for box in canvas.fields
    ]
    tints = {name: tint for name, tint in channel_tints(config).items() if image.layout.stack(name, first.t)}
    pixels = image.preview(level, fields, list(tints), config.z, first.t)
    limits = [image.window.limits(channel) for channel in tints]
    picture = shown(pixels, limits, list(tints.values()))
    picture = shrunk(picture, edge)
    sides = zip(picture.shape[:2], pixels.shape[1:], strict=True)
    nearest = np.ix_(*(((np.arange(small) + 0.5) * large / small).astype(int) for small, large in sides))
    label_sets = list(dict.fromkeys((config.row_label_set, *config.segmentation)))
    for number, label_set in reversed(list(enumerate(label_sets))):
        if not image.layout.shows(config.segmentation[label_set].channels, first.t):
            continue
        labels = image.preview_labels(level, plate.labels_name(well, label_set), first.t)[nearest]
        lines, opacity = outlines(labels), _opacity(labels)
        picture[lines] += opacity * (colour(OUTLINES[number % len(OUTLINES)]) - picture[lines])
    return data_url((picture * 255).astype(np.uint8))


def shown(
    pixels: NDArray[np.float32], limits: Sequence[tuple[float, float]], tints: Sequence[tuple[float, float, float]]
) -> NDArray[np.float32]:
    """Channels laid over one another: (y, x, red green blue), from 0; above 1 where channels add up.

    Args:
        pixels: (channel, y, x), NaN where no field lies, or the one there lacks the channel.
        limits: of each channel the values that are shown black and at full brightness.
        tints: its colour.
    """
    picture = np.zeros((*pixels.shape[1:], 3), np.float32)
    for plane, (low, high), tint in zip(pixels, limits, tints, strict=True):
        seen = np.nan_to_num(np.clip((plane - low) / (high - low), 0, 1))
        picture += seen[..., None] ** GAMMA * np.array(tint, np.float32)
    picture[np.isnan(pixels).all(axis=0)] = NO_FIELD
    return picture


def shrunk(picture: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """A picture YXS, 0 to 1, at most `edge` px high and wide; a smaller one stays as large as it is."""
    from skimage.transform import resize

    shrink = max(max(picture.shape[:2]) / edge, 1.0)
    size = [max(round(side / shrink), 1) for side in picture.shape[:2]]
    smaller = resize(picture, (*size, picture.shape[2]), order=1, anti_aliasing=shrink > 1)
    return np.clip(smaller, 0, 1).astype(np.float32)


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


def data_url(picture: NDArray[np.uint8]) -> str:
    """A picture YXS as a page holds it."""
    import imagecodecs

    data: Any = imagecodecs.webp_encode(picture, level=50, lossless=False, method=6)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def profile_url(profile: NDArray[np.float32]) -> str:
    """An illumination profile as a grey picture, its least value black and its greatest white."""
    import imagecodecs

    low, high = float(profile.min()), float(profile.max())
    grey = ((profile - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(imagecodecs.png_encode(grey)).decode()
