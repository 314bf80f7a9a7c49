"""The configuration as a commented YAML file."""

import json
from typing import Literal, get_args, get_origin

from pydantic import BaseModel

from plateflow.config.sections import Config

CELLS = """\
  # A second label set, of cells: the channel that shows them, then that of the nuclei, which helps. Keys are those
  # above; what isn't named has its default. Each cell is matched with the nuclei in it.
  # cells:
  #   channels: ["AGP", "DNA"]
  #   diameter_um: 30"""


def config_yaml(config: Config | None = None) -> str:
    """The configuration as a commented YAML file: every key with its meaning, in the order of the model."""
    lines = [
        "# Plateflow's configuration, made from src/plateflow/config/ by `make config`; every key is checked.",
        "",
    ]
    _write_section(lines, config or Config(), "")
    return "\n".join(lines) + "\n"


def _write_section(lines: list[str], section: BaseModel, indent: str) -> None:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if field.description:
            choice = get_origin(field.annotation) is Literal
            unit = f" [{' | '.join(map(str, get_args(field.annotation)))}]" if choice else ""
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
            if name == "segmentation" and "cells" not in value:
                lines.append(CELLS)
        else:
            lines.append(f"{indent}{name}: {json.dumps(value) if value is not None else ''}".rstrip())
        if not indent:
            lines.append("")
