"""What the families share: the description of a feature, and the objects of one label image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled

Labels = NDArray[np.unsignedinteger[Any]] | NDArray[np.signedinteger[Any]]
Image = NDArray[Any]
Values = NDArray[np.float64]
Pixels = NDArray[np.int32]
Integers = NDArray[np.int64]
Volume = NDArray[np.int32]
Rows = NDArray[Any]
"""What a kernel fills: (object, item), of float64 or of records whose fields are the names of a family's columns."""

THREADS = 2
"""Objects are shared out among this many threads. Each is measured by itself, so no value depends on the number."""
_CHUNK_PX = 100_000


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One line of the data dictionary.

    Attributes:
        name: without compartment and channel: AreaShape_Area.
        family: the family that measures it (`Family.columns` adds it), or `objects`.
        unit: px, px², plane, voxel, degree, µm², or 1 if it has none.
        definition: in one sentence.
        source: whose definition it is.
        kind: a measurement; a position, whose median over a well is meaningless; or the number of an object.
        channel: the channel's name, or two names joined by `_`; empty if no image is needed.
        pixels: what the intensities of its channel are, such as raw values (`columns.with_pixels` says so).
        suffix: what follows the channel in the column's name: scale, ring, order.
    """

    name: str
    family: str = ""
    unit: str
    definition: str
    source: str = "CellProfiler"
    kind: Literal["measurement", "position", "number"] = "measurement"
    channel: str = ""
    pixels: str = ""
    suffix: str = ""

    @property
    def column(self) -> str:
        """The column's name without the compartment."""
        return "_".join(part for part in (self.name, self.channel, self.suffix) if part)

    @staticmethod
    def is_position(name: str) -> bool:
        """Whether a column is a coordinate in the image, to which the image's origin is added."""
        return name.endswith(("_X", "_Y", "_Z"))

    @classmethod
    def of_table(cls, prefix: str, table: Mapping[str, tuple[str, str]], **more: Any) -> list[Feature]:
        """The features of a family's table, which has the unit and the definition of each by its name."""
        return [
            cls(
                name=f"{prefix}_{name}",
                unit=unit,
                definition=definition,
                kind="position" if cls.is_position(name) else "number" if "ObjectNumber" in name else "measurement",
                **more,
            )
            for name, (unit, definition) in table.items()
        ]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Features that are measured together.

    Attributes:
        features: the features for given names of channels and number of dimensions, in the order of their columns;
            `columns` adds the family's name.
        measure: the values (object, feature) for the objects of one label image and the image, (channel, [z,] y, x)
            and finite.
        together: `measure` takes a list of label images, whose objects share work, and returns one array for each.
        in_3d: volumes have these features.
        of_parts: they say something about a cytoplasm that they do not say about its cell.
    """

    name: str
    features: Callable[..., list[Feature]]
    measure: Callable[..., Any]
    together: bool = False
    in_3d: bool = False
    of_parts: bool = True

    def columns(self, channels: Sequence[str], ndim: int, *options: Any) -> list[Feature]:
        """The features, in the order of their columns."""
        return [replace(feature, family=self.name) for feature in self.features(channels, ndim, *options)]

    def tables(self, sets: Sequence[Regions], image: Image, *options: Any) -> list[Values]:
        """The values (object, feature) for each set of objects."""
        if self.together:
            return list(self.measure(sets, image, *options))
        return [self.measure(regions, image, *options) for regions in sets]


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The objects of one label image, with their pixels sorted once for all families.

    Attributes:
        labels: integer YX or ZYX; 0 is background, and numbers may be missing.
        pixel_size_um: size of a pixel along each axis.
        origin_px: position of the array's first pixel in the image, along each axis.
        outside: True where the array lies outside the image; None if it does so nowhere.
    """

    labels: Labels
    pixel_size_um: tuple[float, ...]
    origin_px: tuple[int, ...] = (0, 0)
    outside: NDArray[np.bool_] | None = None

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.labels.ndim

    @property
    def pixel_um(self) -> float:
        """The size of a pixel in its plane in µm: that to which lengths in px refer."""
        return float(np.mean(self.pixel_size_um[-2:]))

    @property
    def spacing(self) -> NDArray[np.float64]:
        """The size of a pixel or voxel along each axis, in px of its plane."""
        return np.array(self.pixel_size_um) / self.pixel_um

    @cached_property
    def volume(self) -> Volume:
        """The labels with axes ZYX; renumbered if they exceed the number of pixels."""
        labels = self.labels if self.ndim == 3 else self.labels[np.newaxis]
        if labels.size and int(labels.max()) > max(labels.size, 1024):
            labels = np.searchsorted(np.unique(np.append(labels, 0)), labels)
        return np.ascontiguousarray(labels, np.int32)

    @cached_property
    def _sorted(self) -> tuple[Pixels, Integers, Integers]:
        pixels, stops = _sort_pixels(self.volume.ravel(), int(self.volume.max(initial=0)))
        present = np.flatnonzero(np.diff(stops))
        starts = np.append(stops[present], len(pixels))
        numbers = self.labels.ravel()[pixels[starts[:-1]]].astype(np.int64)
        return pixels, numbers, starts

    @property
    def numbers(self) -> Integers:
        """The objects' labels, ascending."""
        return self._sorted[1]

    @property
    def pixels(self) -> Pixels:
        """Flat indices of all objects' pixels, object after object, each in raster order."""
        return self._sorted[0]

    @property
    def starts(self) -> Integers:
        """Where each object starts in `pixels`, and where the last one stops."""
        return self._sorted[2]

    @property
    def areas(self) -> Integers:
        """Number of pixels of each object."""
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

    def each(
        self, kernel: Callable[..., None], items: int, image: Image | None = None, *args: Any, row: Any = float
    ) -> Rows:
        """Call a compiled function for every object, in threads.

        Args:
            kernel: `kernel(values, pixels, starts, volume, rows, *args)`. It is given some of the objects: intensities
                (channel, pixel) in float64, flat indices of the pixels, where each object starts in these two and
                where the last one stops, the volume of all labels, and the rows to fill. It must release the
                interpreter's lock.
            items: number of items per object, such as channels.
            image: (channel, [z,] y, x).
            row: type of an item: float64, or records of float64, into which the kernel writes by name.

        Returns:
            (object, item), NaN where the kernel wrote nothing; records become columns by `.view(np.float64)`.
        """
        rows = np.full((len(self.numbers), items * (np.dtype(row).itemsize // 8)), np.nan).view(row)
        planes = None if image is None else image.reshape(len(image), -1)

        def work(first: int, last: int) -> None:
            pixels = self.pixels[self.starts[first] : self.starts[last]]
            values = np.zeros((0, 0)) if planes is None else planes.take(pixels, axis=1).astype(np.float64, copy=False)
            starts = self.starts[first : last + 1] - self.starts[first]
            kernel(values, pixels, starts, self.volume, rows[first:last], *args)

        size = max(min(_CHUNK_PX, len(self.pixels) // (4 * THREADS)), 1)
        cuts = np.unique(np.append(np.searchsorted(self.starts, np.arange(0, len(self.pixels), size)), len(rows)))
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, cuts[:-1], cuts[1:]))
        return rows

    def columns(self, rows: Rows, names: Sequence[str]) -> Values:
        """The named fields of records (object, item) as columns (object, item and name), positions in the image."""
        origin = dict(zip("ZYX"[-self.ndim :], self.origin_px, strict=True))
        columns = [rows[name] + origin[name[-1]] if Feature.is_position(name) else rows[name] for name in names]
        return np.stack(columns, axis=2).reshape(len(rows), rows.shape[1] * len(names))


@compiled
def _sort_pixels(labels: NDArray[np.int32], top: int) -> tuple[Pixels, Integers]:
    """Flat indices sorted by label, and where each label stops among them: a counting sort."""
    stops = np.zeros(top + 1, np.int64)
    for label in labels:
        if label > 0:
            stops[label] += 1
    stops = np.cumsum(stops)
    order = np.empty(stops[top], np.int32)
    place = stops.copy()
    for index in range(len(labels)):
        label = labels[index]
        if label > 0:
            order[place[label - 1]] = index
            place[label - 1] += 1
    return order, stops
