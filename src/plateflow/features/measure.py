"""The table of one image: every family, compartment and channel, one row per object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.arguments import finite, pixels, whole
from plateflow.compiled import compiled
from plateflow.config import FAMILIES, FAMILY_PRESETS
from plateflow.errors import ArgumentError
from plateflow.features.area_shape import AREA_SHAPE, LOCATION
from plateflow.features.colocalisation import COLOCALISATION
from plateflow.features.feature import Feature, Integers, Labels, Pixels, Regions, Rows, Values, Volume
from plateflow.features.granularity import GRANULARITY
from plateflow.features.intensity import INTENSITY
from plateflow.features.matching import match_all, match_kinds, relation_features, relations
from plateflow.features.moments import MOMENTS
from plateflow.features.neighbours import NEIGHBOURS
from plateflow.features.quality import QUALITY
from plateflow.features.radial_distribution import RADIAL_DISTRIBUTION
from plateflow.features.texture import TEXTURE
from plateflow.features.zernike import RADIAL_ZERNIKE, ZERNIKE

if TYPE_CHECKING:
    import pandas as pd

_FAMILIES = [LOCATION, AREA_SHAPE, MOMENTS, ZERNIKE, INTENSITY, TEXTURE, GRANULARITY, RADIAL_DISTRIBUTION]
_FAMILIES += [RADIAL_ZERNIKE, COLOCALISATION, NEIGHBOURS, QUALITY]
_FAMILY = {family.name: family for family in _FAMILIES}
CYTOPLASM = "Cytoplasm"

NUMBER = Feature(
    name="Number_Object_Number",
    family="objects",
    unit="1",
    definition="label of the object; NaN where the row's object has no match in this label set",
    kind="number",
)


def compartment(label_set: str) -> str:
    """The prefix of a label set's columns: nuclei -> Nuclei."""
    return label_set[0].upper() + label_set[1:]


def with_cytoplasm(compartments: Iterable[str]) -> list[str]:
    """The compartments, with the one that is derived from Cells and Nuclei."""
    names = list(compartments)
    return [*names, CYTOPLASM] if {"Cells", "Nuclei"} <= set(names) and CYTOPLASM not in names else names


def _family_columns(family: str, channels: Sequence[str], ndim: int, scales: Sequence[int]) -> list[Feature]:
    return _FAMILY[family].columns(channels, ndim, *([scales] if family == "texture" else []))


def column_features(
    compartments: Sequence[str],
    channels: Sequence[str],
    *,
    families: str | Sequence[str] = "standard",
    rows: str,
    ndim: int = 2,
    texture_scales: Sequence[int] = (3,),
) -> dict[str, Feature]:
    """The feature columns of the table that `measure` returns, in order; the data dictionary is made from them.

    Raises:
        ArgumentError: a family is unknown, or is not measured in so many dimensions.
    """
    columns: dict[str, Feature] = {}
    for name in with_cytoplasm(compartments):
        features = [NUMBER]
        if name == rows:
            features += [feature for other in compartments if other != rows for feature in relation_features(other)]
        for family in chosen_families(families, ndim):
            if name != CYTOPLASM or _FAMILY[family].of_parts:
                features += _family_columns(family, channels, ndim, texture_scales)
        columns |= {f"{name}_{feature.column}": feature for feature in features}
    return columns


def chosen_families(families: str | Sequence[str], ndim: int = 2) -> tuple[str, ...]:
    """The families of a preset, in 3D those that exist there, or the named ones; in the order of FAMILIES."""
    preset = isinstance(families, str) and families in FAMILY_PRESETS
    names = FAMILY_PRESETS[str(families)] if preset else (families,) if isinstance(families, str) else families
    in_3d = [name for name in FAMILIES if _FAMILY[name].in_3d]
    for name in names:
        if name not in _FAMILY:
            raise ArgumentError(
                f"there is no feature family {name!r}", remedy=f"choose from {', '.join([*FAMILY_PRESETS, *FAMILIES])}"
            )
        if ndim == 3 and name not in in_3d and not preset:
            raise ArgumentError(
                f"the feature family {name!r} is only measured in 2D", remedy=f"in 3D there are {', '.join(in_3d)}"
            )
    return tuple(name for name in FAMILIES if name in names and (ndim == 2 or name in in_3d))


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
    sources: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Measure every object of an image.

    Args:
        image: CYX or CZYX, any real type; intensities are in its units (the pipeline divides by the largest value of
            the pixel type, as CellProfiler does).
        labels: label image YX (ZYX) by compartment, `{"Nuclei": ..., "Cells": ...}`; 0 is background. These two give
            a third compartment, Cytoplasm: the pixels of a cell that are in no nucleus.
        channels: names of the image's channels, in order.
        pixel_size_um: size of a pixel, or its size along each axis; NaN where it isn't known.
        families: a preset, or names of families.
        rows: the compartment that makes the rows; by default Cells, else the first.
        origin_px: y, x (z, y, x) to be added to every position.
        outside: YX, True where the array lies outside the image: objects beside it touch the border.
        texture_scales: distances between the pixels of a pair for the texture, in px.
        sources: by compartment the one whose numbers its objects bear, as they are made from those; by default its own.
            What has the same source as the rows is matched to them by number; of others their source is matched, by the
            pixels that it shares with the rows, and they follow its numbers.

    Returns:
        One row per object of `rows`, by ascending `ObjectNumber` (its label, int64); `Metadata_Match_<other>` (see
        `matching.match_kinds`); then float64 columns, named as in CellProfiler and the same for every image. Columns
        of other compartments are those of the match (see `matching.match`), NaN without one. An object with a pixel
        that is not finite is NaN in every feature of that channel; for all others such a pixel is 0.
        `attrs["orphans"]` counts, by compartment, the objects without a row.

    Raises:
        ArgumentError: shapes or names do not fit each other, a family is unknown, labels are not integers, an array has
            a mask or no pixel, or a number is out of range.
    """
    import pandas as pd

    if not isinstance(labels, Mapping):
        raise ArgumentError("labels must be a dictionary, compartment -> label image")
    labels = {name: np.asarray(pixels(f"labels[{name!r}]", value)) for name, value in labels.items()}
    image = np.asarray(pixels("image", image))
    if image.dtype.kind == "c":
        raise ArgumentError(f"image must hold real numbers; its type is {image.dtype}")
    ndim = image.ndim - 1
    _check(image, labels, channels, rows)
    for name, source in (sources or {}).items():
        if name in labels and source not in labels:
            why = f"there are {', '.join(labels)}"
            raise ArgumentError(f"{name} can't be made from {source!r}, of which there are no labels", why=why)
    pixel_size = _pixel_size(pixel_size_um, ndim)
    texture_scales = [whole("texture_scales", scale, least=1) for scale in texture_scales]
    if outside is not None and np.shape(pixels("outside", outside)) != image.shape[-2:]:
        raise ArgumentError(f"outside must have the shape {image.shape[-2:]} of the image; got {np.shape(outside)}")
    if origin_px is not None and len(origin_px) != ndim:
        raise ArgumentError(f"origin_px must give one number per axis, {ndim}; got {origin_px!r}")
    row_name = rows or ("Cells" if "Cells" in labels else next(iter(labels)))
    order = column_features(
        list(labels), channels, families=families, rows=row_name, ndim=ndim, texture_scales=texture_scales
    )
    regions = {
        name: Regions(labels=value, pixel_size_um=pixel_size, origin_px=tuple(origin_px or [0] * ndim), outside=outside)
        for name, value in labels.items()
    }
    matches = match_all(regions, row_name, sources or {})
    if CYTOPLASM in with_cytoplasm(labels) and CYTOPLASM not in labels:
        regions[CYTOPLASM] = replace(regions["Cells"], labels=np.where(labels["Nuclei"] > 0, 0, labels["Cells"]))
    chosen = chosen_families(families, ndim)
    tables = _tables(regions, image, channels, chosen, texture_scales)

    row = regions[row_name]
    columns: dict[str, Values] = {}
    index = {row_name: np.arange(len(row.numbers))} | {name: matched.index for name, matched in matches.items()}
    for name, objects in regions.items():
        if name not in index:  # the cytoplasm of the row's cell
            place = np.full(len(regions["Cells"].numbers) + 1, -1)
            place[np.searchsorted(regions["Cells"].numbers, objects.numbers)] = np.arange(len(objects.numbers))
            index[name] = place[index["Cells"]]
        values = {NUMBER.column: objects.numbers.astype(np.float64)} | tables[name]
        # The index -1 takes the NaN that is appended.
        columns |= {f"{name}_{key}": np.append(value, np.nan)[index[name]] for key, value in values.items()}
    for name, matched in matches.items():
        related = relations(matched, name, regions[name].numbers)
        columns |= {f"{row_name}_{key}": value for key, value in related.items()}
    head = {f"Metadata_Match_{name}": match_kinds(matched, row_name, name) for name, matched in matches.items()}
    frame = pd.DataFrame({"ObjectNumber": row.numbers} | head | {name: columns[name] for name in order})
    frame.attrs["orphans"] = {name: matched.orphans for name, matched in matches.items()}
    return frame


def _tables(
    regions: Mapping[str, Regions],
    image: NDArray[Any],
    channels: Sequence[str],
    families: Sequence[str],
    scales: Sequence[int],
) -> dict[str, dict[str, Values]]:
    """By compartment, the columns of all families."""
    not_finite: dict[str, Rows] = {}
    if not (finite := np.isfinite(image)).all():
        not_finite = {name: objects.each(_any, len(image), ~finite) > 0 for name, objects in regions.items()}
        image = np.where(finite, image, 0)
    image = image.astype(np.result_type(image, np.float32), copy=False)
    tables: dict[str, dict[str, Values]] = {name: {} for name in regions}
    places = {channel: [place] for place, channel in enumerate(channels)}
    pairs = {f"{a}_{b}": [i, j] for (i, a), (j, b) in permutations(enumerate(channels), 2)}
    for family in families:
        sets = {name: r for name, r in regions.items() if name != CYTOPLASM or _FAMILY[family].of_parts}
        options = [scales] if family == "texture" else []
        measured = _FAMILY[family].tables(list(sets.values()), image, *options)
        features = _family_columns(family, channels, image.ndim - 1, scales)
        for name, table in zip(sets, measured, strict=True):
            for feature, column in zip(features, table.T, strict=True):
                if not_finite and feature.channel:
                    used = (pairs if family == "colocalisation" else places)[feature.channel]
                    column[not_finite[name][:, used].any(axis=1)] = np.nan
                tables[name][feature.column] = column
    return tables


@compiled
def _any(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    """1 for channels in which an object has a value that is not 0."""
    for index in range(len(rows)):
        for channel in range(len(values)):
            rows[index, channel] = values[channel, starts[index] : starts[index + 1]].any()


def _pixel_size(given: Sequence[float] | float, ndim: int) -> tuple[float, ...]:
    """The size of a pixel along each axis, NaN where it isn't known."""
    several = list(given) if np.iterable(given) else [given] * ndim
    if len(several) != ndim:
        raise ArgumentError(f"pixel_size_um must be one number, or one per axis, {ndim}; got {given!r}")
    unknown = [isinstance(size, float) and np.isnan(size) for size in several]
    return tuple(
        np.nan if absent else finite("pixel_size_um", size, least=0, above=True)
        for size, absent in zip(several, unknown, strict=True)
    )


def _check(image: NDArray[Any], labels: Mapping[str, Labels], channels: Sequence[str], rows: str | None) -> None:
    if isinstance(channels, str):
        raise ArgumentError(f"channels must be a list of names; got {channels!r}")
    if not labels:
        raise ArgumentError("labels is empty: there is no label image to measure")
    if rows is not None and rows not in labels:
        raise ArgumentError(f"there are no labels of {rows!r} to make rows of", why=f"there are {', '.join(labels)}")
    if image.ndim not in (3, 4) or image.shape[0] != len(channels):
        raise ArgumentError(
            f"the image has the shape {image.shape}, which isn't (channel, y, x) or (channel, z, y, x) with "
            f"{len(channels)} channels",
            why=f"the channels are {', '.join(channels)}",
        )
    if len(set(channels)) < len(channels):
        raise ArgumentError("two channels have the same name", why=f"the channels are {', '.join(channels)}")
    for name, value in labels.items():
        if value.shape != image.shape[1:]:
            raise ArgumentError(f"the labels of {name} have the shape {value.shape}, the image {image.shape[1:]}")
        if not np.issubdtype(value.dtype, np.integer):
            raise ArgumentError(f"the labels of {name} are {value.dtype}, not integers")
        if value.size and value.min() < 0:
            raise ArgumentError(f"the labels of {name} hold negative numbers", why="0 is background, objects are above")
