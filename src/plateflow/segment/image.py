"""Labels of a single image, from Python: the same network, grid and flow following as for plates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow import arguments
from plateflow.errors import ArgumentError, ChannelError
from plateflow.model.registry import IN_CHANNELS, check_channels, model_spec
from plateflow.segment.grid import grid_of
from plateflow.segment.tiles import network_shape, tile_layout

if TYPE_CHECKING:
    from plateflow.segment.engine import FlowEngine

log = logging.getLogger(__name__)
PERCENTILES = (1.0, 99.0)
SHINES = 0.45
"""Part of the greatest value that all but 1 % of the pixels exceed in some colour where light shines through; of 69
pictures of stained tissue the least is 0.53."""


def segment_image(
    image: NDArray[Any],
    *,
    model: str | Path = "default",
    channels: Sequence[int] | None = None,
    diameter: float | None = None,
    device: str = "auto",
) -> NDArray[np.uint32]:
    """Segment the objects of an image.

    Each channel is scaled by its own 1st and 99th percentile. What is expected, by kind of image:

    - Fluorescence: objects brighter than what is around them, the channel that shows them first, then one that helps
      (for whole cells DNA). A channel without contrast is skipped (blue nuclei are in the third channel of a colour
      image), unless `channels` names it: then it keeps its place, as 0. More channels than the model takes are refused.
    - Grey images of transmitted light (phase contrast, bright field): one channel, of either polarity.
    - Stained tissue: three channels on a bright background, all of them, are taken for its red, green and blue, in any
      order and layout (the log says so); models that don't read colours refuse them.

    An image YXS of 3 equal samples is one channel, unless `channels` selects among them; a fourth sample is
    transparency and is ignored. An image in which no channel has contrast gives no objects.

    Args:
        image: YX, CYX, or YXS where S is 3 or 4 and last; any number type. A stack or a time series isn't CYX.
        model: `default`, the name of a registered model, or the path of a weights file.
        channels: which channels, counted from 0, the one that shows the objects first; by default all, in order.
        diameter: typical diameter of the objects in px; by default the image isn't resized.
        device: auto, cpu or cuda.

    Returns:
        Labels YX: 0 outside of objects, 1..n in raster order of their seeds.

    Raises:
        ChannelError: a channel doesn't exist, or there are more than the model takes.
        ModelError: the model can't be used.
        ArgumentError: the shape isn't one of these, there is a mask or no pixel, values are NaN or infinite, no channel
            is chosen, the background is bright, or the diameter isn't above 0.
        PlateflowError: there is no such device.
    """
    diameter = None if diameter is None else arguments.finite("diameter", diameter, least=0, above=True)
    spec = model_spec(model)
    pixels = network_input(image, model, channels)
    grid = grid_of(spec, diameter, where="diameter")
    if not pixels.any():
        return np.zeros(pixels.shape[1:], np.uint32)

    from plateflow.flows import labels_from_flows

    engine = loaded_engine(str(model), spec.sha256, device)
    flow = flow_field(pixels, engine, grid.scale)
    return labels_from_flows(flow[:2], flow[2], n_steps=grid.n_steps, device=engine.device.type)


def network_input(image: NDArray[Any], model: str | Path, channels: Sequence[int] | None = None) -> NDArray[np.float32]:
    """What the network takes of an image, CYX, as `segment_image` arranges it; arguments and errors are its own."""
    image = np.asarray(arguments.pixels("image", image))
    samples, colour = _as_cyx(image, merge=channels is None), _is_yxs(image)
    stained = len(samples) == IN_CHANNELS and bright_background(samples)
    if stained:
        refuse_colours(model)
    numbers = _numbers(samples, channels)
    whole = stained and sorted(numbers) == list(range(IN_CHANNELS))
    if whole:
        log.info("the image is taken for red, green and blue of stained tissue: its background is bright")
    elif colour and channels is None:
        numbers = [number for number in numbers if np.ptp(samples[number]) != 0] or numbers[:1]
    names = [("red", "green", "blue")[number] if colour and len(samples) == 3 else number for number in numbers]
    remedy = "choose them with channels=[...] (or --channels), the one that shows the objects first"
    if not whole:
        check_channels(model, names, where=f"the image, which has {len(samples)}", remedy=remedy)
    pixels = scale_intensities(samples[numbers])
    if channels is None:
        pixels = pixels[pixels.any(axis=(1, 2))]
    return pixels


def flow_field(pixels: NDArray[np.float32], engine: FlowEngine, scale: float = 1.0) -> NDArray[np.float16]:
    """The flow field (3, Y, X) of what `network_input` returns; `scale` as of `Grid`."""
    from plateflow.segment.engine import CanvasJob, FlowEngine

    flows: list[NDArray[np.float16]] = []
    tiles = len(tile_layout(network_shape((pixels.shape[1], pixels.shape[2]), scale)))
    size = fitting_batch(tiles, largest=2 * engine.batch_size)
    fitted = FlowEngine(engine.network, device=engine.device, dtype=engine.dtype, batch_size=size)
    for _ in fitted.run([CanvasJob(read=lambda: pixels, write=flows.append, scale=scale, key="the image")]):
        pass
    return flows[0]


def refuse_colours(model: str | Path, where: str = "") -> None:
    """Refuse to show stained tissue in colours to a model that wasn't trained on any.

    Raises:
        ArgumentError: the model is one.
    """
    spec = model_spec(model)
    if not spec.colours:
        raise ArgumentError(
            "a colour image with a bright background (stained tissue, bright field) can't be segmented",
            where=where,
            why=f"the model {spec.name!r} reads fluorescence: objects brighter than what is around them",
            remedy="take the model `default`; of a fluorescence image, give the channel that shows the objects as a "
            "grey image",
        )


def fitting_batch(tiles: int, *, largest: int) -> int:
    """The largest batch size up to `largest` that runs `tiles` tiles with the least padding."""
    return min(range(1, largest + 1), key=lambda size: (-(-tiles // size) * size, -size))


@lru_cache(maxsize=1)
def loaded_engine(model: str, sha256: str, device: str) -> FlowEngine:
    """The engine of the last model used; the hash is an argument so that a changed file is loaded again."""
    from plateflow.segment.engine import FlowEngine

    return FlowEngine.load(model, device=device)


def _is_yxs(image: NDArray[Any]) -> bool:
    shape = np.shape(image)
    return len(shape) == 3 and shape[-1] in (3, 4) and shape[0] > 4


def _as_cyx(image: NDArray[Any], *, merge: bool) -> NDArray[Any]:
    """The channels of an image; `merge`: equal samples of a colour image are one channel."""
    channels_last = image.ndim == 3 and image.shape[-1] <= 2 < image.shape[0]
    if image.ndim not in (2, 3) or image.dtype.kind not in "biuf" or channels_last:
        raise ArgumentError(
            f"an image of shape {image.shape} and type {image.dtype} can't be segmented",
            why="it must be YX, CYX, or YXS with 3 or 4 samples last, and hold numbers",
            remedy="select one plane, or project the stack, move channels to the front, and remove axes of length 1",
        )
    if image.ndim == 2:
        return image[None]
    if not _is_yxs(image):
        return image
    samples = np.moveaxis(image[..., :3], -1, 0)
    grey = merge and (samples == samples[:1]).all()
    return samples[:1] if grey else samples


def _numbers(image: NDArray[Any], channels: Sequence[int] | None) -> list[int]:
    """The numbers of the channels of a CYX image that were asked for."""
    numbers = range(len(image))
    if channels is None:
        return list(numbers)
    if isinstance(channels, str) or not np.iterable(channels) or not list(channels):
        raise ArgumentError(f"channels must be a list of one number or more; got {channels!r}")
    absent = [channel for channel in channels if channel not in numbers]
    if absent:
        raise ChannelError.missing(absent, numbers, where="channels", remedy="channels are counted from 0")
    return [int(channel) for channel in channels]


def bright_background(samples: NDArray[Any]) -> bool:
    """Whether light shines through what a colour image, CYX, shows, as through stained tissue: in any order of colours.

    The usual pixel is then nearer to its brightest than to its darkest, in every colour. In tissue that is dark all
    over it isn't, but no place is dark in all colours. Of densely stained cells in one or two colours neither is true:
    the others stay dark, and so does what is between them.
    """
    if (samples == samples[:1]).all():
        return False
    if samples.dtype.kind == "u" and np.percentile(samples.max(axis=0), 1) > SHINES * np.iinfo(samples.dtype).max:
        return True
    usual = np.median(samples, axis=(1, 2))
    if usual.min() <= usual.max() / 2:
        return False
    ranges = [np.percentile(each, (1, 50, 99)) for each in (samples.mean(axis=0), samples.min(axis=0) * 1.0)]
    return all(middle - low > (high - low) / 2 for low, middle, high in ranges)


def scale_intensities(image: NDArray[Any], limits: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """Scale the channels of an image as the network expects them, in training as in inference, without clipping.

    Args:
        image: CYX, any number type.
        limits: (C, 2), the values that become 0 and 1; by default `intensity_limits` of each channel.

    Returns:
        float32 CYX; a channel without contrast is 0.

    Raises:
        ArgumentError: values are NaN or infinite.
    """
    if not np.isfinite(image).all():
        n_bad = int((~np.isfinite(image)).sum())
        raise ArgumentError(
            f"the image has {n_bad} values that are NaN or infinite", remedy="fix them, or choose another channel"
        )
    scaled = np.zeros(image.shape, np.float32)
    for number, (channel, out) in enumerate(zip(image, scaled, strict=True)):
        low, high = intensity_limits(channel) if limits is None else limits[number]
        if high > low:
            out[...] = (channel.astype(np.float64) - low) / (high - low)  # float32 loses little contrast on an offset
    return scaled


def intensity_limits(channel: NDArray[Any], percentiles: tuple[float, float] = PERCENTILES) -> tuple[float, float]:
    """Percentiles of a channel; where they are equal (a few bright objects), its least and greatest value."""
    values = channel.astype(np.float64)
    low, high = np.percentile(values, percentiles)
    return (float(low), float(high)) if high > low else (float(values.min()), float(values.max()))
