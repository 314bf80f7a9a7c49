"""The inference engine: canvases in, flow fields out.

Three threads work concurrently, so that the device seldom waits: one reads canvases and cuts them into tiles, one runs
the network, one blends and writes. The caller consumes results in a fourth, so that a slow consumer doesn't stall the
pipeline. At most `AHEAD` tiles (or two batches, if those are larger) wait between two threads. So memory is bounded:
one canvas being cut, one being blended, and the waiting tiles.

Tiles of all canvases are pooled into batches of one fixed shape, so a tile's output has the same bits whatever other
tiles are in its batch. A canvas is blended on the device in float32, in ascending order of its tiles.

On CUDA each thread has a stream of its own, and what it hands over has an event. In one stream whoever waited for a
canvas to be blended waited for all batches queued behind it, too, and the device then had nothing to do. The default
stream is left to the caller, who may make labels on the device meanwhile.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plateflow.errors import PlateflowError
from plateflow.model.registry import IN_CHANNELS, LOGIT_LIMIT
from plateflow.segment.grid import TILE
from plateflow.segment.threads import in_thread, stoppable
from plateflow.segment.tiles import TileLayout, network_shape, tile_layout

FLOAT16_EXPONENT = 0x7C00
"""Its bits in a number: all ones where that isn't finite. `isfinite` takes ten times as long."""
AHEAD = 48
"""Tiles that may wait to be run, and as many to be blended: about two fields of 1080 px, 40 MB each."""


@dataclass(frozen=True, kw_only=True)
class CanvasJob:
    """A canvas to run.

    Attributes:
        read: returns the normalised pixels, float32 (C, Y, X), 1 to 3 channels, the object's first; runs in a thread.
        write: takes the flow field, float16 (3, Y, X) = [dy, dx, cell logit]; runs in a thread, in the order of jobs.
        scale: px on the network's grid per px of the canvas.
    """

    read: Callable[[], NDArray[np.float32]]
    write: Callable[[NDArray[np.float16]], None]
    scale: float = 1.0
    key: Any = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A canvas that was written: the key of its job, its number of tiles, and how many were blank and skipped."""

    key: Any
    tiles: int
    skipped: int


class FlowEngine:
    """Runs a network over canvases.

    Args:
        network: (B, 3, TILE, TILE) -> (B, 3, TILE, TILE) = [dy, dx, cell logit].
        dtype: of weights and activations.
        batch_size: tiles per call; halved, permanently, when the device runs out of memory.
        augment: whether tiles overlap by half and every second one is shown to the network mirrored.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        augment: bool = False,
    ) -> None:
        if device.type == "cuda" and device.index is None:  # threads begin with the first device as their current one
            device = torch.device("cuda", torch.cuda.current_device())
        self.network, self.device, self.dtype, self.batch_size = network, device, dtype, batch_size
        self.augment = augment
        taper = torch.from_numpy(self.layout((TILE, TILE)).y.weights)
        self._weight = (taper[:, None] * taper[None, :]).float().to(device)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
        dtype: str = "auto",
        augment: bool = False,
    ) -> FlowEngine:
        """Load a model onto a device, ready to run.

        Args:
            device: auto (CUDA where there is one), cpu or cuda.
            batch_size: tiles per call; by default 4, or 32 on CUDA.
            threads: CPU threads of the network; by default torch's choice.
            dtype: auto (bfloat16 on CUDA, float32 on a CPU), float32 or bfloat16.

        Raises:
            PlateflowError: there is no such device.
            ModelError: there is no such model, or it can't be used.
        """
        from plateflow.model import load_model

        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        half = dtype == "bfloat16" or (dtype == "auto" and chosen.type == "cuda")
        kind = torch.bfloat16 if half else torch.float32
        network = load_model(model, device=chosen, dtype=kind)
        size = batch_size or (32 if chosen.type == "cuda" else 4)
        return cls(network, device=chosen, dtype=kind, batch_size=size, augment=augment)

    @property
    def info(self) -> dict[str, Any]:
        """What the bits of a result depend on besides input and weights; on CUDA torch's most memory, MB, too."""
        from plateflow.model import fast

        info = {
            "device": "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch": self.batch_size,
            "threads": torch.get_num_threads(),
        }
        if self.device.type == "cuda":
            info["device"] = torch.cuda.get_device_name(self.device)
            info["kernels"] = "triton" if fast.in_use(self.dtype) else "none"
            info["gpu_mb"] = math.ceil(torch.cuda.max_memory_reserved(self.device) / 1e6)
        return info

    def layout(self, shape: tuple[int, int]) -> TileLayout:
        """The tiles of a canvas of `shape` px on the network's grid; overridden where another tiling is compared."""
        return tile_layout(shape, augment=self.augment)

    def run(self, jobs: Iterable[CanvasJob]) -> Generator[Result]:
        """Run canvases, which are taken ahead in a thread; each result is yielded in order, once its flow is written.

        Raises:
            ValueError: a canvas has more than three channels.
            RuntimeError: the network's output isn't finite.
        """
        depth, stopped = max(2, AHEAD // self.batch_size), threading.Event()
        batches = in_thread(self._cut(jobs, self.batch_size), depth)
        outputs = in_thread(self._forward(batches), depth)
        results = in_thread(self._blend(outputs), depth, stopped)
        with stoppable(self.network, stopped), closing(batches), closing(outputs), closing(results):
            yield from results

    def _cut(self, jobs: Iterable[CanvasJob], size: int) -> Iterator[_Batch]:
        """Read canvases and cut them into batches of `size` tiles."""
        shape, batch = (size, TILE, TILE, IN_CHANNELS), _Batch()  # channels last
        pinned = self.device.type == "cuda"  # memory that the device can copy from directly
        with self._stream():
            for job in jobs:
                canvas, pixels = self._read(job)
                blank = _blank(pixels, canvas.layout)
                for index, (y, x) in enumerate(canvas.layout.corners):
                    if blank[index]:
                        canvas.blank.append(index)
                        continue
                    if not batch.filled:
                        batch.tiles = torch.empty(shape, dtype=self.dtype, pin_memory=pinned)
                    tile, flips = pixels[y : y + TILE, x : x + TILE], canvas.layout.flips(index)
                    batch.tiles[batch.filled] = tile.flip([axis + 2 for axis in flips]) if flips else tile
                    batch.filled += 1
                    batch.parts.append((canvas, index))
                    if batch.filled == size:
                        yield self._uploaded(batch)
                        batch = _Batch()
                batch.parts.append((canvas, None))
                if not batch.filled:
                    yield batch
                    batch = _Batch()
            if batch.filled:
                batch.tiles[batch.filled :] = 0
                yield self._uploaded(batch)

    def _stream(self, priority: int = -1) -> AbstractContextManager[Any]:
        """A CUDA stream for the calling thread: that of the network comes after all others, which others wait for."""
        if self.device.type != "cuda":
            return nullcontext()
        stream = torch.cuda.Stream(self.device, priority=priority)
        stream.wait_stream(torch.cuda.current_stream(self.device))  # where the weights were loaded
        return torch.cuda.stream(stream)

    def _uploaded(self, batch: _Batch) -> _Batch:
        """Start the copy of a batch's tiles to the device; there (size, 3, TILE, TILE)."""
        batch.tiles = batch.tiles.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        return self._handed_over(batch)

    def _handed_over(self, batch: _Batch) -> _Batch:
        """Note how far this thread's stream must get before another's uses what the batch holds."""
        if self.device.type == "cuda":
            batch.made = torch.cuda.current_stream().record_event()
        return batch

    def _taken_over(self, batch: _Batch) -> _Batch:
        """Let this thread's stream wait for what the batch holds, and its memory be kept until the stream is done."""
        if batch.made is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(batch.made)
            for tensor in (batch.tiles, *batch.outputs):
                if tensor.is_cuda:
                    tensor.record_stream(stream)
        return batch

    def _read(self, job: CanvasJob) -> tuple[_Canvas, Tensor]:
        """A canvas, and its pixels on the network's grid, padded for the tiles, (Y, X, 3) in the network's type."""
        pixels = torch.from_numpy(np.ascontiguousarray(job.read(), dtype=np.float32))
        channels, height, width = pixels.shape
        if channels > IN_CHANNELS:
            raise ValueError(f"The network takes {IN_CHANNELS} channels, not {channels}.")
        grid = network_shape((height, width), job.scale)
        if grid != (height, width):
            shrinks = job.scale < 1
            pixels = F.interpolate(pixels[None], size=grid, mode="bilinear", align_corners=False, antialias=shrinks)[0]
        layout = self.layout(grid)
        return _Canvas(job=job, shape=(height, width), grid=grid, layout=layout), _padded(pixels, layout, self.dtype)

    @torch.inference_mode()
    def _forward(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """Add the network's outputs to each batch, (3, TILE, TILE) float32 on the device."""
        torch.set_num_threads(torch.get_num_threads())  # OpenMP keeps this number per thread
        with self._stream(priority=0):
            for batch in map(self._taken_over, batches):
                while len(batch.outputs) < batch.filled:
                    try:
                        batch.outputs.extend(self._call(batch.tiles, len(batch.outputs)))
                        continue
                    except (RuntimeError, MemoryError) as error:
                        # Torch's own allocator on CUDA and on a CPU, and a driver that lacks memory for something else.
                        said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
                        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
                        if self.batch_size == 1 or not (full or any(what in str(error) for what in said)):
                            raise
                    self.batch_size //= 2
                    print(f"the device is out of memory; continuing with batches of {self.batch_size}", flush=True)
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                batch.tiles = torch.empty(0)
                yield self._handed_over(batch)

    def _call(self, tiles: Tensor, start: int) -> Tensor:
        """Call the network once, for the tiles from `start` on: always with a full batch."""
        x = tiles[start : start + self.batch_size]
        if (lacking := self.batch_size - len(x)) > 0:  # the halved size needn't divide the original one
            x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, lacking))
        outputs = self.network(x.contiguous(memory_format=torch.channels_last)).float()
        return outputs[: self.batch_size - lacking]

    @torch.inference_mode()
    def _blend(self, batches: Iterator[_Batch]) -> Iterator[Result]:
        """Add outputs to the sum of their canvas, in order; after its last tile, write the canvas."""
        total: Tensor | None = None
        with self._stream():
            for batch in map(self._taken_over, batches):
                outputs = iter(batch.outputs)
                for canvas, index in batch.parts:
                    if total is None:
                        total = torch.zeros(3, *canvas.layout.shape, device=self.device)
                    if index is not None:
                        self._add(total, canvas.layout, index, next(outputs))
                        continue
                    flow = self._finish(total, canvas).to(torch.float16).cpu()  # the only rounding
                    total = None
                    if int((flow.view(torch.int16) & FLOAT16_EXPONENT).amax()) == FLOAT16_EXPONENT:
                        raise RuntimeError(f"the network's output for {canvas.job.key} isn't finite")
                    canvas.job.write(flow.numpy())
                    yield Result(key=canvas.job.key, tiles=len(canvas.layout), skipped=len(canvas.blank))

    def _add(self, total: Tensor, layout: TileLayout, index: int, output: Tensor) -> None:
        """Add a tile's output, mirrored back, to the sum of its canvas (3, Y, X)."""
        flips = layout.flips(index)
        if flips:
            output = output.flip(flips)
            for axis in flips:
                output[axis + 2].neg_()  # the vector's component along that axis: dy of -2, dx of -1
        y, x = layout.corners[index]
        total[:, y : y + TILE, x : x + TILE].addcmul_(output, self._weight)

    def _finish(self, total: Tensor, canvas: _Canvas) -> Tensor:
        """The flow field of a canvas on its own grid, float32 (3, Y, X); changes `total`, the sum of its tiles."""
        layout = canvas.layout
        for index in canvas.blank:
            y, x = layout.corners[index]
            total[2, y : y + TILE, x : x + TILE].sub_(self._weight, alpha=LOGIT_LIMIT)
        rows, columns = (torch.from_numpy(axis.sums()).to(self.device) for axis in (layout.y, layout.x))
        for y in range(0, len(rows), TILE):  # their product over the whole canvas would be as large as two channels
            total[:, y : y + TILE].div_((rows[y : y + TILE, None] * columns).float())
        top, left = layout.y.before, layout.x.before
        flow = total[:, top : top + canvas.grid[0], left : left + canvas.grid[1]]
        if canvas.grid != canvas.shape:
            flow = F.interpolate(flow[None], size=canvas.shape, mode="bilinear", align_corners=False)[0]
        flow[2].clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)
        return flow


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """A canvas being run: its shape (px), the same on the network's grid, its tiles, and which of them are blank.

    A tile is blank if it is all zero: no field lies there, or no channel has contrast.
    """

    job: CanvasJob
    shape: tuple[int, int]
    grid: tuple[int, int]
    layout: TileLayout
    blank: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class _Batch:
    """Tiles that are run in one call, (size, 3, TILE, TILE), of which `filled` are in use; later with their outputs.

    `parts` are canvas and index of each tile, in order; (canvas, None) marks the end of a canvas. `made` is when the
    device has made what it holds last.
    """

    tiles: Tensor = field(default_factory=lambda: torch.empty(0))
    filled: int = 0
    parts: list[tuple[_Canvas, int | None]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    made: torch.cuda.Event | None = None


def _padded(pixels: Tensor, layout: TileLayout, dtype: torch.dtype) -> Tensor:
    """Pixels (C, Y, X) as the network sees them, (Y, X, 3) in the shape of the layout."""
    (top, bottom), (left, right), (height, width) = layout.y.zeros, layout.x.zeros, pixels.shape[1:]
    padded = torch.zeros(top + height + bottom, left + width + right, IN_CHANNELS, dtype=dtype)
    for channel, values in enumerate(pixels):
        padded[top : top + height, left : left + width, channel] = values
    for axis, frame in ((0, (top, bottom)), (1, (left, right))):
        for zeros, edge in zip(frame, (0, -1), strict=True):
            if not zeros:  # no space for a frame: the outermost pixels are blackened instead
                padded.select(axis, edge).zero_()
    for axis, mirrored in ((0, layout.y.mirrored), (1, layout.x.mirrored)):
        if any(mirrored):
            order = np.pad(np.arange(padded.shape[axis]), mirrored, mode="symmetric")
            padded = padded.index_select(axis, torch.from_numpy(order))
    return padded


def _blank(pixels: Tensor, layout: TileLayout) -> list[bool]:
    """Whether each tile of a canvas (Y, X, 3) is all zero, from the bits of its numbers: a tenth of `any`'s time."""
    signed = torch.int32 if pixels.dtype == torch.float32 else torch.int16
    bits, blank = pixels.view(signed).numpy(), []
    for y in layout.y.starts:
        seen = np.bitwise_or.reduce(bits[y : y + TILE], axis=0) & np.iinfo(bits.dtype).max  # -0 is zero, too
        blank += [not seen[x : x + TILE].any() for x in layout.x.starts]
    return blank


def choose_device(device: str) -> torch.device:
    """The device for auto, cpu or cuda.

    Raises:
        PlateflowError: the name is another, or cuda is requested and isn't available.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise PlateflowError(f"there is no device {device!r}", remedy="use auto, cpu or cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise PlateflowError(
            "there is no CUDA device",
            where="device: cuda",
            why=f"torch {torch.__version__} finds none",
            remedy="set device to auto or cpu, or install a CUDA build of torch (see the README) and check nvidia-smi",
        )
    return torch.device("cuda" if available and device != "cpu" else "cpu")
