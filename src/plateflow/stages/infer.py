"""The stage `infer`: flow fields of all label sets of a part; where they aren't kept, labels.

Reads: level 0 of plate.zarr (or the raw plate, where it is read in place), manifest/window.json, illumination.npz.
Writes: <scratch>/<plate>/flows/<label set>/<well>/<canvas>.flows; where they are not kept, what `stitch` writes.
Work item: a label set of a well. Weights are loaded once per job and model; tiles of all wells are pooled.

Labels of a canvas are made while the network runs on the next ones.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.chain import labels_depend_on
from plateflow.config import Config
from plateflow.images.canvas import Canvas
from plateflow.images.well import WellImage
from plateflow.images.window import load_window
from plateflow.model.registry import LOGIT_LIMIT, ModelSpec, model_spec
from plateflow.paths import SCRATCH
from plateflow.project import Outcomes
from plateflow.segment.grid import anisotropy
from plateflow.segment.label_sets import check_label_sets, least_logit
from plateflow.segment.scratch import scratch_array, write_flows
from plateflow.stages.job import Job, Outcome, WorkItem, left_out_upstream
from plateflow.stages.labels import IN_MEMORY_PX, WellLabels, follow_and_label, label_files
from plateflow.stages.runner import run_job
from plateflow.state.journal import Key

if TYPE_CHECKING:
    from plateflow.segment.engine import CanvasJob, FlowEngine

Item = WorkItem[float | None]
"""Carries the anisotropy of a volume."""
Work = Iterator[tuple[Item, Outcome]]
Write = Callable[[Item, Canvas, NDArray[np.float16]], None]
"""Takes the flow field of a canvas, (D + 1, *space)."""
WAITING = 2
"""Flow fields of which labels are made or are still to be made."""


def run(job: Job) -> None:
    """Run the network over the wells of a GPU part.

    Raises:
        PlateflowError: a channel, the pixel size, the model or the device isn't there.
    """
    loaded: dict[str, FlowEngine] = {}  # the engine of the last model, over all batches of the job
    run_job(
        job,
        lambda: work_items(job),
        lambda todo, start: _work(job, todo, start, loaded),
        owned=partial(_owned, job, job.plate.outcomes("infer")),
    )


def _owned(job: Job, former: Outcomes, item: Item) -> list[Path]:
    """Flow fields, with the endpoints of earlier ones; labels, where this stage makes them, or has made them before."""
    folders = [
        job.paths.flows(item.label_set, item.well, 0).parent,
        job.paths.endpoints(item.label_set, item.well, 0, 0).parent,
    ]
    entry = former.get(item.key)
    has_made = entry is not None and any(not name.startswith(SCRATCH) for name in entry.files)
    if job.config.keep_flows and not has_made:
        return folders
    return [*folders, *label_files(job.paths, item.well, item.label_set)]


def work_items(job: Job) -> list[Item]:
    """Every label set that a well of a GPU part has."""
    plate = job.plate
    check_label_sets(plate.config)
    tiled, window = plate.outcomes("tile"), load_window(plate.paths)
    depends: dict[str, dict[str, Any]] = {}
    for label_set, settings in plate.config.segmented.items():
        channels = plate.channels_of(label_set)
        plate.grid(label_set)  # fails before any tile is run
        depends[label_set] = {
            "normalise": window.fingerprint(channels),
            "parameters": plate.parameters("infer", label_set),
            "model": model_spec(settings.model).sha256,
        }
        depends[label_set] |= labels_depend_on(plate.config, "infer", label_set)
    items = []
    for well in job.wells:
        entry = tiled.required(well)
        for label_set in plate.segmented(well):
            ratio = None
            if plate.config.segmentation[label_set].dimensions == 3 and not entry.left_out:
                layout, where = WellImage.open(plate.paths, well).layout, f"{plate.name}/{well}, label set {label_set}"
                ratio = anisotropy(layout, where=where)
            items.append(
                WorkItem(
                    well=well,
                    label_set=label_set,
                    depends={"tile": entry.fingerprint, **depends[label_set]},
                    upstream=left_out_upstream([entry]),
                    data=ratio,
                )
            )
    return items


def check_models(config: Config) -> None:
    """Check the files of all models.

    Raises:
        ModelError: one can't be used.
    """
    from plateflow.model import check_model

    for model in dict.fromkeys(settings.model for settings in config.segmented.values()):
        check_model(model)


def _work(job: Job, items: list[Item], start: Callable[[Item], None], loaded: dict[str, FlowEngine]) -> Work:
    from plateflow.segment.engine import FlowEngine

    by_model: dict[str, list[Item]] = {}
    for item in items:
        by_model.setdefault(job.config.segmentation[item.label_set].model, []).append(item)
    check_models(job.config)  # before the first tile is run
    for model, group in by_model.items():
        if model not in loaded:
            loaded.clear()
            loaded[model] = FlowEngine.load(
                model,
                device=job.config.device,
                batch_size=job.config.batch_size,
                threads=job.config.threads,
                dtype=job.config.dtype,
                augment=job.config.augment,
            )
        yield from _infer(job, loaded[model], group, start, model_spec(model))


def _infer(job: Job, engine: FlowEngine, items: list[Item], start: Callable[[Item], None], model: ModelSpec) -> Work:
    """Run the items of one model, their tiles pooled; each item is given once its last canvas is written."""
    left: dict[Key, int] = {}  # planes, of each item
    tiles, skipped = Counter[Key](), Counter[Key]()
    by_key = {item.key: item for item in items}
    names = {"model": model.name, "licence": model.licence, "sha256": model.sha256}
    labels = None if job.config.keep_flows else _Labels(job, engine.device.type)
    write = partial(_save, job) if labels is None else labels.put
    jobs = _canvas_jobs(job, items, start, left, write)
    with closing(engine.run(jobs)) as results, closing(labels) if labels else nullcontext():
        for result in results:
            key = result.key
            item = by_key[key]
            if labels is not None:
                labels.make(item)
            tiles[key] += result.tiles
            skipped[key] += result.skipped
            left[key] -= 1
            if not left[key]:
                info = {"tiles": tiles[key], "tiles_skipped": skipped[key], **engine.info, **names}
                if labels is not None:
                    yield item, Outcome(info=info | labels.finish())
                    continue
                canvases = job.plate.canvases(item.well, item.label_set)
                files = [job.paths.flows(item.label_set, item.well, canvas.index) for canvas in canvases]
                yield item, Outcome(info=info, files=files)


class _Labels:
    """Labels of flow fields that aren't kept, well by well: `put` is called in the engine's thread, all else in the
    job's.

    At most `WAITING` flow fields are held, one of which labels are made; the engine waits then. Large ones lie in a
    nameless file of the scratch, as those of volumes do anyway.
    """

    def __init__(self, job: Job, device: str) -> None:
        self.job, self.device = job, device
        self._waiting: deque[tuple[Item, Canvas, NDArray[np.float16]]] = deque()
        self._free, self._closed = threading.Semaphore(WAITING), False
        self._well: WellLabels | None = None

    def put(self, item: Item, canvas: Canvas, flow: NDArray[np.float16]) -> None:
        """Hand a flow field over."""
        self._free.acquire()
        if self._closed:
            raise RuntimeError("the job has ended")
        if canvas.depth is None and flow[0].size > IN_MEMORY_PX:
            in_file = scratch_array(self.job.paths.scratch, flow.shape, flow.dtype)
            in_file[...] = flow
            flow = in_file
        self._waiting.append((item, canvas, flow))

    def make(self, item: Item) -> None:
        """Make the labels of the flow fields of an item that have come so far."""
        while self._waiting and self._waiting[0][0].key == item.key:
            _, canvas, flow = self._waiting[0]
            if self._well is None:
                self._well = WellLabels(self.job.plate, item.well, item.label_set)
            workers = self.job.config.threads
            make = follow_and_label(self.job.plate, item.label_set, canvas, flow, workers=workers, device=self.device)
            self._well.add(canvas, make)
            self._waiting.popleft()
            self._free.release()

    def finish(self) -> dict[str, Any]:
        """Of the item whose last labels were made, what the journal keeps."""
        if self._well is None:
            raise RuntimeError("an item has no flow field")
        well, self._well = self._well, None
        return well.finish()

    def close(self) -> None:
        """Let the engine go on, which may wait to hand a flow field over: nobody takes it any more."""
        self._closed = True
        self._free.release()


def _canvas_jobs(
    job: Job, items: list[Item], start: Callable[[Item], None], left: dict[Key, int], write: Write
) -> Iterator[CanvasJob]:
    from plateflow.segment.volume import n_planes

    shared = _Shared(job, items)
    for item in items:
        canvases = job.plate.canvases(item.well, item.label_set)
        if not canvases:
            raise RuntimeError(f"{item} has no canvas, yet tile didn't leave it out")
        start(item)
        left[item.key] = sum(n_planes(canvas.shape) for canvas in canvases)
        image = WellImage.open(job.paths, item.well)
        for canvas in canvases:
            yield from _of_canvas(job, item, canvas, image, write, shared)


def _of_canvas(
    job: Job, item: Item, canvas: Canvas, image: WellImage, write: Write, shared: _Shared
) -> Iterator[CanvasJob]:
    """What the network runs of a canvas: the canvas, or all planes of a volume."""
    from plateflow.segment.engine import CanvasJob
    from plateflow.segment.volume import Volume

    scale = job.plate.grid(item.label_set).scale
    take = partial(_take, item, canvas, write)
    if canvas.depth is None:
        yield CanvasJob(read=partial(shared.read, item, canvas, image), write=take, scale=scale, key=item.key)
        return
    reads = [partial(_read, job, image, plane, job.plate.channels_of(item.label_set)) for plane in canvas.planes()]
    volume = Volume(
        lambda z: reads[z](),
        take,
        shape=(canvas.depth, canvas.height, canvas.width),
        channels=len(job.plate.channels_of(item.label_set)),
        anisotropy=item.data or 1.0,
        folder=job.paths.scratch,
    )
    yield from volume.jobs(scale=scale, key=item.key)


class _Shared:
    """Reads canvases; channels that several label sets use are held until the next well, up to `IN_MEMORY_PX`.

    Volumes are read plane by plane for each label set: they would take too much memory.
    """

    def __init__(self, job: Job, items: list[Item]) -> None:
        self._job, self._well = job, ""
        sets = {item.label_set for item in items}
        uses = Counter(name for label_set in sets for name in job.plate.channels_of(label_set))
        self._several = {name for name, number in uses.items() if number > 1}
        # by time, plane and corner: each label set counts its canvases for itself, at the time points that it has
        self._held: dict[tuple[int, int, int, int, str], NDArray[np.float32]] = {}

    def read(self, item: Item, canvas: Canvas, image: WellImage) -> NDArray[np.float32]:
        """What the network sees of a canvas, (channel, y, x)."""
        if item.well != self._well:
            self._well, self._held = item.well, {}
        channels = self._job.plate.channels_of(item.label_set)
        place = canvas.t, canvas.z, canvas.y, canvas.x
        seen = {name: self._held[*place, name] for name in channels if (*place, name) in self._held}
        if missing := [name for name in channels if name not in seen]:
            seen |= zip(missing, _read(self._job, image, canvas, missing), strict=True)
        for name in self._several.intersection(missing):
            if sum(plane.size for plane in self._held.values()) + seen[name].size <= IN_MEMORY_PX:
                self._held[*place, name] = seen[name].copy()
        return np.stack([seen[name] for name in channels])


def _read(job: Job, image: WellImage, canvas: Canvas, channels: list[str]) -> NDArray[np.float32]:
    return image.apply_window(image.read(canvas, channels, job.config.z), canvas, channels)


def _take(item: Item, canvas: Canvas, write: Write, flow: NDArray[np.float16]) -> None:
    outside = canvas.owner() < 0  # no object is looked for where no field lies
    np.copyto(flow[:-1], 0, where=outside)
    np.copyto(flow[-1], -LOGIT_LIMIT, where=outside)
    write(item, canvas, flow)


def _save(job: Job, item: Item, canvas: Canvas, flow: NDArray[np.float16]) -> None:
    bound = least_logit(job.config.segmentation[item.label_set])
    write_flows(job.paths.flows(item.label_set, item.well, canvas.index), flow, bound)
