"""The inference engine: canvases in, flow fields out.

Tiles of all canvases are pooled into batches of one fixed shape, so that a tile's output has the same bits whatever its
companions are. One thread reads ahead, one writes behind, and both queues are bounded: at most `AHEAD` canvases wait to
be run and `BEHIND` to be written; of large ones, one each. A canvas is blended on the device in float32, in ascending
order of its tiles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from plateflow.config import PlateflowError
from plateflow.segment.tiles import TILE, frame, network_shape, ramp, tile_plan, weight_sum

IN_CHANNELS = 3
LOGIT_LIMIT = 30.0
AHEAD = 2
BEHIND = 2
LARGE_PX = 25_000_000
"""Above so many px of the network's grid a canvas takes more than half a gigabyte, and time enough for the next one to
be read: one waits at either side, and no batch is shared, so that only one is in work."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A canvas to run.

    Attributes:
        read: gives the normalised pixels, float32 (C, Y, X), 1 to 3 channels, the object's first. Called in a thread.
        write: takes the flow field, float16 (3, Y, X) = [dy, dx, cell logit]. Called in a thread, in order of requests.
        scale: px on the network's grid for one px of the canvas.
        pixels: of the canvas (height x width), by which memory is bounded before it is read; 0 for a small one.
        key: whatever the caller wants to know it by.
    """

    read: Callable[[], NDArray[np.float32]]
    write: Callable[[NDArray[np.float16]], None]
    scale: float = 1.0
    pixels: int = 0
    key: Any = None

    @property
    def large(self) -> bool:
        """Whether few such canvases fit into memory."""
        return self.pixels * max(1.0, self.scale) ** 2 > LARGE_PX


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
    """

    def __init__(
        self, network: Callable[[Tensor], Tensor], *, device: torch.device, dtype: torch.dtype, batch_size: int
    ) -> None:
        self.network, self.device, self.dtype, self.batch_size = network, device, dtype, batch_size
        edge = torch.from_numpy(ramp())
        self._weight = (edge[:, None] * edge[None, :]).float().to(device)

    @classmethod
    def load(
        cls, model: str, *, device: str = "auto", batch_size: int | None = None, threads: int | None = None
    ) -> FlowEngine:
        """Load a model onto a device, ready to run.

        Args:
            model: name of a registered model, or the path of a weights file.
            device: auto (CUDA where there is one), cpu or cuda.
            batch_size: tiles in one call; 4 where not given, 32 on CUDA.
            threads: CPU threads of the network; torch's choice where not given.

        Raises:
            PlateflowError: no such device, or no such or no usable model.
        """
        from plateflow.model import load_model

        chosen = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        dtype = torch.bfloat16 if chosen.type == "cuda" else torch.float32
        try:
            network = load_model(model, device=chosen, dtype=dtype)
        except ValueError as error:
            raise PlateflowError("the model can't be used", where=model, why=str(error)) from error
        size = batch_size or (32 if chosen.type == "cuda" else 4)
        return cls(network, device=chosen, dtype=dtype, batch_size=size)

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
            requests: taken one by one, in this thread, up to `AHEAD` canvases before they are needed.

        Raises:
            ValueError: a canvas has more than three channels.
            RuntimeError: the network's output isn't finite.
        """
        reader, writer = ThreadPoolExecutor(1, "read-ahead"), ThreadPoolExecutor(1, "write-behind")
        opened: deque[_Canvas] = deque()  # in work, in order
        behind: deque[tuple[_Canvas, Future[None]]] = deque()
        batch: list[tuple[_Canvas, int]] = []
        try:
            for canvas in _read_ahead(requests, reader):
                opened.append(canvas)
                for index in canvas.wanted:
                    batch.append((canvas, index))
                    if len(batch) >= self.batch_size:
                        self._step(batch)
                        batch = []
                        self._hand_over(opened, behind, writer)
                if batch and canvas.request.large:
                    self._step(batch)
                    batch = []
                self._hand_over(opened, behind, writer)
                while behind and (len(behind) > BEHIND or behind[0][1].done()):
                    yield _written(*behind.popleft())
            if batch:
                self._step(batch)
            self._hand_over(opened, behind, writer)
            while behind:
                yield _written(*behind.popleft())
        finally:
            reader.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)

    def _hand_over(
        self,
        opened: deque[_Canvas],
        behind: deque[tuple[_Canvas, Future[None]]],
        writer: ThreadPoolExecutor,
    ) -> None:
        """Give the canvases whose tiles are all run to the writer; wait if it lags, so that few are held."""
        while opened and not opened[0].left:
            canvas = opened.popleft()
            limit = 1 if canvas.request.large else BEHIND
            if len(behind) >= limit:
                behind[-limit][1].result()
            behind.append((canvas, writer.submit(_write, canvas.request, self._blend(canvas))))
            canvas.release()

    @torch.inference_mode()
    def _step(self, batch: list[tuple[_Canvas, int]]) -> None:
        """Run one batch and add its outputs to their canvases, in order."""
        outputs = self._forward([canvas.tile(index) for canvas, index in batch])
        for (canvas, index), output in zip(batch, outputs, strict=True):
            if canvas.sum is None:
                canvas.sum = torch.zeros(canvas.pixels.shape, device=self.device)
            y, x = canvas.tiles[index]
            canvas.sum[:, y : y + TILE, x : x + TILE].addcmul_(output, self._weight)
            canvas.left -= 1

    def _forward(self, tiles: list[Tensor]) -> list[Tensor]:
        """The network's output for each tile, (3, TILE, TILE) float32, always in calls of the full batch."""
        outputs: list[Tensor] = []
        while len(outputs) < len(tiles):
            part = tiles[len(outputs) : len(outputs) + self.batch_size]
            x = torch.zeros(self.batch_size, IN_CHANNELS, TILE, TILE)
            for slot, tile in enumerate(part):
                x[slot] = tile
            if self.device.type == "cuda":
                x = x.pin_memory()
            try:
                x = x.to(self.device, non_blocking=True).to(self.dtype, memory_format=torch.channels_last)
                outputs.extend(self.network(x).float()[: len(part)])
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not _out_of_memory(error):
                    raise
                self.batch_size //= 2
                print(f"memory of the device doesn't suffice; going on with batches of {self.batch_size}", flush=True)
            else:
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return outputs

    @torch.inference_mode()
    def _blend(self, canvas: _Canvas) -> Tensor:
        """The flow field of a canvas on its own grid, float16 (3, Y, X), on the device."""
        _, height, width = canvas.pixels.shape
        total = torch.zeros(canvas.pixels.shape, device=self.device) if canvas.sum is None else canvas.sum
        for index in canvas.blank:
            y, x = canvas.tiles[index]
            total[2, y : y + TILE, x : x + TILE].sub_(self._weight, alpha=LOGIT_LIMIT)
        rows, columns = (torch.from_numpy(weight_sum(n)).to(self.device) for n in (height, width))
        for y in range(0, height, TILE):  # their product over the whole canvas would be as large as two channels
            total[:, y : y + TILE].div_((rows[y : y + TILE, None] * columns).float())
        top, left = canvas.padding
        flow = total[:, top : top + canvas.grid[0], left : left + canvas.grid[1]]
        if canvas.grid != canvas.shape:
            flow = F.interpolate(flow[None], size=canvas.shape, mode="bilinear", align_corners=False)[0]
        flow[2].clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)
        return flow.to(torch.float16)


class _Canvas:
    """A canvas in work: its pixels on the network's grid, at least one tile large, and the sum of its tiles."""

    def __init__(self, request: Request) -> None:
        self.request = request
        pixels = torch.from_numpy(np.ascontiguousarray(request.read(), dtype=np.float32))
        channels, *shape = pixels.shape
        if channels > IN_CHANNELS:
            raise ValueError(f"The network takes {IN_CHANNELS} channels, not {channels}.")
        self.shape = (shape[0], shape[1])
        self.grid = network_shape(self.shape, request.scale)
        if self.grid != self.shape:
            shrinks = request.scale < 1
            pixels = F.interpolate(
                pixels[None], size=self.grid, mode="bilinear", align_corners=False, antialias=shrinks
            )[0]
        self.pixels, self.padding = _framed(pixels)
        self.tiles = tile_plan((self.pixels.shape[1], self.pixels.shape[2]))
        # A tile of zeros alone is fill: no field lies there, or no channel has contrast.
        self.blank = [index for index in range(len(self.tiles)) if not self.tile(index).any()]
        self.wanted = [index for index in range(len(self.tiles)) if index not in set(self.blank)]
        self.left = len(self.wanted)
        self.sum: Tensor | None = None

    def tile(self, index: int) -> Tensor:
        """The pixels of a tile, (3, TILE, TILE)."""
        y, x = self.tiles[index]
        return self.pixels[:, y : y + TILE, x : x + TILE]

    def release(self) -> None:
        """Let go of the pixels: the canvas only waits to be written."""
        self.pixels, self.sum = torch.empty(0), None


def _framed(pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Pixels (C, Y, X) as the network sees them, (3, >= TILE, >= TILE), and where the canvas lies in them (top, left).

    A black frame tells the network that an object ends at the border: without one it guesses centres beyond it, and the
    object is lost. Where no tile has room for a frame, the outermost pixels are blacked instead. What a small canvas
    still lacks to a tile is filled with its mirror image, which looks like more of the same.
    """
    channels, height, width = pixels.shape
    frames = [frame(n) for n in (height, width)]
    y, x = frames
    pixels = F.pad(pixels, (x, x, y, y, 0, IN_CHANNELS - channels))
    if not y:
        pixels[:, [0, -1]] = 0
    if not x:
        pixels[:, :, [0, -1]] = 0
    lacking = [max(0, TILE - n) for n in pixels.shape[1:]]
    sides = [(n // 2, n - n // 2) for n in lacking]
    if any(lacking):
        pixels = torch.from_numpy(np.pad(pixels.numpy(), [(0, 0), *sides], mode="symmetric"))
    return pixels, (sides[0][0] + y, sides[1][0] + x)


def _read_ahead(requests: Iterable[Request], reader: ThreadPoolExecutor) -> Iterator[_Canvas]:
    waiting: deque[Future[_Canvas]] = deque()
    for request in requests:
        ready = waiting.popleft().result() if len(waiting) >= (1 if request.large else AHEAD) else None
        waiting.append(reader.submit(_Canvas, request))
        if ready is not None:
            yield ready
    while waiting:
        yield waiting.popleft().result()


def _write(request: Request, flow: Tensor) -> None:
    if not bool(torch.isfinite(flow).all()):
        raise RuntimeError(f"the network's output for {request.key} holds values that are no numbers")
    request.write(flow.cpu().numpy())


def _written(canvas: _Canvas, future: Future[None]) -> Result:
    future.result()
    return Result(key=canvas.request.key, tiles=len(canvas.tiles), skipped=len(canvas.blank))


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
