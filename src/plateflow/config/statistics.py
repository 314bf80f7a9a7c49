"""The sections `quality` and `stats`: flags, and the way from cells to wells and hits."""

from typing import Literal

from pydantic import Field

from plateflow.config.section import Section


class Quality(Section):
    """When a field or well is flagged; stats.exclude_flags says which flags leave it out of the well tables."""

    focus_mad: float = Field(
        6.0, gt=0, description="flag focus: a field's sharpness lies this many MADs below the plate's median"
    )
    saturated_fraction: float = Field(
        0.01,
        gt=0,
        le=1,
        description="flag saturated: fraction of a field's pixels at the top of the range that the camera uses",
    )
    intensity_mad: float = Field(
        6.0, gt=0, description="flag intensity: a well's background or brightness lies this many MADs from the plate's"
    )


class Stats(Section):
    """From cells to wells: what is left out, normalisation, hits."""

    exclude_flags: list[Literal["focus", "saturated", "empty", "intensity"]] = Field(
        ["focus", "saturated"],
        description="fields (of intensity: wells) with one of these flags are left out of the well tables",
    )
    by_field: bool = Field(False, description="also write fields.parquet: counts and medians of every field")
    normalise: Literal["negative robust", "negative standard", "plate robust", "plate standard"] = Field(
        "negative robust",
        description="what wells are compared with: negative controls, or all wells but the positive controls; "
        "robust: median and MAD, standard: mean and standard deviation",
    )
    fdr: float = Field(0.05, gt=0, lt=1, description="false discovery rate at which a treatment is called a hit")
