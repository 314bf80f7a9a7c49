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
from plateflow.stats.gates import EXCLUDED_BY, INCLUDED, POPULATION, ROWS_EXCLUDED_BY, ROWS_INCLUDED, WellGates
from plateflow.stats.reference import FRAME, OVER_TIME

if TYPE_CHECKING:
    import pandas as pd

NOT_ACQUIRED = "not_acquired"
"""State of a well that only the plate map names, or of a frame that it lacks: nothing was left out there."""
STATE = ("State", "Reason", "Flags", "FieldsUsed", "FieldsLeftOut", "FieldsExcluded")
GATED = (ROWS_INCLUDED.removeprefix("Metadata_"), ROWS_EXCLUDED_BY.removeprefix("Metadata_"))
OWN = ("Plate", "Well", "Row", "Column", *(name.removeprefix("Metadata_") for name in FRAME), "Corrected", *STATE)
OWN += (*GATED, *(name.removeprefix("Metadata_") for name in (OVER_TIME, INCLUDED, EXCLUDED_BY)))
"""The well table's own metadata; a column of the plate map with such a name becomes Metadata_Map_*; of
exports of cells, too. FieldsLeftOut are
quarantined or missing; FieldsExcluded have a flag of `stats.exclude_flags`."""
QUANTILES = {"Q25": 0.25, "Q75": 0.75}
SPREADS = ("MAD", *QUANTILES)
"""What the well table has of each measurement beside its median, in columns named <measurement>_<spread>."""
COLUMNS_AT_ONCE = 100
"""Columns of a well's cells that are in memory together."""


@dataclass(frozen=True, kw_only=True)
class WellCells:
    """Summary of a well's cells in a frame.

    Attributes:
        rows: number of cells that are counted.
        values: the median and then each of SPREADS (rows) of every measurement (columns).
        fields: by field that has cells, the number of its cells and the medians; empty unless requested.
        gated: what the well table says of filters and populations (`WellGates.summary`).
    """

    rows: int
    values: NDArray[np.float64]
    fields: dict[str, dict[str, float]]
    gated: dict[str, Any]


def sites_of(path: Path, clipped: str, least: float) -> tuple[dict[str, int], dict[str, int]]:
    """Number of cells per field in a well's cell table, and of those with at least `least` in the column `clipped`."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table = file.read([name for name in ("Metadata_Site", clipped) if name in file.schema_arrow.names])
    sites = table["Metadata_Site"].to_numpy()
    over = sites[table[clipped].to_numpy() >= least] if clipped in table.schema.names else []
    return Counter(sites), Counter(over)


def read_cells(
    source: Any,
    columns: Sequence[str],
    frames: Sequence[Mapping[str, int]],
    *,
    gates: WellGates | None = None,
    without: Collection[str] = (),
    count_by_field: str = "",
) -> list[WellCells]:
    """Medians, MADs and quantiles of a well's cells, frame by frame; COLUMNS_AT_ONCE of them are read at a time.

    The one reader of cells for the well table: what a rule leaves out is in nothing that it returns. NaN is ignored; a
    column without values, or that the table lacks, gives NaN. MADs are not multiplied by 1.4826. Quantiles are
    interpolated linearly, as numpy's are.

    Args:
        source: the cell table: its path, or what else pyarrow reads tables from.
        columns: the measurements.
        frames: of the well, each with its columns of FRAME.
        gates: what was decided of its cells; without it all are counted and included.
        without: fields whose cells are left out.
        count_by_field: name for the number of cells of a field; if given, fields are summarised, too.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        keys = file.read(["Metadata_Site", *frames[0]])
        sites = keys["Metadata_Site"].to_numpy().astype(str)
        used = ~np.isin(sites, list(without))
        in_frame = [
            np.logical_and.reduce([used, *(keys[name].to_numpy() == value for name, value in frame.items())])
            for frame in frames
        ]
        kept = (gates.counted, gates.included) if gates else (True, True)
        counted, members = ([own & each for own in in_frame] for each in kept)
        wells = [
            WellCells(
                rows=int(own.sum()),
                values=np.empty((1 + len(SPREADS), len(columns))),
                fields={
                    str(name): {count_by_field: int((sites[own] == name).sum())}
                    for name in np.unique(sites[own])
                    if count_by_field
                },
                gated=gates.summary(rows) if gates else {},
            )
            for own, rows in zip(counted, in_frame, strict=True)
        ]
        present = set(file.schema_arrow.names)
        for start in range(0, len(columns), COLUMNS_AT_ONCE):
            batch = columns[start : start + COLUMNS_AT_ONCE]
            table = file.read([name for name in batch if name in present])
            cells = np.full((len(batch), len(sites)), np.nan)
            for number, name in enumerate(batch):
                if name in present:
                    cells[number] = table[name].to_numpy()
            for own, well in zip(members, wells, strict=True):
                well.values[:, start : start + len(batch)] = list(summaries(cells[:, own]).values())
                for name, row in well.fields.items():
                    medians = nan_median(cells[:, own & (sites == name)], axis=1)
                    row.update(zip(batch, medians.tolist(), strict=True))
    return wells


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


def map_column(name: str) -> str:
    """The column of the well table that holds a column of the plate map."""
    taken = name in OWN or name.startswith(POPULATION.removeprefix("Metadata_"))
    return f"Metadata_Map_{name}" if taken else f"Metadata_{name}"


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
    rows: Sequence[Mapping[str, Any]],
    values: NDArray[np.float64],
    plate_map: pd.DataFrame | None,
    *,
    counts: Iterable[str] = (),
    medians: Iterable[str] = (),
) -> pd.DataFrame:
    """Join the measurements with the plate map.

    Args:
        plate: its id.
        rows: of each well and frame its place (Metadata_Well, columns of FRAME), its other metadata (Metadata_State,
            ...) and its counts.
        values: of each of these rows, the medians, then each of SPREADS of all measurements.
        plate_map: one row per well, with `well` and the columns that become Metadata_*; wells that only the map names,
            and frames that a well lacks, have the state NOT_ACQUIRED, and wells that only the plate has keep empty
            cells there.
        counts: names of the columns of counts, and of shares of populations.
        medians: names of the columns of medians, each of which has one of every spread.

    Returns:
        One row per well and frame of the plate, in the plate's order. Columns: metadata of place and plate map, the
        table's own, counts, medians, spreads; those that no well has are empty.
    """
    import pandas as pd

    names = dict.fromkeys(name for row in rows for name in row)
    measured = pd.DataFrame({name: [row.get(name, np.nan) for row in rows] for name in names})
    measured["_row"] = np.arange(len(rows))
    keys = [name for name in FRAME if name in measured]
    mapped = pd.DataFrame({"Metadata_Well": []}, dtype=object)
    if plate_map is not None:
        renamed = {name: map_column(str(name)) for name in plate_map}
        mapped = plate_map.rename(columns=renamed | {"well": "Metadata_Well"})
    wells = pd.DataFrame({"Metadata_Well": pd.unique(pd.concat([measured["Metadata_Well"], mapped["Metadata_Well"]]))})
    table = wells.merge(measured[keys].drop_duplicates(), how="cross").merge(mapped, on="Metadata_Well", how="left")
    table = table.merge(measured, on=["Metadata_Well", *keys], how="left")
    absent = table["Metadata_State"].isna()
    table.loc[absent, "Metadata_State"] = NOT_ACQUIRED
    table.loc[absent, [f"Metadata_{name}" for name in STATE[1:] if name != "FieldsUsed"]] = ""
    if ROWS_EXCLUDED_BY in table:
        table[ROWS_EXCLUDED_BY] = table[ROWS_EXCLUDED_BY].fillna("")
    row_numbers, column_numbers = zip(*map(parse_well, table["Metadata_Well"]), strict=True)
    place: dict[str, Any] = {"Metadata_Plate": plate, "Metadata_Well": table["Metadata_Well"]}
    place |= {"Metadata_Row": list(map(row_name, row_numbers)), "Metadata_Column": [n + 1 for n in column_numbers]}
    table = table.assign(**place)
    order = np.lexsort(np.array([*(table[name] for name in reversed(keys)), column_numbers, row_numbers], int))
    table = table.iloc[order].reset_index(drop=True)
    own = [f"Metadata_{name}" for name in (*STATE, *GATED) if f"Metadata_{name}" in table]
    metadata = dict.fromkeys([*place, *keys, *(name for name in table if str(name).startswith("Metadata_"))])
    medians = list(medians)
    found = np.full((len(table), (1 + len(SPREADS)) * len(medians)), np.nan)
    acquired = table["_row"].notna().to_numpy()
    found[acquired] = values[table.loc[acquired, "_row"].astype(int)]
    table = table.reindex(columns=[*(name for name in metadata if name not in own), *own, *counts])
    columns = [*medians, *(f"{name}_{spread}" for spread in SPREADS for name in medians)]
    return table.join(pd.DataFrame(found, columns=columns))
