"""Labels of a single image, from Python: the same network, grid and flow following as a plate's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.model.registry import model_info
from plateflow.segment.grid import grid_of
from plateflow.segment.tiles import network_shape, plan_tiles

if TYPE_CHECKING:
    from plateflow.segment.engine import FlowEngine

IN_CHANNELS = 3
PERCENTILES = (1.0, 99.0)


def segment_image(
    image: NDArray[Any],
    *,
    model: str | Path = "default",
    channels: Sequence[int] | None = None,
    diameter: float | None = None,
    device: str = "auto",
) -> NDArray[np.uint32]:
    """Segment the objects of an image.

    Each channel is normalised by its own 1st and 99th percentile. A picture YXS of 3 equal samples is taken as one
    channel, unless `channels` chooses among them; a fourth sample is transparency and left out. A channel without
    contrast is passed over (a picture whose nuclei are blue has them in its third), unless `channels` names it: then it
    keeps its place, as 0. An image that has no other gives no objects.

    Args:
        image: YX, CYX, or YXS where S is 3 or 4 and last; any number type.
        model: `default`, the name of a registered model, or the path of a weights file.
        channels: which channels, counted from 0, the one in which the objects are seen first; all, in order, where not
            given.
        diameter: typical diameter of the objects in px; where not given the image isn't resized.
        device: auto, cpu or cuda.

    Returns:
        labels YX: 0 outside of objects, 1..n in raster order of their seeds.

    Raises:
        PlateflowError: the shape isn't one of these, values are NaN or infinite, a channel isn't there, there are more
            than three channels, or model or device can't be used.
    """
    pixels = normalised(_pick(_as_cyx(np.asarray(image), merge=channels is None), channels))
    if channels is None:
        pixels = pixels[pixels.any(axis=(1, 2))]
    info = model_info(str(model))
    grid = grid_of(info, diameter, where="diameter")
    if not pixels.any():
        return np.zeros(np.asarray(image).shape[:2] if _is_yxs(image) else np.shape(image)[-2:], np.uint32)

    from plateflow.flows import labels_from_flows
    from plateflow.segment.engine import FlowEngine, Request

    flows: list[NDArray[np.float16]] = []
    loaded = _engine(str(model), info.sha256, device)
    tiles = len(plan_tiles(network_shape((pixels.shape[1], pixels.shape[2]), grid.scale)))
    size = fitting_batch(tiles, largest=2 * loaded.batch_size)
    engine = FlowEngine(loaded.network, device=loaded.device, dtype=loaded.dtype, batch_size=size)
    request = Request(read=lambda: pixels, write=flows.append, scale=grid.scale, key="the image")
    for _ in engine.run([request]):
        pass
    return labels_from_flows(flows[0][:2], flows[0][2], n_steps=grid.n_steps)


def fitting_batch(tiles: int, *, largest: int) -> int:
    """The greatest batch up to `largest` that runs an image of `tiles` tiles with the fewest empty places."""
    return min(range(1, largest + 1), key=lambda size: (-(-tiles // size) * size, -size))


@lru_cache(maxsize=1)
def _engine(model: str, sha256: str, device: str) -> FlowEngine:
    """The engine of the last model used; the hash is there so that a changed file is loaded anew."""
    from plateflow.segment.engine import FlowEngine

    return FlowEngine.load(model, device=device)


def _is_yxs(image: NDArray[Any]) -> bool:
    shape = np.shape(image)
    return len(shape) == 3 and shape[-1] in (3, 4) and shape[0] > 4


def _as_cyx(image: NDArray[Any], *, merge: bool) -> NDArray[Any]:
    """The channels of an image; `merge`: equal samples of a picture are one."""
    if image.ndim not in (2, 3) or 0 in image.shape or image.dtype.kind not in "biuf":
        raise PlateflowError(
            f"an image of shape {image.shape} and type {image.dtype} can't be segmented",
            why="it must be YX, CYX, or YXS with 3 or 4 samples last, of numbers",
            remedy="choose one plane, or project the stack, and leave out axes of length 1",
        )
    if image.ndim == 2:
        return image[None]
    if not _is_yxs(image):
        return image
    samples = np.moveaxis(image[..., :3], -1, 0)
    grey = merge and (samples == samples[:1]).all()
    return samples[:1] if grey else samples


def _pick(image: NDArray[Any], channels: Sequence[int] | None) -> NDArray[Any]:
    known = f"the image has {len(image)}: {', '.join(map(str, range(len(image))))}"
    if channels is not None:
        wrong = [channel for channel in channels if not 0 <= channel < len(image)]
        if wrong:
            raise PlateflowError(
                f"there is no channel {', '.join(map(str, wrong))}", why=known, remedy="channels count from 0"
            )
        image = image[list(channels)]
    if not 1 <= len(image) <= IN_CHANNELS:
        raise PlateflowError(
            f"{len(image)} channels are {'none' if not len(image) else 'too many'}: the network takes 1 to 3",
            why=known,
            remedy="choose them with channels=[...], the one in which the objects are seen first",
        )
    return image


def normalised(image: NDArray[Any]) -> NDArray[np.float32]:
    """A CYX image, each channel's 1st and 99th percentile at 0 and 1, not clipped.

    Where those two are equal (a few bright objects on nothing), the least and the greatest value are taken; a channel
    without contrast is 0 throughout, in its place.

    Raises:
        PlateflowError: values are NaN or infinite.
    """
    if not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise PlateflowError(
            f"the image has {bad} values that are NaN or infinite", remedy="mend them, or choose another channel"
        )
    made = np.zeros(image.shape, np.float32)
    for channel, out in zip(image, made, strict=True):
        values = channel.astype(np.float64)  # in float32, little contrast on a large offset would be lost
        low, high = np.percentile(values, PERCENTILES)
        if not high > low:
            low, high = values.min(), values.max()
        if high > low:
            out[...] = (values - low) / (high - low)
    return made
