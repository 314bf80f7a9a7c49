"""The z planes that are read of a channel, and how they are made one."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import ConfigError
from plateflow.images.layout import WellLayout


def planes_read(layout: WellLayout, channel: str, z_mode: str, z: int, *, t: int, where: str) -> Sequence[int]:
    """The z planes of a channel that are made one at a time point, with keep the plane `z`: none is made up.

    Projections take the planes that the channel has, and so does `plane N` where it is the channel's only one.

    Raises:
        ConfigError: the channel lacks the plane.
    """
    planes, depth = layout.stack(channel, t), layout.shape[2]
    wanted = z if z_mode == "keep" else int(z_mode.removeprefix("plane ")) if z_mode.startswith("plane") else None
    if wanted is None or (z_mode != "keep" and len(planes) == 1 and wanted < depth):
        return planes
    if wanted in planes:
        return [wanted]
    why = f"it has {len(planes)} of the well's {depth} z planes; the others would have to be made up"
    if len(planes) == depth:
        why = f"the well has {depth} z planes, 0 to {depth - 1}" if depth > 1 else "the well has a single z plane"
    raise ConfigError(
        f"z is {z_mode!r}, but the channel {channel} has no plane {wanted} (counted from 0)",
        where=where,
        why=why,
        remedy="set z to max or mean, which take the planes that a channel has, or to a plane that all have",
    )


def project(planes: Iterable[NDArray[Any]], z_mode: str, out: NDArray[np.float32]) -> None:
    """Make z planes one: their mean, or else their maximum (a single plane is both). One plane is held at a time.

    `planes` are unsigned integers (y, x), `out` zeros.
    """
    count = 0
    for plane in planes:
        count += 1
        if z_mode == "mean":
            out += plane  # exact: below 2^24 for 256 planes of 16 bits
        else:
            np.maximum(out, plane, out=out)
    if z_mode == "mean":
        out /= np.float32(count)
