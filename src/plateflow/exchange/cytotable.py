"""Cell tables as CellProfiler writes them, for CytoTable's preset `cellprofiler_csv`.

Each well has a folder with Image.csv and a file per compartment. An image is a field of a frame, and numbers of images
run on over the plate. CytoTable joins Cells and Nuclei to Cytoplasm by the numbers of its parents, and drops what it
can't join: so Cytoplasm has a row for each cell, and 0 is the parent of one that has none, a row without values.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import ArgumentError
from plateflow.exchange.cells import CellTables
from plateflow.features.measure import CYTOPLASM
from plateflow.stats.gates import EXCLUDED_BY, INCLUDED, POPULATION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS_OF_A_FILE = 20_000
"""CytoTable lets DuckDB guess a column's type from the first 20,480 rows: a longer file could end in other values."""
DECIDED = (INCLUDED, EXCLUDED_BY, POPULATION)
"""What the names of columns begin with that aggregate has decided of cells."""
IMAGE = ["Metadata_Site", "Metadata_Time", "Metadata_Z"]


def write(tables: CellTables, folder: Path, shown: Path) -> list[str]:
    """Write the folders; what is there, in words.

    Args:
        folder: in which they are written; `shown`: where it will lie.

    Raises:
        ArgumentError: the plate doesn't have the compartments that CytoTable joins.
    """
    compartments = dict.fromkeys(feature["compartment"] for feature in tables.features.values())
    if not {"Cells", "Nuclei"} <= compartments.keys():
        raise ArgumentError(
            "CytoTable joins cells, nuclei and cytoplasm",
            where=tables.plate.name,
            why=f"the plate's label sets are {', '.join(tables.plate.config.segmentation)}",
            remedy="`--tables csv`, or read cells/*.parquet as it is",
        )
    n_cells = n_images = 0
    for well, cells, metadata in tables.each():
        images = metadata.groupby(IMAGE, sort=False).ngroup().to_numpy() + 1 + n_images
        n_images, n_cells = int(images.max(initial=n_images)), n_cells + len(cells)
        pieces = list(_pieces(images))
        for number, rows in enumerate(pieces, start=1):
            own = folder / (well if len(pieces) == 1 else f"{well}-{number}")
            own.mkdir()
            of_rows = metadata.iloc[rows].reset_index(drop=True)
            _write(own / "Image.csv", _image_table(tables, images[rows], of_rows))
            part = cells.take(rows)
            for name in compartments:
                _write(own / f"{name}.csv", _object_table(name, part, images[rows], of_rows))
    more = [name for name in compartments if name not in ("Cells", "Nuclei", CYTOPLASM)]
    return [
        f"{n_cells:,} cells of {n_images:,} images (fields and frames)",
        f'cytotable.convert("{shown}", "cells.parquet", dest_datatype="parquet", source_datatype="csv", '
        'preset="cellprofiler_csv", chunk_size=20_000, add_tablenumber=False)',
        *([f"the preset joins cells, nuclei and cytoplasm, not {', '.join(more)}"] if more else []),
    ]


def _pieces(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The rows of a well in pieces of at most ROWS_OF_A_FILE, as far as whole images allow."""
    order = np.argsort(images, kind="stable")
    starts = np.append(np.flatnonzero(np.diff(images[order], prepend=0)), len(order))
    first = 0
    for start, stop in pairwise(starts):
        if stop - first > ROWS_OF_A_FILE and start > first:
            yield order[first:start]
            first = start
    if first < len(order):
        yield order[first:]


def _image_table(tables: CellTables, images: NDArray[Any], metadata: pd.DataFrame) -> pa.Table:
    """One row per image: its number, the files of its channels, and all that is known of field and well."""
    import pyarrow as pa

    of_object = ("Metadata_ObjectID", "ObjectNumber", "Metadata_Match_", *DECIDED)
    names = [name for name in metadata if not str(name).startswith(of_object)]
    store = tables.plate.paths.image(metadata["Metadata_Well"].iloc[0]).relative_to(tables.plate.paths.root)
    table = metadata[names].copy()
    table.insert(0, "ImageNumber", images)
    for number, channel in enumerate(tables.plate.channels):
        table.insert(1 + number, f"FileName_{channel}", store.as_posix())
    return pa.Table.from_pandas(table.drop_duplicates("ImageNumber"), preserve_index=False)


def _object_table(name: str, cells: pa.Table, images: NDArray[Any], metadata: pd.DataFrame) -> pa.Table:
    """The objects of a compartment, each once per image; of the cytoplasm one per cell."""
    import pyarrow as pa

    def numbers(compartment: str) -> NDArray[Any]:
        return np.nan_to_num(cells[f"{compartment}_Number_Object_Number"].to_numpy()).astype(np.int64)

    columns: dict[str, Any] = {"ImageNumber": images}
    if name == CYTOPLASM:
        columns["ObjectNumber"] = metadata["ObjectNumber"].to_numpy()
        columns |= {f"Parent_{parent}": numbers(parent) for parent in ("Cells", "Nuclei")}
        columns |= {key: metadata[key].to_numpy() for key in ("Metadata_Plate", "Metadata_Well")}
        for key in (name for name in map(str, metadata) if name.startswith(DECIDED)):
            own = metadata[key]  # numbers, as a column without a value has no type
            columns[key] = own.to_numpy(np.float64, na_value=np.nan) if key.startswith(POPULATION) else own.to_numpy()
        kept = np.arange(len(cells))
    else:
        columns["ObjectNumber"] = numbers(name)
        _, first = np.unique(np.stack([images, columns["ObjectNumber"]]), axis=1, return_index=True)
        kept = np.sort(first)
    prefix = f"{name}_"
    columns |= {key.removeprefix(prefix): cells[key] for key in cells.column_names if key.startswith(prefix)}
    if name == CYTOPLASM:  # CytoTable turns pages by it: rows without one would be lost
        columns["Number_Object_Number"] = columns["ObjectNumber"]
    return pa.table(columns).take(kept)


def _write(path: Path, table: pa.Table) -> None:
    """Write a table as CSV; missing measurements are `nan`, as CellProfiler has it: an empty column has no type."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow.csv import write_csv

    for number, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            filled = pc.fill_null(table.column(number), pa.scalar(np.nan, field.type))
            table = table.set_column(number, field.name, filled)
    write_csv(table, path)
