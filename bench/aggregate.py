"""A plate's tables from simulated cell tables: time and memory by the number of cells.

    python bench/aggregate.py [--cells 2000000] [--columns 1000] [--wells 384] [--distinct 16] [--folder DIR]

`distinct` cell tables are written, and each stands for several wells by links, so that the disk holds a part of what is
read. Prints JSON lines: reading all wells (medians, MADs, quantiles), and the statistics and tables that follow, with
wall and processor seconds and the peak memory of the process so far.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from plateflow.config import Stats
from plateflow.paths import PlatePaths, well_name
from plateflow.stats.statistics import write_statistics
from plateflow.stats.wells import read_cells, well_table
from plateflow.tables import write_table


def write_cells(path: Path, cells: int, names: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"Metadata_Site": np.sort(rng.integers(1, 10, cells)).astype(str)}
    columns |= {name: rng.normal(100, 20, cells).astype(np.float32) for name in names}
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=["Metadata_Site"], row_group_size=20_000)


def report(start: tuple[float, float], **line: Any) -> None:
    line |= {"wall_s": round(time.perf_counter() - start[0], 1), "cpu_s": round(time.process_time() - start[1], 1)}
    line["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=2_000_000)
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--wells", type=int, default=384)
    parser.add_argument("--distinct", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    names = [f"Cells_Simulated_Feature{n}" for n in range(options.columns)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = PlatePaths.of("bench", results=folder)
        wells = [well_name(*divmod(n, 24)) for n in range(options.wells)]
        paths.cells("A01").parent.mkdir(parents=True)
        for number, well in enumerate(wells):
            if number < options.distinct:
                write_cells(paths.cells(well), options.cells // options.wells, names, number)
            else:
                paths.cells(well).hardlink_to(paths.cells(wells[number % options.distinct]))
        size = sum(paths.cells(well).stat().st_size for well in wells) / 1e9
        start = time.perf_counter(), time.process_time()
        report(start, what="start", cells=options.cells, columns=options.columns, gigabytes_read=round(size, 2))
        rows: list[dict[str, Any]] = []
        values = []
        for well in wells:
            (cells,) = read_cells(paths.cells(well), names, [{}], without=["3"])
            row = {"Metadata_Well": well, "Metadata_Time": 0, "Metadata_State": "ok", "Metadata_FieldsUsed": 8}
            rows.append(row | {"Count_Cells": cells.rows})
            values.append(cells.values.ravel())
        report(start, what="medians, MADs, quantiles", cells=options.cells)
        roles = ["negative", "positive", *["treatment"] * 10]
        plate_map = pd.DataFrame({"well": wells, "role": [roles[n % 12] for n in range(len(wells))], "dose": 1.0})
        plate_map["treatment"] = [f"c{n // 2}" for n in range(len(wells))]
        start = time.perf_counter(), time.process_time()
        table = well_table("bench", rows, np.array(values), plate_map, counts=["Count_Cells"], medians=names)
        for name in ("wells.parquet", "wells.csv"):
            write_table(paths.table(name), table)
        write_statistics(paths, table, names, Stats(), (16, 24))
        report(start, what="tables and statistics", wells=options.wells)


if __name__ == "__main__":
    main()
