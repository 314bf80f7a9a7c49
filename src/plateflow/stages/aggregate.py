"""The stage `aggregate`: the tables of a plate, from its wells' cell tables, histograms and plate map.

It reads one well at a time and no image, so a changed plate map costs seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Config
from plateflow.features.columns import cell_columns
from plateflow.features.feature import Feature
from plateflow.features.measure import compartment
from plateflow.files import digest, write_atomic
from plateflow.images.canvas import nearest_field
from plateflow.images.window import load_window
from plateflow.stages.runner import Job, Outcome, WorkItem, one_by_one, run_job
from plateflow.state.journal import Entry
from plateflow.stats.wells import OWN, SPREADS

if TYPE_CHECKING:
    import pandas as pd


def work_items(job: Job) -> list[WorkItem[None]]:
    """The plate, with all that its tables are made of."""
    tiled, measured = job.plate.outcomes("tile"), job.plate.outcomes("features")
    depends = {
        "features": [[well, *_stamp(measured.required(well))] for well in job.wells],
        "tile": [[well, *_stamp(tiled.required(well))] for well in job.wells],
        "window": load_window(job.paths).fingerprint(job.plate.channels),
        "plate map": _read_map(job)[1],
        "parameters": job.parameters(),
    }
    return [WorkItem(depends=depends)]


def _stamp(entry: Entry) -> list[Any]:
    return [entry.fingerprint, entry.state, entry.reason, entry.fields]


def _read_map(job: Job) -> tuple[pd.DataFrame | None, str]:
    """The plate map, and a digest of what it says."""
    from plateflow.plates.platemap import read_plate_map

    if job.plate.spec.plate_map is None:
        return None, ""
    table = read_plate_map(job.plate.spec.plate_map, job.plate.name)
    return table, digest(table.to_csv(index=False))


def run(job: Job) -> None:
    """Write the tables of a plate."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: aggregate(job)))


def aggregate(job: Job) -> Outcome:
    """Write the well table, the quality table, the dictionary, and the tables of statistics."""
    import pandas as pd

    from plateflow.stats import quality
    from plateflow.stats.qc import read_quality
    from plateflow.stats.tables import write_statistics, write_table
    from plateflow.stats.wells import medians_of, read_cells, sites_of, well_table

    paths, config, channels = job.paths, job.config, job.plate.channels
    columns = cell_columns(config, channels)
    medians = medians_of(columns)
    tiled, measured = job.plate.outcomes("tile"), job.plate.outcomes("features")
    planes = pd.read_parquet(paths.planes, columns=["well", "field"])
    fields = {str(well): list(dict.fromkeys(rows)) for well, rows in planes.groupby("well", sort=False)["field"]}

    left_out: dict[str, dict[str, tuple[str, str]]] = {}
    for well in job.wells:
        entry = measured.required(well)
        left_out[well] = {name: ("quarantined", reason) for name, reason in tiled.required(well).fields.items()}
        if entry.left_out:
            left_out[well] = dict.fromkeys(fields[well], (entry.state, entry.reason)) | left_out[well]
    for path in paths.cells("A01").parent.glob("*.parquet"):
        if path.stem not in left_out:  # of a well that the plate had before
            path.unlink()
    there = [well for well in job.wells if not measured.required(well).left_out]
    sites = {well: sites_of(paths.cells(well)) for well in there}
    window = load_window(paths)
    found = read_quality(paths, fields, left_out, sites, channels, config.normalise.percentiles)
    first = list(dict.fromkeys(item.channels[0] for item in config.segmentation.values()))
    qc = quality.field_flags(found.fields, config.quality, first)
    off = quality.wells_off(found.wells, config.quality)

    rows: dict[str, dict[str, Any]] = {}
    by_field: list[dict[str, Any]] = []
    raised_in = _flags_of_fields(qc)
    for well in job.wells:
        entry, out, here = measured.required(well), list(left_out[well]), raised_in.get(well, {})
        raised = {flag for flags in here.values() for flag in flags}
        excluded: list[str] = []
        row: dict[str, Any] = {"Metadata_State": entry.state, "Metadata_Reason": entry.reason}
        if not entry.left_out:
            raised |= ({"intensity"} if well in off else set()) | ({"fields"} if out else set())
            excluded = _excluded(here, well in off, [name for name in fields[well] if name not in out], config)
            row["Metadata_State"] = "flagged" if raised else "ok"
            cells = read_cells(paths.cells(well), medians, without=excluded, by_field=config.stats.by_field)
            if len(out) + len(excluded) < len(fields[well]):
                row |= _counts(job, well, cells.rows, excluded) | cells.values
            place = {"Metadata_Plate": paths.plate, "Metadata_Well": well}
            used = [name for name in fields[well] if name not in {*out, *excluded}] if config.stats.by_field else []
            by_field += [place | {"Metadata_Site": name} | cells.fields.get(name, {"": 0}) for name in used]
        row["Metadata_Flags"] = ",".join(flag for flag in quality.FLAGS if flag in raised)
        row["Metadata_FieldsUsed"] = len(fields[well]) - len(out) - len(excluded)
        row["Metadata_FieldsLeftOut"], row["Metadata_FieldsExcluded"] = ",".join(out), ",".join(excluded)
        rows[well] = row
    table = well_table(paths.plate, rows, _read_map(job)[0])
    table = _in_order(table, [f"Count_{compartment(name)}" for name in config.segmentation], medians)

    write_table(paths, "wells.parquet", table)
    write_table(paths, "wells.csv", table)
    write_table(paths, "qc.parquet", qc)
    if config.stats.by_field:
        write_table(
            paths, "fields.parquet", pd.DataFrame(by_field).rename(columns={"": f"Count_{compartment(config.rows)}"})
        )
    else:
        paths.table("fields.parquet").unlink(missing_ok=True)
    write_atomic(paths.table("features.json"), dictionary(columns, medians))
    info = {
        "window now": {channel: list(now.values()) for channel, now in found.now.items()},
        "drift": {
            channel: round(quality.drift(window.limits(channel), list(now.values())), 6)
            for channel, now in found.now.items()
        },
    }
    return Outcome(info=info | write_statistics(paths, table, medians, config.stats, job.plate.metadata["format"]))


def _flags_of_fields(qc: pd.DataFrame) -> dict[str, dict[str, set[str]]]:
    """By well and field, the flags that some channel has."""
    found: dict[str, dict[str, set[str]]] = {}
    flagged = qc[qc["Flags"] != ""]
    for well, field, flags in zip(flagged["Metadata_Well"], flagged["Metadata_Site"], flagged["Flags"], strict=True):
        found.setdefault(well, {}).setdefault(field, set()).update(flags.split(","))
    return found


def _excluded(flags: Mapping[str, set[str]], off: bool, names: list[str], config: Config) -> list[str]:
    """Of a well's fields, those that the configuration leaves out of the statistics for their flags."""
    out = set(config.stats.exclude_flags)
    if off and "intensity" in out:
        return names
    return [name for name in names if flags.get(name, set()) & out]


def _counts(job: Job, well: str, rows: int, excluded: list[str]) -> dict[str, int]:
    """Objects of each label set, without those in excluded fields: of other sets than the rows' by their seeds."""
    from plateflow.stats.wells import row_count

    counts = {}
    for name in job.config.segmentation:
        path = job.paths.objects(name, well)
        if name == job.config.rows and excluded:
            count = rows
        elif not excluded:
            count = row_count(path)
        else:
            count = _seeds_elsewhere(job, well, name, set(excluded))
        counts[f"Count_{compartment(name)}"] = count
    return counts


def _seeds_elsewhere(job: Job, well: str, label_set: str, excluded: set[str]) -> int:
    """How many objects of a label set have their seed in another field than these."""
    import pyarrow.parquet as pq

    table = pq.read_table(job.paths.objects(label_set, well), columns=["canvas", "seed_y", "seed_x"])
    canvas, y, x = (table[name].to_numpy() for name in ("canvas", "seed_y", "seed_x"))
    count = 0
    for item in job.plate.canvases(well, label_set):
        here = canvas == item.index
        if here.any():
            sites = nearest_field(item.fields, y[here], x[here])
            count += int(np.isin(sites.astype(str), list(excluded), invert=True).sum())
    return count


def _in_order(table: pd.DataFrame, counts: list[str], medians: list[str]) -> pd.DataFrame:
    """Columns: metadata, counts, medians, then what tells the spread; those that no well has are there, empty."""
    measured = [*counts, *medians, *(f"{name}_{spread}" for spread in SPREADS for name in medians)]
    own = [f"Metadata_{name}" for name in OWN[4:]]
    metadata = [name for name in table if str(name).startswith("Metadata_") and name not in own]
    return table.reindex(columns=[*metadata, *own, *measured])


def dictionary(columns: dict[str, Feature], medians: list[str]) -> bytes:
    """The data dictionary: every measured column of the cell tables, and whether the well table has its median."""
    in_wells = set(medians)
    entries = {
        column: {"compartment": column.partition("_")[0], **asdict(feature), "in_wells": column in in_wells}
        for column, feature in columns.items()
    }
    return json.dumps(entries, indent=1, ensure_ascii=False).encode() + b"\n"
