"""The stage `aggregate`: the tables of a plate.

Reads: the cell and object tables, one well at a time, histograms, the intensity window, the plate map; no image, so a
    changed plate map costs seconds.
Writes: wells.parquet, wells.csv, qc.parquet, features.json, on request fields.parquet, and the tables of
    `stats.statistics`.
Work item: the plate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.features.columns import cell_columns
from plateflow.features.measure import compartment
from plateflow.files import digest, remove, write_json
from plateflow.images.canvas import nearest_field
from plateflow.images.window import load_window
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import Entry
from plateflow.tables import write_table

if TYPE_CHECKING:
    import pandas as pd

    from plateflow.stats.flags import WellFields


def work_items(job: Job) -> list[WorkItem[pd.DataFrame | None]]:
    """The plate, with all that its tables are made of; its data is the plate map."""
    tiled, measured = job.plate.outcomes("tile"), job.plate.outcomes("features")
    plate_map = _read_map(job)
    depends = {
        "features": [[well, *_stamp(measured.required(well))] for well in job.wells],
        "tile": [[well, *_stamp(tiled.required(well))] for well in job.wells],
        "window": load_window(job.paths).fingerprint(job.plate.channels),
        "plate map": "" if plate_map is None else digest(plate_map.to_csv(index=False)),
        "parameters": job.parameters(),
    }
    return [WorkItem(depends=depends, data=plate_map)]


def _stamp(entry: Entry) -> list[Any]:
    return [entry.fingerprint, entry.state, entry.reason, entry.fields]


def _read_map(job: Job) -> pd.DataFrame | None:
    from plateflow.plates.platemap import read_plate_map

    path = job.plate.spec.plate_map
    return None if path is None else read_plate_map(path, job.plate.name)


def run(job: Job) -> None:
    """Write the tables of a plate."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: aggregate(job.plate, item.data)))


def aggregate(plate: Plate, plate_map: pd.DataFrame | None) -> Outcome:
    """Write the well table, the quality table, the data dictionary, and the tables of statistics."""
    import pandas as pd

    from plateflow.stats.flags import drift, field_flags, fields_in_use, wells_off
    from plateflow.stats.qc import read_quality
    from plateflow.stats.statistics import write_statistics
    from plateflow.stats.wells import dictionary, medians_of, sites_of, well_table

    paths, config, channels = plate.paths, plate.config, plate.channels
    tiled, outcomes = plate.outcomes("tile"), plate.outcomes("features")
    measured = {well: outcomes.required(well) for well in plate.wells}
    fields = _field_names(paths)
    left_out = {well: _left_out(fields[well], tiled.required(well), entry) for well, entry in measured.items()}
    _remove_former_wells(paths, measured)
    window, columns = load_window(paths), cell_columns(config, channels)
    sites = {well: sites_of(paths.cells(well)) for well, entry in measured.items() if not entry.left_out}
    quality = read_quality(paths, fields, left_out, sites, channels, config.normalise.percentiles)
    first_channels = list(dict.fromkeys(settings.channels[0] for settings in config.segmentation.values()))
    qc = field_flags(quality.fields, config.quality, first_channels)
    off = wells_off(quality.wells, config.quality)
    untrusted = plate.metadata.get("untrusted_positions", ())  # none where an older ingest was accepted
    use = fields_in_use(fields, left_out, qc, off, config.stats.exclude_flags, untrusted)

    medians, counts = medians_of(columns), [f"Count_{compartment(name)}" for name in config.segmentation]
    rows, field_rows = _rows(plate, measured, use, medians)
    table = well_table(plate.name, rows, plate_map, counts=counts, medians=medians)
    write_table(paths.table("wells.parquet"), table)
    write_table(paths.table("wells.csv"), table)
    write_table(paths.table("qc.parquet"), qc)
    write_json(paths.table("features.json"), dictionary(columns))
    if config.stats.by_field:
        write_table(paths.table("fields.parquet"), pd.DataFrame(field_rows))
    else:
        remove(paths.table("fields.parquet"))
    now = {channel: list(limits.values()) for channel, limits in quality.now.items()}
    drifts = {channel: round(drift(window.limits(channel), limits), 6) for channel, limits in now.items()}
    verdicts = write_statistics(paths, table, medians, config.stats, plate.metadata["format"])
    return Outcome(info={"window now": now, "drift": drifts, **verdicts})


def _field_names(paths: PlatePaths) -> dict[str, list[str]]:
    """By well, the names of its fields in the manifest's order."""
    import pandas as pd

    planes = pd.read_parquet(paths.planes, columns=["well", "field"])
    return {str(well): list(dict.fromkeys(names)) for well, names in planes.groupby("well", sort=False)["field"]}


def _left_out(names: Iterable[str], tiled: Entry, measured: Entry) -> dict[str, tuple[str, str]]:
    """Of a well, the fields that are quarantined or missing, with state and reason."""
    fields = dict[str, tuple[str, str]]()
    if measured.left_out:
        fields |= dict.fromkeys(names, (measured.state, measured.reason))
    return fields | {name: ("quarantined", reason) for name, reason in tiled.fields.items()}


def _remove_former_wells(paths: PlatePaths, wells: Collection[str]) -> None:
    """Remove the cell tables of wells that the plate no longer has."""
    for path in paths.cells("A01").parent.glob("*.parquet"):
        if path.stem not in wells:
            remove(path)


def _rows(
    plate: Plate, measured: Mapping[str, Entry], use: Mapping[str, WellFields], medians: list[str]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the well table, by well, and those of the table of fields, which are made on request."""
    from plateflow.stats.wells import read_cells

    paths, config = plate.paths, plate.config
    rows, field_rows = dict[str, dict[str, Any]](), list[dict[str, Any]]()
    count = f"Count_{compartment(config.row_label_set)}" if config.stats.by_field else ""
    for well, entry in measured.items():
        fields = use[well]
        state = entry.state if entry.left_out else "flagged" if fields.flags else "ok"
        rows[well] = {"Metadata_State": state, "Metadata_Reason": entry.reason, **fields.metadata()}
        if not fields.used:
            continue
        cells = read_cells(paths.cells(well), medians, without=fields.excluded, count_by_field=count)
        rows[well] |= _counts(plate, well, cells.rows, fields.excluded) | cells.values
        for name in fields.used if count else ():
            place = {"Metadata_Plate": plate.name, "Metadata_Well": well, "Metadata_Site": name}
            field_rows.append(place | cells.fields.get(name, {count: 0}))
    return rows, field_rows


def _counts(plate: Plate, well: str, rows: int, excluded: Collection[str]) -> dict[str, int]:
    """Objects of each label set outside the excluded fields: the rows' by their cells, others by their seeds."""
    from plateflow.stats.wells import row_count

    counts = {}
    for name in plate.config.segmentation:
        if not excluded:
            count = row_count(plate.paths.objects(name, well))
        elif name == plate.config.row_label_set:
            count = rows
        else:
            count = _seeds_outside(plate, well, name, excluded)
        counts[f"Count_{compartment(name)}"] = count
    return counts


def _seeds_outside(plate: Plate, well: str, label_set: str, excluded: Collection[str]) -> int:
    """Number of objects of a label set whose seed lies in none of the excluded fields."""
    import pyarrow.parquet as pq

    table = pq.read_table(plate.paths.objects(label_set, well), columns=["canvas", "seed_y", "seed_x"])
    numbers, y, x = (table[name].to_numpy() for name in ("canvas", "seed_y", "seed_x"))
    count = 0
    for canvas in plate.canvases(well, label_set):
        inside = numbers == canvas.index
        if inside.any():
            sites = nearest_field(canvas.fields, y[inside], x[inside])
            count += int(np.isin(sites.astype(str), list(excluded), invert=True).sum())
    return count
