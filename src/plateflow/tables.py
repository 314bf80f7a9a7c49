"""Tables as the project writes and reads them: the same rows always give the same bytes.

pandas and pyarrow are imported on use, so that importing this module stays cheap.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plateflow.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TEXT = (
    "Metadata_treatment",
    "Metadata_dose_unit",
    "Positive",
    "PositiveDoseUnit",
    "Feature",
    "Wells",
    "Plates",
    "Reason",
    "Reasons",
    "Flags",
)
"""Columns of CSV tables that are text, whatever they look like: a treatment may be called 101 or NA."""


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table by rename, as CSV (numbers with 7 digits) or as parquet, depending on the suffix of the file."""
    text = path.suffix == ".csv"
    write_atomic(path, table.to_csv(index=False, float_format="%.7g").encode() if text else parquet_bytes(table))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same columns as CSV by rename, fractions with 4 places; without pandas, and in no journal."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    write_atomic(path, text.getvalue().encode(), stamped=False)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_table(path: Path, text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table that `write_table` wrote.

    Args:
        path: of the table.
        text: columns of a CSV that are text, besides TEXT; empty cells in all of them are empty strings.
    """
    import pandas as pd

    if path.suffix != ".csv":
        return pd.read_parquet(path)
    text = [*TEXT, *text]
    table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=[""])
    return table.fillna({name: "" for name in text if name in table})


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Encode a table, without its index, as parquet, compressed with zstd in row groups of 20,000 rows.

    Text has dictionaries, numbers none: those of floats are slower and larger. The bytes of floats are sorted by their
    place (`BYTE_STREAM_SPLIT`), which takes a fifteenth off a cell table, and is no slower.
    """
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    # A text column without a value has no type: pandas calls it object, pyarrow null.
    fields = [pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema]
    table = table.cast(pa.schema(fields))
    text = [f.name for f in fields if pa.types.is_string(f.type)]
    split = {f.name: "BYTE_STREAM_SPLIT" for f in fields if pa.types.is_floating(f.type)}
    return encoded(table, use_dictionary=text, column_encoding=split, row_group_size=20_000)


def encoded(table: pa.Table, **options: Any) -> bytes:
    """A table of pyarrow as parquet, compressed with zstd; `options` as of its `write_table`."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", **options)
    return buffer.getvalue()


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries, with None for every empty or NaN cell."""
    # to_dict("records") takes each cell of a wide table by itself: 20 times as long for two wells of 3,000 columns.
    rows = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    return [dict(zip(frame.columns, row, strict=True)) for row in rows]
