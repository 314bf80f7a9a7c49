"""The columns of a plate's cell tables: which there are, in which order, and their types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Config
from plateflow.features.feature import Feature
from plateflow.features.measure import chosen_families, column_features, compartment
from plateflow.features.quality import CLIPPED, FROM_SEGMENTATION
from plateflow.features.spot_columns import spot_features

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("Metadata_Plate", "Metadata_Well", "Metadata_Row", "Metadata_Site", "Metadata_ObjectID")
METADATA = (*_TEXT, "Metadata_Column", "Metadata_Time", "Metadata_Z")
_INTEGERS = {"ObjectNumber": np.int64, "Metadata_Column": np.int32, "Metadata_Time": np.int32, "Metadata_Z": np.int32}
_OBJECT_NUMBERS = ("Object_Number", "ObjectNumber_Adjacent")


def cell_families(config: Config) -> tuple[str, ...]:
    """The configured families, and the location, from which an object's field follows."""
    dimensions = config.segmentation[config.row_label_set].dimensions
    return ("location", *chosen_families(config.features.families, dimensions))


def cell_columns(config: Config, channels: list[str]) -> dict[str, Feature]:
    """The feature columns of a plate's cell tables, in order, for its channels in order."""
    names = [compartment(name) for name in config.segmentation]
    families = cell_families(config)
    columns = column_features(
        names,
        channels,
        families=families,
        rows=compartment(config.row_label_set),
        ndim=config.segmentation[config.row_label_set].dimensions,
        texture_scales=config.features.texture_scales,
    )
    if "quality" in families:
        for name in config.segmentation:  # no network has an opinion of what is made from others
            more = [*(FROM_SEGMENTATION.values() if name in config.segmented else ()), CLIPPED]
            columns |= {f"{compartment(name)}_{feature.name}": feature for feature in more}
    for name, spots in config.spots.items():
        within = compartment(spots.within)
        features = spot_features(compartment(name), within, spots.channel)
        columns |= {f"{within}_{feature.column}": feature for feature in features}
    return columns


def with_pixels(columns: Mapping[str, Feature], corrected: Mapping[str, bool]) -> dict[str, Feature]:
    """The columns, each saying what the intensities that it was measured on are; `corrected` tells it by channel."""
    uneven = {channel for channel, is_corrected in corrected.items() if is_corrected}
    used = {channel: {channel} for channel in corrected} | {f"{a}_{b}": {a, b} for a, b in permutations(corrected, 2)}
    described = {}
    for name, feature in columns.items():
        divided = sorted(used.get(feature.channel, set()) & uneven)
        light = f"divided by the illumination profile of {' and '.join(divided)}, above the dark level"
        light = light if divided else "not corrected for light"
        pixels = f"raw values, {light}; scaled by the largest value of their type (65535 or 255)"
        described[name] = replace(feature, pixels=pixels if feature.channel else "")
    return described


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """The cell table with its types on disk: measurements as float32; numbers of objects stay exact."""
    types: dict[str, Any] = {}
    for name in map(str, table.columns):
        if name.startswith("Metadata_") or name == "ObjectNumber":
            types[name] = _INTEGERS.get(name, object)
        else:
            types[name] = np.float64 if name.endswith(_OBJECT_NUMBERS) or "_Parent_" in name else np.float32
    return table.astype(types)
