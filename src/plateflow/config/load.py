"""The configuration as a file: read, with errors that name the nearest right key, and written, with comments."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from plateflow.config.label_sets import LabelSet
from plateflow.config.section import Section, nearest
from plateflow.config.sections import Config, Population
from plateflow.config.spots import Spots
from plateflow.errors import ConfigError
from plateflow.text import TextError, decode

CELLS = """\
  # A second label set, of cells: the channel that shows them, then that of the nuclei, which helps. Keys are those
  # above; what isn't named has its default. Each cell is matched with the nuclei in it.
  # cells:
  #   channels: ["AGP", "DNA"]
  #   diameter_um: 30
  # Where no stain shows cells, `expand: {from: nuclei, um: 8}` in place of these keys grows them from the nuclei."""


def load_config(source: Path | Mapping[str, Any]) -> Config:
    """Read and check a configuration: a YAML file, or the mapping that Snakemake made of it.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is wrong; names the nearest right key.
    """
    where = "the configuration"
    if isinstance(source, Path):
        import yaml

        where = str(source)
        if not source.is_file():
            raise ConfigError(
                "there is no configuration file",
                where=where,
                remedy="run `plateflow init RAW_FOLDER`, or change to the folder that holds config/",
            )
        try:
            source = yaml.safe_load(decode(source.read_bytes(), windows=False)) or {}
        except TextError as error:
            what = "the configuration can't be read"
            raise ConfigError(what, where=where, why=str(error), remedy=error.remedy) from error
        except yaml.YAMLError as error:
            raise ConfigError("the configuration is not valid YAML", where=where, why=str(error)) from error
        if not isinstance(source, Mapping):
            raise ConfigError("the configuration is not a mapping of keys to values", where=where)
    keys = dict(source)
    if keys.get("tiling") == "plateflow":  # `init` of an earlier release wrote it, and nothing else is done
        del keys["tiling"]
    try:
        return Config.model_validate(keys)
    except ValidationError as error:
        raise ConfigError(
            "the configuration can't be used",
            where=where,
            why="; ".join(explain(item) for item in error.errors()),
            remedy="fix the named keys; config/README.md lists every key with its meaning",
        ) from error


def explain(item: Any) -> str:
    """One of pydantic's errors in a sentence that names the key, and the nearest right one."""
    location = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        if location == ["tiling"]:
            return "tiling has no choice any more: delete its line; canvases are cut into as few tiles as possible"
        section: Any = Config  # sections hold no others
        if location[1:]:
            of_named: dict[str, Any] = {"segmentation": LabelSet, "populations": Population, "spots": Spots}
            section = of_named.get(location[0]) or Config.model_fields[location[0]].annotation
        if location[3:]:  # of a block of a label set, which may be None
            section = get_args(LabelSet.model_fields[location[2]].annotation)[0]
        keys = [field.alias or name for name, field in section.model_fields.items()]
        hint = nearest(location[-1], keys, "the keys are", cutoff=0.5)
        return f"unknown key {'.'.join(location)!r}; {hint}"
    return f"{'.'.join(location) or 'configuration'}: {item['msg'].removeprefix('Value error, ')}"


def config_yaml(config: Config | None = None) -> str:
    """The configuration as a commented YAML file: every key with its meaning, in the order of the model."""
    lines = ["# Plateflow's configuration, made from src/plateflow/config/ by `make config`; every key is checked.", ""]
    _write_section(lines, config or Config(), "")
    return "\n".join(lines) + "\n"


def _write_section(lines: list[str], section: Section, indent: str) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        rule = section.rule if isinstance(section, LabelSet) else None
        told = value is rule or (name == "filter" and bool(value))
        if not told if rule else (value is None and name in section.BLOCKS):
            continue
        key = field.alias or name
        example = field.examples if value == field.default else None  # what few assays have stands in a comment
        if field.description:
            choice = get_origin(field.annotation) is Literal
            unit = f" [{' | '.join(map(str, get_args(field.annotation)))}]" if choice else ""
            lines.append(f"{indent}# {field.description}{unit}")
        if isinstance(value, Section):
            if not field.description and type(value).__doc__:
                lines.append(f"{indent}# {(type(value).__doc__ or '').splitlines()[0]}")
            lines.append(f"{indent}{key}:")
            _write_section(lines, value, indent + "  ")
        elif isinstance(value, dict) and any(isinstance(item, Section) for item in value.values()):
            lines.append(f"{indent}{key}:")
            for named, item in value.items():
                lines.append(f"{indent}  {named}:")
                _write_section(lines, item, indent + "    ")
            if name == "segmentation" and "cells" not in value:
                lines.append(CELLS)
        elif example:
            lines.append(f"{indent}# {name}: {json.dumps(example[0])}")
        else:
            lines.append(f"{indent}{key}: {json.dumps(value) if value is not None else ''}".rstrip())
        if not indent:
            lines.append("")
