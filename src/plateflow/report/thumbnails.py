"""One small picture a well: all its fields, from the level of the pyramid that suffices, with the objects outlined."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import Config
from plateflow.images.illumination import profile
from plateflow.images.layout import WellLayout, read_layout
from plateflow.images.read import Window
from plateflow.images.store import open_image
from plateflow.project import Plate

OUTLINES = ("#ffb000", "#ffffff", "#f15bb5")
"""Of the rows' label set, then of the others."""
CLEAR_PX = 6
"""Objects at least so wide in the picture get full outlines."""
NUCLEI_TINT = (0.1, 0.3, 1.0)
TINTS = ((0.35, 0.6, 0.4), (0.8, 0.2, 0.5))
"""Of the channels that show other things than nuclei."""
GAMMA = 0.7
NO_FIELD = 0.25
"""Grey of what no field in use covers, so that a field left out isn't taken for an empty one."""


def edge_px(n_wells: int) -> int:
    """Edge of a thumbnail: smaller on larger plates, so that a page of 1536 wells can still be sent by mail."""
    return 320 if n_wells <= 120 else 160 if n_wells <= 400 else 96


def thumbnail(plate: Plate, well: str, window: Window, *, edge: int) -> str:
    """A well's picture as a data URL: all fields in use at their places, the rest grey, and the objects outlined.

    The channels in which objects are seen are laid over one another, that of nuclei in blue, each from the low to the
    high end of the plate's intensity window, so that wells can be compared by eye. Of a series the first time point
    is shown, and where each z plane has its labels the middle one.

    Args:
        edge: height or width of the picture in px, whichever is larger; a smaller image isn't enlarged.
    """
    from skimage.transform import resize

    config, paths = plate.config, plate.paths
    layout, image = read_layout(paths, well), open_image(paths, well)
    levels = int(image.attrs["plateflow"]["levels"])
    if layout.preview is None:
        level = pyramid_level(max(layout.shape[-2:]), levels, edge)
        pyramid = image[str(level)]
    else:
        level = min(layout.preview, levels - 1)
        pyramid = _Enlarged(image["0"], layout.preview - level)
    labels = {name: image[f"labels/{name}/{level}"] for name in (config.rows, *config.segmentation)}
    z = labels[config.rows].shape[1] // 2
    fields = [box for canvas in plate.canvases(well) if canvas.t == canvas.z == 0 for box in canvas.fields]
    tints = channel_tints(config)
    size = labels[config.rows].shape[-2:]
    picture = np.full((*size, 3), NO_FIELD, np.float32)
    for box in reversed(fields):  # where fields overlap the first one is seen
        ys, xs = _at(box.y, box.height, level), _at(box.x, box.width, level)
        picture[ys, xs] = 0
        for channel, tint in tints.items():
            pixels = _project(pyramid, layout, channel, config.z, z, (ys, xs))
            low, high = window.ends(channel)
            pixels = (pixels / profile(window.profiles[channel], *pixels.shape) - low) / (high - low)
            picture[ys, xs] += np.clip(pixels, 0, 1)[..., None] ** GAMMA * np.array(tint, np.float32)
    shrink = max(max(size) / edge, 1.0)
    shape = [max(round(n / shrink), 1) for n in size]
    picture = np.clip(resize(picture, (*shape, 3), order=1, anti_aliasing=shrink > 1), 0, 1)
    at = np.ix_(*(((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in zip(shape, size, strict=True)))
    for number, array in reversed(list(enumerate(labels.values()))):
        here = array[0, z][at]
        lines, opacity = _outlines(here), _opacity(here)
        picture[lines] += opacity * (_colour(OUTLINES[number % len(OUTLINES)]) - picture[lines])
    return _data_url((picture * 255).astype(np.uint8))


def pyramid_level(size: int, levels: int, edge: int) -> int:
    """The smallest level of an image of `size` px (the larger of height and width) that has `edge` px; else 0."""
    return max((level for level in range(levels) if size >> level >= edge), default=0)


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


def _at(start: int, size: int, level: int) -> slice:
    return slice(start >> level, max((start + size) >> level, (start >> level) + 1))


def _project(
    array: Any, layout: WellLayout, channel: str, z_mode: str, z: int, place: tuple[slice, slice]
) -> NDArray[np.float32]:
    """A channel's pixels YX with its z planes made one; of the first time point."""
    number = layout.channels.index(channel)
    planes = list(layout.z_planes[number])
    if z_mode not in ("max", "mean"):
        wanted = z if z_mode == "keep" else int(z_mode.split()[1])
        planes = [min(planes, key=lambda plane: (abs(plane - wanted), plane))]
    stack = np.stack([array[(0, number, plane, *place)] for plane in planes])
    projected: NDArray[np.float32] = (stack.mean(axis=0) if z_mode == "mean" else stack.max(axis=0)).astype(np.float32)
    return projected


class _Enlarged:
    """A preview, with each pixel 2^steps px high and wide: labels may not go so far down."""

    def __init__(self, array: Any, steps: int) -> None:
        self.array, self.steps = array, steps

    def __getitem__(self, at: tuple[int, int, int, slice, slice]) -> NDArray[Any]:
        *place, ys, xs = at
        rows, columns = (np.arange(s.start, s.stop) >> self.steps for s in (ys, xs))
        plane = self.array[tuple(place)]
        last = np.array(plane.shape) - 1
        return plane[np.ix_(np.minimum(rows, last[0]), np.minimum(columns, last[1]))]


def _outlines(labels: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Where a label differs from the one below or to the right: lines of one pixel, between touching objects too."""
    lines = np.zeros(labels.shape, bool)
    lines[:-1] = labels[:-1] != labels[1:]
    lines[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return lines


def _opacity(labels: NDArray[np.uint32]) -> float:
    """Of outlines: less where objects are small, else there would be nothing but lines."""
    width = np.sqrt(np.count_nonzero(labels) / max(len(np.unique(labels)) - 1, 1))
    return float(min(width / CLEAR_PX, 1) ** 2)


def _colour(code: str) -> NDArray[np.float32]:
    return np.array([int(code[k : k + 2], 16) / 255 for k in (1, 3, 5)], np.float32)


def _data_url(picture: NDArray[np.uint8]) -> str:
    import imagecodecs

    data: Any = imagecodecs.webp_encode(picture, level=50, lossless=False, method=6)
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def profile_url(profile: NDArray[np.float32]) -> str:
    """An illumination profile as a grey picture, its least value black and its greatest white."""
    import imagecodecs

    low, high = float(profile.min()), float(profile.max())
    grey = ((profile - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(imagecodecs.png_encode(grey)).decode()
