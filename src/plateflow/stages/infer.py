"""The stage `infer`: flow fields of all label sets of a part, into the scratch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.model.registry import ModelInfo
from plateflow.segment.grid import anisotropy
from plateflow.segment.plan import (
    check_channels,
    describe_model,
    label_set_grid,
    required,
)
from plateflow.segment.scratch import save_array
from plateflow.stages.runner import JobContext, Outcome, Unit, run_job, upstream_of
from plateflow.state.journal import Key

if TYPE_CHECKING:
    from plateflow.images.layout import Canvas
    from plateflow.images.read import Window
    from plateflow.segment.engine import FlowEngine, Request

Work = Iterator[tuple[Unit, Outcome]]


def run(context: JobContext) -> None:
    """Run the network over the wells of a GPU part.

    Raises:
        PlateflowError: a channel, the pixel size, the model or the device isn't there.
    """
    loaded: dict[str, FlowEngine] = {}  # the engine of the last model, over all batches of the job
    run_job(
        context,
        lambda: units(context),
        lambda todo, start: _work(context, todo, start, loaded),
        clear=lambda unit: _clear(context, unit),
    )


def units(context: JobContext) -> list[Unit]:
    """The units of a GPU part: every label set of its wells; `data` is the anisotropy of a volume."""
    from plateflow.images.layout import read_layout
    from plateflow.images.read import load_window

    wells = context.wells()
    tiled = context.upstream("tile")
    window = load_window(context.paths)
    found = []
    sets = {}
    for label_set, settings in context.config.segmentation.items():
        channels = check_channels(context, label_set)
        label_set_grid(context, label_set)  # fails before any tile is run
        sets[label_set] = {
            "normalise": window.fingerprint(channels),
            "parameters": context.parameters(label_set),
            "model": describe_model(settings.model).sha256,
        }
    for well in wells:
        entry = required(tiled, (well, "", -1), stage="tile", plate=context.entry.plate)
        for label_set, depends in sets.items():
            ratio = None
            if context.config.segmentation[label_set].dimensions == 3 and not entry.left_out:
                where = f"{context.entry.plate}/{well}, label set {label_set}"
                ratio = anisotropy(read_layout(context.paths, well), where=where)
            found.append(
                Unit(
                    well=well,
                    label_set=label_set,
                    depends={"tile": entry.fingerprint, **depends},
                    upstream=upstream_of([entry]),
                    data=ratio,
                )
            )
    return found


def _clear(context: JobContext, unit: Unit) -> None:
    for path in (
        context.paths.flows(unit.label_set, unit.well, 0),
        context.paths.ends(unit.label_set, unit.well, 0, 0),
    ):
        shutil.rmtree(path.parent, ignore_errors=True)


def _work(context: JobContext, units: list[Unit], start: Callable[[Unit], None], loaded: dict[str, FlowEngine]) -> Work:
    from plateflow.model import check_model
    from plateflow.segment.engine import FlowEngine

    by_model: dict[str, list[Unit]] = {}
    for unit in units:
        by_model.setdefault(context.config.segmentation[unit.label_set].model, []).append(unit)
    for model in by_model:  # all, before the first tile is run
        try:
            check_model(model)
        except (ValueError, OSError) as error:
            raise PlateflowError("the model can't be used", where=model, why=str(error)) from error
    for model, group in by_model.items():
        if model not in loaded:
            loaded.clear()
            loaded[model] = FlowEngine.load(
                model,
                device=context.config.device,
                batch_size=context.config.batch_size,
                threads=context.config.threads,
                dtype=context.config.dtype,
                tiling=context.config.tiling,
                augment=context.config.augment,
            )
        yield from _infer(context, loaded[model], group, start, describe_model(model))


def _infer(
    context: JobContext,
    engine: FlowEngine,
    units: list[Unit],
    start: Callable[[Unit], None],
    model: ModelInfo,
) -> Work:
    """Run the units of one model, their tiles pooled; each unit is given once its last canvas is written."""
    left: dict[Key, int] = {}  # planes, of each unit
    counts: dict[Key, list[int]] = {}
    by_key = {unit.key: unit for unit in units}
    names = {"model": model.name, "licence": model.licence, "sha256": model.sha256}
    for result in engine.run(_requests(context, units, start, left)):
        key = result.key
        count = counts.setdefault(key, [0, 0])
        count[0] += result.tiles
        count[1] += result.skipped
        left[key] -= 1
        if not left[key]:
            yield by_key[key], Outcome(info={"tiles": count[0], "tiles_skipped": count[1], **engine.info, **names})


def _requests(
    context: JobContext,
    units: list[Unit],
    start: Callable[[Unit], None],
    left: dict[Key, int],
) -> Iterator[Request]:
    from plateflow.images.layout import well_canvases
    from plateflow.images.read import load_window
    from plateflow.segment.volume import n_planes

    window = load_window(context.paths)
    for unit in units:
        canvases = well_canvases(context.paths, unit.well, context.config, unit.label_set)
        if not canvases:
            raise RuntimeError(f"{unit} has no canvas, yet tile didn't leave it out")
        start(unit)
        _clear(context, unit)  # of an earlier layout there may be more canvases
        left[unit.key] = sum(n_planes(canvas.shape) for canvas in canvases)
        for canvas in canvases:
            yield from _of_canvas(context, unit, canvas, window)


def _of_canvas(context: JobContext, unit: Unit, canvas: Canvas, window: Window) -> Iterator[Request]:
    """What the network runs of a canvas: the canvas, or all planes of a volume."""
    from plateflow.segment.engine import Request
    from plateflow.segment.volume import Volume

    scale = label_set_grid(context, unit.label_set).scale
    reads = [partial(_read, context, unit, plane, window) for plane in canvas.planes()]
    write = partial(_write, context, unit, canvas)
    if canvas.depth is None:
        yield Request(read=reads[0], write=write, scale=scale, key=unit.key)
        return
    volume = Volume(
        lambda z: reads[z](),
        write,
        shape=(canvas.depth, canvas.height, canvas.width),
        channels=len(check_channels(context, unit.label_set)),
        anisotropy=unit.data,
        folder=context.paths.flows(unit.label_set, unit.well, canvas.index).parent,
    )
    yield from volume.requests(scale=scale, key=unit.key)


def _read(context: JobContext, unit: Unit, canvas: Canvas, window: Window) -> NDArray[np.float32]:
    from plateflow.images.read import normalise, read_canvas

    channels = check_channels(context, unit.label_set)
    pixels = read_canvas(context.paths, unit.well, canvas, channels, z_mode=context.config.z)
    return normalise(pixels, window, channels=channels, well=unit.well, canvas=canvas)


def _write(context: JobContext, unit: Unit, canvas: Canvas, flow: NDArray[np.float16]) -> None:
    from plateflow.segment.engine import LOGIT_LIMIT

    outside = canvas.owner() < 0  # no object is looked for where no field lies
    np.copyto(flow[:-1], 0, where=outside)
    np.copyto(flow[-1], -LOGIT_LIMIT, where=outside)
    save_array(context.paths.flows(unit.label_set, unit.well, canvas.index), flow)
