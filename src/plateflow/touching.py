"""Which fields of a well touch: they are segmented as one canvas, and preflight reports gaps between the others.

And which lie on each other: one place that was taken twice, or positions that can't be right.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TOUCH_PX = 2
"""The largest gap between fields that touch: stages jitter, and positions are rounded to whole pixels."""


def gaps_between(corners: NDArray[Any], stops: NDArray[Any]) -> NDArray[Any]:
    """The gaps (n, n, 2) between fields along y and x in px, negative where two overlap.

    `corners` are top and left of each field, `stops` its bottom and right, exclusive, (n, 2).
    """
    return np.maximum(corners[:, None], corners[None]) - np.minimum(stops[:, None], stops[None])


def touching(gaps: NDArray[Any]) -> NDArray[np.bool_]:
    """Which fields touch or overlap, (n, n), from `gaps_between`."""
    return np.asarray(gaps.max(axis=-1) <= TOUCH_PX)


def groups_of_touching(gaps: NDArray[Any]) -> NDArray[np.int64]:
    """The group of each field, (n,): the lowest index among the fields that touch, directly or through others."""
    touch, group = touching(gaps), np.arange(len(gaps))
    while True:
        least = np.where(touch, group[None], len(group)).min(axis=1, initial=len(group))
        if (least == group).all():
            return group
        group = least


def on_each_other(corners: NDArray[Any], sides: NDArray[Any], *, share: int = 4) -> NDArray[np.bool_]:
    """Which fields lie on each other, (n, n): off by less than one part in `share` of their height and width.

    Args:
        corners: top and left of each field in px, (n, 2).
        sides: height and width in px, (2,) or (n, 2).
        share: 4 finds whatever no plan of an acquisition has.
    """
    return np.asarray((np.abs(corners[:, None] - corners[None]) < np.asarray(sides) / share).all(axis=-1))
