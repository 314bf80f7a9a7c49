"""The plate sheet: one line per plate."""

import io
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from plateflow.config.load import explain
from plateflow.config.sections import SAFE_NAME, Section, nearest
from plateflow.errors import ConfigError
from plateflow.text import TextError, decode, table

_NAMED = re.compile(r"(.+?)=([^=,]+)(?:,|$)")
"""A channel's name and the one that it is given; a comma or = may be in the former, not in the latter."""
RESERVED_PLATES = {"screen"}
PLATE_SIZES = ("wells", "fields", "channels", "z", "t", "field_mpx", "canvas_mpx", "image_mpx", "pixel_um")
"""The columns of the plate sheet that say how large a plate is: they size the jobs, and no result depends on them."""


class PlateSpec(Section):
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
        "well (or row, letters or a number from 1, and column), field, channel (or channels: names of a file's pages, "
        "between commas), z, t; or a CSV or TSV with these columns, path and page",
    )
    image: str | None = Field(
        None,
        description="for OME-Zarr, where places don't tell which images of a well are its fields: a name, with * for "
        "anything; A+B if B lies on A pixel for pixel, with channels of its own; *_A+*_B if those do that have the "
        "same for *",
    )
    pixel_size_um: float | None = Field(None, gt=0, description="pixel size, where the layout doesn't say")
    z_step_um: float | None = Field(None, gt=0, description="distance of z planes, where the layout doesn't say")
    plate_map: str | None = Field(
        None, description="CSV, TSV or XLSX with well, role, treatment, dose and free columns"
    )
    channel_names: str | None = Field(
        None,
        description="other names for channels, such as ch5=DNA,ch2=AGP: what the plate calls them, then the names that "
        "the configuration and all results have",
    )
    format: Literal[6, 12, 24, 48, 96, 384, 1536] | None = Field(
        None,
        description="wells of the plate, where the layout doesn't say; else the smallest of 96, 384, 1536 that fits",
    )
    follow_links: str | None = Field(
        None, description="folder that links in the plate's folder may lead into; others are not followed"
    )
    wells: int | None = Field(None, ge=1, description="wells with images; `init` writes this and the next eight")
    fields: int | None = Field(None, ge=1, description="fields per well, at most")
    channels: int | None = Field(None, ge=1, description="channels")
    z: int | None = Field(None, ge=1, description="z planes")
    t: int | None = Field(None, ge=1, description="time points")
    field_mpx: float | None = Field(None, gt=0, description="size of the largest field, in million pixels")
    canvas_mpx: float | None = Field(None, gt=0, description="size of the largest group of fields that touch")
    image_mpx: float | None = Field(None, gt=0, description="size of the largest well's image")
    pixel_um: float | None = Field(None, gt=0, description="pixel size as read, where it is known")

    @field_validator("format", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("plate")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not SAFE_NAME.fullmatch(value) or ".." in value:
            raise ValueError(f"the plate id {value!r} must be letters, digits and . _ + - (it becomes a folder name)")
        if value in RESERVED_PLATES:
            raise ValueError(f"the plate id {value!r} is reserved for the tables over all plates; choose another")
        return value

    @field_validator("channel_names")
    @classmethod
    def _channels_named_once(cls, value: str | None) -> str | None:
        if value is not None:
            names = _named(value)
            if _NAMED.sub("", value) or not all(map(all, names)):
                raise ValueError(f"channel_names {value!r} must be like ch5=DNA,ch2=AGP: the plate's name = another")
            for which in zip(*names, strict=True):
                if len(set(which)) < len(which):
                    raise ValueError(f"channel_names {value!r} has a name twice")
        return value

    @property
    def names_of_channels(self) -> dict[str, str]:
        """The names that channels are given, by what the plate calls them."""
        return dict(_named(self.channel_names or ""))


def _named(text: str) -> list[tuple[str, str]]:
    return [(old.strip(), new.strip()) for old, new in _NAMED.findall(text)]


def load_plates(path: Path) -> dict[str, PlateSpec]:
    """Read the plate sheet: tab-separated, a line per plate, columns as in `PlateSpec`; by plate id, in its order.

    Raises:
        ConfigError: no file, another encoding than UTF-8 or UTF-16 with its mark, a quote or a number of cells that
            can't be right, an unknown column, an unsafe or repeated plate id.
    """
    if not path.is_file():
        raise ConfigError(
            "there is no plate sheet", where=str(path), remedy="run `plateflow init RAW_FOLDER` to make one"
        )
    plates: dict[str, PlateSpec] = {}
    for number, row in _rows(path):
        try:
            spec = PlateSpec.model_validate({column: value for column, value in row.items() if value})
        except ValidationError as error:
            why = "; ".join(explain(item) for item in error.errors())
            raise ConfigError("a plate can't be used", where=f"{path}, line {number}", why=why) from error
        if spec.plate in plates:
            raise ConfigError(
                f"the plate {spec.plate!r} is listed twice",
                where=f"{path}, line {number}",
                remedy="give each acquisition its own plate id",
            )
        plates[spec.plate] = spec
    if not plates:
        raise ConfigError("the plate sheet lists no plate", where=str(path), remedy="add a line per plate")
    return plates


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The lines of the sheet with their numbers; lines that begin with # are comments, and a line may end early."""
    try:
        # A path read in a guessed encoding would be another path, so nothing is guessed here.
        lines = io.StringIO(decode(path.read_bytes(), windows=False), newline="")
        rows = list(table("".join("\n" if line.startswith("#") else line for line in lines), "\t", short=True))
    except TextError as error:
        raise ConfigError(
            "the plate sheet can't be read", where=str(path), why=str(error), remedy=error.remedy
        ) from error
    columns = list(PlateSpec.model_fields)
    for column in rows[0][1] if rows else ():
        if column not in columns:
            raise ConfigError(
                f"the plate sheet has an unknown column {column!r}",
                where=str(path),
                remedy=nearest(column, columns, "the columns are"),
            )
    return rows
