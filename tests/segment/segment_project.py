"""What tests of the stages share: a configuration with a tiny network, and the stages as Snakemake would run them."""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from plateflow.config import Config, PlateSpec
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.stages import run_stage

MODEL = Path(__file__).parents[1] / "data" / "tiny.safetensors"
SETS: dict[str, dict[str, Any]] = {
    "nuclei": {"channels": ["DNA"], "model": str(MODEL)},
    "cells": {"channels": ["AGP", "DNA"], "model": str(MODEL)},
}


def config_of(folder: Path, **keys: Any) -> Config:
    settings = {
        "results": str(folder),
        "parts": {"cpu": 1, "gpu": 1},
        "segmentation": SETS,
        "device": "cpu",
        "threads": 1,
        **keys,
    }
    return Config.model_validate(settings)


def run(config: Config, entry: PlateSpec, *stages: str) -> PlatePaths:
    for stage in stages:
        run_stage(Plate(config=config, spec=entry), stage)
    return PlatePaths.of(entry.plate, results=config.results)


def volume_of(paths: PlatePaths, well: str, label_set: str, level: int = 0) -> NDArray[np.uint32]:
    """The labels ZYX of the first time point."""
    return zarr.open_array(paths.image(well) / "labels" / label_set / str(level), mode="r")[0]  # type: ignore[return-value, index]


def labels_of(paths: PlatePaths, well: str, label_set: str, level: int = 0) -> NDArray[np.uint32]:
    """The labels YX of the first time point and plane."""
    return volume_of(paths, well, label_set, level)[0]
