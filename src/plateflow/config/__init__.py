"""The configuration: pydantic models, that the file, its comments and its schema are made from.

Imports pydantic alone: the Snakefile and `plateflow --help` load this package at every start.
"""

from plateflow.config.label_sets import Expand, Grown, LabelSet, Propagate, Ring, evenly_grown, first_source
from plateflow.config.load import config_yaml, load_config
from plateflow.config.plate_sheet import PLATE_SIZES, PlateSpec, load_plates
from plateflow.config.sections import (
    CORRECTED,
    FAMILIES,
    FAMILY_PRESETS,
    SAFE_NAME,
    Config,
    Normalise,
    Parts,
    Population,
    Quality,
    Stats,
)
from plateflow.config.spots import Spots

__all__ = [
    "CORRECTED",
    "FAMILIES",
    "FAMILY_PRESETS",
    "PLATE_SIZES",
    "SAFE_NAME",
    "Config",
    "Expand",
    "Grown",
    "LabelSet",
    "Normalise",
    "Parts",
    "PlateSpec",
    "Population",
    "Propagate",
    "Quality",
    "Ring",
    "Spots",
    "Stats",
    "config_yaml",
    "evenly_grown",
    "first_source",
    "load_config",
    "load_plates",
]
