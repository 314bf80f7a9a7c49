"""The stage `follow`: where the paths of a block's pixels end.

Reads: the flow fields of `infer`.
Writes: <scratch>/<plate>/ends/<label set>/<well>/<canvas>-<block>.ends.
Work item: a block of a label set of a well.

Slice j of k takes the blocks whose index is congruent to j, counted on over the wells, label sets and canvases of the
part: the blocks of one canvas are followed by many jobs, and the result does not depend on how. With one slice there
are no such jobs: `stitch` follows the flow itself.
"""

from dataclasses import dataclass
from pathlib import Path

from plateflow.chain import part_of
from plateflow.images.canvas import Canvas
from plateflow.project import Plate
from plateflow.segment.scratch import former, open_flows, write_endpoints
from plateflow.stages import stage_module
from plateflow.stages.job import Job, Outcome, WorkItem, changes
from plateflow.stages.labels import block_edge
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.requests import lost_sequences


@dataclass(frozen=True, kw_only=True)
class CanvasBlock:
    """A block of a well: its canvas, and its number there."""

    canvas: Canvas
    number: int


def run(job: Job) -> None:
    """Follow the paths of the blocks of a slice of a part.

    Raises:
        ResultsError: the flow fields are gone.
    """

    def owned(item: WorkItem[CanvasBlock]) -> list[Path]:
        if item.upstream:
            return []
        path = _endpoints(job, item)
        return [path, former(path)]

    run_job(job, lambda: work_items(job), one_by_one(lambda item: _follow(job, item)), owned=owned)


def _endpoints(job: Job, item: WorkItem[CanvasBlock]) -> Path:
    return job.paths.endpoints(item.label_set, item.well, item.data.canvas.index, item.block)


def work_items(job: Job) -> list[WorkItem[CanvasBlock]]:
    """The blocks of a slice of a part: every k-th of the part's, but those that nobody needs any more.

    As of labels that `stitch` made when it followed the flow itself: they stand.
    """
    number = int(job.name.partition("-")[2])
    items = follow_items(job.plate, job.wells)[number :: job.config.follow_slices]
    entries = job.plate.outcomes("follow")
    to_do = {item.key for item in items if changes(job, item, entries.get(item.key))}
    labelled = _labelled(job) if to_do else set()
    return [item for item in items if item.key not in to_do or (item.well, item.label_set) not in labelled]


def _labelled(job: Job) -> set[tuple[str, str]]:
    """The label sets of wells of a part, of which `stitch` has nothing to do."""
    stitch = Job.of(job.plate, "stitch", str(part_of(job.name)))
    entries, lost = job.plate.outcomes("stitch"), lost_sequences(job.paths, "stitch")
    items = stage_module("stitch").work_items(stitch)
    return {
        (item.well, item.label_set) for item in items if not changes(stitch, item, entries.get(item.key), lost=lost)
    }


def follow_items(plate: Plate, wells: list[str]) -> list[WorkItem[CanvasBlock]]:
    """The work items of `follow` in some wells, in the order in which slices count them.

    A well that was left out is one work item, block 0. Blocks are counted on over the canvases of a well.
    """
    from plateflow.flows import cut_blocks

    inferred, edge_px = plate.outcomes("infer"), plate.config.follow_block_px
    items: list[WorkItem[CanvasBlock]] = []
    for well in wells:
        for label_set in plate.segmented(well):
            entry = inferred.required(well, label_set)
            # infer removes the endpoints of earlier flows, so that each of its runs counts, equal ones too
            depends = {
                "infer": [entry.fingerprint, entry.sequence],
                "parameters": plate.parameters("follow", label_set),
            }
            if entry.left_out:
                items.append(WorkItem(well=well, label_set=label_set, block=0, depends=depends, upstream=entry))
                continue
            blocks = [
                CanvasBlock(canvas=canvas, number=number)
                for canvas in plate.canvases(well, label_set)
                for number in range(len(cut_blocks(canvas.shape, block_edge(canvas.shape, edge_px))))
            ]
            items += [
                WorkItem(well=well, label_set=label_set, block=index, depends=depends, data=block)
                for index, block in enumerate(blocks)
            ]
    return items


def _follow(job: Job, item: WorkItem[CanvasBlock]) -> Outcome:
    from plateflow.flows import FlowField, block_starts, cut_blocks, follow_block

    canvas, threshold = item.data.canvas, job.config.segmentation[item.label_set].cell_threshold
    flow = FlowField(open_flows(job.paths.flows(item.label_set, item.well, canvas.index), threshold))
    block = cut_blocks(canvas.shape, block_edge(canvas.shape, job.config.follow_block_px))[item.data.number]
    endpoints = follow_block(flow, block, n_steps=job.plate.grid(item.label_set).n_steps, cell_threshold=threshold)
    write_endpoints(_endpoints(job, item), endpoints, block_starts(flow, block, cell_threshold=threshold))
    return Outcome(info={"pixels": int(endpoints.shape[1])})
