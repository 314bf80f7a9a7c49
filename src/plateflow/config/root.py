"""The whole configuration: the sections, and the keys that belong to none."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from plateflow.config.features import Features
from plateflow.config.normalise import Normalise
from plateflow.config.section import Section
from plateflow.config.segmentation import RESERVED_LABEL_SETS, LabelSet
from plateflow.config.statistics import Quality, Stats


class Parts(Section):
    """How many jobs share the wells of a plate."""

    cpu: int = Field(8, ge=1, le=384, description="jobs per plate of the CPU stages; changing it recomputes nothing")
    gpu: int = Field(2, ge=1, le=384, description="jobs per plate of the GPU stage; must divide parts.cpu")

    @model_validator(mode="after")
    def _gpu_divides_cpu(self) -> Parts:
        if self.cpu % self.gpu:
            raise ValueError(f"parts.gpu ({self.gpu}) must divide parts.cpu ({self.cpu})")
        return self


class Config(Section):
    """Everything that a run needs to know besides the plates themselves."""

    plates: str = Field("config/plates.tsv", description="the plate sheet: one line per plate")
    results: str = Field("results", description="folder of the results: one folder per plate, and screen/")
    scratch: str | None = Field(
        None, description="folder for flow fields and endpoints, visible to all nodes; empty: scratch/ in each plate"
    )
    parts: Parts = Parts()
    follow_slices: int = Field(1, ge=1, le=64, description="jobs that share the flow following of one part")
    follow_block_px: int = Field(2048, ge=64, description="edge of the blocks in which paths are followed, in pixels")
    keep_flows: bool = Field(True, description="keep flow fields, so that changes of the segmentation need no GPU")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    threads: int = Field(2, ge=1, le=256, description="CPU threads of the network; an equal number gives equal bits")
    batch_size: int = Field(4, ge=1, le=512, description="tiles per call of the network")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the network; auto: bfloat16 on CUDA, float32 on CPU"
    )
    augment: bool = Field(False, description="mirror every second tile and overlap tiles by half; about 3 times slower")
    levels: int = Field(3, ge=1, le=8, description="pyramid levels of images and labels, each half the size")
    z: str = Field(
        "max", description="planes of a z stack, on read: max, mean, plane N (from 0), or keep, where channels need all"
    )
    normalise: Normalise = Normalise()
    segmentation: dict[str, LabelSet] = Field(
        default_factory=lambda: {"nuclei": LabelSet(channels=["DNA"])},
        min_length=1,
        description="the label sets, by name",
    )
    features: Features = Features()
    quality: Quality = Quality()
    stats: Stats = Stats()

    @field_validator("z")
    @classmethod
    def _z_mode(cls, value: str) -> str:
        if not re.fullmatch(r"max|mean|keep|plane \d+", value):
            raise ValueError("z must be max, mean, keep or 'plane N'")
        return value

    @field_validator("segmentation")
    @classmethod
    def _label_set_names(cls, label_sets: dict[str, LabelSet]) -> dict[str, LabelSet]:
        for name in label_sets:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,39}", name):
                raise ValueError(f"the label set name {name!r} must be letters and digits, a letter first")
            if name.lower() in RESERVED_LABEL_SETS:
                raise ValueError(f"the label set name {name!r} begins other columns of the tables; choose another")
        if len({name[0].upper() + name[1:] for name in label_sets}) < len(label_sets):
            raise ValueError(
                "two label sets differ only in the case of their first letter: their columns would be equal"
            )
        return label_sets

    @model_validator(mode="after")
    def _rows_exist(self) -> Config:
        if self.features.rows is not None and self.features.rows not in self.segmentation:
            names = ", ".join(self.segmentation)
            raise ValueError(f"features.rows is {self.features.rows!r}, which is not a label set ({names})")
        return self

    @model_validator(mode="after")
    def _depth_needs_every_plane(self) -> Config:
        if len({settings.dimensions for settings in self.segmentation.values()}) > 1:
            given = ", ".join(f"{name} {settings.dimensions}" for name, settings in self.segmentation.items())
            raise ValueError(
                f"segmentation: dimensions differ between label sets ({given}): an object of one plane has no match in "
                "a volume; set dimensions to the same number for all"
            )
        for name, settings in self.segmentation.items():
            if settings.dimensions == 3 and self.z != "keep":
                raise ValueError(
                    f"segmentation.{name}.dimensions is 3, but z is {self.z!r}: objects can't go through planes that "
                    "are projected on read; set z to keep, or dimensions to 2"
                )
        return self

    @property
    def row_label_set(self) -> str:
        """The label set that makes the rows of the cell table."""
        if self.features.rows is not None:
            return self.features.rows
        return "cells" if "cells" in self.segmentation else next(iter(self.segmentation))
