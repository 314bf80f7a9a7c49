"""Tables as bytes, and as rows: the same rows give the same file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import pandas as pd


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """A table as parquet: text as dictionaries, numbers plain (dictionaries of floats are slower and larger)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    # No row of a text column says nothing about its type: pandas calls it object, pyarrow null.
    fields = [pa.field(f.name, pa.string()) if pa.types.is_null(f.type) else f for f in table.schema]
    table = table.cast(pa.schema(fields))
    text = [f.name for f in fields if pa.types.is_string(f.type)]
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=text, row_group_size=20_000)
    return buffer.getvalue()


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries, with None for every empty or NaN cell."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return cast(list[dict[str, Any]], rows)
