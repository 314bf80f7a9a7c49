"""What the families share: the description of a feature, and the objects of one label image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]] | NDArray[np.signedinteger[Any]]
Values = NDArray[np.float64]
Kernel = Callable[..., None]

THREADS = 2
"""Objects are dealt to so many threads; each is measured by itself, so that no value depends on their number."""
_CHUNK_PX = 100_000


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One line of the data dictionary.

    Attributes:
        name: without compartment and channel: AreaShape_Area.
        family: the module that measures it, or the stage that adds it.
        unit: px, px², degree, µm², or 1 where it has none.
        definition: in one sentence.
        source: whose definition it is.
        kind: a measurement; a position, which a well's median makes no sense of; or the number of an object.
        channel: the channel's name, two of them joined by `_`; empty for what needs no image.
        suffix: what follows the channel in the column's name: scale, ring, order.
    """

    name: str
    family: str
    unit: str
    definition: str
    source: str = "CellProfiler"
    kind: Literal["measurement", "position", "number"] = "measurement"
    channel: str = ""
    suffix: str = ""

    @property
    def column(self) -> str:
        """The column's name without the compartment."""
        return "_".join(part for part in (self.name, self.channel, self.suffix) if part)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The objects of one label image, with their pixels sorted once for all families.

    Attributes:
        labels: integer YX or ZYX, 0 is background; gaps in the numbers are allowed.
        pixel_size_um: size of a pixel along each axis.
        origin_px: position of the array's first pixel in the image, along each axis.
        outside: where the box holds nothing of the image; None where it is the image's all.
    """

    labels: Labels
    pixel_size_um: tuple[float, ...]
    origin_px: tuple[int, ...] = (0, 0)
    outside: NDArray[np.bool_] | None = None

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.labels.ndim

    @cached_property
    def volume(self) -> NDArray[np.int32]:
        """The labels with axes ZYX; numbered anew where they exceed the pixels."""
        labels = self.labels if self.ndim == 3 else self.labels[np.newaxis]
        if labels.size and int(labels.max()) > max(labels.size, 1024):
            labels = np.searchsorted(np.unique(np.append(labels, 0)), labels)
        return np.ascontiguousarray(labels, np.int32)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        pixels, ends = _sort_pixels(self.volume.ravel(), int(self.volume.max(initial=0)))
        present = np.flatnonzero(np.diff(ends))
        starts = np.append(ends[present], len(pixels))
        numbers = self.labels.ravel()[pixels[starts[:-1]]].astype(np.int64)
        return pixels, numbers, starts

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The objects' labels, rising."""
        return self._sorted[1]

    @property
    def pixels(self) -> NDArray[np.int32]:
        """Flat indices of all objects' pixels, object after object, each in raster order."""
        return self._sorted[0]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each object begins in `pixels`, and the end of the last."""
        return self._sorted[2]

    @property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each object."""
        return np.diff(self.starts)

    def mean(self, values: NDArray[Any]) -> Values:
        """Mean over each object of values that are given for `pixels`."""
        if not len(self.numbers):
            return np.zeros(0)
        total: Values = np.add.reduceat(values, self.starts[:-1], dtype=np.float64)
        return total / self.areas

    def centres(self) -> Values:
        """Centroids (object, axis) in the array."""
        _, height, width = self.volume.shape
        strides = (height * width, width, 1)[-self.ndim :]
        lengths = self.volume.shape[-self.ndim :]
        return np.column_stack([self.mean(self.pixels // s % n) for s, n in zip(strides, lengths, strict=True)])

    def each(self, kernel: Kernel, columns: int, image: NDArray[Any] | None = None, *args: Any) -> Values:
        """Call a compiled function for every object, in threads.

        Args:
            kernel: `kernel(values, pixels, starts, volume, out, *args)`; of some objects: intensities (channel,
                pixel) in float64, flat indices of the pixels, where each object begins and the last ends in these
                two, the whole volume, and the rows to fill. It must release the interpreter's lock.
            columns: how many numbers an object.
            image: (channel, [z,] y, x).

        Returns:
            (object, columns), NaN where the function wrote nothing.
        """
        out = np.full((len(self.numbers), columns), np.nan)
        planes = None if image is None else image.reshape(len(image), -1)

        def work(first: int, last: int) -> None:
            pixels = self.pixels[self.starts[first] : self.starts[last]]
            values = np.zeros((0, 0)) if planes is None else planes.take(pixels, axis=1).astype(np.float64, copy=False)
            starts = self.starts[first : last + 1] - self.starts[first]
            kernel(values, pixels, starts, self.volume, out[first:last], *args)

        size = max(min(_CHUNK_PX, len(self.pixels) // (4 * THREADS)), 1)
        cuts = np.unique(np.append(np.searchsorted(self.starts, np.arange(0, len(self.pixels), size)), len(out)))
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, cuts[:-1], cuts[1:]))
        return out


class Family(Protocol):
    """A module that measures."""

    def features(self, channels: Sequence[str], ndim: int) -> list[Feature]:
        """What it measures, in the order of its columns."""

    def measure(self, sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
        """For each set of objects (object, feature); image is (channel, [z,] y, x) and finite."""


@njit(cache=True, nogil=True)
def _sort_pixels(labels: NDArray[np.int32], top: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Flat indices sorted by label, and where each label begins: a counting sort."""
    ends = np.zeros(top + 1, np.int64)
    for label in labels:
        if label > 0:
            ends[label] += 1
    ends = np.cumsum(ends)
    order = np.empty(ends[top], np.int32)
    place = ends.copy()
    for index in range(len(labels)):
        label = labels[index]
        if label > 0:
            order[place[label - 1]] = index
            place[label - 1] += 1
    return order, ends
