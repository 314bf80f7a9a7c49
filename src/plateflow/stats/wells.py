"""The well table: counts and medians a well, joined with the plate map; reads one well's cells at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.features.feature import Feature
from plateflow.paths import parse_well, row_name

if TYPE_CHECKING:
    import pandas as pd

NOT_ACQUIRED = "not_acquired"
"""State of a well that only the plate map names: nothing was left out there."""
OWN = ("Plate", "Well", "Row", "Column", "State", "Reason", "Flags", "FieldsUsed", "FieldsLeftOut")
"""Metadata that the well table has of itself; a column of the plate map with such a name becomes Metadata_Map_*."""


@dataclass(frozen=True, kw_only=True)
class WellCells:
    """What a well's cell table comes to.

    Attributes:
        sites: rows a field.
        medians: of every measurement, by column.
    """

    sites: dict[str, int]
    medians: dict[str, float]


def read_cells(path: Path, columns: Iterable[str]) -> WellCells:
    """Count and take medians of a well's cells; NaN values are passed over, and a column without a value is NaN."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    medians = {}
    for name in columns:
        values = table[name].to_numpy().astype(np.float64)
        values = values[~np.isnan(values)]
        medians[name] = float(np.median(values)) if len(values) else float("nan")
    return WellCells(sites=dict(Counter(table["Metadata_Site"].to_pylist())), medians=medians)


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
    table.loc[absent, ["Metadata_Reason", "Metadata_Flags", "Metadata_FieldsLeftOut"]] = ""
    places = [parse_well(well) for well in table["Metadata_Well"]]
    table.insert(0, "Metadata_Plate", plate)
    table.insert(2, "Metadata_Row", [row_name(row) for row, _ in places])
    table.insert(3, "Metadata_Column", [column + 1 for _, column in places])
    order = np.lexsort(([column for _, column in places], [row for row, _ in places]))
    return table.iloc[order].reset_index(drop=True)


def _columns(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return {name: [row.get(name, np.nan) for row in rows.values()] for name in names}
