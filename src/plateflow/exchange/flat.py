"""Cell tables as CSV, for R, KNIME and spreadsheets: a file per well, and the data dictionary.

A file per well, not compressed, because spreadsheets hold a million rows and open no .gz, and R and KNIME read folders.
What is missing is an empty cell.
"""

from __future__ import annotations

import csv
from pathlib import Path

from plateflow.exchange.cells import CellTables


def write(tables: CellTables, folder: Path, shown: Path) -> list[str]:
    """Write cells/<well>.csv (metadata, then all columns) and features.csv; what is there, in words.

    Args:
        folder: in which they are written; `shown`: where it will lie.
    """
    import pyarrow as pa
    from pyarrow.csv import write_csv

    (folder / "cells").mkdir()
    n_cells = 0
    for well, cells, metadata in tables.each():
        table = pa.Table.from_pandas(metadata, preserve_index=False)
        for name in cells.column_names:
            table = table.append_column(name, cells[name])
        write_csv(table, folder / "cells" / f"{well}.csv")
        n_cells += len(cells)
    rows = tables.described()
    with (folder / "features.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return [
        f"{n_cells:,} cells, a file per well in {shown / 'cells'}",
        f"what the columns are: {shown / 'features.csv'}",
    ]
