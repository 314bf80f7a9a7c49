"""Which fields touch: one rule, for preflight and for the canvases that are segmented as one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TOUCH_PX = 2
"""Fields with a gap of so many px touch: stages jitter, and positions are rounded to whole pixels."""


def gaps(corners: NDArray[Any], sides: NDArray[Any]) -> NDArray[Any]:
    """The gaps between fields along y and x.

    Args:
        corners: the top-left corner (y, x) of each field in px, (n, 2).
        sides: the height and width of each field in px, (n, 2).

    Returns:
        the gaps in px, (n, n, 2), negative where fields overlap along that axis.
    """
    opposite = corners + sides
    return np.maximum(corners[:, None], corners[None]) - np.minimum(opposite[:, None], opposite[None])


def touching(gap: NDArray[Any]) -> NDArray[np.int64]:
    """Group the fields that touch or overlap, directly or through others.

    Args:
        gap: the gaps between fields, (n, n, 2).

    Returns:
        the group of each field, (n,): the lowest number of a field in it.
    """
    n = len(gap)
    touch = gap.max(axis=-1) <= TOUCH_PX
    group = np.arange(n)
    for _ in range(n):
        group = np.where(touch, group[None], n).min(axis=1)
    return group
