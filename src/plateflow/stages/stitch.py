"""The stage `stitch`: labels of a part's wells, and the table of their objects.

Reads: the flow fields of `infer`, and the endpoints of `follow` where there are several slices.
Writes: labels/<label set> in plate.zarr, objects/<label set>/<well>.parquet.
Work item: a label set of a well.

Flows are stitched, not labels: the endpoints of all blocks of a canvas go into one histogram, so the labels are those
of the whole canvas, whatever the blocks were, and whoever has followed them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import STAGES
from plateflow.files import digest
from plateflow.images.canvas import Canvas
from plateflow.segment.scratch import open_flows, read_endpoints
from plateflow.stages.follow import CanvasBlock, follow_items
from plateflow.stages.job import Job, Outcome, WorkItem, changes, dependencies, left_out_upstream
from plateflow.stages.labels import IN_MEMORY_PX, Make, WellLabels, block_edge, follow_and_label, label_files
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.journal import Entry

if TYPE_CHECKING:
    from plateflow.flows import FlowField, Objects


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A canvas of a well, and of each of its blocks the number in the well; None where its endpoints aren't there."""

    canvas: Canvas
    blocks: list[int | None]


Item = WorkItem[list[Followed]]


def run(job: Job) -> None:
    """Make the labels of a part's wells.

    Raises:
        ResultsError: flow fields or endpoints are gone.
    """
    run_job(
        job,
        lambda: work_items(job),
        one_by_one(lambda item: _stitch(job, item)),
        owned=lambda item: label_files(job.paths, item.well, item.label_set),
    )


def work_items(job: Job) -> list[Item]:
    """Every label set that a well of a part has.

    An item depends on the fingerprints with which the endpoints of its blocks are made, or would be: so it is the same
    whether `follow` has made them, or this stage follows the flow itself, as `follow_slices` says.
    """
    plate, entries = job.plate, job.plate.outcomes("follow")
    follow = Job(plate=plate, stage=STAGES["follow"], name=f"{job.name}-0")
    by_set: dict[tuple[str, str], list[WorkItem[CanvasBlock]]] = {}
    for block in follow_items(plate, job.wells):
        by_set.setdefault((block.well, block.label_set), []).append(block)
    items = []
    for (well, label_set), blocks in by_set.items():
        fingerprint = digest(dependencies(follow, blocks[0]))  # all blocks depend on the same

        def is_current(block: WorkItem[CanvasBlock], entry: Entry | None, fingerprint: str = fingerprint) -> bool:
            return entry is not None and (entry.fingerprint == fingerprint or not changes(follow, block, entry))

        made = {block.key: entries[block.key] for block in blocks if is_current(block, entries.get(block.key))}
        here = made if plate.config.follow_slices > 1 else {}
        canvases: dict[int, Followed] = {}
        for block in blocks if blocks[0].upstream is None else ():
            canvas = block.data.canvas
            numbers = canvases.setdefault(canvas.index, Followed(canvas=canvas, blocks=[])).blocks
            numbers.append(block.block if block.key in here else None)
        items.append(
            WorkItem(
                well=well,
                label_set=label_set,
                depends={
                    "follow": [made[block.key].fingerprint if block.key in made else fingerprint for block in blocks],
                    "parameters": plate.parameters("stitch", label_set),
                },
                upstream=left_out_upstream(
                    entry for block in blocks if (entry := here.get(block.key, block.upstream)) is not None
                ),
                reads={"follow": set(here)},
                data=list(canvases.values()),
            )
        )
    return items


def _stitch(job: Job, item: Item) -> Outcome:
    from plateflow.flows import FlowField

    labels = WellLabels(job.plate, item.well, item.label_set)
    threshold = job.config.segmentation[item.label_set].cell_threshold
    for followed in item.data:
        stored = open_flows(job.paths.flows(item.label_set, item.well, followed.canvas.index), threshold)
        # Read once where it fits: by blocks, halos and objects it is read more than twice.
        flow = FlowField(stored[:] if math.prod(followed.canvas.shape) <= IN_MEMORY_PX else stored)
        if any(number is not None for number in followed.blocks):
            labels.add(followed.canvas, _from_endpoints(job, item, followed, flow))
        else:
            labels.add(followed.canvas, follow_and_label(job.plate, item.label_set, followed.canvas, flow))
    here = sum(number is None for each in item.data for number in each.blocks)  # of the others endpoints were read
    return Outcome(info=labels.finish() | ({"followed": here} if here else {}))


def _from_endpoints(job: Job, item: Item, followed: Followed, flow: FlowField) -> Make:
    """Makes the labels of a canvas from the endpoints of its blocks; of those without, the flow is followed here."""
    from plateflow.flows import block_starts, cut_blocks, follow_block, labels_from_endpoints

    paths, settings, canvas = job.paths, job.config.segmentation[item.label_set], followed.canvas
    edge, n_steps = block_edge(canvas.shape, job.config.follow_block_px), job.plate.grid(item.label_set).n_steps
    blocks = cut_blocks(canvas.shape, edge)

    def endpoints(index: int) -> NDArray[np.int32]:
        number = followed.blocks[index]
        if number is None:
            return follow_block(flow, blocks[index], n_steps=n_steps, cell_threshold=settings.cell_threshold)
        starts = block_starts(flow, blocks[index], cell_threshold=settings.cell_threshold)
        return read_endpoints(paths.endpoints(item.label_set, item.well, canvas.index, number), starts)

    def make(out: NDArray[np.uint32], first: int) -> Objects:
        return labels_from_endpoints(endpoints, flow, block=edge, first=first, out=out, **settings.thresholds)[1]

    return make
