"""What infer, follow and stitch agree on: the grid of a label set, its channels, the blocks, the units.

Imports neither torch nor zarr: a job that has nothing to do loads this and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plateflow.chain import parameters
from plateflow.errors import PlateflowError
from plateflow.model.registry import ModelInfo, model_info
from plateflow.segment.grid import Grid, grid_of
from plateflow.stages.runner import JobContext, Unit, upstream_of
from plateflow.state.journal import Entry, Key

if TYPE_CHECKING:
    from plateflow.images.layout import Canvas


def describe_model(name: str) -> ModelInfo:
    """What is known of a model.

    Raises:
        PlateflowError: there is no such model, or its file is cut short.
    """
    try:
        return model_info(name)
    except (ValueError, OSError) as error:
        raise PlateflowError("the model can't be used", where=name, why=str(error)) from error


def label_set_grid(context: JobContext, label_set: str) -> Grid:
    """The grid of a label set on this plate.

    Raises:
        PlateflowError: its diameter is given in micrometres, and the plate's pixel size isn't known.
    """
    settings = context.config.segmentation[label_set]
    where = f"{context.entry.plate}, label set {label_set}"
    if settings.diameter_um is None:
        return Grid()
    size = context.info.get("pixel_size_um") or [math.nan]
    pixel = sum(size) / len(size)
    if not pixel > 0:
        raise PlateflowError(
            "the diameter is given in micrometres, but the plate's pixel size isn't known",
            where=where,
            remedy="give pixel_size_um in the plate sheet, or leave diameter_um empty",
        )
    return grid_of(describe_model(settings.model), settings.diameter_um / pixel, where=where)


def check_channels(context: JobContext, label_set: str) -> list[str]:
    """The channels of a label set.

    Raises:
        PlateflowError: the plate lacks one; the message lists those that it has.
    """
    wanted = context.config.segmentation[label_set].channels
    known = [channel["name"] for channel in context.info["channels"]]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise PlateflowError(
            f"the plate has no channel {', '.join(map(repr, missing))}",
            where=f"{context.entry.plate}, label set {label_set}",
            why=f"its channels are {', '.join(map(repr, known))}",
            remedy=f"name one of them in segmentation.{label_set}.channels",
        )
    return wanted


def required(entries: Mapping[Key, Entry], key: Key, *, stage: str, plate: str) -> Entry:
    """The outcome of a unit in an earlier stage.

    Raises:
        PlateflowError: that stage never did it.
    """
    if key not in entries:
        raise PlateflowError(
            f"{stage} hasn't done this well",
            where="/".join(filter(None, (plate, key[0], key[1]))),
            why="its receipt is there, but its journal doesn't know the well",
            remedy=f"`plateflow retry {plate}/{key[0]} --stage {stage}`, then `snakemake`",
        )
    return entries[key]


@dataclass(frozen=True, kw_only=True)
class BlockOf:
    """A block of a well: its canvas, and its number there."""

    canvas: Canvas
    number: int


def block_edge(shape: tuple[int, ...], follow_block_px: int) -> int:
    """Edge, in px along every axis, of the blocks in which a canvas of this shape is followed.

    A block of a volume has as many voxels as one of a plane has pixels: all planes of a shallow stack, else a cube.
    """
    if len(shape) == 2:
        return follow_block_px
    return round(max(follow_block_px ** (2 / 3), follow_block_px / math.sqrt(shape[0])))


def blocks_of_well(context: JobContext, well: str, label_set: str) -> list[BlockOf]:
    """The blocks of a label set of a well, counted on over its canvases: the index is the unit's block number."""
    from plateflow.flows import plan_blocks
    from plateflow.images.layout import well_canvases

    pixels = context.config.follow_block_px
    return [
        BlockOf(canvas=canvas, number=number)
        for canvas in well_canvases(context.paths, well, context.config, label_set)
        for number in range(len(plan_blocks(canvas.shape, block_edge(canvas.shape, pixels))))
    ]


def follow_units(context: JobContext, wells: list[str]) -> list[Unit]:
    """The units of `follow` in some wells, in the order in which slices count them; `data` is a `BlockOf`.

    A well that was left out is one unit, block 0.
    """
    inferred = context.upstream("infer")
    units = []
    for well in wells:
        blocks: dict[int, list[BlockOf]] = {}  # by dimensions: label sets of as many have the same
        for label_set, of_set in context.config.segmentation.items():
            entry = required(inferred, (well, label_set, -1), stage="infer", plate=context.entry.plate)
            settings = parameters(context.config, "follow", context.entry, label_set)
            # infer removes the end points of earlier flows, so that each of its runs counts, equal ones too
            depends = {"infer": [entry.fingerprint, entry.sequence], "parameters": settings}
            if entry.left_out:
                units.append(Unit(well=well, label_set=label_set, block=0, depends=depends, upstream=entry))
                continue
            if of_set.dimensions not in blocks:
                blocks[of_set.dimensions] = blocks_of_well(context, well, label_set)
            units += [
                Unit(well=well, label_set=label_set, block=index, depends=depends, data=block)
                for index, block in enumerate(blocks[of_set.dimensions])
            ]
    return units


def stitch_units(context: JobContext, wells: list[str]) -> list[Unit]:
    """The units of `stitch` in some wells; `data` are the blocks of the well, as `follow` numbers them."""
    from plateflow.images.store import generation

    followed = context.upstream("follow")
    units: dict[Key, Unit] = {}
    parts: dict[Key, list[Unit]] = {}
    for unit in follow_units(context, wells):
        parts.setdefault((unit.well, unit.label_set, -1), []).append(unit)
    for (well, label_set, _), blocks in parts.items():
        entries = [required(followed, block.key, stage="follow", plate=context.entry.plate) for block in blocks]
        settings = parameters(context.config, "stitch", context.entry, label_set)
        units[(well, label_set, -1)] = Unit(
            well=well,
            label_set=label_set,
            depends={
                "follow": [entry.fingerprint for entry in entries],
                "parameters": settings,
                "label arrays": generation(context.paths, well, label_set),
            },
            upstream=upstream_of(entries),
            data=[block.data for block in blocks],
        )
    return list(units.values())
