"""The well table: counts, medians, MADs and quantiles per well, joined with the plate map; and its data dictionary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature
from plateflow.paths import parse_well, row_name

if TYPE_CHECKING:
    import pandas as pd

NOT_ACQUIRED = "not_acquired"
"""State of a well that only the plate map names: nothing was left out there."""
OWN = ("Plate", "Well", "Row", "Column", "State", "Reason", "Flags", "FieldsUsed", "FieldsLeftOut", "FieldsExcluded")
"""The well table's own metadata; a column of the plate map with such a name becomes Metadata_Map_*. FieldsLeftOut are
quarantined or missing; FieldsExcluded have a flag of `stats.exclude_flags`."""
QUANTILES = {"Q25": 0.25, "Q75": 0.75}
SPREADS = ("MAD", *QUANTILES)
"""What the well table has of each measurement beside its median, in columns named <measurement>_<spread>."""
COLUMNS_AT_ONCE = 100
"""Columns of a well's cells that are in memory together."""


@dataclass(frozen=True, kw_only=True)
class WellCells:
    """Summary of a well's cell table.

    Attributes:
        rows: number of cells.
        values: median, MAD and quantiles of every measurement, by column of the well table.
        fields: by field that has cells, the number of its cells and the medians; empty unless requested.
    """

    rows: int
    values: dict[str, float]
    fields: dict[str, dict[str, float]]


def sites_of(path: Path, clipped: str = "", least: float = 0.0) -> dict[str, int]:
    """Number of cells per field in a well's cell table; of those with at least `least` in the column `clipped`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if clipped and clipped not in file.schema_arrow.names:
            return {}
        table = file.read(["Metadata_Site", *([clipped] if clipped else [])])
    sites = table["Metadata_Site"].to_numpy()
    return dict(Counter((sites[table[clipped].to_numpy() >= least] if clipped else sites).tolist()))


def read_cells(
    path: Path, columns: Sequence[str], *, without: Collection[str] = (), count_by_field: str = ""
) -> WellCells:
    """Medians, MADs and quantiles of a well's cells; COLUMNS_AT_ONCE of them are read at a time.

    NaN is ignored; a column without values, or that the table lacks, gives NaN. MADs are not multiplied by 1.4826.
    Quantiles are interpolated linearly, as numpy's are.

    Args:
        path: the cell table.
        columns: the measurements.
        without: fields whose cells are left out.
        count_by_field: name for the number of cells of a field; if given, fields are summarised, too.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sites = file.read(["Metadata_Site"])["Metadata_Site"].to_numpy().astype(object)
        used = ~np.isin(sites.astype(str), list(without))
        names = [str(site) for site in np.unique(sites[used].astype(str))] if count_by_field else []
        fields: dict[str, dict[str, float]] = {
            name: {count_by_field: int((sites[used] == name).sum())} for name in names
        }
        present, values = set(file.schema_arrow.names), dict[str, float]()
        for start in range(0, len(columns), COLUMNS_AT_ONCE):
            batch = columns[start : start + COLUMNS_AT_ONCE]
            table = file.read([name for name in batch if name in present])
            cells = np.full((len(batch), int(used.sum())), np.nan)
            for number, name in enumerate(batch):
                if name in present:
                    cells[number] = table[name].to_numpy()[used]
            for suffix, summary in summaries(cells).items():
                values |= zip((f"{name}{suffix}" for name in batch), summary.tolist(), strict=True)
            for name, row in fields.items():
                medians = nan_median(cells[:, sites[used] == name], axis=1)
                row.update(zip(batch, medians.tolist(), strict=True))
    return WellCells(rows=int(used.sum()), values=values, fields=fields)


def summaries(values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Median (under ""), MAD and quantiles of each row, by suffix of the column's name; NaN is ignored."""
    ordered = np.sort(values, axis=1)
    median = _quantile(ordered, 0.5)
    mad = _quantile(np.sort(np.abs(ordered - median[:, None]), axis=1), 0.5)
    return {"": median, "_MAD": mad} | {f"_{name}": _quantile(ordered, q) for name, q in QUANTILES.items()}


def nan_median(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The median along an axis, ignoring NaN; NaN where there is nothing else."""
    return _quantile(np.sort(np.moveaxis(values, axis, -1), axis=-1), 0.5)


def _quantile(ordered: NDArray[np.float64], q: float) -> NDArray[np.float64]:
    """Quantile along the last axis of sorted values, NaN last."""
    if not ordered.shape[-1]:
        return np.full(ordered.shape[:-1], np.nan)
    n = np.count_nonzero(~np.isnan(ordered), axis=-1)
    place = np.maximum(n - 1, 0) * q
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, np.maximum(n - 1, 0))
    below, above = (np.take_along_axis(ordered, i[..., None], -1)[..., 0] for i in (low, high))
    return below + (above - below) * (place - low)


def row_count(path: Path) -> int:
    """Number of rows of a parquet file, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def medians_of(columns: Mapping[str, Feature]) -> list[str]:
    """The columns that have a meaningful median: not positions and numbers of objects."""
    return [name for name, feature in columns.items() if feature.kind == "measurement"]


def dictionary(columns: Mapping[str, Feature]) -> dict[str, dict[str, Any]]:
    """The data dictionary: every measured column of the cell tables, and whether the well table has its median."""
    in_wells = set(medians_of(columns))
    return {
        column: {"compartment": column.partition("_")[0], **asdict(feature), "in_wells": column in in_wells}
        for column, feature in columns.items()
    }


def well_table(
    plate: str,
    rows: Mapping[str, Mapping[str, Any]],
    plate_map: pd.DataFrame | None,
    *,
    counts: Iterable[str] = (),
    medians: Iterable[str] = (),
) -> pd.DataFrame:
    """Join the measurements with the plate map.

    Args:
        plate: its id.
        rows: by well: its metadata (Metadata_State, ...), counts, medians and spreads.
        plate_map: one row per well, with `well` and the columns that become Metadata_*; wells that only the map names
            have the state NOT_ACQUIRED, and wells that only the plate has keep empty cells there.
        counts: names of the columns of counts.
        medians: names of the columns of medians, each of which has one of every spread.

    Returns:
        One row per well, in the plate's order. Columns: metadata of place and plate map, the table's own, counts,
        medians, spreads; those that no well has are empty.
    """
    import pandas as pd

    names = dict.fromkeys(name for row in rows.values() for name in row)
    values = {name: [row.get(name, np.nan) for row in rows.values()] for name in names}
    measured = pd.DataFrame({"Metadata_Well": list(rows)} | values)
    mapped = pd.DataFrame({"Metadata_Well": []}, dtype=object)
    if plate_map is not None:
        renamed = {name: f"Metadata_Map_{name}" if name in OWN else f"Metadata_{name}" for name in plate_map}
        mapped = plate_map.rename(columns=renamed | {"well": "Metadata_Well"})
    table = mapped.merge(measured, on="Metadata_Well", how="outer")
    absent = table["Metadata_State"].isna()
    table.loc[absent, "Metadata_State"] = NOT_ACQUIRED
    table.loc[absent, [f"Metadata_{name}" for name in OWN[5:] if name != "FieldsUsed"]] = ""
    row_numbers, column_numbers = zip(*map(parse_well, table["Metadata_Well"]), strict=True)
    table.insert(0, "Metadata_Plate", plate)
    table.insert(2, "Metadata_Row", list(map(row_name, row_numbers)))
    table.insert(3, "Metadata_Column", [column + 1 for column in column_numbers])
    table = table.iloc[np.lexsort((column_numbers, row_numbers))].reset_index(drop=True)
    own = [f"Metadata_{name}" for name in OWN[4:]]
    metadata = [name for name in table if str(name).startswith("Metadata_") and name not in own]
    medians = list(medians)
    spreads = [f"{name}_{spread}" for spread in SPREADS for name in medians]
    return table.reindex(columns=[*metadata, *own, *counts, *medians, *spreads])
