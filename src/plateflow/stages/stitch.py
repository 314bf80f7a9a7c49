"""The stage `stitch`: labels of a part's wells into the plate's store, and the table of their objects.

Flows are stitched, not labels: the end points of all blocks of a canvas go into one histogram, so the labels are those
of the whole canvas, whatever the blocks were.
"""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import STAGES
from plateflow.files import write_atomic
from plateflow.segment.plan import (
    block_edge,
    follow_units,
    label_set_grid,
    stitch_units,
)
from plateflow.segment.scratch import load_scratch, scratch_array
from plateflow.stages.infer import units as infer_units_of
from plateflow.stages.runner import JobContext, Outcome, Unit, changes, one_by_one, run_job

if TYPE_CHECKING:
    import pyarrow as pa

    from plateflow.flows import Objects
    from plateflow.images.layout import Canvas


IN_MEMORY_PX = 2**24
"""Labels of more pixels, of the canvases of one t and z, lie in a file of the scratch while they are made."""


def run(context: JobContext) -> None:
    """Make the labels of a part's wells; remove the plate's scratch if it isn't kept and nobody needs it any more.

    Raises:
        PlateflowError: flow fields or end points are gone.
    """
    run_job(
        context,
        lambda: units(context),
        one_by_one(lambda unit: _stitch(context, unit)),
        clear=lambda unit: _clear(context, unit),
        results=lambda unit: context.paths.objects(unit.label_set, unit.well),
    )
    if not context.config.keep_flows and plate_is_stitched(context):
        for kind in ("flows", "ends"):
            shutil.rmtree(context.paths.scratch / kind, ignore_errors=True)


def units(context: JobContext) -> list[Unit]:
    """The units of a part: every label set of its wells."""
    return stitch_units(context, context.wells())


def _stitch(context: JobContext, unit: Unit) -> Outcome:
    from plateflow.images.store import sweep, write_labels

    sweep(context.paths, unit.well, f"labels/{unit.label_set}/")
    canvases: dict[int, Canvas] = {}
    blocks: dict[int, list[int]] = {}  # of each canvas, by its index
    for number, block in enumerate(unit.data):
        canvases[block.canvas.index] = block.canvas
        blocks.setdefault(block.canvas.index, []).append(number)
    tables: list[pa.Table] = []
    count = 0
    folder = context.paths.ends(unit.label_set, unit.well, 0, 0).parent
    for (t, z), group in groupby(canvases.values(), key=lambda canvas: (canvas.t, canvas.z)):
        members, drawn = list(group), []
        in_file = sum(math.prod(canvas.shape) for canvas in members) > IN_MEMORY_PX
        for canvas in members:
            out = scratch_array(folder, canvas.shape, np.uint32) if in_file else np.zeros(canvas.shape, np.uint32)
            objects = _label(context, unit, canvas, blocks[canvas.index], out, count + 1)
            drawn.append((canvas, out))
            tables.append(_table(objects, canvas))
            count += len(objects.label)
        for k in range(members[0].depth or 1):
            planes = [(canvas, _Plane(labels, k)) for canvas, labels in drawn]
            write_labels(context.paths, unit.well, unit.label_set, t, z + k, planes)
    write_atomic(context.paths.objects(unit.label_set, unit.well), _parquet(tables))
    return Outcome(info={"objects": count, "canvases": len(canvases)})


@dataclass(frozen=True)
class _Plane:
    """A plane of labels that is read in windows; of a file nothing stays in memory."""

    labels: NDArray[np.uint32]
    z: int

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[np.uint32]:
        from plateflow.flows import let_go

        part = (self.labels if self.labels.ndim == 2 else self.labels[self.z])[window]
        if isinstance(part, np.memmap):
            part = np.array(part)
            let_go(self.labels)
        return part


def _label(
    context: JobContext, unit: Unit, canvas: Canvas, blocks: list[int], out: NDArray[np.uint32], first: int
) -> Objects:
    """Make the labels of a canvas in `out`."""
    from plateflow.flows import labels_from_ends

    paths, settings, plate = context.paths, context.config.segmentation[unit.label_set], context.entry.plate
    _, objects = labels_from_ends(
        lambda index: load_scratch(paths.ends(unit.label_set, unit.well, canvas.index, blocks[index]), plate),
        load_scratch(paths.flows(unit.label_set, unit.well, canvas.index), plate),
        shape=canvas.shape,
        block=block_edge(canvas.shape, context.config.follow_block_px),
        n_steps=label_set_grid(context, unit.label_set).n_steps,
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


def _parquet(tables: list[pa.Table]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def _clear(context: JobContext, unit: Unit) -> None:
    from plateflow.images.store import clear_labels

    clear_labels(context.paths, unit.well, unit.label_set)
    context.paths.objects(unit.label_set, unit.well).unlink(missing_ok=True)


def plate_is_stitched(context: JobContext) -> bool:
    """Whether all jobs of stitch have their receipts, and all that follow and stitch did is up to date.

    A receipt alone says little: it may be of the earlier parameters. So the whole plate's fingerprints are compared;
    a block that is still to be followed makes this false.
    """
    for job in STAGES["stitch"].jobs(context.config):
        if not context.paths.receipt("stitch", job).is_file():
            return False
    wells = context.info["wells"]
    known = {stage: context.upstream(stage) for stage in ("infer", "follow", "stitch")}
    for job in STAGES["infer"].jobs(context.config):
        infer = replace(context, stage=STAGES["infer"], job=job)
        if any(changes(infer, unit, known["infer"].get(unit.key)) for unit in infer_units_of(infer)):
            return False
    follow = replace(context, stage=STAGES["follow"])
    followed = follow_units(follow, wells)
    if any(changes(follow, unit, known["follow"].get(unit.key)) for unit in followed):
        return False
    return not any(changes(context, unit, known["stitch"].get(unit.key)) for unit in stitch_units(context, wells))
