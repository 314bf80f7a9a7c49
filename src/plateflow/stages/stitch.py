"""The stage `stitch`: labels of a part's wells, and the table of their objects.

Reads: the flow fields of `infer` and the endpoints of `follow`.
Writes: labels/<label set> in plate.zarr, objects/<label set>/<well>.parquet.
Work item: a label set of a well.

Flows are stitched, not labels: the endpoints of all blocks of a canvas go into one histogram, so the labels are those
of the whole canvas, whatever the blocks were.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import STAGES
from plateflow.files import remove_tree, write_atomic
from plateflow.images.canvas import Canvas
from plateflow.images.well import WellImage
from plateflow.project import Plate
from plateflow.segment.scratch import open_flows, read_endpoints, scratch_array
from plateflow.stages import stage_module
from plateflow.stages.follow import CanvasBlock, block_edge, follow_items
from plateflow.stages.job import Job, Outcome, WorkItem, changes, left_out_upstream
from plateflow.stages.runner import one_by_one, run_job
from plateflow.tables import encoded

if TYPE_CHECKING:
    import pyarrow as pa

    from plateflow.flows import Objects

IN_MEMORY_PX = 2**24
"""Labels of more pixels, of the canvases of one t and z, lie in a file of the scratch while they are made."""

Item = WorkItem[list[CanvasBlock]]
"""Carries the blocks of the well, as `follow` numbers them."""


def run(job: Job) -> None:
    """Make the labels of a part's wells; remove the plate's scratch if it isn't kept and nothing needs it any more.

    Raises:
        ResultsError: flow fields or endpoints are gone.
    """
    run_job(job, lambda: work_items(job), one_by_one(lambda item: _stitch(job, item)), owned=partial(_owned, job))
    if not job.config.keep_flows and plate_is_stitched(job.plate):
        for kind in ("flows", "ends"):
            with suppress(FileNotFoundError):  # another part may see the same, and remove it as well
                remove_tree(job.paths.scratch / kind)


def work_items(job: Job) -> list[Item]:
    """Every label set that a well of a part has."""
    plate, followed = job.plate, job.plate.outcomes("follow")
    blocks: dict[tuple[str, str], list[WorkItem[CanvasBlock]]] = {}
    for block in follow_items(plate, job.wells):
        blocks.setdefault((block.well, block.label_set), []).append(block)
    items = []
    for (well, label_set), of_well in blocks.items():
        entries = [followed.required(*block.key) for block in of_well]
        items.append(
            WorkItem(
                well=well,
                label_set=label_set,
                depends={
                    "follow": [entry.fingerprint for entry in entries],
                    "parameters": plate.parameters("stitch", label_set),
                },
                upstream=left_out_upstream(entries),
                reads={"follow": {block.key for block in of_well}},
                data=[block.data for block in of_well],
            )
        )
    return items


def _stitch(job: Job, item: Item) -> Outcome:
    import pyarrow as pa

    image = WellImage.open(job.paths, item.well)
    canvases: dict[int, Canvas] = {}
    blocks: dict[int, list[int]] = {}  # of each canvas, by its index
    for number, block in enumerate(item.data):
        canvases[block.canvas.index] = block.canvas
        blocks.setdefault(block.canvas.index, []).append(number)
    tables: list[pa.Table] = []
    count, dropped = 0, np.zeros(2, np.int64)
    folder = job.paths.endpoints(item.label_set, item.well, 0, 0).parent
    for (t, z), group in groupby(canvases.values(), key=lambda canvas: (canvas.t, canvas.z)):
        members, drawn = list(group), []
        in_file = sum(math.prod(canvas.shape) for canvas in members) > IN_MEMORY_PX
        for canvas in members:
            out = scratch_array(folder, canvas.shape, np.uint32) if in_file else np.zeros(canvas.shape, np.uint32)
            objects = _label(job, item, canvas, blocks[canvas.index], out, count + 1)
            drawn.append((canvas, out))
            tables.append(_table(objects, canvas))
            count += len(objects.label)
            dropped += len(objects.dropped), objects.dropped.sum()
        for k in range(members[0].depth or 1):
            planes = [(canvas, _Plane(labels, k)) for canvas, labels in drawn]
            image.write_labels(item.label_set, t, z + k, planes)
    write_atomic(job.paths.objects(item.label_set, item.well), encoded(pa.concat_tables(tables), use_dictionary=False))
    return Outcome(info={"objects": count, "dropped": dropped.tolist(), "canvases": len(canvases)})


@dataclass(frozen=True)
class _Plane:
    """A plane of labels that is read in regions; of a file nothing stays in memory."""

    labels: NDArray[np.uint32]
    z: int

    def __getitem__(self, region: tuple[slice, slice]) -> NDArray[np.uint32]:
        from plateflow.flows import release_pages

        part = (self.labels if self.labels.ndim == 2 else self.labels[self.z])[region]
        if isinstance(part, np.memmap):
            part = np.array(part)
            release_pages(self.labels)
        return part


def _label(job: Job, item: Item, canvas: Canvas, blocks: list[int], out: NDArray[np.uint32], first: int) -> Objects:
    """Make the labels of a canvas in `out`."""
    from plateflow.flows import FlowField, block_starts, cut_blocks, labels_from_endpoints

    paths, settings = job.paths, job.config.segmentation[item.label_set]
    flow = FlowField(open_flows(paths.flows(item.label_set, item.well, canvas.index), settings.cell_threshold))
    edge = block_edge(canvas.shape, job.config.follow_block_px)
    cut = cut_blocks(canvas.shape, edge)

    def endpoints(index: int) -> NDArray[np.int32]:
        starts = block_starts(flow, cut[index], cell_threshold=settings.cell_threshold)
        return read_endpoints(paths.endpoints(item.label_set, item.well, canvas.index, blocks[index]), starts)

    _, objects = labels_from_endpoints(
        endpoints,
        flow,
        block=edge,
        cell_threshold=settings.cell_threshold,
        flow_threshold=settings.flow_threshold,
        min_size=settings.min_size_px,
        first=first,
        out=out,
    )
    return objects


def _table(objects: Objects, canvas: Canvas) -> pa.Table:
    import pyarrow as pa

    n = len(objects.label)
    seed = np.asarray(objects.seed)
    return pa.table(
        {
            "label": pa.array(objects.label, pa.uint32()),
            "canvas": pa.array(np.full(n, canvas.index), pa.int32()),
            "seed_z": pa.array(np.full(n, canvas.z) + (seed[:, 0] if canvas.depth else 0), pa.int32()),
            "seed_y": pa.array(seed[:, -2] + canvas.y, pa.int32()),
            "seed_x": pa.array(seed[:, -1] + canvas.x, pa.int32()),
            "area_px": pa.array(objects.area, pa.int64()),
            "flow_error": pa.array(objects.flow_error, pa.float64()),
            "cell_probability": pa.array(objects.cell_probability, pa.float64()),
        }
    )


def _owned(job: Job, item: Item) -> list[Path]:
    labels = job.paths.image(item.well) / "labels" / item.label_set
    return [*labels.glob("[0-9]*/c"), job.paths.objects(item.label_set, item.well)]


def plate_is_stitched(plate: Plate) -> bool:
    """Whether all jobs of stitch have a receipt, and all that infer, follow and stitch did is up to date.

    A receipt alone says little: it may be of earlier parameters. So the whole plate's fingerprints are compared;
    a block that is still to be followed makes this false.
    """
    if not all(plate.paths.receipts("stitch", name) for name in STAGES["stitch"].jobs(plate.config)):
        return False
    for stage in ("infer", "follow", "stitch"):
        entries = plate.outcomes(stage)
        for name in STAGES[stage].jobs(plate.config):
            job = Job(plate=plate, stage=STAGES[stage], name=name)
            if any(changes(job, item, entries.get(item.key)) for item in stage_module(stage).work_items(job)):
                return False
    return True
