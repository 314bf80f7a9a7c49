"""The grid of the network, and what follows from it: scale, steps of a path, distance of planes.

Imports neither torch nor zarr: a job that has nothing to do loads this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plateflow.errors import ConfigError
from plateflow.model.registry import ModelSpec, model_spec

if TYPE_CHECKING:
    from plateflow.config import Config, LabelSet, Spots
    from plateflow.images.layout import WellLayout

TILE = 256
"""Edge of the squares of a canvas that the network sees, px."""
OVERLAP = 40
"""Least overlap of neighbouring tiles, px, to within 1 px: a field of 1080 px and its frame take five tiles per row."""
N_STEPS = 200
"""Steps of a path on the network's grid, as in Cellpose."""
SCALE_RANGE = (1 / 16, 16)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The network's grid.

    Attributes:
        scale: px on the grid per px of the canvas.
        n_steps: steps of a path on the canvas.
    """

    scale: float = 1.0
    n_steps: int = N_STEPS


def diameter_px(settings: LabelSet | Spots, metadata: Mapping[str, Any], *, where: str) -> float | None:
    """The typical diameter of a label set's objects, or of spots, in pixels of a plate; None where none is given.

    Raises:
        ConfigError: it is given in micrometres, and the plate's pixel size isn't known.
    """
    if settings.diameter_um is None:
        return settings.diameter_px
    if (um := pixel_um(metadata)) is None:
        raise ConfigError(
            "the diameter is given in micrometres, but the pixel size of the plate is not known",
            where=where,
            remedy="give pixel_size_um in the plate sheet, or diameter_px instead of diameter_um",
        )
    return settings.diameter_um / um


def pixel_um(metadata: Mapping[str, Any]) -> float | None:
    """The mean size of a plate's pixels; None where it isn't known."""
    sizes = metadata.get("pixel_size_um")
    return sum(sizes) / len(sizes) if sizes and sum(sizes) > 0 else None


def grid_for(config: Config, label_set: str, metadata: Mapping[str, Any], *, plate: str) -> Grid:
    """The network's grid for a label set of a plate.

    Raises:
        ConfigError: as in `diameter_px`, or the diameter is out of range.
        ModelError: the label set's model can't be used.
    """
    settings, where = config.segmentation[label_set], f"{plate}, label set {label_set}"
    diameter = diameter_px(settings, metadata, where=where)
    return Grid() if diameter is None else grid_of(model_spec(settings.model), diameter, where=where)


def grid_of(spec: ModelSpec, diameter: float | None, *, where: str) -> Grid:
    """The grid on which objects of a given diameter (px of the canvas) have the model's diameter.

    Without a diameter, or for a model that has none, the canvas is taken as it is.

    Raises:
        ConfigError: the image would be scaled more than 16 times up or down, so the diameter is wrong.
    """
    if diameter is None or spec.diameter is None:
        return Grid()
    scale = spec.diameter / diameter if diameter > 0 else math.inf
    if not SCALE_RANGE[0] <= scale <= SCALE_RANGE[1]:
        raise ConfigError(
            f"objects of {diameter:g} px can't be resized to the {spec.diameter:g} px that model {spec.name} expects",
            where=where,
            why=f"the image would be scaled {scale:g} times; a factor beyond 16 is surely a mistake",
            remedy="check the diameter and the pixel size, or leave the diameter empty",
        )
    return Grid(scale=scale, n_steps=max(1, round(N_STEPS / scale)))


def anisotropy(layout: WellLayout, *, where: str) -> float:
    """The distance between z planes divided by the pixel size.

    Raises:
        ConfigError: there is one plane, either is unknown, or the ratio is beyond 16 in either direction.
    """
    if layout.shape[2] == 1:
        raise ConfigError(
            "dimensions is 3, but there is 1 z plane",
            where=where,
            why="an object of one plane has neither volume nor surface",
            remedy="set dimensions to 2",
        )
    if not (layout.unit_known and layout.z_known):
        raise ConfigError(
            "the distance of the z planes isn't known in pixels",
            where=where,
            why="the plate's files don't give the size of a pixel and the height of each plane",
            remedy="give pixel_size_um and z_step_um in the plate sheet, or set dimensions to 2",
        )
    dz, dy, dx = layout.pixel_um
    ratio = 2 * dz / (dy + dx)
    if not SCALE_RANGE[0] <= ratio <= SCALE_RANGE[1]:
        raise ConfigError(
            f"the z planes are {ratio:g} pixels apart",
            where=where,
            why=f"they are {dz:g} um apart and a pixel is {dx:g} um wide; objects can't be followed through them",
            remedy="check pixel_size_um and z_step_um in the plate sheet, or set dimensions to 2",
        )
    return ratio
