"""The section `normalise`: the intensity window and the illumination profile."""

from typing import Literal

from pydantic import Field, field_validator

from plateflow.config.section import Section


class Normalise(Section):
    """The intensity window and the illumination profile, one per plate and channel."""

    freeze: int = Field(1, ge=1, description="the window is computed once and kept; a greater number computes it again")
    percentiles: tuple[float, float] = Field(
        (1.0, 99.0), description="percentiles of the raw pixels that become 0 and 1 for the network"
    )
    scope: Literal["plate", "well", "field"] = Field(
        "plate", description="the pixels that the percentiles are taken over; plate keeps wells comparable"
    )
    illumination: bool = Field(
        True, description="correct uneven light on read, where background and cells show the same"
    )

    @field_validator("percentiles")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("normalise.percentiles must be two increasing numbers between 0 and 100")
        return value
