"""Position effects: whether the edge, the rows or the columns of a plate differ, by how much, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.paths import parse_well
from plateflow.stats.hits import benjamini_hochberg
from plateflow.stats.normalise import MAD_TO_SD, has_role, in_use, well_values
from plateflow.stats.wells import nan_median

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]

MIN_LINE = 4
"""Wells that a row or column, or the edge, needs to be compared."""
LEVEL, LEAST_SHARE = 0.01, 0.06
"""An effect is called one if q is at most the first, and it explains at least the second of the variance of the ranks:
what Tomczak & Tomczak call moderate. On large plates effects that nobody minds are sure, too."""
EFFECTS = ("edge", "row", "column")


def median_polish(values: Values, *, rounds: int = 10, tolerance: float = 0.01) -> tuple[Values, Values, Values]:
    """Split a plate into overall + row + column + residual by medians, taken in turns until little changes.

    Tukey, Exploratory Data Analysis, Addison-Wesley 1977, chapter 11; on plates: Brideau et al., J Biomol Screen 8
    (2003) 634 (the B score is the residual over its MAD).

    Args:
        values: (rows, columns, features), NaN where there is no well.
        rounds: at most so many.
        tolerance: it ends when the sum of absolute residuals changes by less than this part of it.

    Returns:
        row effects (rows, features), column effects (columns, features), residuals (rows, columns, features).
    """
    residual = values.copy()
    effects = [np.zeros((values.shape[0], values.shape[2])), np.zeros((values.shape[1], values.shape[2]))]
    before = np.inf
    for _ in range(rounds):
        for axis, effect in enumerate(effects):
            step = np.nan_to_num(nan_median(residual, axis=1 - axis))
            residual -= np.expand_dims(step, 1 - axis)
            effect[:] += step - np.median(effect + step, axis=0)
        now = float(np.nansum(np.abs(residual)))
        if now == 0 or abs(before - now) < tolerance * now:
            break
        before = now
    return effects[0], effects[1], residual


def position_effects(wells: pd.DataFrame, columns: Sequence[str], shape: tuple[int, int]) -> pd.DataFrame:
    """Test every feature for an edge, a row and a column effect, by ranks.

    Positive controls and empty wells aren't looked at. The edge is the plate's outermost ring, compared with all other
    wells. Rows and columns are compared without the edge, so that one effect isn't told three times, and rows after
    the median polish's column effects were taken off, columns after those of rows.

    The test is Kruskal and Wallis' (J Am Stat Assoc 47 (1952) 583); Share is their H made a part of the ranks'
    variance, (H - k + 1) / (n - k) for k groups of n wells, at least 0 (Tomczak & Tomczak, Trends Sport Sci 1 (2014)
    19). Q is P after Benjamini and Hochberg, over all features and effects of the plate. A layout that puts doses or
    treatments in rows or columns is an effect of rows or columns, too.

    Args:
        wells: the well table.
        columns: features.
        shape: rows and columns of the plate.

    Returns:
        one row a feature and effect: Groups and Wells compared, Size (edge: its median less the others'; else the
        largest row or column effect less the least; in standard deviations of the residuals, by their MAD), Share,
        P, Q, Found, and Reason where it couldn't be tested.
    """
    import pandas as pd

    table = wells[in_use(wells) & ~has_role(wells, "positive", "empty")]
    values = well_values(table, columns).to_numpy()
    place = np.array([parse_well(well) for well in table["Metadata_Well"]], int).reshape(-1, 2)
    edge = (place == 0).any(axis=1) | (place == np.array(shape) - 1).any(axis=1)
    inner, where = values[~edge], place[~edge]
    plate = np.full((*shape, len(columns)), np.nan)
    plate[where[:, 0], where[:, 1]] = inner
    rows, cols, residual = median_polish(plate)
    spread = MAD_TO_SD * nan_median(np.abs(residual.reshape(-1, len(columns))), axis=0)
    spread[spread == 0] = np.nan

    tests = {
        "edge": (values, edge.astype(int), nan_median(values[edge], axis=0) - nan_median(inner, axis=0), 0),
        "row": (inner - cols[where[:, 1]], where[:, 0], _range(rows, where[:, 0]), _others(where[:, 1])),
        "column": (inner - rows[where[:, 0]], where[:, 1], _range(cols, where[:, 1]), _others(where[:, 0])),
    }
    found = []
    for effect in EFFECTS:
        compared, lines, size, other = tests[effect]
        result = _compare(compared, lines, taken_off=other)
        found.append(pd.DataFrame({"Feature": list(columns), "Effect": effect, **result, "Size": size / spread}))
    result_table = pd.concat(found, ignore_index=True)
    untested = result_table["P"].isna()
    result_table.loc[untested, ["Size", "Share"]] = np.nan
    result_table["Q"] = benjamini_hochberg(result_table["P"].to_numpy())
    result_table["Found"] = (result_table["Q"] <= LEVEL) & (result_table["Share"] >= LEAST_SHARE)
    result_table["Reason"] = np.where(untested, f"no two of them have {MIN_LINE} wells that differ", "")
    result_table.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return result_table


def _range(effects: Values, lines: NDArray[np.int_]) -> Values:
    there = effects[np.unique(lines)]
    return np.ptp(there, axis=0) if len(there) else np.full(effects.shape[1], np.nan)


def _others(lines: NDArray[np.int_]) -> int:
    """The degrees of freedom that went into taking off the effects of these lines."""
    return max(len(np.unique(lines)) - 1, 0)


def _compare(values: Values, lines: NDArray[np.int_], *, taken_off: int = 0) -> dict[str, Any]:
    """Kruskal and Wallis' test of the wells' values (wells, features) by their line, all features at once.

    H is (n - 1) times the part of the ranks' sum of squares that lies between groups, which holds with ties, too.
    Values that other effects were taken off vary less than n - 1 of them should, and their H would be too large: the
    degrees of freedom that this took are taken off n - 1.
    """
    from scipy.stats import chi2, rankdata

    names, members = np.unique(lines, return_counts=True)
    kept = np.isin(lines, names[members >= MIN_LINE])
    ranks = rankdata(values[kept], axis=0, nan_policy="omit")
    known = ~np.isnan(ranks)
    groups = (lines[kept] == np.unique(lines[kept])[:, None]).astype(np.float64)
    size, total = groups @ known, known.sum(axis=0)
    k = (size > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.where(known, ranks - (total + 1) / 2, 0.0)
        between = np.nansum((groups @ off) ** 2 / size, axis=0)
        h = (total - 1 - taken_off) * between / (off**2).sum(axis=0)
        h[k < 2] = np.nan
        share = np.maximum((h - k + 1) / (total - k), 0)
    return {"Groups": k, "Wells": total, "Share": share, "P": chi2.sf(h, k - 1)}
