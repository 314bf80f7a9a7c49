"""Features that say one thing: grouped by their correlation over wells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

ALIKE = 0.9
"""Features say one thing from this absolute rank correlation on."""


class Alike:
    """Which features rank the wells alike, in either direction.

    Spearman's correlation: one far well, as of a control, moves it little. A well without a value counts as average.

    Args:
        values: (well, feature), NaN where there is none.
    """

    def __init__(self, values: pd.DataFrame) -> None:
        ranked = values.rank()
        ranks = (ranked - ranked.mean()).fillna(0).to_numpy(np.float32)
        lengths = np.linalg.norm(ranks, axis=0)
        self._place = {str(name): number for number, name in enumerate(values)}
        self._unit = ranks / np.where(lengths > 0, lengths, 1).astype(np.float32)

    def groups(self, names: Sequence[str], *, most: int | None = None) -> dict[str, list[str]]:
        """Leaders in order, each with those after it that are like it and like no earlier leader.

        Each name is compared with leaders alone, so no chain joins what differs.

        Args:
            names: features, the most interesting first; of the columns of `values`.
            most: leaders that are wanted; what is like none of them isn't returned.
        """
        left, groups = list(dict.fromkeys(names)), dict[str, list[str]]()
        while left and (most is None or len(groups) < most):
            leader, *rest = left
            places = [self._place[name] for name in rest]
            r = self._unit[:, self._place[leader]] @ self._unit[:, places]
            same = np.abs(r) >= ALIKE - 1e-6
            groups[leader] = [name for name, like in zip(rest, same, strict=True) if like]
            left = [name for name, like in zip(rest, same, strict=True) if not like]
        return groups
