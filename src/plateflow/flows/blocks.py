"""How a canvas is cut into blocks, and how windows of its flow field are read, whatever holds it."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "plan_blocks"]

Box = tuple[slice, ...]
Bits = NDArray[np.uint16]
CHANNELS = ("dz", "dy", "dx", "cell logit")
# One pixel in the integers of positions and steps, and the longest step: 7.99 pixels. float16 flows are read through
# tables with an entry for each of their 65,536 bit patterns, which makes the rounding the same wherever it runs.
ONE = 4096
_LONGEST = 32727
NOT_FINITE = -32768


@dataclass(frozen=True)
class Block:
    """A region of a canvas: ``core`` (canvas coordinates, an axis each) is the part that is nobody else's."""

    index: int
    core: Box


def plan_blocks(shape: Sequence[int], block: int) -> list[Block]:
    """Cut a canvas of ``shape`` into cores of ``block`` pixels an axis (the last ones smaller), in row-major order."""
    if block < 1:
        raise ValueError(f"a block must be at least one pixel wide; got {block}")
    axes = [[slice(start, min(start + block, size)) for start in range(0, size, block)] for size in shape]
    return [Block(index, core) for index, core in enumerate(product(*axes))]


class FlowField:
    """A flow field that is read window by window: numpy, memmap or zarr; in one array with its logit, or two.

    Windows come as the bits of float16, ``(D + 1, Z, Y, X)`` with Z = 1 in two dimensions. Other float types are
    rounded to float16 on the way: that is where exactness starts.
    """

    def __init__(self, flow: Any, cell_logit: Any = None) -> None:
        self.shape: tuple[int, ...] = tuple(flow.shape[1:])
        self.ndim = len(self.shape)
        channels = self.ndim + (cell_logit is None)
        if self.ndim not in (2, 3) or flow.shape[0] != channels or np.dtype(flow.dtype).kind != "f":
            raise ValueError(
                f"a flow field has floats of shape ({channels}, [Z,] Y, X), order [dz,] dy, dx"
                f"{', cell logit' if cell_logit is None else ''}; got {flow.dtype} of shape {tuple(flow.shape)}"
            )
        if 0 in self.shape:
            raise ValueError(f"the canvas has no pixel: its shape is {self.shape}")
        if cell_logit is not None and tuple(cell_logit.shape) != self.shape:
            raise ValueError(f"cell_logit must have the shape of a flow, {self.shape}; got {tuple(cell_logit.shape)}")

        # What is in memory is rounded once, what isn't with each window.
        self._flow: Any = self._half(flow) if type(flow) is np.ndarray else flow
        self._logit: Any = self._half(cell_logit) if type(cell_logit) is np.ndarray else cell_logit

    @property
    def volume(self) -> tuple[int, int, int]:
        """The shape with a z axis."""
        depth, height, width = (1,) * (3 - self.ndim) + self.shape
        return depth, height, width

    def read(self, box: Box) -> Bits:
        """Read a window with all its channels."""
        flow = self._bits(self._flow[(slice(None), *box)])
        if self._logit is not None:
            flow = np.concatenate([flow, self._bits(self._logit[box])[None]])
        let_go(self._flow)
        return flow if self.ndim == 3 else flow[:, None]

    def read_logit(self, box: Box) -> Bits:
        """Read the cell logits of a window."""
        logit = self._bits(self._flow[(self.ndim, *box)] if self._logit is None else self._logit[box])
        let_go(self._flow)
        return logit if self.ndim == 3 else logit[None]

    @classmethod
    def _bits(cls, values: Any) -> Bits:
        return np.ascontiguousarray(cls._half(np.asarray(values))).view(np.uint16)

    @staticmethod
    def _half(values: NDArray[Any]) -> NDArray[np.float16]:
        if values.dtype != np.float16:
            with np.errstate(over="ignore"):
                half = values.astype(np.float16)
            if not np.isfinite(half).all():
                # What is beyond float16 stays finite; NaN and infinity stay what they are, to be refused.
                half = np.where(np.isfinite(values), np.clip(values, -60000, 60000), values).astype(np.float16)
            values = half
        return values


def let_go(array: Any) -> None:
    """Take the pages of a mapped file out of this process's memory: they lie in the file, what was written too.

    Anything else than a ``np.memmap`` stays as it is.
    """
    base = array.base if isinstance(array, np.memmap) and array.mode != "c" else None
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def refuse(channel: int, pixel: Sequence[int], ndim: int) -> ValueError:
    """Say where a flow field isn't finite."""
    place = ", ".join(f"{axis} = {int(p)}" for axis, p in zip("zyx"[3 - ndim :], pixel[3 - ndim :], strict=True))
    return ValueError(
        f"the flow field isn't finite: {CHANNELS[3 - ndim + channel]} is NaN or infinite at {place}. "
        "Labels made from it would be wrong; run the network again on this image."
    )


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
def probability_table() -> NDArray[np.float64]:
    """The logistic function of every float16."""
    with np.errstate(all="ignore"):
        return 1 / (1 + np.exp(-half_values().astype(np.float64)))
