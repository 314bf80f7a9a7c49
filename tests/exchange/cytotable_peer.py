"""CytoTable, as it reads what `plateflow export --tables cytotable` has written."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest


def convert(source: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """CytoTable's own conversion, in threads of this process.

    Its connection to DuckDB alone is replaced: that of CytoTable loads extensions from the network, for SQLite and S3,
    and calls a method that DuckDB 2 lacks.
    """
    import duckdb
    import parsl

    peer = pytest.importorskip("cytotable")

    class Reader:
        def __init__(self) -> None:
            self.connection = duckdb.connect()

        def __enter__(self) -> "Reader":
            return self

        def __exit__(self, *_: object) -> None:
            self.connection.close()

        def execute(self, *arguments: Any) -> "Reader":
            self.connection.execute(*arguments)
            return self

        def fetchall(self) -> list[Any]:
            return self.connection.fetchall()

        def fetch_arrow_table(self) -> Any:
            return self.connection.to_arrow_table()

    monkeypatch.setattr("cytotable.utils._duckdb_reader", Reader)
    threads = parsl.config.Config(executors=[parsl.executors.ThreadPoolExecutor(label="threads", max_threads=2)])
    monkeypatch.chdir(source.parent)  # for parsl's own folder
    made = peer.convert(
        str(source),
        str(source.parent / "made.parquet"),
        dest_datatype="parquet",
        source_datatype="csv",
        preset="cellprofiler_csv",
        chunk_size=20_000,
        add_tablenumber=False,
        parsl_config=threads,
    )
    return pd.read_parquet(made)
