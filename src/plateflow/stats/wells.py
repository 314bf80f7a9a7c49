"""The well table: counts, medians, MADs and quantiles a well, joined with the plate map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
"""Metadata that the well table has of itself; a column of the plate map with such a name becomes Metadata_Map_*.
FieldsLeftOut are quarantined or missing; FieldsExcluded have a flag of `stats.exclude_flags`."""


QUANTILES = {"Q25": 0.25, "Q75": 0.75}
SPREADS = ("MAD", *QUANTILES)
"""What the well table has of each measurement beside its median, in columns named <measurement>_<this>."""
COLUMNS_AT_ONCE = 100
"""Columns of a well's cells that are in memory together."""


@dataclass(frozen=True, kw_only=True)
class WellCells:
    """What a well's cell table comes to.

    Attributes:
        rows: how many cells.
        values: median, MAD and quantiles of every measurement, by column of the well table.
        fields: by field, its number of cells and the medians; empty unless asked for.
    """

    rows: int
    values: dict[str, float]
    fields: dict[str, dict[str, float]]


def sites_of(path: Path) -> dict[str, int]:
    """Rows a field of a well's cell table."""
    import pyarrow.parquet as pq

    return dict(Counter(pq.read_table(path, columns=["Metadata_Site"])["Metadata_Site"].to_pylist()))


def read_cells(path: Path, columns: Iterable[str], *, without: Iterable[str] = (), by_field: bool = False) -> WellCells:
    """Medians, MADs and quantiles of a well's cells, some columns at a time.

    NaN is passed over, and a column without a value, or that isn't there, is NaN. MADs are as they are, not times
    1.4826. Quantiles lie between two values in proportion, as numpy's do.

    Args:
        path: the cell table.
        columns: the measurements.
        without: fields whose cells are left out.
        by_field: the medians of each field, too.
    """
    import pyarrow.parquet as pq

    out = list(without)
    with pq.ParquetFile(path) as file:
        sites = file.read(["Metadata_Site"])["Metadata_Site"].to_numpy().astype(object)
        used = ~np.isin(sites.astype(str), out)
        names = [str(site) for site in np.unique(sites[used].astype(str))] if by_field else []
        fields: dict[str, dict[str, float]] = {name: {"": int((sites[used] == name).sum())} for name in names}
        known, columns, values = set(file.schema_arrow.names), list(columns), dict[str, float]()
        for start in range(0, len(columns), COLUMNS_AT_ONCE):
            some = columns[start : start + COLUMNS_AT_ONCE]
            table = file.read([name for name in some if name in known])
            block = np.full((len(some), int(used.sum())), np.nan)
            for number, name in enumerate(some):
                if name in known:
                    block[number] = table[name].to_numpy()[used]
            for suffix, found in summaries(block).items():
                values |= zip((f"{name}{suffix}" for name in some), found.tolist(), strict=True)
            for name, row in fields.items():
                here = nan_median(block[:, sites[used] == name], axis=1)
                row.update(zip(some, here.tolist(), strict=True))
    return WellCells(rows=int(used.sum()), values=values, fields=fields)


def summaries(values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Median (under ""), MAD and quantiles of each row; NaN is passed over."""
    ordered = np.sort(values, axis=1)
    found = {"": _quantile(ordered, 0.5)}
    found["_MAD"] = _quantile(np.sort(np.abs(ordered - found[""][:, None]), axis=1), 0.5)
    return found | {f"_{name}": _quantile(ordered, q) for name, q in QUANTILES.items()}


def nan_median(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The median along an axis without NaN; NaN where there is nothing else."""
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
    """Rows of a parquet file, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def medians_of(columns: Mapping[str, Feature]) -> list[str]:
    """The columns that a median makes sense of: positions and numbers of objects are left out."""
    return [name for name, feature in columns.items() if feature.kind == "measurement"]


def well_table(plate: str, rows: Mapping[str, Mapping[str, Any]], plate_map: pd.DataFrame | None) -> pd.DataFrame:
    """Join what was measured with the plate map.

    Args:
        plate: its id.
        rows: by well: its metadata (Metadata_State, ...), counts and medians.
        plate_map: one row a well, with `well` and the columns that become Metadata_*; wells that only the map names
            have the state NOT_ACQUIRED, and wells that only the plate has keep empty cells there.
    """
    import pandas as pd

    measured = pd.DataFrame({"Metadata_Well": list(rows)} | _columns(rows))
    mapped = pd.DataFrame({"Metadata_Well": []}, dtype=object)
    if plate_map is not None:
        names = {name: f"Metadata_Map_{name}" if name in OWN else f"Metadata_{name}" for name in plate_map}
        mapped = plate_map.rename(columns=names | {"well": "Metadata_Well"})
    table = mapped.merge(measured, on="Metadata_Well", how="outer")
    absent = table["Metadata_State"].isna()
    table.loc[absent, "Metadata_State"] = NOT_ACQUIRED
    table.loc[absent, [f"Metadata_{name}" for name in OWN[5:] if name != "FieldsUsed"]] = ""
    places = [parse_well(well) for well in table["Metadata_Well"]]
    table.insert(0, "Metadata_Plate", plate)
    table.insert(2, "Metadata_Row", [row_name(row) for row, _ in places])
    table.insert(3, "Metadata_Column", [column + 1 for _, column in places])
    order = np.lexsort(([column for _, column in places], [row for row, _ in places]))
    return table.iloc[order].reset_index(drop=True)


def _columns(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {name: [row.get(name, np.nan) for row in rows.values()] for name in names}
