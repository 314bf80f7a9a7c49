"""A plate's cell tables, well by well, with what its well table says of each cell's well."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.errors import ResultsError
from plateflow.features.words import in_words
from plateflow.files import checksum
from plateflow.project import Plate
from plateflow.state.journal import PLATE_KEY, Entry
from plateflow.stats.gates import EXCLUDED_BY, INCLUDED, KEYS, POPULATION

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

USED = "Metadata_Used"
"""Whether the well table counts a cell: not where its field has a flag of `stats.exclude_flags`."""


@dataclass(frozen=True, kw_only=True)
class CellTables:
    """The cell tables of a plate, well by well.

    Attributes:
        plate: whose they are.
        measured: by well that isn't left out, what features says of it.
        aggregate: what aggregate says of the plate.
        features: the data dictionary: unit, definition, ... by column, in the order of the columns.
        wells: the well table's metadata: a row per well and frame.
        frame: the columns of `wells` that tell frames apart.
    """

    plate: Plate
    measured: Mapping[str, Entry]
    aggregate: Entry
    features: Mapping[str, Mapping[str, Any]]
    wells: pd.DataFrame
    frame: list[str]

    @classmethod
    def of(cls, plate: Plate) -> CellTables:
        """Those of a plate.

        Raises:
            ResultsError: its tables aren't made yet, or not of these cells, or no well was measured.
        """
        import pyarrow.parquet as pq

        from plateflow.stats.reference import FRAME

        if PLATE_KEY not in plate.outcomes("aggregate"):
            raise ResultsError("the plate has no tables yet", where=plate.name, remedy="run `snakemake` first")
        if not plate.paths.receipts("aggregate", "plate"):  # who measures cells takes it away before that
            why = "cells were measured, or files lost, after its well table was made"
            what, remedy = "the plate's tables don't fit each other", "run `snakemake` first"
            raise ResultsError(what, where=plate.name, why=why, remedy=remedy)
        with pq.ParquetFile(plate.paths.table("wells.parquet")) as file:
            names = [name for name in file.schema_arrow.names if name.startswith("Metadata_")]
            wells = file.read(names).to_pandas()
        outcomes = plate.outcomes("features")
        entries = {well: outcomes.required(well) for well in plate.wells}
        measured = {well: entry for well, entry in entries.items() if not entry.left_out}
        if not measured:
            remedy = f"`plateflow status {plate.name}` says why"
            raise ResultsError("all wells of the plate were left out", where=plate.name, remedy=remedy)
        return cls(
            plate=plate,
            measured=measured,
            aggregate=plate.outcomes("aggregate").required(),
            features=json.loads(plate.paths.table("features.json").read_text()),
            wells=wells,
            frame=[name for name in FRAME if name in wells],
        )

    def kind(self, *kinds: str) -> list[str]:
        """The columns of these kinds: measurement, position, number."""
        return [name for name, feature in self.features.items() if feature["kind"] in kinds]

    def described(self) -> list[dict[str, Any]]:
        """The data dictionary as rows: the column, what it is in words, and all that features.json says of it."""
        channels = self.plate.channels
        return [
            {"column": name, "words": in_words(name, channels), **feature} for name, feature in self.features.items()
        ]

    def read(self, well: str) -> tuple[pa.Table, pd.DataFrame]:
        """A well's cells, and, row by row, their metadata: their own, their well's and frame's, USED, and what
        aggregate has decided (`stats.gates`): whether they are included, why not, and their populations.

        Raises:
            ResultsError: a table isn't as it was written.
        """
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.plate.paths.cells(well)
        cells = pq.read_table(pa.BufferReader(self._read(path, self.measured[well])))
        if lacking := self.features.keys() - set(cells.column_names):
            why = f"{path.name} has no {min(lacking)}"
            raise ResultsError("the plate's tables don't fit each other", where=self.plate.name, why=why)
        own = [name for name in cells.column_names if name not in self.features]
        metadata = cells.select(own).to_pandas()
        keys = ["Metadata_Well", *self.frame]
        known = [name for name in self.wells if name in keys or name not in own]
        metadata = metadata.merge(self.wells[known], on=keys, how="left", validate="many_to_one")
        excluded = metadata["Metadata_FieldsExcluded"].fillna("").str.split(",")
        sites = zip(metadata["Metadata_Site"], excluded, strict=True)
        metadata[USED] = np.array([site not in fields for site, fields in sites], bool)  # bool in an empty well, too
        gates = self.plate.paths.gates(well)
        if self.plate.paths.key_of(gates) in self.aggregate.files:
            table = pd.read_parquet(io.BytesIO(self._read(gates, self.aggregate)))
            populations = [name for name in table if str(name).startswith(POPULATION)]
            table = table.astype(dict.fromkeys(populations, "boolean"))  # whether some have no value, or none
            metadata = metadata.join(table.drop(columns=list(KEYS)))
        else:  # of an earlier version, which left no cell out
            metadata[INCLUDED], metadata[EXCLUDED_BY] = True, ""
        return cells.select(list(self.features)), metadata

    def _read(self, path: Path, entry: Entry) -> bytes:
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            data = b""
        if (len(data), checksum(data)) != tuple(entry.files[self.plate.paths.key_of(path)]):
            remedy = f"`plateflow verify {self.plate.name}`, then `snakemake`"
            raise ResultsError("a cell table isn't as it was written", where=str(path), remedy=remedy)
        return data

    def each(self) -> Iterator[tuple[str, pa.Table, pd.DataFrame]]:
        """Well by well, with a progress bar: its name, and what `read` says of it."""
        from rich.console import Console
        from rich.progress import track

        for well in track(self.measured, f"{self.plate.name}: wells", console=Console(stderr=True), transient=True):
            yield well, *self.read(well)
