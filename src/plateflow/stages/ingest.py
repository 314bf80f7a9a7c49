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
from typing import Any

from plateflow.config import Config
from plateflow.errors import ConfigError
from plateflow.files import write_atomic, write_json
from plateflow.images.depth import planes_read
from plateflow.images.layout import WellLayout, well_layout
from plateflow.images.store import STORE
from plateflow.plates.check import check_channels
from plateflow.plates.plate import index_plate
from plateflow.plates.reader import Index, counted
from plateflow.segment.fits import check_grown, check_spots
from plateflow.segment.grid import anisotropy, diameter_px
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import PLATE_KEY
from plateflow.tables import encoded


def work_items(job: Job) -> list[WorkItem[Index]]:
    """The plate: it depends on its index; on its files' sizes and times only when `check` asks for them."""
    index = index_plate(job.plate.spec)
    check_channels(job.config, index.metadata)
    check_grown(job.config, index.metadata)
    check_spots(job.config, index.metadata)
    for name, settings in job.config.segmented.items():
        diameter_px(settings, index.metadata, where=f"{job.plate.name}, label set {name}")
    # All that a manifest says, but for what tile sees by itself: whether a file is there, as it was.
    planes = index.planes.drop(columns=["size_bytes", "mtime_ns", "state", "reason"])
    content = planes.to_csv(index=False) + json.dumps(index.metadata, sort_keys=True)
    raw_files = hashlib.sha256(content.encode()).hexdigest()[:20]
    depends: dict[str, Any] = {"parameters": job.parameters(), "raw files": raw_files, "store": STORE}
    counts = index.planes.groupby(["well", "t"])["channel"].nunique()
    if "lacking_channels" in index.metadata or counts.nunique() > 1:  # they decide which label sets a well has
        depends["label sets"] = job.config.needed_channels
    return [WorkItem(depends=depends, data=index)]


def run(job: Job) -> None:
    """Ingest one plate."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: ingest(job, item.data)))


def well_layouts(config: Config, index: Index) -> dict[str, WellLayout]:
    """The layout of each well; what `ingest` makes of the index before it writes, so that `check` can ask for it.

    Raises:
        RawDataError: positions and pixel size contradict each other.
        ConfigError: no well has the planes, or their distance, that the configuration needs.
    """
    wells, plate = index.planes.groupby("well", sort=False), str(index.metadata["plate"])
    layouts = {str(well): well_layout(planes, index.metadata) for well, planes in wells}
    refused = [refusal(config, layout, where=plate) for layout in layouts.values()]
    if error := refused[0] if all(refused) else None:
        raise error
    return layouts


def refusal(config: Config, layout: WellLayout, *, where: str) -> ConfigError | None:
    """Why a well can't be used as the configuration says: it lacks planes, or their distance."""
    try:
        for t in range(layout.shape[0] if layout.z_at else 1):
            for channel in (channel for channel in layout.channels if layout.stack(channel, t)):
                for z in range(layout.label_shape(config.z)[1]):
                    planes_read(layout, channel, config.z, z, t=t, where=where)
        for name, label_set in config.segmentation.items():
            if label_set.dimensions == 3 and layout.shows(label_set.channels):
                anisotropy(layout, where=f"{where}, label set {name}")
    except ConfigError as error:
        return error
    return None


def refused_wells(config: Config, index: Index) -> dict[str, ConfigError]:
    """The wells that tile will leave out, by `refusal`; raises what `well_layouts` does."""
    where = str(index.metadata["plate"])
    refused = {well: refusal(config, layout, where=where) for well, layout in well_layouts(config, index).items()}
    return {well: error for well, error in refused.items() if error}


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
        label_sets={name: settings.channels for name, settings in job.config.segmented.items()},
        others=list(job.config.grown),
        levels=job.config.levels,
        z_mode=job.config.z,
        ids=before.info.get("images", {}) if before else {},
        limits=_limits(job),
    )
    table = pa.Table.from_pandas(planes, preserve_index=False).replace_schema_metadata(None)
    text = ["plate", "well", "field", "channel", "dtype"]
    write_atomic(job.paths.planes, encoded(table, use_dictionary=text))
    write_json(job.paths.metadata, metadata)
    missing = int((planes["state"] == "missing").sum())
    counts = {"wells": len(layouts), "fields": metadata["fields"], "planes": len(planes), "missing": missing}
    return Outcome(info={**counts, "images": images})


def _limits(job: Job) -> dict[str, dict[str, float]]:
    """The limits of the window that an earlier run has left; normalise sees to what this doesn't know."""
    try:
        limits: dict[str, dict[str, float]] = json.loads(job.paths.window.read_text())["channels"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    return limits
