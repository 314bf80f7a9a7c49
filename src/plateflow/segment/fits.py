"""Whether spots and grown label sets fit a plate: its channels, and sizes in its pixels. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plateflow.chain import background_of
from plateflow.config import Config, Expand, Ring, evenly_grown
from plateflow.errors import ChannelError, ConfigError
from plateflow.segment.grid import diameter_px, pixel_um

LEAST_SPOT = 2.0
"""The least diameter of a spot, px: a smaller one can't be told from the noise of a single pixel."""
MOST_SPOT = 64.0
"""The greatest, px: larger ones are objects, which a label set tells better, and the time grows with the diameter."""
UNEVEN = 0.01
"""Sides of a pixel that differ by a greater share have no common size: circles would be ellipses."""


def check_grown(config: Config, metadata: Mapping[str, Any]) -> None:
    """Refuse label sets that can't grow by their micrometres in a plate's pixels.

    Raises:
        ConfigError: the size of a pixel isn't known, its sides differ, or a rule reaches no pixel.
    """
    from plateflow.segment.growth import reaches

    for name, rule in config.grown.items():
        if not isinstance(rule, Expand | Ring) or reaches(*grown_px(config, name, metadata)):
            continue
        if isinstance(rule, Ring):
            key, place = "outer_um", f"{rule.inner_um:g} to {rule.outer_um:g} µm from"
        else:
            key, place = "um", f"within {rule.um:g} µm of"
        raise ConfigError(
            f"no pixel lies {place} an object, so there can be no {name}",
            where=f"{metadata['plate']}: segmentation.{name}",
            why=f"a pixel is {pixel_um(metadata):.3g} µm wide",
            remedy=f"raise {key}, or check the pixel size of the plate",
        )


def grown_px(config: Config, label_set: str, metadata: Mapping[str, Any]) -> tuple[float, float]:
    """How far a label set is grown evenly, and from where on it is, in pixels of a plate; -1: with its source.

    Raises:
        ConfigError: the size of a pixel isn't known, or its sides differ.
    """
    where, rule = f"{metadata['plate']}: segmentation.{label_set}", config.grown[label_set]
    if (um := pixel_um(metadata)) is None:
        raise ConfigError(
            f"{label_set} grow by micrometres, and the size of a pixel isn't known",
            where=where,
            remedy="give pixel_size_um in the plate sheet",
        )
    _refuse_uneven(f"{label_set} grow by micrometres", metadata, where, f"leave {label_set} out")
    assert isinstance(rule, Expand | Ring)
    return (rule.um / um, -1.0) if isinstance(rule, Expand) else (rule.outer_um / um, rule.inner_um / um)


def _refuse_uneven(what: str, metadata: Mapping[str, Any], where: str, otherwise: str) -> None:
    sides = metadata["pixel_size_um"]
    if max(sides) > (1 + UNEVEN) * min(sides):
        raise ConfigError(
            f"{what}, and the sides of a pixel differ",
            where=where,
            why=f"they are {' and '.join(f'{side:.4g}' for side in sides)} µm: distances would depend on the direction",
            remedy=f"give pixel_size_um in the plate sheet if the files are wrong, or {otherwise}",
        )


def check_spots(config: Config, metadata: Mapping[str, Any]) -> None:
    """Refuse spots that a plate can't show.

    Raises:
        ChannelError: it lacks their channel.
        ConfigError: as of `spot_diameter`.
    """
    channels = [channel["name"] for channel in metadata["channels"]]
    for name, spots in config.spots.items():
        if spots.channel not in channels:
            raise ChannelError.missing(
                [spots.channel],
                channels,
                where=f"{metadata['plate']}, spots {name}",
                remedy=f"name one of these in spots.{name}.channel",
            )
        spot_diameter(config, name, metadata)


def spot_diameter(config: Config, name: str, metadata: Mapping[str, Any]) -> float:
    """The diameter of spots in pixels of a plate.

    Raises:
        ConfigError: it is below `LEAST_SPOT` or above `MOST_SPOT`, or given in micrometres, and the size of a pixel
            isn't known, or its sides differ.
    """
    where, spots = f"{metadata['plate']}, spots.{name}", config.spots[name]
    diameter = diameter_px(spots, metadata, where=where) or 0.0
    if spots.diameter_um is not None:
        _refuse_uneven("the diameter is given in micrometres", metadata, where, "diameter_px instead of diameter_um")
    if not LEAST_SPOT <= diameter <= MOST_SPOT:
        few = diameter < LEAST_SPOT
        raise ConfigError(
            f"spots of {diameter:.3g} px are too {'small' if few else 'large'}",
            where=where,
            why=f"below {LEAST_SPOT:g} px a spot can't be told from the noise of a pixel"
            if few
            else f"above {MOST_SPOT:g} px it is an object, which a label set tells better",
            remedy="check the diameter and the pixel size of the plate",
        )
    return diameter


def backgrounds_asked(config: Config, metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name of spots whose threshold is the plate's, all that decides it: `settings` (`chain.background_of`) and, as
    the size of a pixel may be corrected, what they come to in pixels, `diameter_px` and `grown_px`.

    Raises:
        ConfigError: as of `spot_diameter` and `grown_px`.
    """
    asked = {}
    for name, spots in config.spots.items():
        if not (settings := background_of(config, spots)):
            continue
        asked[name] = {"settings": settings, "diameter_px": spot_diameter(config, name, metadata)}
        if grown := evenly_grown(config.segmentation, spots.within):
            asked[name]["grown_px"] = [list(grown_px(config, each, metadata)) for each in grown]
    return asked
