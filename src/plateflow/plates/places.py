"""Images of a well in an OME-Zarr plate: which are its fields, and which lie on each other.

An image may be a field, a corrected copy of one, or the same field in another round of staining. Where images lie is
what decides: two rounds (acquisitions) at one place are channels of one field, at other places they are fields. Names
that differ by numbers alone (`0`, `1`) are fields of one kind; two images of another kind (`0`, `0_illum_corr`) at one
place are the same cells twice. What places can't decide is asked of the user: `image` in the plate sheet.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.plates.reader import counted, examples
from plateflow.touching import TOUCH_PX

_REMEDY = (
    "say which with `plateflow init --image`, or in the column image of the plate sheet: one name (0_illum_corr) "
    "leaves the others out; 0+1 says that 1 lies on 0 pixel for pixel, with channels of its own, and *_a+*_b that "
    "images with the same for * do so; '*', which stands for anything, says that all are fields, at other places"
)


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image of a well: its first level, and where it lies.

    Attributes:
        path: of its group.
        array: path of the array of its first level.
        shape, chunk: of that array; empty if the image can't be understood.
        names: of the axes.
        scale, shift: of each axis, in units of that axis.
        um: how many um such a unit is; NaN where that is unknown.
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

    @property
    def named(self) -> bool:
        """Whether the metadata name its channels."""
        return self.labels != [str(n) for n in range(len(self.labels))]


Fields = dict[str, tuple[str, int | None]]
"""Path of an image -> its field, and the group of images that it lies on others with; None where none lie so."""


def fields_of(spec: PlateSpec, wells: Mapping[str, Sequence[Image]], notes: list[str]) -> Fields:
    """Find the field that each image of a plate shows.

    Args:
        spec: the plate; its `image` decides where it is given.
        wells: path of each well -> its images, in order.
        notes: get a sentence where several acquisitions were told apart, or `image` contradicts the places.

    Raises:
        RawDataError: neither the places of the images nor the user say which are fields.
    """
    if spec.image:
        return _chosen(spec, spec.image, wells, notes)
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
            why = "by their places, images may show the same cells twice, or belong to other places of the well"
            raise _unclear(spec, images, why)
        on, off = on or bool((other & same).any()), off or bool((other & apart).any())
        of_well = _numbered(images, other & same)
        if len({(of_well[image.path], str(image.acquisition)) for image in images}) < len(of_well):
            raise _unclear(spec, images, "the places of several images of an acquisition are the same")
        numbers |= of_well
    if on or off:
        how = "are at the same places: each has channels of its own" if on else "are at other places: they are fields"
        notes.append(f"images of several acquisitions {how}")
    images = [image for listed in wells.values() for image in listed]
    if not on:
        return {image.path: (image.name, None) for image in images}
    return {image.path: (str(numbers[image.path]), image.acquisition) for image in images}


def _unclear(spec: PlateSpec, images: Sequence[Image], why: str) -> RawDataError:
    return RawDataError(
        "it isn't clear which images of a well are its fields",
        where=f"{spec.plate}: {examples((image.path for image in images), limit=6)}",
        why=why,
        remedy=_REMEDY,
    )


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


def _numbered(images: Sequence[Image], on: NDArray[np.bool_]) -> dict[str, int]:
    """Path of each image of a well -> the number of its field, where `on` (n, n) says which lie on each other."""
    numbers: dict[str, int] = {}
    for n, image in enumerate(images):
        shared = [numbers[images[m].path] for m in np.flatnonzero(on[n, :n]).tolist()]
        numbers[image.path] = shared[0] if shared else max(numbers.values(), default=-1) + 1
    return numbers


_Chosen = list[tuple[Image, int, tuple[str, ...]]]
"""Of a well the images that are chosen: the number of the pattern that does, and what its wildcards stand for."""


def _chosen(spec: PlateSpec, image: str, wells: Mapping[str, Sequence[Image]], notes: list[str]) -> Fields:
    """The images that the user names, as the remedy of `fields_of` says.

    Which of several patterns' images lie on each other is told by what the wildcards stand for, else by their places,
    else by their order, where that is the same in all wells. A place that contradicts the wildcards is noted.
    """
    patterns = [name.strip() for name in image.split("+")]
    rules = [_with_groups(pattern) for pattern in patterns]
    chosen: list[_Chosen] = []
    for images in wells.values():
        matches = [(i, next(((n, m) for n, r in enumerate(rules) if (m := r.fullmatch(i.name))), None)) for i in images]
        chosen.append([(i, match[0], match[1].groups()) for i, match in matches if match])
    found = [item for well in chosen for item in well]
    values = [{stands_for for _, of, stands_for in found if of == n} for n in range(len(patterns))]
    if set() in values:
        raise RawDataError(
            f"no image of the plate is named {patterns[values.index(set())]!r}",
            where=f"{spec.plate}: column image of the plate sheet",
            why=f"its images are {examples({i.name for images in wells.values() for i in images}, limit=12)}",
            remedy=_REMEDY,
        )
    if len(patterns) == 1:
        return {image.path: (image.name, None) for image, _, _ in found}
    fields: Mapping[str, str | int]
    if set.intersection(*values):
        fields = {image.path: "_".join(stands_for) or "0" for image, _, stands_for in found}
        what = "image[s lie| lies] elsewhere than the others of [their|its] field by `image`, which is followed"
        notes += counted(_elsewhere(chosen, fields), what)
    elif not (fields := _by_place(chosen) or _by_order(chosen, len(patterns))):
        raise RawDataError(
            f"it isn't clear which images lie on each other by {image!r}",
            where=f"{spec.plate}: {examples((i.path for i, _, _ in found), limit=6)}",
            why="its wildcards don't stand for the same, the images' places don't tell, and a well lacks the last of "
            "some, or has them in another order",
            remedy=_REMEDY,
        )
    return {image.path: (str(fields[image.path]), n) for image, n, _ in found if image.path in fields}


def _with_groups(pattern: str) -> re.Pattern[str]:
    """A pattern of the shell as a regular expression with a group for each wildcard."""
    parts = re.split(r"(\*|\?|\[!?.[^]]*\])", pattern)
    wild = [translate(part).removeprefix("(?s:").rpartition(")")[0] for part in parts[1::2]]
    parts = [re.escape(part) for part in parts]
    parts[1::2] = [f"({part})" for part in wild]
    return re.compile("".join(parts), re.DOTALL)


def _by_place(chosen: Sequence[_Chosen]) -> dict[str, int]:
    """The field of each sound image by the places; none where these don't tell."""
    fields: dict[str, int] = {}
    for well in chosen:
        images = [image for image, _, _ in well if image.shape]
        of = np.array([n for image, n, _ in well if image.shape])
        same, apart = _relations(images)
        other = of[:, None] != of
        if not np.where(other, same | apart, apart | np.eye(len(of), dtype=bool)).all():
            return {}
        fields |= _numbered(images, other & same)
    return fields


def _elsewhere(chosen: Sequence[_Chosen], fields: Mapping[str, Any]) -> list[str]:
    """The images whose places are others than that of an earlier image of their field."""
    found: list[str] = []
    for images in ([image for image, _, _ in well] for well in chosen):
        one = np.array([fields[image.path] for image in images])
        apart = np.tril((one[:, None] == one) & _relations(images)[1]).any(axis=1)
        found += [image.path for image, is_apart in zip(images, apart, strict=True) if is_apart]
    return found


def _by_order(chosen: Sequence[_Chosen], n_patterns: int) -> dict[str, int]:
    """The field of each image by its rank among its pattern's names; none where their order or number differs.

    A well may lack images, but not a pattern's last: the others may have moved up as images were numbered.
    """
    wells = [[[image.name for image, of, _ in well if of == n] for n in range(n_patterns)] for well in chosen]
    whole = max(wells, key=lambda names: sum(map(len, names)))
    for names in filter(any, wells):
        kept = [[name for name in every if name in of] for every, of in zip(whole, names, strict=True)]
        if names != kept or any(every[-1:] != of[-1:] for every, of in zip(whole, names, strict=True)):
            return {}
    if len(set(map(len, whole))) > 1:
        return {}
    return {image.path: whole[of].index(image.name) for well in chosen for image, of, _ in well}
