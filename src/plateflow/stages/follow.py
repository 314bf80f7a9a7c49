"""The stage `follow`: end points of the paths of blocks, into the scratch.

Slice j of k takes the blocks whose index is congruent to j, counted on over the wells, label sets and canvases of the
part: the blocks of one canvas are followed by many jobs, and the result knows nothing of it.
"""

from __future__ import annotations

from plateflow.segment.plan import BlockOf, block_edge, follow_units, label_set_grid
from plateflow.segment.scratch import load_scratch, save_array
from plateflow.stages.runner import JobContext, Outcome, Unit, one_by_one, run_job


def run(context: JobContext) -> None:
    """Follow the paths of the blocks of a slice of a part.

    Raises:
        PlateflowError: the flow fields are gone.
    """
    run_job(context, lambda: units(context), one_by_one(lambda unit: _follow(context, unit)))


def units(context: JobContext) -> list[Unit]:
    """The units of a slice of a part: every k-th block of it."""
    return follow_units(context, context.wells())[context.slice :: context.config.follow_slices]


def _follow(context: JobContext, unit: Unit) -> Outcome:
    from plateflow.flows import follow_block, plan_blocks

    block: BlockOf = unit.data
    canvas, settings = block.canvas, context.config.segmentation[unit.label_set]
    flow = load_scratch(context.paths.flows(unit.label_set, unit.well, canvas.index), context.entry.plate)
    ends = follow_block(
        flow,
        plan_blocks(canvas.shape, block_edge(canvas.shape, context.config.follow_block_px))[block.number],
        n_steps=label_set_grid(context, unit.label_set).n_steps,
        cell_threshold=settings.cell_threshold,
    )
    save_array(context.paths.ends(unit.label_set, unit.well, canvas.index, unit.block), ends)
    return Outcome(info={"pixels": int(ends.shape[1])})
