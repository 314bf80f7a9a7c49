"""Images of a well in an OME-Zarr plate: which are its fields, and which lie on each other.

An image may be a field, a corrected copy of one, or the same field in another round of staining. Where images lie is
what decides: two rounds (acquisitions) at one place are channels of one field, at other places they are fields. Names
that differ by numbers alone (`0`, `1`) are fields of one kind; two images of another kind (`0`, `0_illum_corr`) at one
place are the same cells twice. What places can't decide is asked of the user: `image` in the plate sheet.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates.reader import examples
from plateflow.touching import TOUCH_PX

_REMEDY = (
    "say which with `plateflow init --image`, or in the column image of the plate sheet: one name (0_illum_corr) "
    "leaves the others out; 0+1 says that 1 lies on 0 pixel for pixel, with channels of its own; '*', which stands for "
    "anything, says that all are fields, at other places"
)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of a well: its first level, and where it lies.

    Attributes:
        path: of its group.
        acquisition: the acquisition that it belongs to.
        array: path of the array of its first level.
        shape, chunk: of that array; empty if the image can't be understood.
        names: of the axes.
        scale, shift: of each axis, in units of that axis.
        um: how many um such a unit is; NaN where that is unknown.
        moved: whether the metadata have a translation.
        labels: the names of its channels.
    """

    path: str
    acquisition: Any
    array: str = ""
    shape: tuple[int, ...] = ()
    chunk: tuple[int, ...] = ()
    names: list[str] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    shift: list[float] = field(default_factory=list)
    um: list[float] = field(default_factory=list)
    moved: bool = False
    labels: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name within the well."""
        return self.path.rpartition("/")[2]


Fields = dict[str, tuple[str, int | None]]
"""Path of an image -> its field, and the group of images that it lies on others with; None where none lie so."""


def fields_of(spec: PlateSpec, wells: Mapping[str, Sequence[Image]], notes: list[str]) -> Fields:
    """Find the field that each image of a plate shows.

    Args:
        spec: the plate; its `image` decides where it is given.
        wells: path of each well -> its images, in order.
        notes: get a sentence where several acquisitions were told apart.

    Raises:
        RawDataError: neither the places of the images nor the user say which are fields.
    """
    if spec.image:
        return _chosen(spec, spec.image, wells)
    on, off = False, False
    numbers: dict[str, int] = {}
    for images in wells.values():
        acquisitions = np.array([str(image.acquisition) for image in images])
        other = acquisitions[:, None] != acquisitions
        kinds = np.array([re.sub(r"\d+", "0", image.name) for image in images])
        same, apart = _relations(images)
        sound = np.array([bool(image.shape) for image in images], bool)
        doubtful = np.where(other, ~same & ~apart, (kinds[:, None] != kinds) & ~apart) & sound[:, None] & sound
        if doubtful.any():
            raise RawDataError(
                "it isn't clear which images of a well are its fields",
                where=f"{spec.plate}: {examples((i.path for i in images), limit=6)}",
                why="by their places, images may show the same cells twice, or belong to other places of the well",
                remedy=_REMEDY,
            )
        on, off = on or bool((other & same).any()), off or bool((other & apart).any())
        count = 0
        for n, image in enumerate(images):
            shared = [numbers[images[m].path] for m in np.flatnonzero((other & same)[n, :n]).tolist()]
            numbers[image.path] = shared[0] if shared else count
            count += not shared
    if on or off:
        how = "are at the same places: each has channels of its own" if on else "are at other places: they are fields"
        notes.append(f"images of several acquisitions {how}")
    images = [image for listed in wells.values() for image in listed]
    if not on:
        return {image.path: (image.name, None) for image in images}
    return {image.path: (str(numbers[image.path]), image.acquisition) for image in images}


def _relations(images: Sequence[Image]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images of a well are at one place, and which at another, both (n, n); neither where that is unknown.

    Pixels of another size, or images, are neither; and where the metadata move none of the images, no place is known.
    """
    neither = np.zeros((len(images), len(images)), bool)
    sound = [n for n, image in enumerate(images) if image.shape]
    if not any(image.moved for image in images):
        return neither, neither
    scale, shift, sides = (
        np.array([getattr(images[n], key)[-2:] for n in sound], float) for key in ("scale", "shift", "shape")
    )
    corner = shift / scale
    alike = np.isclose(scale[:, None], scale).all(-1) & (sides[:, None] == sides).all(-1)
    away = np.abs(corner[:, None] - corner)
    same, apart = neither.copy(), neither.copy()
    same[np.ix_(sound, sound)] = alike & (away <= TOUCH_PX).all(-1)
    apart[np.ix_(sound, sound)] = alike & (away >= sides / 4).any(-1)
    return same, apart


def _chosen(spec: PlateSpec, image: str, wells: Mapping[str, Sequence[Image]]) -> Fields:
    """The images that the user names, as the remedy of `fields_of` says."""
    groups = [name.strip() for name in image.split("+")]
    fields: Fields = {}
    for images in wells.values():
        for number, group in enumerate(groups):
            chosen = [i for i in images if fnmatchcase(i.name, group) and i.path not in fields]
            for n, found in enumerate(chosen):
                fields[found.path] = (str(n), number) if len(groups) > 1 else (found.name, None)
    names = {i.name for images in wells.values() for i in images}
    if lacking := [group for group in groups if not any(fnmatchcase(name, group) for name in names)]:
        raise RawDataError(
            f"no image of the plate is named {lacking[0]!r}",
            where=f"{spec.plate}: column image of the plate sheet",
            why=f"its images are {examples(names, limit=12)}",
            remedy=_REMEDY,
        )
    return fields
