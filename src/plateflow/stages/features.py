"""The stage `features`: one cell table per well, measured canvas by canvas, so that memory is bounded by a canvas.

Reads: level 0 and labels of plate.zarr, manifest/window.json, objects/<label set>/<well>.parquet; corrections/.
Writes: cells/<well>.parquet; spots/<name>/<well>.parquet; of label sets that are made from others labels/<label set>
    in plate.zarr, and objects/<label set>/<well>.parquet; of those corrected by hand the same of
    <label set>_corrected; the list of the well's labels.
Work item: a well.

Whatever else there is of a label set, corrected labels stand in its place: they are put into the store, and measured.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import labels_stage
from plateflow.config import CORRECTED, first_source
from plateflow.features.brightness import add_counts, brightness
from plateflow.features.columns import METADATA, cell_columns, cell_families, typed
from plateflow.features.measure import compartment, measure
from plateflow.features.pairs import one_to_one
from plateflow.features.quality import CLIPPED, FROM_SEGMENTATION
from plateflow.files import remove, remove_tree, write_atomic
from plateflow.images.canvas import nearest_field
from plateflow.images.corrected import CorrectedLabels, group_folder, write_group
from plateflow.images.store import list_labels
from plateflow.images.well import WellImage
from plateflow.images.window import load_window
from plateflow.paths import parse_well, row_name
from plateflow.project import Plate
from plateflow.stages.grown import grow, stains
from plateflow.stages.job import Job, Outcome, WorkItem, left_out_upstream
from plateflow.stages.runner import one_by_one, run_job
from plateflow.stages.spots import WellSpots
from plateflow.state.corrections import Correction
from plateflow.tables import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd


Corrections = dict[str, Correction]
"""Those in use in a well, by label set."""


def work_items(job: Job) -> list[WorkItem[Corrections]]:
    """The wells of a part, each with the outcomes that its table is made of."""
    plate = job.plate
    stage = labels_stage(plate.config)
    tiled, labelled = plate.outcomes("tile"), plate.outcomes(stage)
    window = load_window(plate.paths)
    intensities, through = window.fingerprint(plate.channels), stains(plate.config, window)
    thresholds = window.thresholds_of_spots(plate.config.spots)
    items = []
    for well in job.wells:
        tile = tiled.required(well)
        labels = {name: labelled.required(well, name) for name in plate.segmented(well)}
        # a network's bits are those of a machine: what infer makes anew may be other labels, though all else is equal
        made = {
            name: [entry.fingerprint, entry.sequence] if stage == "infer" else entry.fingerprint
            for name, entry in labels.items()
        }
        depends = {
            "tile": tile.fingerprint,
            **{f"{stage} {name}": each for name, each in made.items()},
            "window": intensities,
            "parameters": job.parameters(),
        }
        if through:
            depends["stains"] = through
        corrected = {name: each for name in plate.label_sets(well) if (each := plate.correction(well, name))}
        depends |= plate.corrected(well)
        if thresholds:
            depends["background of spots"] = thresholds
        upstream = left_out_upstream([tile, *labels.values()])
        items.append(WorkItem(well=well, depends=depends, upstream=upstream, data=corrected))
    return items


def run(job: Job) -> None:
    """Measure the wells of a part."""

    def work(item: WorkItem[Corrections]) -> Outcome:
        rows = job.config.row_label_set
        put_into_store(job.plate, item.well, item.data)
        if rows not in job.plate.label_sets(item.well):
            lacking = f"a channel of {', '.join(job.plate.channels_of(rows))}, in which {rows} are segmented"
            return Outcome(state="quarantined", reason="no_channel", detail=f"the well lacks {lacking}: it has no rows")
        table, info = measure_well(job.plate, item.well)
        write_atomic(job.paths.cells(item.well), parquet_bytes(table))
        corrected = {"corrected": sorted(item.data)} if item.data else {}
        return Outcome(info={"objects": len(table), **info, **corrected})

    run_job(
        job,
        lambda: work_items(job),
        one_by_one(work),
        owned=lambda item: [job.paths.cells(item.well), *job.paths.all_spots(item.well)],
        clear=lambda item: put_into_store(job.plate, item.well, {}, make=False),
    )


def put_into_store(plate: Plate, well: str, corrected: Corrections, *, make: bool = True) -> None:
    """Put corrected labels, and the tables of their objects, beside the pipeline's; remove those not in use. Between
    them make the label sets that are made from others: from corrected ones where there are, as theirs may be.

    Raises:
        ResultsError: the file of a correction isn't there as it was written.
    """
    paths, has = plate.paths, plate.label_sets(well)
    for name in (*plate.config.segmented, *plate.config.grown):
        if name in plate.config.grown:
            if make and name in has:
                grow(plate, well, name)
            else:
                remove_tree(paths.image(well) / "labels" / name)
                remove(paths.objects(name, well))
        if correction := corrected.get(name):
            with CorrectedLabels(correction.file(paths), correction.stamp) as labels:
                about = {key: getattr(correction, key) for key in ("by", "at", "sources", "made_from")}
                image = WellImage.open(paths, well)
                write_group(image, name, plate.canvases(well, name), labels, plate.config.z, about)
                write_atomic(paths.objects(name + CORRECTED, well), labels.objects())
        else:
            remove_tree(group_folder(paths, well, name))
            remove(paths.objects(name + CORRECTED, well))
    list_labels(paths, well, [*plate.config.segmented, *plate.config.grown])


def measure_well(plate: Plate, well: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The cell table of a well, and what the journal keeps: by compartment how many objects of the others have no row
    ("without a row"), and by label set how bright the pixels are in which it lies ("brightness", `brightness`).

    The table has METADATA, Metadata_Match_*, ObjectNumber, then `cell_columns`; no row where there is no object.
    Intensities are those of the raw pixels, corrected for illumination and divided by the greatest value of the
    channel's pixel type (65535 for 16 bits), which is how CellProfiler scales them; they can exceed 1 by the
    correction. Where the rows' label set goes through the z stack, its canvases are measured as volumes, and so are all
    label sets.
    """
    import pandas as pd

    config, paths = plate.config, plate.paths
    label_sets, rows = plate.label_sets(well), compartment(config.row_label_set)
    standing = {name: plate.labels_name(well, name) for name in label_sets}
    grown = {name: rule for name, rule in config.grown.items() if standing.get(name) == name}
    sources = {compartment(name): compartment(first_source(grown, name)) for name in label_sets}
    types = {channel["name"]: channel["dtype"] for channel in plate.metadata["channels"]}
    image = WellImage.open(paths, well, plate.outcomes("tile").required(well).info.get("lacking"))
    layout = image.layout
    parts: list[pd.DataFrame] = []
    spots = WellSpots(plate, image)
    orphans: Counter[str] = Counter()
    bright: dict[str, list[NDArray[np.int64]]] = {name: [] for name in label_sets}
    clipped: dict[str, dict[int, float]] = {compartment(name): {} for name in label_sets}
    for canvas in plate.canvases(well, config.row_label_set):
        owner = canvas.owner()
        outside = owner < 0  # a canvas's box may hold the fields, and so the objects, of another canvas
        channels = [channel for channel in layout.channels if layout.stack(channel, canvas.t)]
        labels = {}
        for name in label_sets:
            if not layout.shows(plate.channels_of(name), canvas.t):
                continue
            labels[compartment(name)] = here = image.labels(standing[name], canvas)
            here[..., outside] = 0
        pixels = image.read(canvas, channels, config.z)
        for name, of_fields in bright.items():
            if compartment(name) not in labels:  # nowhere in this frame
                continue
            seen, here = pixels[channels.index(plate.channels_of(name)[0])], labels[compartment(name)]
            for field, (ys, xs) in enumerate(canvas.regions()):
                own = owner[ys, xs] == field
                of_fields.append(brightness(seen[..., ys, xs], here[..., ys, xs], own))
        if not any(here.any() for here in labels.values()):
            continue
        pixel_um = layout.pixel_um[-len(canvas.shape) :]
        for c, channel in enumerate(channels):
            pixels[c] /= np.iinfo(types[channel]).max
        spots.add(canvas, pixels, channels, labels, outside)
        part = measure(
            pixels,
            labels,
            channels=channels,
            pixel_size_um=pixel_um if layout.unit_known else np.nan,
            families=cell_families(config),
            rows=rows,
            origin_px=(*([canvas.z] * (canvas.depth is not None)), canvas.y, canvas.x),
            outside=outside,
            texture_scales=config.features.texture_scales,
            sources=sources,
        )
        orphans.update(part.attrs.pop("orphans"))
        if (saturated := image.clipped(canvas, channels, config.z)) is not None:
            for name, here in labels.items():
                numbers, counts = np.unique(here[saturated], return_counts=True)
                # in pieces, as each is made int64: twice a canvas's labels
                pieces = np.array_split(here.ravel(), -(-here.size // 2**20))
                sizes: Any = sum(np.bincount(piece, minlength=int(here.max()) + 1) for piece in pieces)
                clipped[name] |= {n: share for n, share in zip(numbers, counts / sizes[numbers], strict=True) if n}
        centre = (part[f"{rows}_Location_Center_{axis}"].to_numpy() for axis in "YX")
        part.insert(0, "Metadata_Site", nearest_field(canvas.fields, *centre))
        part.insert(0, "Metadata_Time", canvas.t)
        part.insert(0, "Metadata_Z", canvas.z)
        parts.append(part)
    columns = cell_columns(config, plate.channels)  # NaN where the well has no such channel or label set
    matches = [f"Metadata_Match_{compartment(name)}" for name in config.segmentation if name != config.row_label_set]
    order = [*METADATA, *matches, "ObjectNumber", *columns]
    info: dict[str, Any] = {"without a row": dict(orphans)}
    info["brightness"] = {name: add_counts(of_fields).tolist() for name, of_fields in bright.items()}
    spots.add_without_rows()
    if found := spots.write():
        info["spots"] = found
    parts = [part for part in parts if len(part)]
    if not parts:
        return typed(pd.DataFrame({name: pd.Series([], dtype=object) for name in order})), info
    table = pd.concat(parts, ignore_index=True).sort_values("ObjectNumber", kind="stable", ignore_index=True)
    table, reconciled = one_to_one(table, config, orphans)
    info |= reconciled
    row, column = parse_well(well)
    more: dict[str, Any] = {"Metadata_Plate": paths.plate, "Metadata_Well": well}
    more |= {"Metadata_Row": row_name(row), "Metadata_Column": column + 1}
    place = f"{paths.plate}/{well}/"
    more["Metadata_ObjectID"] = place + table["Metadata_Site"] + "/" + table["ObjectNumber"].astype(str)
    if "quality" in cell_families(config):
        for name in label_sets:
            objects, prefix = pd.read_parquet(paths.objects(standing[name], well)).set_index("label"), compartment(name)
            if f"{prefix}_Number_Object_Number" not in table:  # it has no time point in common with the rows
                continue
            matched = objects.reindex(table[f"{prefix}_Number_Object_Number"])
            more |= {f"{prefix}_{feature.name}": matched[key].to_numpy() for key, feature in FROM_SEGMENTATION.items()}
            share = pd.Series(clipped[prefix], dtype=float).reindex(matched.index).fillna(0).to_numpy()
            more[f"{prefix}_{CLIPPED.name}"] = np.where(matched.index.notna(), share, np.nan)
    more |= spots.columns(table)
    table = pd.concat([table, pd.DataFrame(more, index=table.index)], axis=1)
    return typed(table.reindex(columns=order)), info
