"""Flow fields of volumes from a 2D network: it runs over the YX, ZY and ZX planes, and their flows are averaged.

The pixels of a volume and the sums of its flows are in nameless files in the scratch, 4 bytes per voxel and channel and
16 per voxel. Memory holds at most the planes of the engine and, for reading and for writing, a slab of `SLAB` voxels
per channel, or one plane if that is larger; pages of the files are released after use.
"""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from plateflow.files import count_mapped
from plateflow.flows import release_pages
from plateflow.segment.engine import CanvasJob
from plateflow.segment.scratch import scratch_array

PASSES = ((0, (1, 2, 3)), (2, (0, 1, 3)), (1, (0, 2, 3)))
"""YX, ZY, ZX: the axis across the planes, and which of [dz, dy, dx, cell logit] the network's [d row, d column, cell
logit] are in these planes. Sums are made in this order."""
SLAB = 2**22
"""Voxels per channel that are read or written at once."""
TARGET = np.float32(5)
"""Length of a target in network units."""


def n_planes(shape: tuple[int, ...]) -> int:
    """How many planes the network sees of a canvas of `shape`, ([Z,] Y, X)."""
    return 1 if len(shape) == 2 else sum(shape)


class Volume:
    """A volume whose planes are run one by one; its flow field is saved after the last of them.

    Args:
        read: returns the normalised pixels of the YX plane z, float32 (C, Y, X); called in order, in a thread.
        save: takes the flow field, float16 (4, Z, Y, X) = [dz, dy, dx, cell logit], steps in voxels; called once.
        shape: (Z, Y, X).
        channels: number of channels that `read` returns.
        anisotropy: the distance between planes divided by the pixel size.
        folder: for the nameless files.
    """

    def __init__(
        self,
        read: Callable[[int], NDArray[np.float32]],
        save: Callable[[NDArray[np.float16]], None],
        *,
        shape: tuple[int, int, int],
        channels: int,
        anisotropy: float,
        folder: Path,
    ) -> None:
        self.shape, self.anisotropy, self.folder = shape, anisotropy, folder
        self._read_plane, self._save = read, save
        self._pixels = scratch_array(folder, (channels, *shape), np.float32)
        self._sums = scratch_array(folder, (4, *shape), np.float32)
        self._filled, self._lock = False, threading.Lock()
        self._slab: tuple[tuple[int, int], NDArray[np.float32]] | None = None
        self._waiting: list[NDArray[Any]] = []

    def jobs(self, *, scale: float, key: Any) -> Iterator[CanvasJob]:
        """The planes, in the order in which they must be written; `scale` is of a YX plane."""
        for axis, components in PASSES:
            for index in range(self.shape[axis]):
                yield CanvasJob(
                    read=partial(self._read, axis, index),
                    write=partial(self._write, axis, components, index),
                    scale=scale,
                    key=key,
                )

    def _thickness(self, axis: int) -> int:
        """Planes per slab."""
        return max(1, SLAB * self.shape[axis] // int(np.prod(self.shape)))

    def _read(self, axis: int, index: int) -> NDArray[np.float32]:
        with self._lock:
            if not self._filled:
                for z in range(self.shape[0]):
                    self._pixels[:, z] = self._read_plane(z)
                    release_pages(self._pixels)
                count_mapped(written=self._pixels.nbytes)
                self._filled = True
            number, k = divmod(index, self._thickness(axis))
            if self._slab is None or self._slab[0] != (axis, number):
                self._slab = None
                start = index - k
                planes = self._pixels[_along(axis + 1, start, start + self._thickness(axis))]
                self._slab = (axis, number), np.array(np.moveaxis(planes, axis + 1, 0), order="C")
                count_mapped(read=planes.nbytes)
                release_pages(self._pixels)
            # Of a plane resampled to square pixels: along z, more or fewer than there are planes.
            rows = self.shape[1] if axis == 0 else max(1, round(self.shape[0] * self.anisotropy))
            return _with_rows(self._slab[1][k], rows, antialias=self.anisotropy < 1)

    def _write(self, axis: int, components: tuple[int, ...], index: int, flow: NDArray[np.float16]) -> None:
        rows = self.shape[1] if axis == 0 else self.shape[0]
        self._waiting.append(_with_rows(flow, rows))
        last = index + 1 == self.shape[axis]
        if last or len(self._waiting) == self._thickness(axis):
            slab = _along(axis, index + 1 - len(self._waiting), index + 1)
            for k, component in enumerate(components):
                added = np.stack([plane[k] for plane in self._waiting], axis)
                self._sums[component][slab] += added
                count_mapped(read=added.nbytes, written=added.nbytes)
            self._waiting.clear()
            release_pages(self._sums)
        if last and axis == PASSES[-1][0]:
            self._finish()

    def _finish(self) -> None:
        passes = [sum(c in components for _, components in PASSES) for c in range(4)]
        counts = np.maximum(passes, 1).astype(np.float32)[:, None, None]
        flow = scratch_array(self.folder, (4, *self.shape), np.float16)
        for z in range(self.shape[0]):
            mean = (self._sums[:, z] / counts).astype(np.float32, copy=False)
            mean[:3] = in_voxels(mean[:3], self.anisotropy)
            flow[:, z] = mean
            release_pages(self._sums)
            release_pages(flow)
        count_mapped(read=self._sums.nbytes + flow.nbytes, written=flow.nbytes)  # `save` reads what is written here
        self._save(flow)


def in_voxels(flow: NDArray[np.float32], anisotropy: float) -> NDArray[np.float32]:
    """Turn flows (3, ...) in px of equal size along all axes into steps in voxels along the same directions.

    Lengths are kept, as targets are unit vectors in voxels, but capped at the length of a target. Means over planes
    exceed it by up to sqrt(3 / 2): a plane's vectors are as long as a target even far from the object's centre.
    """
    steps = flow.copy()
    steps[0] /= np.float32(anisotropy)
    before, after = (np.sqrt(np.square(vectors).sum(0)) for vectors in (flow, steps))
    steps *= np.divide(np.minimum(before, TARGET), after, out=np.zeros_like(after), where=after > 0)
    return steps


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))


def _with_rows(plane: NDArray[Any], rows: int, *, antialias: bool = False) -> NDArray[Any]:
    """A plane (C, rows, columns) resized to `rows` rows, float32; unchanged if it has them."""
    if plane.shape[1] == rows:
        return plane
    pixels = torch.from_numpy(np.ascontiguousarray(plane, np.float32))[None]
    size = (rows, plane.shape[2])
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=antialias)[0].numpy()
