"""The stage `ingest`: a raw plate's manifest, and all groups and arrays of its store, empty.

Reads: the plate's index, and the headers of a few images.
Writes: manifest/planes.parquet, manifest/plate.json, the groups and arrays of plate.zarr.
Work item: the plate.

The index is part of what the stage depends on, so it is made before anything is decided; it opens no image for its
pixels. The manifest appears by rename and holds no clock. Where the raw folder lies is in neither: moved raw data are
the same.
"""

import hashlib
import json

from plateflow.config import Config
from plateflow.files import write_atomic, write_json
from plateflow.images.layout import WellLayout, well_layout
from plateflow.images.well import planes_read
from plateflow.plates.check import check_channels
from plateflow.plates.plate import index_plate
from plateflow.plates.reader import Index, counted
from plateflow.segment.grid import anisotropy
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import PLATE_KEY
from plateflow.tables import encoded


def work_items(job: Job) -> list[WorkItem[Index]]:
    """The plate: it depends on its index; on its files' sizes and times only when `check` asks for them."""
    index = index_plate(job.plate.spec)
    check_channels(job.config, index.metadata)
    # All that a manifest says, but for what tile sees by itself: whether a file is there, as it was.
    planes = index.planes.drop(columns=["size_bytes", "mtime_ns", "state", "reason"])
    content = planes.to_csv(index=False) + json.dumps(index.metadata, sort_keys=True)
    raw_files = hashlib.sha256(content.encode()).hexdigest()[:20]
    return [WorkItem(depends={"parameters": job.parameters(), "raw files": raw_files}, data=index)]


def run(job: Job) -> None:
    """Ingest one plate."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: ingest(job, item.data)))


def well_layouts(config: Config, index: Index) -> dict[str, WellLayout]:
    """The layout of each well; what `ingest` makes of the index before it writes, so that `check` can ask for it.

    Raises:
        RawDataError: positions and pixel size contradict each other.
        ConfigError: the plate lacks the planes, or their distance, that the configuration needs.
    """
    wells, plate = index.planes.groupby("well", sort=False), str(index.metadata["plate"])
    layouts = {str(well): well_layout(planes, index.metadata) for well, planes in wells}
    layout = max(layouts.values(), key=lambda layout: layout.z_known)  # of one well, as all should have the same planes
    for channel in layout.channels:
        for z in range(layout.label_shape(config.z)[1]):
            planes_read(layout, channel, config.z, z, where=plate)
    for name, label_set in config.segmentation.items():
        if label_set.dimensions == 3:
            anisotropy(layout, where=f"{plate}, label set {name}")
    return layouts


def ingest(job: Job, index: Index) -> Outcome:
    """Write the manifest, and make the store's groups and arrays, or bring them up to date."""
    import pyarrow as pa

    from plateflow.images.store import create_plate

    planes, metadata = index.planes, index.metadata
    layouts = well_layouts(job.config, index)
    untrusted = [well for well, layout in layouts.items() if layout.placement == "untrusted"]
    what = (
        "well[s are| is] laid out in a grid, as by their positions fields would lie on each other, or some have none; "
        "cells where fields overlap are counted in each"
    )
    notes = [*metadata["disagreements"], *counted(untrusted, what)]
    metadata = metadata | {"disagreements": notes, "untrusted_positions": untrusted}
    before = job.plate.outcomes("ingest").get(PLATE_KEY)
    images = create_plate(
        job.paths,
        metadata,
        layouts,
        label_sets=list(job.config.segmentation),
        levels=job.config.levels,
        z_mode=job.config.z,
        ids=before.info.get("images", {}) if before else {},
    )
    table = pa.Table.from_pandas(planes, preserve_index=False).replace_schema_metadata(None)
    text = ["plate", "well", "field", "channel", "dtype"]
    write_atomic(job.paths.planes, encoded(table, use_dictionary=text))
    write_json(job.paths.metadata, metadata)
    missing = int((planes["state"] == "missing").sum())
    counts = {"wells": len(layouts), "fields": metadata["fields"], "planes": len(planes), "missing": missing}
    return Outcome(info={**counts, "images": images})
