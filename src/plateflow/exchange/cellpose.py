"""Cellpose's window: a TIFF, and beside it a file `_seg.npy` with what the window keeps of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.exchange.frame import Frame

HOW = (
    "open: `python -m cellpose`, drag NAME.tif onto the window; its masks come with it",
    "save: Ctrl+S, or by itself; it goes into NAME_seg.npy",
)
NETWORK_UNIT = 5.0
"""The length of a flow vector of a pixel that the network is sure of."""


def write(folder: Path, frame: Frame) -> str:
    """Write a frame of one plane; the name of the file that holds its labels.

    The window's numbers run from 1 without gaps, so labels are renumbered in their order.
    """
    from skimage.segmentation import find_boundaries

    frame.write_image(folder / f"{frame.name}.tif")
    numbers, places = np.unique(np.append(frame.labels.ravel(), np.uint32(0)), return_inverse=True)
    count = len(numbers) - 1
    masks = places[:-1].reshape(frame.labels.shape).astype(np.uint16 if count < 2**16 - 1 else np.uint32)
    content: dict[str, Any] = {
        "filename": f"{frame.name}.tif",  # looked for beside this file, wherever that is
        "masks": masks,
        "outlines": masks * find_boundaries(masks, mode="inner"),
        "flows": [[], [], [], [], [[]]] if frame.flow is None else _flows(frame.flow),
        "ismanual": np.zeros(count, bool),
        "manual_changes": [],
        "chan_choose": [0, 0],
        "diameter": np.nan,
    }
    file = folder / f"{frame.name}_seg.npy"
    np.save(file, np.array(content, object), allow_pickle=True)
    return file.name


def _flows(flow: NDArray[np.float16]) -> list[NDArray[Any]]:
    """As the window keeps them, of which it makes masks anew: a picture of the vectors, one of the logits, and both."""
    vectors, logit = flow[:-1].astype(np.float32), flow[-1].astype(np.float32)
    length = np.sqrt((vectors**2).sum(axis=0))
    cosine, sine = vectors / np.maximum(length, 1e-6)
    bright = np.minimum(length / NETWORK_UNIT, 1) * 127.5
    turns = 2 * np.pi / 3 * np.arange(3)  # red, green and blue stand for three directions
    picture = np.stack([bright * (1 - cosine * np.cos(t) + sine * np.sin(t)) for t in turns], axis=-1)
    probability = 255 / (1 + np.exp(-logit))
    kept = picture.astype(np.uint8), probability.astype(np.uint8), vectors, logit
    return [each[None] for each in kept]


def read(file: Path, _shape: tuple[int, ...]) -> NDArray[Any]:
    """The masks, as the window has saved them.

    Raises:
        pickle.UnpicklingError: the file holds more than arrays and plain values.
        ValueError, KeyError: it isn't such a file.
    """
    from plateflow.train.folders import read_seg

    return np.squeeze(read_seg(file))
