"""The inference engine: canvases in, flow fields out.

Three threads work at once, so that the device seldom waits: one reads canvases and cuts their tiles into batches, one
runs the network, one blends and writes. Whoever asks for the results is a fourth, so that what is done with them holds
nothing up. Between them are at most `AHEAD` tiles (or two batches, if those are larger), so that memory holds a canvas
being cut, a canvas being blended, and these.

Tiles of all canvases are pooled into batches of one fixed shape: so a tile's output has the same bits whatever its
companions are. A canvas is blended on the device in float32, in ascending order of its tiles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from plateflow.errors import PlateflowError
from plateflow.segment.tiles import TILE, TilePlan, Tiling, network_shape, plan_tiles

IN_CHANNELS = 3
LOGIT_LIMIT = 30.0
AHEAD = 48
"""Tiles that wait to be run, and as many to be blended: about two fields of 1080 px, 40 MB on either side."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A canvas to run.

    Attributes:
        read: gives the normalised pixels, float32 (C, Y, X), 1 to 3 channels, the object's first. Called in a thread.
        write: takes the flow field, float16 (3, Y, X) = [dy, dx, cell logit]. Called in a thread, in order of requests.
        scale: px on the network's grid for one px of the canvas.
        key: whatever the caller wants to know it by.
    """

    read: Callable[[], NDArray[np.float32]]
    write: Callable[[NDArray[np.float16]], None]
    scale: float = 1.0
    key: Any = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A canvas that was written: how many tiles it had, and how many of them were blank and skipped."""

    key: Any
    tiles: int
    skipped: int


class FlowEngine:
    """Runs a network over canvases.

    Attributes:
        device: where it runs.
        dtype: of weights and activations.
        batch_size: tiles in one call; halved, for good, when the device's memory doesn't suffice.
        tiling: how canvases are cut into tiles.
        augment: whether every second tile is shown to the network mirrored, at half a tile's distance.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        tiling: Tiling = "plateflow",
        augment: bool = False,
    ) -> None:
        self.network, self.device, self.dtype, self.batch_size = network, device, dtype, batch_size
        self.tiling, self.augment = tiling, augment
        edge = torch.from_numpy(plan_tiles((TILE, TILE), tiling=tiling).y.weights)
        self._weight = (edge[:, None] * edge[None, :]).float().to(device)

    @classmethod
    def load(
        cls,
        model: str,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        threads: int | None = None,
        dtype: str = "auto",
        tiling: Tiling = "plateflow",
        augment: bool = False,
    ) -> FlowEngine:
        """Load a model onto a device, ready to run.

        Args:
            model: name of a registered model, or the path of a weights file.
            device: auto (CUDA where there is one), cpu or cuda.
            batch_size: tiles in one call; 4 where not given, 32 on CUDA.
            threads: CPU threads of the network; torch's choice where not given.
            dtype: auto (bfloat16 on CUDA, float32 on a CPU), float32 or bfloat16.
            tiling: `plateflow`, or as Cellpose does it: `cellpose`.
            augment: show every second tile mirrored, at half a tile's distance.

        Raises:
            PlateflowError: no such device, or no such or no usable model.
        """
        from plateflow.model import load_model

        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        half = dtype == "bfloat16" or (dtype == "auto" and chosen.type == "cuda")
        kind = torch.bfloat16 if half else torch.float32
        try:
            network = load_model(model, device=chosen, dtype=kind)
        except ValueError as error:
            raise PlateflowError("the model can't be used", where=model, why=str(error)) from error
        size = batch_size or (32 if chosen.type == "cuda" else 4)
        return cls(network, device=chosen, dtype=kind, batch_size=size, tiling=tiling, augment=augment)

    @property
    def info(self) -> dict[str, Any]:
        """What the bits of a result depend on beside input and weights."""
        return {
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "batch": self.batch_size,
            "threads": torch.get_num_threads(),
        }

    def run(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Run canvases in order; each result is given once it is written.

        Args:
            requests: taken one by one, in a thread, ahead of the results.

        Raises:
            ValueError: a canvas has more than three channels.
            RuntimeError: the network's output isn't finite.
        """
        depth, stopped = max(2, AHEAD // self.batch_size), threading.Event()
        batches = in_thread(self._cut(requests, self.batch_size), depth)
        outputs = in_thread(self._forward(batches), depth)
        results = in_thread(self._blend(outputs), depth, left=stopped)
        with _stoppable(self.network, stopped), closing(batches), closing(outputs), closing(results):
            yield from results

    def _cut(self, requests: Iterable[Request], size: int) -> Iterator[_Batch]:
        """Read canvases and cut them into batches of `size` tiles."""
        batch = _Batch()
        for request in requests:
            canvas, pixels = self._read(request)
            for index, (y, x) in enumerate(canvas.plan.corners):
                tile = pixels[:, y : y + TILE, x : x + TILE]
                if not tile.any():
                    canvas.blank.append(index)
                    continue
                if not batch.filled:
                    batch.tiles = self._empty(size)
                batch.tiles[batch.filled] = tile.flip(canvas.plan.flips(index))
                batch.filled += 1
                batch.parts.append((canvas, index))
                if batch.filled == size:
                    yield batch
                    batch = _Batch()
            batch.parts.append((canvas, None))
            if not batch.filled:
                yield batch
                batch = _Batch()
        if batch.filled:
            batch.tiles[batch.filled :] = 0
            yield batch

    def _read(self, request: Request) -> tuple[_Canvas, Tensor]:
        """A canvas, and its pixels on the network's grid with what the plan lays around them, (3, Y, X)."""
        pixels = torch.from_numpy(np.ascontiguousarray(request.read(), dtype=np.float32))
        channels, height, width = pixels.shape
        if channels > IN_CHANNELS:
            raise ValueError(f"The network takes {IN_CHANNELS} channels, not {channels}.")
        grid = network_shape((height, width), request.scale)
        if grid != (height, width):
            shrinks = request.scale < 1
            pixels = F.interpolate(pixels[None], size=grid, mode="bilinear", align_corners=False, antialias=shrinks)[0]
        plan = plan_tiles(grid, tiling=self.tiling, augment=self.augment)
        return _Canvas(request=request, shape=(height, width), grid=grid, plan=plan), _padded(pixels, plan)

    def _empty(self, size: int) -> Tensor:
        """Room for a batch of tiles, where the device can fetch it from."""
        shape = (size, TILE, TILE, IN_CHANNELS)  # channels last
        return torch.empty(shape, dtype=self.dtype, pin_memory=self.device.type == "cuda").permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _forward(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """Add to each batch the network's outputs, (3, TILE, TILE) float32 on the device."""
        torch.set_num_threads(torch.get_num_threads())  # OpenMP keeps this number for each thread by itself
        for batch in batches:
            while len(batch.outputs) < batch.filled:
                try:
                    batch.outputs.extend(self._call(batch.tiles, len(batch.outputs)))
                    continue
                except (RuntimeError, MemoryError) as error:
                    if self.batch_size == 1 or not _out_of_memory(error):
                        raise
                self.batch_size //= 2
                print(f"memory of the device doesn't suffice; going on with batches of {self.batch_size}", flush=True)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            yield batch

    def _call(self, tiles: Tensor, start: int) -> Tensor:
        """One call of the network, for the tiles from `start` on: always with a full batch."""
        part = tiles[start : start + self.batch_size]
        x = part.to(self.device, non_blocking=True)
        if len(part) < self.batch_size:  # a batch that was halved need not divide the first one
            x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.batch_size - len(part)))
        return self.network(x.contiguous(memory_format=torch.channels_last)).float()[: len(part)]

    @torch.inference_mode()
    def _blend(self, batches: Iterator[_Batch]) -> Iterator[Result]:
        """Add outputs to the sum of their canvas, in order; after its last tile, the canvas is written."""
        total: Tensor | None = None
        for batch in batches:
            outputs = iter(batch.outputs)
            for canvas, index in batch.parts:
                if total is None:
                    total = torch.zeros(IN_CHANNELS, *canvas.plan.shape, device=self.device)
                if index is not None:
                    self._add(total, canvas.plan, index, next(outputs))
                    continue
                flow = self._finish(total, canvas).to(torch.float16)  # the one rounding
                total = None
                if not bool(torch.isfinite(flow).all()):
                    raise RuntimeError(
                        f"the network's output for {canvas.request.key} holds values that are no numbers"
                    )
                canvas.request.write(flow.cpu().numpy())
                yield Result(key=canvas.request.key, tiles=len(canvas.plan), skipped=len(canvas.blank))

    def _add(self, total: Tensor, plan: TilePlan, index: int, output: Tensor) -> None:
        """Add a tile's output, turned back, to the sum of its canvas (3, Y, X)."""
        flips = plan.flips(index)
        if flips:
            output = output.flip(flips)
            for axis in flips:
                output[axis + 2].neg_()  # the vector's component along that axis: dy of -2, dx of -1
        y, x = plan.corners[index]
        total[:, y : y + TILE, x : x + TILE].addcmul_(output, self._weight)

    def _finish(self, total: Tensor, canvas: _Canvas) -> Tensor:
        """The flow field of a canvas on its own grid, float32 (3, Y, X); changes `total`, the sum of its tiles."""
        plan = canvas.plan
        for index in canvas.blank:
            y, x = plan.corners[index]
            total[2, y : y + TILE, x : x + TILE].sub_(self._weight, alpha=LOGIT_LIMIT)
        rows, columns = (torch.from_numpy(axis.sums()).to(self.device) for axis in (plan.y, plan.x))
        for y in range(0, len(rows), TILE):  # their product over the whole canvas would be as large as two channels
            total[:, y : y + TILE].div_((rows[y : y + TILE, None] * columns).float())
        top, left = plan.y.before, plan.x.before
        flow = total[:, top : top + canvas.grid[0], left : left + canvas.grid[1]]
        if canvas.grid != canvas.shape:
            flow = F.interpolate(flow[None], size=canvas.shape, mode="bilinear", align_corners=False)[0]
        flow[2].clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)
        return flow


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """A canvas in work: its own shape, that on the network's grid, its tiles, and which of these are blank.

    A tile of zeros alone is blank: no field lies there, or no channel has contrast.
    """

    request: Request
    shape: tuple[int, int]
    grid: tuple[int, int]
    plan: TilePlan
    blank: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class _Batch:
    """Tiles that are run in one call, (size, 3, TILE, TILE), of which `filled` are in use; with their outputs later.

    `parts` are the tiles in order, as canvas and index; (canvas, None) stands where a canvas ends.
    """

    tiles: Tensor = field(default_factory=lambda: torch.empty(0))
    filled: int = 0
    parts: list[tuple[_Canvas, int | None]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


def _padded(pixels: Tensor, plan: TilePlan) -> Tensor:
    """Pixels (C, Y, X) as the network sees them, (3, Y, X) of the plan's shape."""
    (top, bottom), (left, right) = plan.y.zeros, plan.x.zeros
    pixels = F.pad(pixels, (left, right, top, bottom, 0, IN_CHANNELS - len(pixels)))
    for axis, frame in ((1, (top, bottom)), (2, (left, right))):
        for width, edge in zip(frame, (0, -1), strict=True):
            if not width:  # no room for a frame: the outermost pixels are black instead
                pixels.select(axis, edge).zero_()
    sides = [(0, 0), plan.y.mirrored, plan.x.mirrored]
    if np.any(sides):
        pixels = torch.from_numpy(np.pad(pixels.numpy(), sides, mode="symmetric"))
    return pixels


def in_thread(items: Iterator[T], depth: int, left: threading.Event | None = None) -> Generator[T]:
    """What an iterator gives, taken from it in a thread of its own, up to `depth` ahead; its exceptions come along.

    Args:
        items: taken until the end, or until whoever takes them here leaves (closes this generator).
        depth: items that may wait to be taken.
        left: set when the taker leaves early.
    """
    gone = left or threading.Event()
    ready: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    free = threading.Semaphore(depth)

    def work() -> None:
        try:
            for item in items:
                free.acquire()
                if gone.is_set():
                    return
                ready.put(("item", item))
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (taken := ready.get())[0] == "item":
            free.release()
            yield taken[1]
        if taken[0] == "error":
            raise taken[1]
    except BaseException:
        gone.set()
        raise
    finally:
        free.release()
        thread.join()


@contextmanager
def _stoppable(network: Callable[[Tensor], Tensor], stopped: threading.Event) -> Iterator[None]:
    """Let the network stop between two layers: a batch may take longer than a scheduler waits for a job's end."""

    def check(*_: object) -> None:
        if stopped.is_set():
            raise RuntimeError("the network was stopped")

    modules = network.modules() if isinstance(network, nn.Module) else ()
    hooks = [module.register_forward_pre_hook(check) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def choose_device(device: str) -> torch.device:
    """The device named by auto, cpu or cuda.

    Raises:
        PlateflowError: another is named, or cuda is asked for and isn't there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise PlateflowError(f"there is no device {device!r}", remedy="it is auto, cpu or cuda")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise PlateflowError(
            "there is no CUDA device",
            where="device: cuda",
            why=f"torch {torch.__version__} sees none",
            remedy="set device to auto or cpu, or install a CUDA build of torch (see the README) and check nvidia-smi",
        )
    return torch.device("cuda" if there and device != "cpu" else "cpu")
