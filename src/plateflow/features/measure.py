"""The table of one canvas: every family, compartment and channel, one row an object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.config import PlateflowError
from plateflow.features import area_shape, intensity
from plateflow.features.feature import Family, Feature, Labels, Regions
from plateflow.features.objects import match

if TYPE_CHECKING:
    import pandas as pd

FAMILIES: dict[str, Family] = {"area_shape": area_shape, "intensity": intensity}
NEED_IMAGE = {"intensity"}
PRESETS = {"standard": ("area_shape", "intensity")}

NUMBER = Feature(
    name="Number_Object_Number",
    family="objects",
    unit="1",
    definition="label of the object; NaN where the row's object has no match in this label set",
    source="CellProfiler",
    kind="number",
)


def _children(compartment: str) -> Feature:
    return Feature(
        name=f"Children_{compartment}_Count",
        family="objects",
        unit="1",
        definition=f"number of {compartment} that belong to this object: smaller, and no other shares more with them",
        source="CellProfiler",
    )


def row_compartment(compartments: Iterable[str]) -> str:
    """The compartment that makes the rows where nothing else is said: Cells if there is one, else the first."""
    names = list(compartments)
    return "Cells" if "Cells" in names else names[0]


def column_features(
    compartments: Sequence[str], channels: Sequence[str], *, families: str | Sequence[str] = "standard", rows: str
) -> dict[str, Feature]:
    """Every column that `measure` gives, in order, with its feature; the data dictionary is made of it."""
    columns: dict[str, Feature] = {}
    for compartment in compartments:
        features = [NUMBER]
        if compartment == rows:
            features += [_children(other) for other in compartments if other != rows]
        for family in _families(families):
            found = FAMILIES[family].FEATURES
            if family in NEED_IMAGE:
                features += [replace(feature, channel=channel) for channel in channels for feature in found]
            else:
                features += found
        columns |= {f"{compartment}_{feature.column}": feature for feature in features}
    return columns


def _families(families: str | Sequence[str]) -> tuple[str, ...]:
    chosen = PRESETS.get(families, (families,)) if isinstance(families, str) else tuple(families)
    unknown = [name for name in chosen if name not in FAMILIES]
    if unknown:
        raise PlateflowError(
            f"there is no feature family {unknown[0]!r}", remedy=f"choose from {', '.join([*PRESETS, *FAMILIES])}"
        )
    return chosen


def measure(
    image: NDArray[Any],
    labels: Mapping[str, Labels],
    *,
    channels: Sequence[str],
    pixel_size_um: tuple[float, float] | float,
    families: str | Sequence[str] = "standard",
    rows: str | None = None,
    origin_px: tuple[int, int] = (0, 0),
) -> pd.DataFrame:
    """Measure every object of an image.

    Args:
        image: CYX, any real type; intensities come out in its units (the pipeline divides by the greatest value of
            the pixel type, as CellProfiler does).
        labels: label image YX by compartment, `{"Nuclei": ..., "Cells": ...}`; 0 is background.
        channels: names of the image's channels, in order.
        pixel_size_um: size of a pixel, or its height and width.
        families: a preset, or names of families.
        rows: the compartment that makes the rows; by default Cells, else the first.
        origin_px: y, x that are added to every position.

    Returns:
        One row an object of `rows`, rising in `ObjectNumber` (its label, int64), then float64 columns named
        `<Compartment>_<Feature>[_<Channel>]`, the same for every image. Columns of other compartments hold the match
        of largest overlap (see `objects.match`), NaN without one.

    Raises:
        PlateflowError: shapes or names don't fit each other, a family is unknown, or labels aren't integers.
    """
    import pandas as pd

    _check(image, labels, channels, rows)
    row_name = rows or row_compartment(labels)
    size = (pixel_size_um, pixel_size_um) if isinstance(pixel_size_um, int | float) else pixel_size_um
    regions = {
        name: Regions(labels=value, pixel_size_um=(size[0], size[1]), origin_px=origin_px)
        for name, value in labels.items()
    }
    numbers = regions[row_name].numbers
    columns: dict[str, NDArray[Any]] = {}
    for name, objects in regions.items():
        values: dict[str, NDArray[Any]] = {}
        for family in _families(families):
            if family in NEED_IMAGE:
                for channel, plane in zip(channels, image, strict=True):
                    found = FAMILIES[family].measure(objects, plane)
                    values |= {f"{feature}_{channel}": value for feature, value in found.items()}
            else:
                values |= FAMILIES[family].measure(objects, None)
        values["Number_Object_Number"] = objects.numbers.astype(np.float64)
        if name != row_name:
            matches = match(regions[row_name], objects)
            columns[f"{row_name}_Children_{name}_Count"] = matches.children.astype(np.float64)
            # The NaN at the end is what the index -1 takes.
            values = {key: np.append(value, np.nan)[matches.index] for key, value in values.items()}
        columns |= {f"{name}_{key}": value for key, value in values.items()}
    order = column_features(list(labels), channels, families=families, rows=row_name)
    return pd.DataFrame({"ObjectNumber": numbers} | {name: columns[name] for name in order})


def _check(image: NDArray[Any], labels: Mapping[str, Labels], channels: Sequence[str], rows: str | None) -> None:
    if not labels:
        raise PlateflowError("there is no label image to measure")
    if rows is not None and rows not in labels:
        raise PlateflowError(f"there are no labels of {rows!r} to make rows of", why=f"there are {', '.join(labels)}")
    if image.ndim != 3 or image.shape[0] != len(channels):
        raise PlateflowError(
            f"the image has the shape {image.shape}, which isn't (channel, y, x) with {len(channels)} channels",
            why=f"the channels are {', '.join(channels)}",
        )
    for name, value in labels.items():
        if value.shape != image.shape[1:]:
            raise PlateflowError(f"the labels of {name} have the shape {value.shape}, the image {image.shape[1:]}")
        if not np.issubdtype(value.dtype, np.integer):
            raise PlateflowError(f"the labels of {name} are {value.dtype}, not integers")
