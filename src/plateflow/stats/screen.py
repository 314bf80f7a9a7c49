"""The tables over all plates, assembled from each plate's own tables, which are not computed again for that.

A thousand plates have more effects than a machine has memory, so they pass through files of the scratch, twice: once
as rows of plates, from which treatments are pooled some at a time, and once as the treatments that may differ in a
feature, from which the false discovery rate is found for some features at a time.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from plateflow.files import atomic_file, make_folder, remove
from plateflow.paths import PlatePaths
from plateflow.plates.doses import in_one_unit, same_doses
from plateflow.state.journal import outcomes
from plateflow.stats.effects import DOSE, KEYS, SIDES, TREATMENT, UNIT, pooled
from plateflow.stats.hits import CANDIDATE, Significant, evidence, ranked, runs
from plateflow.stats.reference import FRAME, OVER_TIME, Cut, by_frame
from plateflow.stats.replicates import replicate_table
from plateflow.stats.statistics import summaries_of
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BLOCK = 2**27
"""Bytes that the treatments that are pooled at a time may take."""
ROW_BYTES, TREATMENT_BYTES = 6, 70
"""Of these, for each feature: a row as it lies in the scratch, and a treatment while its evidence is made."""
CANDIDATES = 2**20
"""Candidates that are in memory at a time, unless one feature has more; they need some 100 bytes each."""
READERS = 2
"""Plates whose effects are read at a time."""
HEAD = (
    "Metadata_Plate",
    *FRAME,
    OVER_TIME,
    *KEYS,
    *(f"Metadata_{name}" for name in ("Replicates", "ReferenceVariance", "Freedom")),
)
"""The columns of a plate's effects that aren't features, as far as pooling needs them and the plate has them, besides
those of groups."""


def write_screen_tables(
    screen: PlatePaths, plates: Sequence[PlatePaths], *, fdr: float, groups: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Write plates.csv, controls.csv, hits.csv and replicates.csv of the screen.

    Treatments are pooled over the plates that have them (`effects.pooled`), so replicates may lie on different plates;
    frames of the same number are pooled, and groups of the same name, and no others; a dose in two molar units is one,
    in the first plate's.
    In memory are some treatments at a time, and what tells the rows of all plates apart.

    Args:
        screen: where the tables go.
        plates: all plates; those without tables yet, or with tables of an earlier version, are skipped.
        fdr: false discovery rate at which a treatment is called a hit.
        groups: the columns by which wells form groups.

    Returns:
        plates.csv: one row per plate with tables, frame and group: the grade and reasons of its controls, its hits or
        why it has none, and how many features have position effects.
        hits.csv; empty where no plate has a treatment.
        replicates.csv: one row per pair of plates that share treatments, and frame (`replicates.replicate_table`).
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    done: list[PlatePaths] = []
    for paths in plates:
        entry = outcomes(paths.journals("aggregate")).get(("", "", -1))
        frames = summaries_of(entry.info) if entry else []
        if not frames or not paths.table("effects.parquet").is_file():
            continue
        rows += [
            {
                "Metadata_Plate": paths.plate,
                **({} if OVER_TIME in info else {"Metadata_Time": 0}),  # of an earlier version
                **{name: info[name] for name in (*FRAME, OVER_TIME, *groups) if name in info},
                "Controls": info["controls"]["grade"],
                "ControlReasons": "; ".join(info["controls"]["reasons"]),
                "Hits": info["hits"]["hits"],
                "Treatments": info["hits"]["treatments"],
                "HitReasons": info["hits"]["why none"],
                **{f"Position_{name}": count for name, (count, _) in info["positions"].items()},
            }
            for info in frames
        ]
        done.append(paths)
    summary = pd.DataFrame(rows, columns=None if rows else ["Metadata_Plate"])
    write_table(screen.table("plates.csv"), summary)
    _join(screen.table("controls.csv"), [paths.table("controls.csv") for paths in done])
    hits = replicates = pd.DataFrame()
    make_folder(screen.scratch)
    # Nameless files are gone however the job ends.
    with tempfile.TemporaryFile(dir=screen.scratch) as spilled, tempfile.TemporaryFile(dir=screen.scratch) as kept:
        effects = _Rows(spilled, groups)
        with ThreadPoolExecutor(READERS) as pool:
            for first in range(0, len(done), READERS):  # no more of them in memory
                for table in pool.map(_effects, done[first : first + READERS]):
                    effects.add(table)
        if effects.heads:
            frames = list(by_frame(_heads(effects), groups))
            hits = _of_frames([(frame, _hits(rows, effects, kept, fdr)) for frame, rows in frames])
            replicates = _of_frames([(frame, _replicates(rows, effects)) for frame, rows in frames])
    for name, table in (("hits.csv", hits), ("replicates.csv", replicates)):
        if len(table):
            write_table(screen.table(name), table)
        else:
            remove(screen.table(name))
    return summary, hits, replicates


def _effects(paths: PlatePaths) -> pa.Table:
    """A plate's effects.parquet, of which opening alone takes a twentieth of a second: it is read once."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(paths.table("effects.parquet")).read(use_threads=False)


def _join(path: Path, tables: list[Path]) -> None:
    """Write the rows of CSV tables below each other, as text, so that no number is rounded again."""
    headers = [_first_line(table) for table in tables]
    columns = list(dict.fromkeys(name for header in dict.fromkeys(headers) for name in next(csv.reader([header]))))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(columns)
    with atomic_file(path) as sink:
        sink.write(text.getvalue().encode())
        for table, header in zip(tables, headers, strict=True):
            with table.open(newline="", encoding="utf-8") as file:
                if header == text.getvalue():
                    file.readline()
                    sink.write(file.read().encode())
                else:  # of an earlier version, which was accepted
                    rows = io.StringIO()
                    csv.DictWriter(rows, columns, lineterminator="\n").writerows(csv.DictReader(file))
                    sink.write(rows.getvalue().encode())


def _first_line(table: Path) -> str:
    with table.open(newline="", encoding="utf-8") as file:
        return file.readline()


def _record(features: int) -> np.dtype[Any]:
    """A row of a plate's effects, as it lies in the scratch."""
    return np.dtype([("mean", np.float32, features), ("sides", np.int16, features)])


class _Rows:
    """The effects of all plates, row by row in a file.

    Attributes:
        features: of all plates, in the order in which they come, each with its number.
        heads: of each plate with treatments the columns HEAD.
    """

    def __init__(self, file: BinaryIO, groups: Sequence[str]) -> None:
        self._file = file
        self._head = (*HEAD, *groups)
        self.features: dict[str, int] = {}
        self.heads: list[pd.DataFrame] = []
        self._columns: list[NDArray[np.int32]] = []  # of each plate, the numbers of its features
        self._starts: list[int] = []

    def add(self, table: pa.Table) -> None:
        """Add a plate's effects.parquet."""
        if not len(table):
            return
        present = table.column_names
        names = [name for name in present if not name.startswith("Metadata_") and not name.endswith(SIDES)]
        rows = np.empty(len(table), _record(len(names)))
        if names:
            batch = table.combine_chunks().to_batches()[0]  # as matrices: thousands of columns one by one take longer
            rows["mean"] = batch.select(names).to_tensor(null_to_nan=True).to_numpy()
            rows["sides"] = batch.select([name + SIDES for name in names]).to_tensor().to_numpy()
        head = table.select([name for name in self._head if name in present]).to_pandas()
        # Tables of an earlier version, which were accepted, know no unit, and stand for plates of one frame.
        head = head.assign(**{UNIT: head.get(UNIT, "")})
        if OVER_TIME not in head:
            head = head.assign(Metadata_Time=head.get("Metadata_Time", 0))
        self.heads.append(head)
        numbers = [self.features.setdefault(name, len(self.features)) for name in names]
        self._columns.append(np.array(numbers, np.int32))
        self._starts.append(self._file.tell())
        self._file.write(rows.data)

    def read(self, plates: NDArray[Any], rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Means (NaN where a plate lacks the feature) and sides (0 there), rows by features.

        Args:
            plates: the number of each row's plate, ascending.
            rows: the number of each row in it, ascending within a plate.
        """
        mean = np.full((len(rows), len(self.features)), np.nan, np.float32)
        sides = np.zeros(mean.shape, np.int16)
        gaps = (np.diff(plates, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 1)
        for run in runs(np.cumsum(gaps)):  # rows that lie in a row
            plate = plates[run.start]
            columns = self._columns[plate]
            record = _record(len(columns))
            place = self._starts[plate] + int(rows[run.start]) * record.itemsize
            if not len(columns):
                continue
            read = np.frombuffer(_read(self._file, place, (run.stop - run.start) * record.itemsize), record)
            mean[run, columns] = read["mean"]
            sides[run, columns] = read["sides"]
        return mean, sides


class _Candidates:
    """CANDIDATEs of all treatments in a file: piece after piece, by feature within each.

    Attributes:
        tested: by feature, how many treatments were tested in it.
    """

    def __init__(self, file: BinaryIO, features: int) -> None:
        self._file = file
        self.tested = np.zeros(features, np.int64)
        self._ends: list[NDArray[np.int64]] = []  # of each piece, where each feature ends in the file

    def add(self, candidates: NDArray[Any], tested: NDArray[np.int64]) -> None:
        """Add a piece of treatments."""
        counts = np.bincount(candidates["feature"], minlength=len(tested))
        self._ends.append(self._file.tell() + CANDIDATE.itemsize * np.cumsum([0, *counts]))
        self._file.write(candidates.data)
        self.tested += tested

    def by_feature(self) -> Iterator[NDArray[Any]]:
        """All of them, some features at a time, each with all its candidates."""
        for run in runs(np.cumsum(sum(map(np.diff, self._ends))) // (CANDIDATES * CANDIDATE.itemsize)):
            pieces = [_read(self._file, ends[run.start], ends[run.stop] - ends[run.start]) for ends in self._ends]
            yield np.frombuffer(b"".join(pieces), CANDIDATE)


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    """Bytes of a file that is written at its end."""
    file.flush()
    data = os.pread(file.fileno(), size, start)
    while len(data) < size:
        data += os.pread(file.fileno(), size - len(data), start + len(data))
    return data


def _heads(effects: _Rows) -> pd.DataFrame:
    """The columns HEAD of all plates, doses in the units of the first, with the numbers by which `read` knows rows."""
    import pandas as pd

    heads = pd.concat(effects.heads, ignore_index=True)
    for name in heads.columns.intersection([*FRAME]):
        heads[name] = heads[name].fillna(0)
    heads[DOSE] = same_doses(zip(heads[TREATMENT], heads[UNIT], strict=True), heads[DOSE])
    doses, units = in_one_unit(heads[DOSE].tolist(), heads[UNIT].tolist())
    doses = same_doses(zip(heads[TREATMENT], units, strict=True), doses)
    alike = heads[TREATMENT], np.array(doses), np.array(units)
    heads[[DOSE, UNIT]] = heads.groupby([*alike], dropna=False)[[DOSE, UNIT]].transform("first")
    heads["_plate"] = np.repeat(np.arange(len(effects.heads)), [len(head) for head in effects.heads])
    heads["_row"] = np.concatenate([np.arange(len(head)) for head in effects.heads])
    return heads


def _of_frames(tables: list[tuple[Cut, pd.DataFrame]]) -> pd.DataFrame:
    """Tables of frames and groups below each other, with the columns that tell them apart."""
    import pandas as pd

    for frame, table in tables:
        for place, (name, value) in enumerate(frame.items()):
            table.insert(place, name, value)
    return pd.concat([table for _, table in tables if len(table)] or [tables[0][1]], ignore_index=True)


def _replicates(heads: pd.DataFrame, effects: _Rows) -> pd.DataFrame:
    return replicate_table(heads, lambda plates, rows: effects.read(plates, rows)[0], len(effects.features))


def _hits(heads: pd.DataFrame, effects: _Rows, kept: BinaryIO, fdr: float) -> pd.DataFrame:
    """The table of hits over all plates (`hits.hit_table`) in one frame."""
    kept.seek(0)
    kept.truncate()
    return _hits_of_frame(heads, effects, _Candidates(kept, len(effects.features)), fdr)


def _hits_of_frame(heads: pd.DataFrame, effects: _Rows, candidates: _Candidates, fdr: float) -> pd.DataFrame:
    import pandas as pd

    features, plates, rows = list(effects.features), heads["_plate"].to_numpy(), heads["_row"].to_numpy()
    codes = heads.groupby(KEYS, dropna=False, sort=True).ngroup().to_numpy()
    sizes = len(features) * (ROW_BYTES * np.bincount(codes) + TREATMENT_BYTES)
    block = (np.cumsum(sizes) // BLOCK)[codes]
    tables = []
    n_treatments = 0
    for number in np.unique(block):
        here = np.flatnonzero(block == number)
        together = pooled(heads.iloc[here], *effects.read(plates[here], rows[here]), features)
        table, found, tested = evidence(together, fdr=fdr)
        found["treatment"] += n_treatments
        n_treatments += len(table)
        tables.append(table)
        candidates.add(found, tested)
    significant = Significant(n_treatments, fdr=fdr)
    for found in candidates.by_feature():
        significant.add(found, candidates.tested)
    return ranked(pd.concat(tables, ignore_index=True), significant, features)
