"""The spots of the configuration."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from plateflow.config.section import Section, no_boolean


class Spots(Section):
    """Spots of one size in a channel, within the objects of a label set."""

    channel: str = Field(min_length=1, description="name of the channel that shows the spots")
    within: str = Field(description="label set: spots outside of its objects don't count")
    diameter_um: float | None = Field(None, gt=0, description="diameter of a spot in micrometres, 2 to 64 pixels")
    diameter_px: float | None = Field(
        None, ge=2, le=64, description="the same in pixels, instead of diameter_um, where the pixel size is not known"
    )
    threshold: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = Field(
        "auto",
        description="the least response to the Laplacian of Gaussian, in units of intensity (0 to 1); auto: from the "
        "background of the plate, kept with the intensity window",
    )

    _numbers = field_validator("diameter_um", "diameter_px", mode="before")(no_boolean)

    @field_validator("threshold", mode="before")
    @classmethod
    def _of_intensity(cls, value: Any) -> Any:
        try:
            fits = value == "auto" or 0 < float(no_boolean(value)) <= 1
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{value!r} is neither auto nor a number above 0 and up to 1, as intensities are")
        return value

    @model_validator(mode="after")
    def _one_diameter(self) -> "Spots":
        if (self.diameter_um is None) == (self.diameter_px is None):
            raise ValueError("the size of a spot is needed once: give diameter_um, or diameter_px")
        return self
