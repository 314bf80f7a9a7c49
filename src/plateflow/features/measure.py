"""The table of one canvas: every family, compartment and channel, one row an object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.config import FAMILIES, FAMILY_PRESETS
from plateflow.errors import PlateflowError
from plateflow.features import (
    area_shape,
    colocalisation,
    granularity,
    intensity,
    location,
    moments,
    neighbours,
    quality,
    radial_distribution,
    radial_zernike,
    texture,
    zernike,
)
from plateflow.features.feature import Feature, Labels, Regions, Values
from plateflow.features.objects import Matches, kinds, match

if TYPE_CHECKING:
    import pandas as pd

MODULES: dict[str, ModuleType] = {
    "location": location,
    "area_shape": area_shape,
    "moments": moments,
    "zernike": zernike,
    "intensity": intensity,
    "texture": texture,
    "granularity": granularity,
    "radial_distribution": radial_distribution,
    "radial_zernike": radial_zernike,
    "colocalisation": colocalisation,
    "neighbours": neighbours,
    "quality": quality,
}
IN_3D = ("location", "area_shape", "intensity", "quality")
CYTOPLASM = "Cytoplasm"
_OF_WHOLE_OBJECTS = ("neighbours", "quality")
"""Families that say nothing of a cytoplasm that they don't say of its cell."""

NUMBER = Feature(
    name="Number_Object_Number",
    family="objects",
    unit="1",
    definition="label of the object; NaN where the row's object has no match in this label set",
    kind="number",
)


def _relations(rows: str, other: str) -> list[Feature]:
    """The columns of the rows' compartment that tell of another one."""
    return [
        Feature(
            name=f"Children_{other}_Count",
            family="objects",
            unit="1",
            definition=f"number of {other} that belong to this object: smaller, and no other shares more with them",
        ),
        Feature(
            name=f"Match_{other}_Overlap",
            family="objects",
            unit="1",
            definition=f"pixels shared with the matching one of {other}, over the pixels of the smaller; NaN without",
            source="Plateflow",
        ),
        Feature(
            name=f"Parent_{other}",
            family="objects",
            unit="1",
            definition=f"label of the larger one of {other} that this object belongs to; NaN without one",
            kind="number",
        ),
    ]


def compartment(label_set: str) -> str:
    """The prefix of a label set's columns: nuclei -> Nuclei."""
    return label_set[0].upper() + label_set[1:]


def row_compartment(compartments: Iterable[str]) -> str:
    """The compartment that makes the rows where nothing else is said: Cells if there is one, else the first."""
    names = list(compartments)
    return "Cells" if "Cells" in names else names[0]


def with_cytoplasm(compartments: Iterable[str]) -> list[str]:
    """The compartments, with the one that is made of Cells and Nuclei."""
    names = list(compartments)
    return [*names, CYTOPLASM] if {"Cells", "Nuclei"} <= set(names) and CYTOPLASM not in names else names


def _family_features(family: str, channels: Sequence[str], ndim: int, scales: Sequence[int]) -> list[Feature]:
    found: list[Feature] = (
        texture.features(channels, ndim, scales) if family == "texture" else MODULES[family].features(channels, ndim)
    )
    return found


def column_features(
    compartments: Sequence[str],
    channels: Sequence[str],
    *,
    families: str | Sequence[str] = "standard",
    rows: str,
    ndim: int = 2,
    texture_scales: Sequence[int] = (3,),
) -> dict[str, Feature]:
    """Every feature column that `measure` gives, in order; the data dictionary is made of it.

    Raises:
        PlateflowError: a family is unknown, or isn't measured in so many dimensions.
    """
    columns: dict[str, Feature] = {}
    for compartment in with_cytoplasm(compartments):
        features = [NUMBER]
        if compartment == rows:
            features += [feature for other in compartments if other != rows for feature in _relations(rows, other)]
        for family in chosen_families(families, ndim):
            if compartment != CYTOPLASM or family not in _OF_WHOLE_OBJECTS:
                features += _family_features(family, channels, ndim, texture_scales)
        columns |= {f"{compartment}_{feature.column}": feature for feature in features}
    return columns


def chosen_families(families: str | Sequence[str], ndim: int = 2) -> tuple[str, ...]:
    """The families of a preset, or the named ones, in the order of FAMILIES; of a preset those that are in 3D."""
    preset = isinstance(families, str) and families in FAMILY_PRESETS
    names = FAMILY_PRESETS[str(families)] if preset else (families,) if isinstance(families, str) else families
    for name in names:
        if name not in MODULES:
            raise PlateflowError(
                f"there is no feature family {name!r}", remedy=f"choose from {', '.join([*FAMILY_PRESETS, *FAMILIES])}"
            )
        if ndim == 3 and name not in IN_3D and not preset:
            raise PlateflowError(
                f"the feature family {name!r} is measured in 2D alone", remedy=f"in 3D there are {', '.join(IN_3D)}"
            )
    return tuple(name for name in FAMILIES if name in names and (ndim == 2 or name in IN_3D))


def measure(
    image: NDArray[Any],
    labels: Mapping[str, Labels],
    *,
    channels: Sequence[str],
    pixel_size_um: Sequence[float] | float,
    families: str | Sequence[str] = "standard",
    rows: str | None = None,
    origin_px: Sequence[int] | None = None,
    outside: NDArray[np.bool_] | None = None,
    texture_scales: Sequence[int] = (3,),
    texture_tops: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Measure every object of an image.

    Args:
        image: CYX or CZYX, any real type; intensities come out in its units (the pipeline divides by the greatest
            value of the pixel type, as CellProfiler does).
        labels: label image YX (ZYX) by compartment, `{"Nuclei": ..., "Cells": ...}`; 0 is background. Of these two the
            compartment Cytoplasm is made: the pixels of a cell that are in no nucleus.
        channels: names of the image's channels, in order.
        pixel_size_um: size of a pixel, or its size along each axis.
        families: a preset, or names of families.
        rows: the compartment that makes the rows; by default Cells, else the first.
        origin_px: y, x (z, y, x) that are added to every position.
        outside: YX, where the box holds nothing of the image: what lies beside it touches the border.
        texture_scales: distances of pairs of pixels for the texture, in px.
        texture_tops: by channel the intensity that is its highest grey level; by default 1.

    Returns:
        One row an object of `rows`, rising in `ObjectNumber` (its label, int64); `Metadata_Match_<other>` (see
        `objects.kinds`); then float64 columns named as CellProfiler does, the same for every image. Columns of other
        compartments hold the match of largest overlap (see `objects.match`), NaN without one. An object with a pixel
        that isn't finite is NaN in every feature of that channel; for all others such a pixel is 0.
        `attrs["orphans"]` counts, by compartment, the objects without a row.

    Raises:
        PlateflowError: shapes or names don't fit each other, a family is unknown, or labels aren't integers.
    """
    import pandas as pd

    ndim = image.ndim - 1
    _check(image, labels, channels, rows)
    row_name = rows or row_compartment(labels)
    order = column_features(
        list(labels), channels, families=families, rows=row_name, ndim=ndim, texture_scales=texture_scales
    )
    regions = {
        name: Regions(
            labels=value,
            pixel_size_um=tuple(np.broadcast_to(pixel_size_um, ndim).tolist()),
            origin_px=tuple(origin_px or [0] * ndim),
            outside=outside,
        )
        for name, value in labels.items()
    }
    matches = {name: match(regions[row_name], regions[name]) for name in labels if name != row_name}
    if CYTOPLASM in with_cytoplasm(labels) and CYTOPLASM not in labels:
        rest = np.where(labels["Nuclei"] > 0, 0, labels["Cells"])
        regions[CYTOPLASM] = replace(regions["Cells"], labels=rest)
    chosen = chosen_families(families, ndim)
    tables = _tables(regions, image, channels, chosen, texture_scales, texture_tops)

    row = regions[row_name]
    columns: dict[str, Values] = {}
    index = {row_name: np.arange(len(row.numbers))} | {name: found.index for name, found in matches.items()}
    for name, objects in regions.items():
        if name not in index:  # the cytoplasm of the row's cell
            index[name] = _same_number(regions["Cells"], index["Cells"], objects)
        values = {NUMBER.column: objects.numbers.astype(np.float64)} | tables[name]
        # The NaN at the end is what the index -1 takes.
        columns |= {f"{name}_{key}": np.append(value, np.nan)[index[name]] for key, value in values.items()}
    for name, found in matches.items():
        columns |= {f"{row_name}_{key}": value for key, value in _related(found, name, regions[name]).items()}
    head = {f"Metadata_Match_{name}": kinds(found, row_name, name) for name, found in matches.items()}
    frame = pd.DataFrame({"ObjectNumber": row.numbers} | head | {name: columns[name] for name in order})
    frame.attrs["orphans"] = {name: found.orphans for name, found in matches.items()}
    return frame


def _related(matches: Matches, name: str, others: Regions) -> dict[str, Values]:
    parent = np.append(others.numbers.astype(np.float64), np.nan)[matches.parent]
    return {
        f"Children_{name}_Count": matches.children.astype(np.float64),
        f"Match_{name}_Overlap": matches.score,
        f"Parent_{name}": parent,
    }


def _same_number(cells: Regions, index: NDArray[np.int64], others: Regions) -> NDArray[np.int64]:
    """Which of the other objects has the number of each row's cell; -1 without one."""
    place = np.searchsorted(others.numbers, cells.numbers)
    there = np.append(others.numbers, -1)[place] == cells.numbers
    return np.append(np.where(there, place, -1), -1)[index]


def _tables(
    regions: Mapping[str, Regions],
    image: NDArray[Any],
    channels: Sequence[str],
    families: Sequence[str],
    scales: Sequence[int],
    tops: Sequence[float] | None,
) -> dict[str, dict[str, Values]]:
    """By compartment, the columns of all families."""
    bad = None
    if not (finite := np.isfinite(image)).all():
        bad = {name: objects.each(_any, len(image), ~finite) for name, objects in regions.items()}
        image = np.where(finite, image, 0)
    image = image.astype(np.result_type(image, np.float32), copy=False)
    ndim = image.ndim - 1
    tables: dict[str, dict[str, Values]] = {name: {} for name in regions}
    places = {channel: [place] for place, channel in enumerate(channels)}
    pairs = {f"{a}_{b}": [i, j] for (i, a), (j, b) in combinations(enumerate(channels), 2)}
    pairs |= {f"{b}_{a}": [i, j] for (i, a), (j, b) in combinations(enumerate(channels), 2)}
    for family in families:
        sets = {name: r for name, r in regions.items() if name != CYTOPLASM or family not in _OF_WHOLE_OBJECTS}
        if family == "texture":
            found = texture.measure(list(sets.values()), image, scales, tops)
        else:
            found = MODULES[family].measure(list(sets.values()), image)
        features = _family_features(family, channels, ndim, scales)
        for name, table in zip(sets, found, strict=True):
            for column, feature in enumerate(features):
                if bad is not None and feature.channel:
                    used = (pairs if family == "colocalisation" else places)[feature.channel]
                    table[(bad[name][:, used] > 0).any(axis=1), column] = np.nan
                tables[name][feature.column] = table[:, column]
    return tables


@njit(cache=True, nogil=True)
def _any(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    """1 for channels in which an object has a value that isn't 0."""
    for index in range(len(out)):
        for channel in range(len(values)):
            out[index, channel] = values[channel, starts[index] : starts[index + 1]].any()


def _check(image: NDArray[Any], labels: Mapping[str, Labels], channels: Sequence[str], rows: str | None) -> None:
    if not labels:
        raise PlateflowError("there is no label image to measure")
    if rows is not None and rows not in labels:
        raise PlateflowError(f"there are no labels of {rows!r} to make rows of", why=f"there are {', '.join(labels)}")
    if image.ndim not in (3, 4) or image.shape[0] != len(channels):
        raise PlateflowError(
            f"the image has the shape {image.shape}, which isn't (channel, y, x) or (channel, z, y, x) with "
            f"{len(channels)} channels",
            why=f"the channels are {', '.join(channels)}",
        )
    if len(set(channels)) < len(channels):
        raise PlateflowError("two channels have the same name", why=f"the channels are {', '.join(channels)}")
    for name, value in labels.items():
        if value.shape != image.shape[1:]:
            raise PlateflowError(f"the labels of {name} have the shape {value.shape}, the image {image.shape[1:]}")
        if not np.issubdtype(value.dtype, np.integer):
            raise PlateflowError(f"the labels of {name} are {value.dtype}, not integers")
        if value.size and value.min() < 0:
            raise PlateflowError(
                f"the labels of {name} hold negative numbers", why="0 is background, objects are above"
            )
