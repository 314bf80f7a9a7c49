"""Which wells the statistics use, by frame and group, what they are compared with, and standardised values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

MIN_WELLS = 3
"""Wells that a spread needs; with fewer, what depends on it is NaN, with a reason."""
MAD_TO_SD = 1.4826
"""The MAD of normal values times this is their standard deviation: 1 / Φ⁻¹(3/4), to the digits that all tools use."""
SAME = 1e-9
"""Values that differ by no more than this fraction are the same: the rest is rounding."""
ROLE = "Metadata_role"
SHARE, LEAST_JUDGED = "Share_", 20
"""What columns of populations' shares begin with, and of how many rows a well's share must be to be compared."""
LOW, HIGH, JUDGED = "_Low", "_High", "_N"
"""What the columns beside a share end in: the ends of its interval, and of how many rows it is."""
FRAME = ("Metadata_Time", "Metadata_Z")
"""The columns that tell a well's frames apart: its time points and, where planes are kept in 2D, their planes. No
statistic puts values of two frames together."""
OVER_TIME = "Metadata_OverTime"
"""The column that says which value of a time series a row holds, where it isn't that of each time point."""
SUMMARIES = {"last": "last time point", "auc": "area under the curve over time", "slope": "slope over time"}
"""What OVER_TIME may hold, in words."""
COUNT_STEP = "CountStep"
"""The column that says what one object more or less is worth in a count, where that isn't one."""
Cut = dict[str, int | str]
"""A frame, or a group of its wells: the columns that tell it apart, with its values."""


def shares_in(names: Iterable[Any]) -> list[str]:
    """The columns of shares among those of a table, without what stands beside each."""
    own = {str(name): str(name).rpartition("_") for name in names if str(name).startswith(SHARE)}
    return [name for name, (stem, _, end) in own.items() if not (f"_{end}" in (LOW, HIGH, JUDGED) and stem in own)]


def by_frame(table: pd.DataFrame, groups: Sequence[str] = ()) -> Iterator[tuple[Cut, pd.DataFrame]]:
    """The frames of a table, in order: each with its columns of FRAME, and its rows, which keep their index.

    A table without these columns is of an earlier version, which can stand for plates of one frame alone.

    Args:
        table: wells, or what was made from them.
        groups: columns of text by whose values each frame is cut further; wells without one are a group of their own.
            A table without such a column has none of its values.
    """
    keys = {name: table[name] for name in FRAME if name in table}
    told = [name for name in (OVER_TIME, *groups) if name in table]
    keys |= {name: table[name].fillna("").astype(str) for name in told}
    if not keys:
        yield {}, table
        return
    values: Any
    for values, rows in table.groupby(list(keys.values()), sort=True):
        yield {name: value if name in told else int(value) for name, value in zip(keys, values, strict=True)}, rows


def frame_title(cut: Mapping[str, int | str]) -> str:
    """The name of a frame or a group; empty where there is none."""
    names = dict(zip(FRAME, ("time point", "plane"), strict=True))
    return ", ".join(
        SUMMARIES.get(str(value), str(value))
        if column == OVER_TIME
        else f"{names.get(column, column.removeprefix('Metadata_'))} {'(nothing)' if value == '' else value}"
        for column, value in cut.items()
    )


def group_of(cut: Cut) -> Cut:
    """What of a cut tells it from others of its frame."""
    return {name: value for name, value in cut.items() if name not in FRAME}


def in_use(wells: pd.DataFrame) -> NDArray[np.bool_]:
    """The wells that have a field in use: not missing, not quarantined, not excluded for their flags."""
    return (wells["Metadata_FieldsUsed"].fillna(0) > 0).to_numpy()


def has_role(wells: pd.DataFrame, *roles: str) -> NDArray[np.bool_]:
    """The wells in use that have one of these roles in the plate map; none without a plate map."""
    if ROLE not in wells:
        return np.zeros(len(wells), bool)
    return in_use(wells) & wells[ROLE].isin(roles).to_numpy()


def reference_wells(wells: pd.DataFrame, which: str) -> NDArray[np.bool_]:
    """The wells that others are compared with: `negative`, or `plate` (all but positive controls and empty wells)."""
    if which == "negative":
        return has_role(wells, "negative")
    return in_use(wells) & ~has_role(wells, "positive", "empty")


def well_values(wells: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The values that statistics use: one row per well of the table, NaN for wells not in use and infinite values.

    Counts are divided by the fields in use: a well of which a field was left out has fewer cells for that reason alone.
    Shares of fewer than LEAST_JUDGED rows are NaN; the table has the number of these beside each (JUDGED).
    """
    import pandas as pd

    fields = wells["Metadata_FieldsUsed"].where(in_use(wells))
    counts = {name: wells[name] / fields for name in columns if name.startswith("Count_")}
    others = wells.loc[in_use(wells), [name for name in columns if name not in counts]].reindex(wells.index)
    values = pd.concat([pd.DataFrame(counts, index=wells.index), others], axis=1)[list(columns)].astype(np.float64)
    for name in columns:
        if name.startswith(SHARE):
            values[name] = values[name].where(wells[f"{name}{JUDGED}"] >= LEAST_JUDGED)
    return values.where(np.isfinite(values))


def stabilised(values: pd.DataFrame, wells: pd.DataFrame) -> pd.DataFrame:
    """The values with the angle asin √p in place of each share p, as shares are tested.

    Summaries over time aren't shares any more, and stay as they are.

    A share of n cells varies by p (1 - p) / n, its angle by 1 / (4 n) whatever p is (Anscombe, Biometrika 35 (1948)
    246): so wells vary alike, which the tests of effects assume.
    """
    shares = [name for name in map(str, values) if name.startswith(SHARE) and COUNT_STEP not in wells]
    return values.assign(**{name: np.arcsin(np.sqrt(values[name])) for name in shares})


def centre_and_spread(values: pd.DataFrame, *, robust: bool) -> tuple[pd.Series[float], pd.Series[float]]:
    """Centre and spread of each column: mean and standard deviation (n - 1), or median and 1.4826 MAD.

    NaN is ignored. Both are NaN for fewer than MIN_WELLS values; the spread is also NaN where all values are the same
    (within rounding), so that nothing is divided by it.
    """
    enough = values.count() >= MIN_WELLS
    if robust:
        centre = values.median()
        spread = MAD_TO_SD * (values - centre).abs().median()
    else:
        centre, spread = values.mean(), values.std(ddof=1)
    return centre.where(enough), spread.where(enough & (spread > SAME * centre.abs()))


def steps_between(wells: pd.DataFrame, columns: Sequence[str]) -> pd.Series[float]:
    """By feature, the step that its values come in, NaN where it isn't known: counts per field differ by one object,
    and so do shares, by one of the median well.

    Values that are all the same may owe it to their steps, which hide a standard deviation of up to step / √12
    (Sheppard, Proc London Math Soc 29 (1898) 353).
    """
    import pandas as pd

    used = wells[in_use(wells)]
    least = wells[COUNT_STEP].min() if COUNT_STEP in wells else 1
    steps = dict.fromkeys(columns, np.nan)
    for name in columns:
        if name.startswith("Count_"):
            steps[name] = least / used["Metadata_FieldsUsed"].min()
        elif name.startswith(SHARE):
            steps[name] = least / max(used[f"{name}{JUDGED}"].median(), 1)
    return pd.Series(steps, list(columns), float)


def standardise(values: pd.DataFrame, reference: NDArray[np.bool_], *, robust: bool) -> pd.DataFrame:
    """Standardised values: (x - centre) / spread of the reference wells, the z-score or robust z-score.

    Malo et al., Statistical practice in high-throughput screening data analysis, Nat Biotechnol 24 (2006) 167.
    pycytominer's `mad_robustize` is the same; its `standardize` uses the standard deviation with n instead of n - 1.

    Args:
        values: one row per well, one column per feature.
        reference: which rows are the reference.
        robust: use median and MAD.
    """
    centre, spread = centre_and_spread(values[reference], robust=robust)
    return (values - centre) / spread
