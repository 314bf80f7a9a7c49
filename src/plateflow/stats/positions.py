"""Position effects: whether the edge, the rows or the columns of a plate differ, by how much, and how surely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.paths import parse_well
from plateflow.stats.hits import benjamini_hochberg
from plateflow.stats.reference import MAD_TO_SD, reference_wells, well_values
from plateflow.stats.wells import nan_median

if TYPE_CHECKING:
    import pandas as pd

Values = NDArray[np.float64]

MIN_LINE = 4
"""Wells that a row or column, or the edge, needs to be compared."""
LEVEL, LEAST_SHARE = 0.01, 0.06
"""A position effect has a q of at most the first and explains at least the second of the variance of the ranks, which
Tomczak & Tomczak call moderate. On large plates, effects too small to matter are significant, too."""
EFFECTS = ("edge", "row", "column")


def median_polish(values: Values, *, rounds: int = 10, tolerance: float = 0.01) -> tuple[Values, Values, Values]:
    """Split a plate into overall + row + column + residual by medians, taken in turn until little changes.

    Tukey, Exploratory Data Analysis, Addison-Wesley 1977, chapter 11; on plates: Brideau et al., J Biomol Screen 8
    (2003) 634 (the B score is the residual over its MAD).

    Args:
        values: (rows, columns, features), NaN where there is no well.
        rounds: the most rounds to run.
        tolerance: stop when the sum of absolute residuals changes by less than this fraction of it.

    Returns:
        Row effects (rows, features), column effects (columns, features), residuals (rows, columns, features).
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

    Positive controls and empty wells are excluded. The edge is the plate's outermost ring, compared with all other
    wells. Rows and columns are compared without the edge, so that one effect is not reported three times: rows after
    the column effects of the median polish are subtracted, columns after the row effects are.

    The test is that of Kruskal and Wallis (J Am Stat Assoc 47 (1952) 583); Share is their H as a fraction of the
    ranks' variance, (H - k + 1) / (n - k) for k groups of n wells, at least 0 (Tomczak & Tomczak, Trends Sport Sci 1
    (2014) 19). Q is P after Benjamini and Hochberg, over all features and effects of the plate. A layout that puts
    doses or treatments in rows or columns is an effect of rows or columns, too.

    Args:
        wells: the well table.
        columns: features.
        shape: rows and columns of the plate.

    Returns:
        One row per feature and effect: Groups and Wells compared, Size (edge: its median minus that of the others;
        else the largest row or column effect minus the smallest; in standard deviations of the residuals, from their
        MAD), Share, P, Q, Found, and the Reason where it could not be tested.
    """
    import pandas as pd

    table = wells[reference_wells(wells, "plate")]
    values = well_values(table, columns).to_numpy()
    place = np.array([parse_well(well) for well in table["Metadata_Well"]], int).reshape(-1, 2)
    edge = (place == 0).any(axis=1) | (place == np.array(shape) - 1).any(axis=1)
    inner, (row, column) = values[~edge], place[~edge].T
    plate = np.full((*shape, len(columns)), np.nan)
    plate[row, column] = inner
    rows, cols, residual = median_polish(plate)
    spread = MAD_TO_SD * nan_median(np.abs(residual.reshape(-1, len(columns))), axis=0)
    spread[spread == 0] = np.nan

    tests = {
        "edge": (values, edge.astype(int), nan_median(values[edge], axis=0) - nan_median(inner, axis=0), 0),
        "row": (inner - cols[column], row, _range(rows, row), _freedom(column)),
        "column": (inner - rows[row], column, _range(cols, column), _freedom(row)),
    }
    tables = []
    for effect in EFFECTS:
        compared, lines, size, subtracted = tests[effect]
        test = _kruskal_wallis(compared, lines, subtracted=subtracted)
        tables.append(pd.DataFrame({"Feature": list(columns), "Effect": effect, **test, "Size": size / spread}))
    result = pd.concat(tables, ignore_index=True)
    untested = result["P"].isna()
    result.loc[untested, ["Size", "Share"]] = np.nan
    result["Q"] = benjamini_hochberg(result["P"].to_numpy())
    result["Found"] = (result["Q"] <= LEVEL) & (result["Share"] >= LEAST_SHARE)
    result["Reason"] = np.where(untested, f"no two of them have {MIN_LINE} wells that differ", "")
    result.insert(0, "Metadata_Plate", wells["Metadata_Plate"].iloc[0] if len(wells) else "")
    return result


def summary(effects: pd.DataFrame) -> dict[str, list[int]]:
    """By effect, how many features have it, and of how many that could be tested."""
    by_effect = effects.assign(Tested=effects["P"].notna()).groupby("Effect")[["Found", "Tested"]].sum()
    return {effect: [int(n) for n in row] for effect, *row in by_effect.reindex(EFFECTS, fill_value=0).itertuples()}


def _range(effects: Values, lines: NDArray[np.int_]) -> Values:
    """The largest minus the smallest effect of the lines that have wells."""
    present = effects[np.unique(lines)]
    return np.ptp(present, axis=0) if len(present) else np.full(effects.shape[1], np.nan)


def _freedom(lines: NDArray[np.int_]) -> int:
    """The degrees of freedom that subtracting the effects of these lines uses up."""
    return max(len(np.unique(lines)) - 1, 0)


def _kruskal_wallis(values: Values, lines: NDArray[np.int_], *, subtracted: int = 0) -> dict[str, Any]:
    """Kruskal and Wallis' test of the wells' values (wells, features) by line, all features at once.

    H is (n - 1) times the fraction of the ranks' sum of squares that lies between groups, which also holds with ties.
    Values of which other effects were subtracted vary less than n - 1 of them should, and their H would be too large:
    the degrees of freedom that this used up are taken off n - 1.
    """
    from scipy.stats import chi2, rankdata

    names, members = np.unique(lines, return_counts=True)
    kept = np.isin(lines, names[members >= MIN_LINE])
    ranks = rankdata(values[kept], axis=0, nan_policy="omit")
    valid = ~np.isnan(ranks)
    groups = (lines[kept] == np.unique(lines[kept])[:, None]).astype(np.float64)
    size, total = groups @ valid, valid.sum(axis=0)
    k = (size > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.where(valid, ranks - (total + 1) / 2, 0.0)
        between = np.nansum((groups @ off) ** 2 / size, axis=0)
        h = (total - 1 - subtracted) * between / (off**2).sum(axis=0)
        h[k < 2] = np.nan
        share = np.maximum((h - k + 1) / (total - k), 0)
    return {"Groups": k, "Wells": total, "Share": share, "P": chi2.sf(h, k - 1)}
