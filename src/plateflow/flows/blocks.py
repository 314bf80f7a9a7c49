"""How a canvas is cut into blocks, and how regions of its flow field are read, from memory or from a file."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.flows.scalar import PROBABILITY_ONE

Region = tuple[slice, ...]
Bits = NDArray[np.uint16]
Points = NDArray[np.int32]
# One pixel in the integers of positions and steps, and the longest step: 7.99 pixels. float16 flows are read through
# tables with one entry for each of their 65,536 bit patterns, so that rounding is the same on every machine.
ONE = 4096
_LONGEST = 32727
NOT_FINITE = -32768


@dataclass(frozen=True)
class Block:
    """A region of a canvas that is followed in one piece.

    Attributes:
        index: number of the block in its canvas, in row-major order.
        core: the pixels that belong to this block alone, in canvas coordinates, one slice per axis.
    """

    index: int
    core: Region


def cut_blocks(shape: Sequence[int], block: int) -> list[Block]:
    """Cut a canvas of ``([Z,] Y, X)`` pixels into blocks, in row-major order.

    Their cores have `block` pixels along every axis; the last one of an axis may have fewer.

    Raises:
        ValueError: the edge is less than one pixel.
    """
    if block < 1:
        raise ValueError(f"a block must be at least one pixel wide; got {block}")
    axes = [[slice(start, min(start + block, size)) for start in range(0, size, block)] for size in shape]
    return [Block(index, core) for index, core in enumerate(product(*axes))]


class FlowField:
    """A flow field that is read region by region, from numpy, memmap, zarr or a tensor of torch.

    Regions have three axes, and come as the bits of float16, ``(D + 1, Z, Y, X)`` with Z = 1 in two dimensions. Other
    float types are rounded to float16 on the way: exactness starts from there.

    Args:
        flow: ``(D + 1, *space)``, order ``[dz,] dy, dx, cell logit``; without the logit if that is given separately.
        cell_logit: ``(*space)``.

    Attributes:
        shape: of the canvas, ``([Z,] Y, X)``.
        volume: the same with a z axis, ``(Z, Y, X)``.

    Raises:
        ValueError: shapes or types don't fit.
    """

    def __init__(self, flow: Any, cell_logit: Any = None) -> None:
        self.shape: tuple[int, ...] = tuple(flow.shape[1:])
        self.ndim = len(self.shape)
        channels = self.ndim + (cell_logit is None)
        flow, cell_logit = (part if in_device_memory(part) else to_host(part) for part in (flow, cell_logit))
        kind = np.dtype(np.float16 if in_device_memory(flow) else flow.dtype)
        if self.ndim not in (2, 3) or flow.shape[0] != channels or kind.kind != "f":
            raise ValueError(
                f"flow must hold floats of shape ({channels}, [Z,] Y, X), order [dz,] dy, dx"
                f"{', cell logit' if cell_logit is None else ''}; got {kind} of shape {tuple(flow.shape)}"
            )
        if 0 in self.shape:
            raise ValueError(f"the canvas has no pixel: its shape is {self.shape}")
        if cell_logit is not None and tuple(cell_logit.shape) != self.shape:
            raise ValueError(f"cell_logit must have the shape of a flow, {self.shape}; got {tuple(cell_logit.shape)}")
        depth, height, width = (1,) * (3 - self.ndim) + self.shape
        self.volume = depth, height, width
        # Arrays in memory are rounded once, others region by region.
        self._flow: Any = _round_to_half(flow) if type(flow) is np.ndarray else flow
        self._logit: Any = _round_to_half(cell_logit) if type(cell_logit) is np.ndarray else cell_logit

    @property
    def in_device_memory(self) -> tuple[Any, Any] | None:
        """The flow, ``(D, *shape)``, and the logit, if both lie in the memory of a CUDA device, as float16."""
        if not in_device_memory(self._flow):
            return None
        if self._logit is None:
            return self._flow[: self.ndim], self._flow[self.ndim]
        return (self._flow, self._logit) if in_device_memory(self._logit) else None

    def read(self, region: Region) -> Bits:
        """Read a region with all its channels, ``(D + 1, Z, Y, X)``."""
        space = region[3 - self.ndim :]
        flow = _bits(self._flow[(slice(None), *space)])
        if self._logit is not None:
            flow = np.concatenate([flow, _bits(self._logit[space])[None]])
        release_pages(self._flow)
        return flow if self.ndim == 3 else flow[:, None]

    def read_flow(self, region: Region) -> Bits:
        """Read a region without the logit, ``(D, Z, Y, X)``."""
        flow = _bits(self._flow[(slice(0, self.ndim), *region[3 - self.ndim :])])
        release_pages(self._flow)
        return flow if self.ndim == 3 else flow[:, None]

    def read_logit(self, region: Region) -> Bits:
        """Read the cell logits of a region, ``(Z, Y, X)``."""
        space = region[3 - self.ndim :]
        logit = _bits(self._flow[(self.ndim, *space)] if self._logit is None else self._logit[space])
        release_pages(self._flow)
        return logit if self.ndim == 3 else logit[None]


def as_field(flow: Any) -> FlowField:
    """Wrap an array ``(D + 1, *space)`` that isn't a `FlowField` yet."""
    return flow if isinstance(flow, FlowField) else FlowField(flow)


def with_z(region: Region) -> Region:
    """Give a region of a plane a z axis of length one."""
    return (slice(0, 1),) * (3 - len(region)) + region


def in_device_memory(array: Any) -> bool:
    """Whether an array lies in the memory of a CUDA device, in the form that kernels read: contiguous float16."""
    about = getattr(array, "__cuda_array_interface__", None)
    return about is not None and about["typestr"] == "<f2" and about.get("strides") is None


def to_host(array: Any) -> Any:
    """A tensor of torch, wherever it is, as numpy; any other array as it is."""
    return array.detach().cpu().numpy() if hasattr(array, "detach") else array


def release_pages(array: Any) -> None:
    """Remove the pages of a mapped file (or a view of one) from this process's memory; the file keeps what was written.

    Any other array is left alone.
    """
    base = array.base if isinstance(array, np.memmap) and array.mode != "c" else None
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def _bits(values: Any) -> Bits:
    return np.ascontiguousarray(_round_to_half(np.asarray(to_host(values)))).view(np.uint16)


def _round_to_half(values: NDArray[Any]) -> NDArray[np.float16]:
    if values.dtype == np.float16:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        # Values beyond float16 stay finite; NaN and infinity stay as they are, to be refused later.
        half = np.where(np.isfinite(values), np.clip(values, -60000, 60000), values).astype(np.float16)
    return half


@cache
def half_values() -> NDArray[np.float32]:
    """Every float16 as float32, by its bits."""
    with np.errstate(invalid="ignore"):
        return np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)


@cache
def step_table() -> NDArray[np.int16]:
    """Steps in 1/4096 pixel by the bits of the float16 flow: ``rint(4096 * flow / 5)`` in float32, clipped."""
    values = half_values()
    finite = np.isfinite(values)
    steps = np.clip(np.rint(np.where(finite, values, 0) * np.float32(ONE / 5)), -_LONGEST, _LONGEST)
    return np.where(finite, steps, NOT_FINITE).astype(np.int16)


@lru_cache(maxsize=16)
def cell_table(threshold: float) -> NDArray[np.uint8]:
    """Whether a pixel is cell, by the bits of its float16 logit: 1 above the threshold, 2 if it isn't finite."""
    values = half_values()
    return np.where(np.isfinite(values), values > np.float64(threshold), 2).astype(np.uint8)


@cache
def probability_table() -> NDArray[np.int32]:
    """The logistic function of every float16, by its bits, in units of 2**-30."""
    with np.errstate(all="ignore"):
        probability = 1 / (1 + np.exp(-np.nan_to_num(half_values()).astype(np.float64)))
    return np.rint(probability * PROBABILITY_ONE).astype(np.int32)
