"""The section `features`: what is measured, and how cells are put into rows."""

from typing import Annotated

from pydantic import Field, field_validator

from plateflow.config.section import Section, nearest

FAMILIES = (
    "location",
    "area_shape",
    "moments",
    "zernike",
    "intensity",
    "texture",
    "granularity",
    "radial_distribution",
    "radial_zernike",
    "colocalisation",
    "neighbours",
    "quality",
)
"""Families of features, in the order of their columns; docs/features.md says what each holds."""
FAMILY_PRESETS = {
    "minimal": ("location", "area_shape", "intensity", "quality"),
    "standard": tuple(name for name in FAMILIES if name not in ("moments", "radial_zernike")),
    "full": FAMILIES,
}


class Features(Section):
    """What is measured and how cells are put into rows."""

    rows: str | None = Field(
        None, description="the label set that makes the rows of the cell table; empty: cells, else the first"
    )
    families: str | list[str] = Field(
        "standard", description="minimal, standard, full, or a list of feature families (docs/features.md)"
    )
    texture_scales: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [3], min_length=1, description="distances of the pixels whose intensities texture compares, in pixels"
    )

    @field_validator("texture_scales")
    @classmethod
    def _each_once(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError("features.texture_scales names a distance twice: its columns would be equal")
        return value

    @field_validator("families")
    @classmethod
    def _known_families(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, str) and value in FAMILY_PRESETS:
            return value
        names = [value] if isinstance(value, str) else value
        for name in names:
            if name not in FAMILIES:
                hint = nearest(name, [*FAMILY_PRESETS, *FAMILIES], "choose from")
                raise ValueError(f"there is no feature family {name!r}; {hint}")
        return names
