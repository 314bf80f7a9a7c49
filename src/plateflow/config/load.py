"""Reading the configuration: errors name the key, and the nearest right one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plateflow.config.sections import Config, LabelSet, nearest
from plateflow.errors import ConfigError
from plateflow.text import TextError, decode


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
            section = LabelSet if location[0] == "segmentation" else Config.model_fields[location[0]].annotation
        hint = nearest(location[-1], list(section.model_fields), "the keys are", cutoff=0.5)
        return f"unknown key {'.'.join(location)!r}; {hint}"
    return f"{'.'.join(location) or 'configuration'}: {item['msg'].removeprefix('Value error, ')}"
