"""The configuration: one pydantic model that the file, its comments and its JSON schema are generated from.

Imports pydantic alone: the Snakefile and ``plateflow --help`` load this module at every start.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from plateflow.errors import PlateflowError

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
RESERVED_PLATES = {"screen"}
RESERVED_LABEL_SETS = {"children", "count", "image", "match", "metadata", "parent"}


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values don't change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Parts(Section):
    """Into how many jobs the wells of a plate are dealt."""

    cpu: int = Field(8, ge=1, le=384, description="jobs a plate of the CPU stages; changing it recomputes nothing")
    gpu: int = Field(2, ge=1, le=384, description="jobs a plate of the GPU stage; must divide parts.cpu")

    @model_validator(mode="after")
    def _gpu_divides_cpu(self) -> Parts:
        if self.cpu % self.gpu:
            raise ValueError(f"parts.gpu ({self.gpu}) must divide parts.cpu ({self.cpu})")
        return self


class Normalise(Section):
    """The intensity window and the illumination profile, one a plate and channel."""

    freeze: int = Field(1, ge=1, description="the window is computed once and kept; a greater number computes it anew")
    percentiles: tuple[float, float] = Field(
        (1.0, 99.0), description="percentiles of the raw pixels that become 0 and 1 for the network"
    )
    scope: Literal["plate", "well", "field"] = Field(
        "plate", description="whose pixels the percentiles are taken over; plate keeps wells comparable"
    )
    illumination: bool = Field(True, description="divide by the smoothed mean image of the plate and channel on read")

    @field_validator("percentiles")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 100:
            raise ValueError("normalise.percentiles must be two rising numbers between 0 and 100")
        return value


class LabelSet(Section):
    """One kind of object: its channels, its size and how it is cut out."""

    channels: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=3,
            description="channel names; the first is the one in which the object is seen, the others help",
        ),
    ]
    diameter_um: float | None = Field(
        None, gt=0, description="typical diameter in micrometres; empty: the image is not resized for the network"
    )
    model: str = Field("default", description="name of a registered model, or a path to a weights file")
    cell_threshold: float = Field(0.0, ge=-15, le=15, description="logit above which a pixel belongs to an object")
    flow_threshold: float = Field(
        0.4, ge=0, description="objects whose mean squared flow error is greater are dropped; 0 keeps all"
    )
    min_size_px: int = Field(15, ge=0, description="objects with fewer pixels are dropped")
    dimensions: Literal[2, 3] = Field(
        2, description="3: objects go through the planes of the z stack, which needs z: keep; 2: each plane by itself"
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > 3:
            names = ", ".join(map(str, value))
            raise ValueError(f"{len(value)} channels ({names}) are too many: the network takes 1 to 3")
        return value


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

    @field_validator("families")
    @classmethod
    def _known_families(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, str) and value in FAMILY_PRESETS:
            return value
        names = [value] if isinstance(value, str) else value
        for name in names:
            if name not in FAMILIES:
                near = difflib.get_close_matches(name, [*FAMILY_PRESETS, *FAMILIES], n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"choose from {', '.join([*FAMILY_PRESETS, *FAMILIES])}"
                )
                raise ValueError(f"there is no feature family {name!r}; {hint}")
        return names


class Quality(Section):
    """When a field or well is flagged; stats.exclude_flags says which flags leave it out of the well tables."""

    focus_mad: float = Field(
        6.0, gt=0, description="flag focus: a field's sharpness lies this many MADs below the plate's median"
    )
    saturated_fraction: float = Field(
        0.01, gt=0, le=1, description="flag saturated: fraction of a field's pixels at the top of the camera's range"
    )
    intensity_mad: float = Field(
        6.0, gt=0, description="flag intensity: a well's background or brightness lies this many MADs off the plate's"
    )


class Stats(Section):
    """From cells to wells: what is left out, normalisation, hits."""

    exclude_flags: list[Literal["focus", "saturated", "empty", "intensity"]] = Field(
        ["focus", "saturated"],
        description="fields (of intensity: wells) with one of these flags are left out of the well tables",
    )
    by_field: bool = Field(False, description="write fields.parquet too: counts and medians of every field")
    normalise: Literal["negative robust", "negative standard", "plate robust", "plate standard"] = Field(
        "negative robust",
        description="what wells are compared with: negative controls, or all wells of the plate but positive controls; "
        "robust: median and MAD, standard: mean and standard deviation",
    )
    fdr: float = Field(0.05, gt=0, lt=1, description="false discovery rate at which a treatment is called a hit")


class Config(Section):
    """Everything a run needs to know beside the plates themselves."""

    plates: str = Field("config/plates.tsv", description="the plate sheet: one line a plate")
    results: str = Field("results", description="folder of the results; one folder a plate, and screen/")
    scratch: str | None = Field(
        None, description="folder for flow fields and end points, seen by all nodes; empty: scratch/ in each plate"
    )
    parts: Parts = Parts()
    follow_slices: int = Field(1, ge=1, le=64, description="jobs that share the flow following of one part")
    follow_block_px: int = Field(2048, ge=64, description="edge of the block in which paths are followed, in pixels")
    keep_flows: bool = Field(True, description="keep flow fields, so that segmentation changes need no GPU")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    threads: int = Field(2, ge=1, le=256, description="CPU threads of the network; part of the promise of equal bits")
    batch_size: int = Field(4, ge=1, le=512, description="tiles in one network call")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the network; auto: bfloat16 on CUDA, float32 on CPU"
    )
    tiling: Literal["plateflow", "cellpose"] = Field(
        "plateflow", description="how canvases are cut into tiles: in as few as possible, or as Cellpose does"
    )
    augment: bool = Field(
        False, description="show the network overlapping tiles mirrored in turn; about 3 times slower"
    )
    levels: int = Field(3, ge=1, le=8, description="pyramid levels of images and labels, each half the size")
    z: str = Field("max", description="planes of a z stack, on read: max, mean, plane N (from 0), or keep")
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
    def _label_names(cls, value: dict[str, LabelSet]) -> dict[str, LabelSet]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,39}", name):
                raise ValueError(f"the label set name {name!r} must be letters and digits, a letter first")
            if name.lower() in RESERVED_LABEL_SETS:
                raise ValueError(f"the label set name {name!r} begins other columns of the tables; choose another")
        if len({name[0].upper() + name[1:] for name in value}) < len(value):
            raise ValueError(
                "two label sets differ in their first letter's case alone: their columns would be the same"
            )
        return value

    @model_validator(mode="after")
    def _rows_exist(self) -> Config:
        if self.features.rows is not None and self.features.rows not in self.segmentation:
            known = ", ".join(self.segmentation)
            raise ValueError(f"features.rows is {self.features.rows!r}, which is not a label set ({known})")
        return self

    @model_validator(mode="after")
    def _depth_needs_every_plane(self) -> Config:
        for name, settings in self.segmentation.items():
            if settings.dimensions == 3 and self.z != "keep":
                raise ValueError(
                    f"segmentation.{name}.dimensions is 3, but z is {self.z!r}: objects can't go through planes that "
                    "were made one on read; set z to keep, or dimensions to 2"
                )
        return self

    @property
    def rows(self) -> str:
        """The label set that makes the rows of the cell table."""
        if self.features.rows is not None:
            return self.features.rows
        return "cells" if "cells" in self.segmentation else next(iter(self.segmentation))


PLATE_SIZES = ("wells", "fields", "channels", "z", "t", "field_mpx", "canvas_mpx", "image_mpx", "pixel_um")
"""The columns of the plate sheet that say how large a plate is: jobs are sized by them, no result depends on them."""


class PlateEntry(Section):
    """One line of the plate sheet."""

    plate: str = Field(description="plate id: letters, digits, . _ + -; names the folder of its results")
    path: str = Field(description="folder of the raw plate")
    layout: str = Field(
        "harmony",
        description="reader: harmony, imagexpress, yokogawa, omezarr, omezarr_in_place (no copy of the pixels), "
        "load_data or pattern; `init` recognises it",
    )
    pattern: str | None = Field(
        None,
        description="for layout pattern: scanr, cytation, cellomics, embl; or a regular expression with the groups "
        "well, field, channel, z, t; or a CSV or TSV with these columns and path",
    )
    pixel_size_um: float | None = Field(None, gt=0, description="pixel size, where the layout doesn't say")
    z_step_um: float | None = Field(None, gt=0, description="distance of z planes, where the layout doesn't say")
    plate_map: str | None = Field(
        None, description="CSV, TSV or XLSX with well, role, treatment, dose and free columns"
    )
    wells: int | None = Field(None, ge=1, description="wells with images; `init` writes this and the next eight")
    fields: int | None = Field(None, ge=1, description="fields a well, at most")
    channels: int | None = Field(None, ge=1, description="channels")
    z: int | None = Field(None, ge=1, description="z planes")
    t: int | None = Field(None, ge=1, description="time points")
    field_mpx: float | None = Field(None, gt=0, description="size of the largest field, in million pixels")
    canvas_mpx: float | None = Field(None, gt=0, description="size of the largest group of fields that touch")
    image_mpx: float | None = Field(None, gt=0, description="size of the largest well's image")
    pixel_um: float | None = Field(None, gt=0, description="pixel size as read, where it is known")

    @field_validator("plate")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not SAFE_NAME.fullmatch(value) or ".." in value:
            raise ValueError(f"the plate id {value!r} must be letters, digits and . _ + - (it becomes a folder name)")
        if value in RESERVED_PLATES:
            raise ValueError(f"the plate id {value!r} is reserved for the tables over all plates; choose another")
        return value


def load_config(source: Path | Mapping[str, Any]) -> Config:
    """Read and check a configuration.

    Args:
        source: a YAML file, or the mapping that Snakemake made of it.

    Raises:
        PlateflowError: the file is missing or not YAML, or a key or value is wrong; names the nearest right key.
    """
    where = "the configuration"
    if isinstance(source, Path):
        import yaml

        where = str(source)
        if not source.is_file():
            raise PlateflowError(
                "there is no configuration file",
                where=where,
                remedy="run `plateflow init RAW_FOLDER`, or change to the folder that holds config/",
            )
        try:
            source = yaml.safe_load(source.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PlateflowError("the configuration is not valid YAML", where=where, why=str(error)) from error
        if not isinstance(source, Mapping):
            raise PlateflowError("the configuration is not a mapping of keys to values", where=where)
    try:
        return Config.model_validate(dict(source))
    except ValidationError as error:
        raise PlateflowError(
            "the configuration can't be used",
            where=where,
            why="; ".join(_explain(item) for item in error.errors()),
            remedy="mend the named keys; config/README.md lists every key with its meaning",
        ) from error


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known here: {', '.join(known)}"
        return f"unknown key {'.'.join(location)!r}{hint}"
    return f"{'.'.join(location) or 'configuration'}: {item['msg'].removeprefix('Value error, ')}"


def _known_keys(location: list[str]) -> list[str]:
    model: type[BaseModel] = Config
    for index, part in enumerate(location):
        if model is Config and part == "segmentation":
            model = LabelSet
            if index == len(location) - 1:
                return []
            break
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def load_plates(path: Path) -> dict[str, PlateEntry]:
    """Read the plate sheet: tab-separated, one line a plate, columns as in `PlateEntry`.

    Returns:
        the entries by plate id, in the order of the sheet.

    Raises:
        PlateflowError: no file, an unknown column, an unsafe or doubled plate id.
    """
    if not path.is_file():
        raise PlateflowError(
            "there is no plate sheet", where=str(path), remedy="run `plateflow init RAW_FOLDER` to make one"
        )
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        known = list(PlateEntry.model_fields)
        for column in rows.fieldnames or []:
            if column not in known:
                near = difflib.get_close_matches(column or "", known, n=1)
                raise PlateflowError(
                    f"the plate sheet has an unknown column {column!r}",
                    where=str(path),
                    remedy=f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(known)}",
                )
        plates: dict[str, PlateEntry] = {}
        for number, row in enumerate(rows, 2):
            try:
                entry = PlateEntry.model_validate({k: v for k, v in row.items() if v not in (None, "")})
            except ValidationError as error:
                why = "; ".join(_explain(item) for item in error.errors())
                raise PlateflowError("a plate can't be used", where=f"{path}, line {number}", why=why) from error
            if entry.plate in plates:
                raise PlateflowError(
                    f"the plate {entry.plate!r} is listed twice",
                    where=f"{path}, line {number}",
                    remedy="give each acquisition its own plate id",
                )
            plates[entry.plate] = entry
    if not plates:
        raise PlateflowError("the plate sheet lists no plate", where=str(path), remedy="add a line for each plate")
    return plates


def config_yaml(config: Config | None = None) -> str:
    """The configuration as a commented YAML file: every key with its meaning, in the order of the model."""
    lines = [
        "# Plateflow's configuration, made from src/plateflow/config.py by `make config`; every key is checked.",
        "",
    ]
    _write_section(lines, config or Config(), "")
    return "\n".join(lines) + "\n"


def _write_section(lines: list[str], section: BaseModel, indent: str) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.description:
            unit = f" [{' | '.join(map(str, get_args(field.annotation)))}]" if _is_choice(field.annotation) else ""
            lines.append(f"{indent}# {field.description}{unit}")
        if isinstance(value, BaseModel):
            if not field.description and type(value).__doc__:
                lines.append(f"{indent}# {(type(value).__doc__ or '').splitlines()[0]}")
            lines.append(f"{indent}{name}:")
            _write_section(lines, value, indent + "  ")
        elif isinstance(value, dict):
            lines.append(f"{indent}{name}:")
            for key, item in value.items():
                lines.append(f"{indent}  {key}:")
                _write_section(lines, item, indent + "    ")
        else:
            lines.append(f"{indent}{name}: {json.dumps(value) if value is not None else ''}".rstrip())
        if not indent:
            lines.append("")


def _is_choice(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) is Literal


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, for editors."""
    return Config.model_json_schema()
