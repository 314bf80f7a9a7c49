"""The stage `ingest`: a raw plate's manifest, and all groups and arrays of its store, empty.

The index of the plate is part of what the stage depends on, so it is made before anything is decided; it opens no
images. The manifest appears by rename and holds no clock.
"""

from __future__ import annotations

import hashlib
import io
import json

from plateflow.files import write_atomic
from plateflow.plates.check import check_channels
from plateflow.plates.plate import index_plate
from plateflow.plates.reader import Index, some
from plateflow.stages.runner import JobContext, Outcome, Unit, one_by_one, run_job


def units(context: JobContext) -> list[Unit]:
    """The plate: it depends on its index, with the size and time of every raw file."""
    index = index_plate(context.entry)
    check_channels(context.config, index.info)
    depends = {
        "parameters": context.parameters(),
        "raw files": manifest_digest(index),
    }
    return [Unit(depends=depends, data=index)]


def run(context: JobContext) -> None:
    """Ingest one plate."""
    run_job(context, lambda: units(context), one_by_one(lambda unit: ingest(context, unit.data)))


def manifest_digest(index: Index) -> str:
    """A digest of all that a manifest says, the size and time of each file included."""
    content = index.planes.to_csv(index=False) + json.dumps(index.info, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def ingest(context: JobContext, index: Index) -> Outcome:
    """Write the manifest, and make the store's groups and arrays, or bring them up to date."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from plateflow.images.layout import well_layout
    from plateflow.images.store import create_plate

    planes, info = index.planes, index.info
    layouts = {str(well): well_layout(of_well, info) for well, of_well in planes.groupby("well", sort=False)}
    stacked = [well for well, layout in layouts.items() if layout.placement == "stacked"]
    if stacked:
        note = f"by their positions, fields would lie on each other in {len(stacked)} wells: {some(stacked)}"
        info = info | {"disagreements": [*info["disagreements"], f"{note}; they are laid out in a grid"]}
    create_plate(
        context.paths,
        info,
        layouts,
        label_sets=list(context.config.segmentation),
        levels=context.config.levels,
        z_mode=context.config.z,
    )
    buffer = io.BytesIO()
    table = pa.Table.from_pandas(planes, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, buffer, compression="zstd", use_dictionary=["plate", "well", "field", "channel", "dtype"])
    write_atomic(context.paths.planes, buffer.getvalue())
    write_atomic(context.paths.info, json.dumps(info, indent=1, ensure_ascii=False).encode() + b"\n")
    missing = int((planes["state"] == "missing").sum())
    return Outcome(info={"wells": len(layouts), "fields": info["fields"], "planes": len(planes), "missing": missing})
