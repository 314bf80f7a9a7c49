"""The stage `aggregate`: the tables of a plate, from its wells' cell tables, histograms and plate map.

It reads one well at a time and no image, so a changed plate map costs seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from plateflow.features.feature import Feature
from plateflow.features.stage import cell_columns, channel_names, compartment
from plateflow.features.tables import parquet_bytes
from plateflow.images.read import load_window
from plateflow.state.journal import Entry, write_atomic
from plateflow.state.runner import JobContext, Outcome, Unit, one_by_one, run_job
from plateflow.state.stages import digest
from plateflow.stats.wells import OWN

if TYPE_CHECKING:
    import pandas as pd


def units(context: JobContext) -> list[Unit]:
    """The plate, with all that its tables are made of."""
    tiled, measured = context.upstream("tile"), context.upstream("features")
    depends = {
        "features": [[well, *_stamp(measured[well, "", -1])] for well in context.wells()],
        "tile": [[well, *_stamp(tiled[well, "", -1])] for well in context.wells()],
        "window": load_window(context.paths).fingerprint(channel_names(context)),
        "plate map": _read_map(context)[1],
        "parameters": context.parameters(),
    }
    return [Unit(depends=depends)]


def _stamp(entry: Entry) -> list[Any]:
    return [entry.fingerprint, entry.state, entry.reason, entry.fields]


def _read_map(context: JobContext) -> tuple[pd.DataFrame | None, str]:
    """The plate map, and a digest of what it says."""
    from plateflow.plates.platemap import read_plate_map

    if context.entry.plate_map is None:
        return None, ""
    table = read_plate_map(context.entry.plate_map, context.entry.plate)
    return table, digest(table.to_csv(index=False))


def run(context: JobContext) -> None:
    """Write the tables of a plate."""
    run_job(context, lambda: units(context), one_by_one(lambda unit: aggregate(context)))


def aggregate(context: JobContext) -> Outcome:
    """Write wells.parquet, wells.csv, qc.parquet and features.json."""
    import pandas as pd

    from plateflow.stats import quality
    from plateflow.stats.qc import read_quality
    from plateflow.stats.wells import medians_of, read_cells, row_count, well_table

    paths, config, channels = context.paths, context.config, channel_names(context)
    label_sets = list(config.segmentation)
    columns = cell_columns(label_sets, channels, config.rows)
    medians = medians_of(columns)
    tiled, measured = context.upstream("tile"), context.upstream("features")
    planes = pd.read_parquet(paths.planes, columns=["well", "field"])
    fields = {str(well): list(dict.fromkeys(rows)) for well, rows in planes.groupby("well", sort=False)["field"]}

    rows: dict[str, dict[str, Any]] = {}
    left_out: dict[str, dict[str, tuple[str, str]]] = {}
    sites: dict[str, dict[str, int]] = {}
    for well in context.wells():
        entry, tile = measured[well, "", -1], tiled[well, "", -1]
        left_out[well] = {name: ("quarantined", reason) for name, reason in tile.fields.items()}
        row: dict[str, Any] = {"Metadata_State": entry.state, "Metadata_Reason": entry.reason}
        if entry.left_out:
            missing = dict.fromkeys(fields[well], (entry.state, entry.reason))
            left_out[well] = missing | left_out[well]
        else:
            cells = read_cells(paths.cells(well), medians)
            sites[well] = cells.sites
            counts = {f"Count_{compartment(name)}": row_count(paths.objects(name, well)) for name in label_sets}
            row |= counts | cells.medians
        rows[well] = row

    for path in paths.cells("A01").parent.glob("*.parquet"):
        if path.stem not in rows:  # of a well that the plate had before
            path.unlink()
    window = load_window(paths)
    found = read_quality(paths, fields, left_out, sites, channels, config.normalise.percentiles)
    first = list(dict.fromkeys(item.channels[0] for item in config.segmentation.values()))
    qc = quality.field_flags(found.fields, config.quality, first)
    off = quality.wells_off(found.wells, config.quality)
    for well, row in rows.items():
        here = qc[qc["Metadata_Well"] == well]
        raised = {flag for flags in here["Flags"] for flag in flags.split(",") if flag}
        out = list(left_out[well])
        if row["Metadata_State"] not in ("quarantined", "missing"):
            raised |= ({"intensity"} if well in off else set()) | ({"fields"} if out else set())
            row["Metadata_State"] = "flagged" if raised else "ok"
        row["Metadata_Flags"] = ",".join(flag for flag in quality.FLAGS if flag in raised)
        row["Metadata_FieldsUsed"] = len(fields[well]) - len(out)
        row["Metadata_FieldsLeftOut"] = ",".join(out)
    table = well_table(paths.plate, rows, _read_map(context)[0])
    table = table[_in_order(table, [f"Count_{compartment(name)}" for name in label_sets], medians)]

    write_atomic(paths.table("wells.parquet"), parquet_bytes(table))
    write_atomic(paths.table("wells.csv"), table.to_csv(index=False, float_format="%.7g").encode())
    write_atomic(paths.table("qc.parquet"), parquet_bytes(qc))
    write_atomic(paths.table("features.json"), dictionary(columns, medians))
    return Outcome(
        info={
            "window now": {channel: list(now.values()) for channel, now in found.now.items()},
            "drift": {
                channel: round(quality.drift(window.ends(channel), list(now.values())), 6)
                for channel, now in found.now.items()
            },
        }
    )


def _in_order(table: pd.DataFrame, counts: list[str], medians: list[str]) -> list[str]:
    """Columns: metadata, counts, medians; those that no well has are there, empty."""
    for name in [*counts, *medians]:
        if name not in table:
            table[name] = float("nan")
    metadata = [str(name) for name in table if name not in {*counts, *medians}]
    own = [f"Metadata_{name}" for name in OWN[4:]]
    return [*(name for name in metadata if name not in own), *own, *counts, *medians]


def dictionary(columns: dict[str, Feature], medians: list[str]) -> bytes:
    """The data dictionary: every measured column of the cell tables, and whether the well table has its median."""
    in_wells = set(medians)
    entries = {
        column: {"compartment": column.partition("_")[0], **asdict(feature), "in_wells": column in in_wells}
        for column, feature in columns.items()
    }
    return json.dumps(entries, indent=1, ensure_ascii=False).encode() + b"\n"
