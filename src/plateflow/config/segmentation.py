"""The section `segmentation`: the label sets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from plateflow.config.section import Section

RESERVED_LABEL_SETS = {"children", "count", "image", "match", "metadata", "parent"}
"""Other columns of the tables begin with these."""


class LabelSet(Section):
    """One kind of object: its channels, its size and how it is cut out."""

    channels: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=3,
            description="channel names: first the one that shows the object, then those that help",
        ),
    ]
    diameter_um: float | None = Field(
        None, gt=0, description="typical diameter in micrometres; empty: the image is not resized for the network"
    )
    diameter_px: float | None = Field(
        None, gt=0, description="the same in pixels, instead of diameter_um, where the pixel size is not known"
    )
    model: str = Field("default", description="name of a registered model, or a path to a weights file")
    cell_threshold: float = Field(0.0, ge=-15, le=15, description="logit above which a pixel belongs to an object")
    flow_threshold: float = Field(
        0.4, ge=0, description="objects with a greater mean squared flow error are dropped; 0 keeps all"
    )
    min_size_px: int = Field(15, ge=0, description="objects with fewer pixels are dropped")
    dimensions: Literal[2, 3] = Field(
        2,
        description="3: objects extend through the z stack, which needs z: keep; 2: each plane by itself; equal in all "
        "label sets",
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > 3:
            names = ", ".join(map(str, value))
            raise ValueError(f"{len(value)} channels ({names}) are too many: the network takes 1 to 3")
        return value

    @model_validator(mode="after")
    def _one_diameter(self) -> LabelSet:
        if self.diameter_um is not None and self.diameter_px is not None:
            raise ValueError("diameter_um and diameter_px are both given: leave one of them empty")
        return self
