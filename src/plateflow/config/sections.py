"""The models of the configuration: its sections, and the keys that belong to none."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from plateflow.config.label_sets import Grown, LabelSet, first_source, with_sources
from plateflow.config.rules import conditions_of
from plateflow.config.section import Section, nearest
from plateflow.config.spots import Spots

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
RESERVED_LABEL_SETS = {"children", "count", "cytoplasm", "fields", "image", "match", "metadata", "parent", "share"}
"""Other columns of the tables begin with these, and `fields` is another table in the store."""
CORRECTED = "_corrected"
"""Ends the name of labels that were corrected by hand; what comes before is that of their label set."""
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


_NO_GROUPS = {"well", "role", "treatment", "dose", "dose_unit", "replicates", "wells", "freedom", "referencevariance"}
"""What is compared within a group, and columns of the tables that have the groups' columns, too."""


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
    group_by: list[str] = Field(
        [],
        description="columns of the plate map, such as a cell line, batch or donor, by which wells form groups: each "
        "has its own negatives, normalisation, controls, hits and doses",
        examples=[["CellLine"]],
    )
    time: Literal["each", "last", "auc", "slope"] | Annotated[int, Field(ge=0, strict=True)] = Field(
        "each",
        description="what of a time series is compared: each time point by itself, one (its number from 0, or last), "
        "or a summary of all: auc (area under the curve) or slope",
        examples=["auc"],
    )

    @field_validator("group_by")
    @classmethod
    def _groups(cls, value: list[str]) -> list[str]:
        names = [name.removeprefix("Metadata_") for name in value]
        for name in names:
            if name.lower() in _NO_GROUPS or not name:
                raise ValueError(
                    f"stats.group_by names {name!r}, which tells no groups; name a column such as CellLine"
                )
        if len(set(names)) < len(names):
            raise ValueError("stats.group_by names a column twice")
        return names


class Population(Section):
    """Cells that are told from the others of a plate by their measurements, or by the phase of the cell cycle."""

    where: str | list[str] | None = Field(None, description="conditions on columns of the cell table")
    cell_cycle: str | None = Field(None, description="the channel of DNA, of which G1, S and G2M are populations")

    @model_validator(mode="after")
    def _one_kind(self) -> Population:
        if (self.where is None) == (self.cell_cycle is None):
            raise ValueError("a population has either `where` or `cell_cycle`")
        if self.where is not None:
            conditions_of(self.where)
        return self


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
    follow_slices: int = Field(
        1, ge=1, le=64, description="jobs that share the flow following of one part; with 1, `stitch` follows it itself"
    )
    follow_block_px: int = Field(2048, ge=64, description="edge of the blocks in which paths are followed, in pixels")
    keep_flows: bool = Field(
        True, description="keep flow fields, so that changes of the segmentation need no GPU; else `infer` makes labels"
    )
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
    spots: dict[str, Spots] = Field(
        {},
        description="spots to be counted and measured, by name",
        examples=[{"foci": {"channel": "GFP", "within": "nuclei", "diameter_um": 0.8, "threshold": "auto"}}],
    )
    features: Features = Features()
    quality: Quality = Quality()
    populations: dict[str, Population] = Field(
        {},
        description="kinds of cells, by name, whose shares are compared between wells (config/README.md)",
        examples=[{"positive": {"where": "Nuclei_Intensity_MeanIntensity_GFP > negatives.p99"}}],
    )
    stats: Stats = Stats()
    train: str | None = Field(
        None, description="what `snakemake train` does: the options of `plateflow train` as typed, with --name"
    )

    @field_validator("train")
    @classmethod
    def _names_a_model(cls, value: str | None) -> str | None:
        if value is not None and not SAFE_NAME.fullmatch(_option(value, "--name")):
            raise ValueError(f"{value!r} must hold --name and a name of letters, digits and . _ + -")
        return value

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
            if name.lower().endswith(CORRECTED):
                whose = name[: -len(CORRECTED)]
                raise ValueError(
                    f"{name!r} is the name of the labels of {whose!r} that were corrected by hand; choose another"
                )
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,39}", name):
                raise ValueError(f"the label set name {name!r} must be letters and digits, a letter first")
            if name.lower() in RESERVED_LABEL_SETS:
                hint = "call a ring round nuclei ring" if name.lower() == "cytoplasm" else "choose another"
                raise ValueError(f"the label set name {name!r} is that of something else in the tables; {hint}")
        if len({name[0].upper() + name[1:] for name in label_sets}) < len(label_sets):
            raise ValueError(
                "two label sets differ only in the case of their first letter: their columns would be equal"
            )
        return label_sets

    @field_validator("populations")
    @classmethod
    def _population_names(cls, populations: dict[str, Population]) -> dict[str, Population]:
        for name in populations:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,39}", name):
                raise ValueError(f"the name of a population, {name!r}, must be letters and digits, a letter first")
        if len({name[0].upper() + name[1:] for name in populations}) < len(populations):
            raise ValueError("two populations differ only in the case of their first letter: their columns are equal")
        return populations

    @field_validator("segmentation")
    @classmethod
    def _sources(cls, label_sets: dict[str, LabelSet]) -> dict[str, LabelSet]:
        return with_sources(label_sets)

    @model_validator(mode="after")
    def _rows_exist(self) -> Config:
        if self.features.rows is not None and self.features.rows not in self.segmentation:
            names = ", ".join(self.segmentation)
            raise ValueError(f"features.rows is {self.features.rows!r}, which is not a label set ({names})")
        return self

    @model_validator(mode="after")
    def _spots_fit(self) -> Config:
        taken = {name.lower() for name in self.segmentation} | RESERVED_LABEL_SETS
        for name, spots in self.spots.items():
            where = f"spots.{name}"
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,39}", name):
                raise ValueError(f"{where}: the name must be letters and digits, a letter first")
            if name.lower() in taken:
                raise ValueError(f"{where}: the name is that of something else in the tables; choose another")
            taken.add(name.lower())
            if spots.within not in self.segmentation:
                names = ", ".join(self.segmentation)
                raise ValueError(f"{where}.within is {spots.within!r}, which is not a label set ({names})")
            if self.segmentation[spots.within].dimensions == 3:
                raise ValueError(
                    f"{where}: spots are found in planes, and the objects of {spots.within} go through volumes; set "
                    "their dimensions to 2, or leave the spots out"
                )
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

    @model_validator(mode="after")
    def _phases_need_whole_nuclei(self) -> Config:
        in_planes = self.z == "keep" and self.segmentation[self.row_label_set].dimensions == 2
        for name in [name for name, population in self.populations.items() if population.cell_cycle and in_planes]:
            raise ValueError(
                f"populations.{name}.cell_cycle: with z keep and dimensions 2, a nucleus has in each plane the DNA of "
                "that plane alone; set z to a projection, or dimensions to 3"
            )
        return self

    @model_validator(mode="after")
    def _partners_exist(self) -> Config:
        rows = self.row_label_set
        if self.segmentation[rows].match and not self._nuclei:
            raise ValueError(
                f"segmentation.{rows}.match: {rows} make the rows of the cell table, and there are no nuclei that were "
                "segmented apart: say match of the other label set"
            )
        for name in self.paired:
            if first_source(self.grown, name) == first_source(self.grown, rows):
                raise ValueError(
                    f"segmentation.{name}.match means nothing, as {rows} have the numbers of {name}: delete it"
                )
        return self

    @property
    def _nuclei(self) -> list[str]:
        """The label set of nuclei that the network makes, unless it makes the rows; none or one."""
        return [name for name in self.segmented if name in ("nuclei", "Nuclei") and name != self.row_label_set]

    @property
    def paired(self) -> list[str]:
        """The label sets of which each row has one object: those matched one to one with that of the rows."""
        rows, said = self.row_label_set, [name for name, settings in self.segmentation.items() if settings.match]
        said += self._nuclei if rows in said else []
        return [name for name in self.segmentation if name in said and name != rows]

    @property
    def segmented(self) -> dict[str, LabelSet]:
        """The label sets that the network makes."""
        return {name: settings for name, settings in self.segmentation.items() if settings.rule is None}

    @property
    def grown(self) -> dict[str, Grown]:
        """By the other label sets, in the order in which they can be made, how they are made."""
        return {name: settings.rule for name, settings in self.segmentation.items() if settings.rule is not None}

    @property
    def needed_channels(self) -> list[Any]:
        """By label set the channels that it needs, where it may be the only one that needs them."""
        sets = self.segmentation.items()
        return [[name, settings.channels] for name, settings in sets if settings.rule is None or settings.propagate]

    @property
    def trained(self) -> str | None:
        """The name of the model that `snakemake train` makes."""
        return self.train and _option(self.train, "--name").removesuffix(".safetensors")

    @property
    def row_label_set(self) -> str:
        """The label set that makes the rows of the cell table."""
        if self.features.rows is not None:
            return self.features.rows
        return "cells" if "cells" in self.segmentation else next(iter(self.segmentation))


def _option(options: str, name: str) -> str:
    """The value of an option on a command line, which may follow it or a `=`; empty: it isn't there."""
    words = shlex.split(options.replace(f"{name}=", f"{name} "))
    return words[words.index(name) + 1] if name in words[:-1] else ""
