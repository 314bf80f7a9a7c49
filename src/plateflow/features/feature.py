"""What the families share: the description of a feature, and the objects of one label image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]] | NDArray[np.signedinteger[Any]]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One line of the data dictionary.

    Attributes:
        name: without compartment and channel: AreaShape_Area.
        family: the module that measures it, or the stage that adds it.
        unit: px, px², rad, µm², or 1 where it has none.
        definition: in one sentence.
        source: whose definition it is.
        kind: a measurement; a position, which a well's median makes no sense of; or the number of an object.
        channel: the channel's name; empty for what needs no image.
    """

    name: str
    family: str
    unit: str
    definition: str
    source: str
    kind: Literal["measurement", "position", "number"] = "measurement"
    channel: str = ""

    @property
    def column(self) -> str:
        """The column's name without the compartment."""
        return f"{self.name}_{self.channel}" if self.channel else self.name


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The objects of one label image, with their pixels sorted once for all families.

    Attributes:
        labels: integer YX, 0 is background; gaps in the numbers are allowed.
        pixel_size_um: height and width of a pixel.
        origin_px: y, x of the array's first pixel in the image.
    """

    labels: Labels
    pixel_size_um: tuple[float, float]
    origin_px: tuple[int, int] = (0, 0)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        flat = self.labels.ravel()
        inside = np.flatnonzero(flat)
        order = inside[np.argsort(flat[inside], kind="stable")]
        numbers, starts = np.unique(flat[order], return_index=True)
        return order, numbers.astype(np.int64), starts.astype(np.int64)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The objects' labels, rising."""
        return self._sorted[1]

    @property
    def pixels(self) -> NDArray[np.int64]:
        """Flat indices of all objects' pixels, object after object, each in raster order."""
        return self._sorted[0]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each object begins in `pixels`."""
        return self._sorted[2]

    @property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each object."""
        return np.diff(self.starts, append=len(self.pixels))


class Family(Protocol):
    """A module that measures."""

    FEATURES: tuple[Feature, ...]

    def measure(self, regions: Regions, plane: NDArray[Any] | None) -> dict[str, Values]:
        """Values of every feature, by name, in the order of `regions.numbers`.

        Families whose features need no image get no plane; the others are called once a channel.
        """
