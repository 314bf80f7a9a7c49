"""Which wells the statistics use, frame by frame, what they are compared with, and standardised values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

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
"""What columns of populations' shares begin with, and how many included rows a well's share needs to be compared."""
FRAME = ("Metadata_Time", "Metadata_Z")
"""The columns that tell a well's frames apart: its time points and, where planes are kept in 2D, their planes. No
statistic puts values of two frames together."""


def by_frame(table: pd.DataFrame) -> Iterator[tuple[dict[str, int], pd.DataFrame]]:
    """The frames of a table, in order: each with its columns of FRAME, and its rows, which keep their index.

    A table without these columns is of an earlier version, which can stand for plates of one frame alone.
    """
    keys = [name for name in FRAME if name in table]
    if not keys:
        yield {}, table
        return
    for _, rows in table.groupby(keys, sort=True):
        yield {name: int(rows[name].iloc[0]) for name in keys}, rows


def frame_title(frame: Mapping[str, int]) -> str:
    """The name of a frame; empty where there is none."""
    names = zip(("time point", "plane"), FRAME, strict=True)
    return ", ".join(f"{name} {frame[column]}" for name, column in names if column in frame)


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
    Shares of fewer than LEAST_JUDGED rows are NaN.
    """
    import pandas as pd

    fields = wells["Metadata_FieldsUsed"].where(in_use(wells))
    counts = {name: wells[name] / fields for name in columns if name.startswith("Count_")}
    others = wells.loc[in_use(wells), [name for name in columns if name not in counts]].reindex(wells.index)
    values = pd.concat([pd.DataFrame(counts, index=wells.index), others], axis=1)[list(columns)].astype(np.float64)
    if shares := [name for name in columns if name.startswith(SHARE)]:
        values[shares] = values[shares].where(wells["Metadata_RowsIncluded"] >= LEAST_JUDGED)
    return values.where(np.isfinite(values))


def stabilised(values: pd.DataFrame) -> pd.DataFrame:
    """The values with the angle asin √p in place of each share p, as shares are tested.

    A share of n cells varies by p (1 - p) / n, its angle by 1 / (4 n) whatever p is (Anscombe, Biometrika 35 (1948)
    246): so wells vary alike, which the tests of effects assume.
    """
    shares = [name for name in map(str, values) if name.startswith(SHARE)]
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
    steps = {"Count_": 1 / used["Metadata_FieldsUsed"].min()}
    if any(name.startswith(SHARE) for name in columns):
        steps[SHARE] = 1 / max(used["Metadata_RowsIncluded"].median(), 1)
    by_kind = (next((step for kind, step in steps.items() if name.startswith(kind)), np.nan) for name in columns)
    return pd.Series([*by_kind], list(columns), float)


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
