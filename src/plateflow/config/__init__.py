"""The configuration: pydantic models, a module per section, that the file, its comments and its schema are made from.

Imports pydantic alone: the Snakefile and `plateflow --help` load this package at every start.
"""

from plateflow.config.features import FAMILIES, FAMILY_PRESETS, Features
from plateflow.config.load import load_config
from plateflow.config.normalise import Normalise
from plateflow.config.plate_sheet import PLATE_SIZES, SAFE_NAME, PlateSpec, load_plates
from plateflow.config.root import Config, Parts
from plateflow.config.segmentation import LabelSet
from plateflow.config.statistics import Quality, Stats
from plateflow.config.yaml import config_yaml

__all__ = [
    "FAMILIES",
    "FAMILY_PRESETS",
    "PLATE_SIZES",
    "SAFE_NAME",
    "Config",
    "Features",
    "LabelSet",
    "Normalise",
    "Parts",
    "PlateSpec",
    "Quality",
    "Stats",
    "config_yaml",
    "load_config",
    "load_plates",
]
