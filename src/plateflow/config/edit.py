"""Values put into a configuration file, whose comments, order and layout stay as they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plateflow.config.load import load_config
from plateflow.config.sections import Config
from plateflow.errors import ConfigError
from plateflow.text import decode


def write_diameters(path: Path, diameters: Mapping[str, tuple[str, float]]) -> list[str]:
    """Put diameters of label sets into a configuration file.

    Args:
        path: the file.
        diameters: by label set, the key (`diameter_um` or `diameter_px`) and its value.

    Returns:
        What was changed, a line each; the file isn't written where nothing was.

    Raises:
        ConfigError: a label set isn't written in the file by itself (it shares its lines with another by an anchor of
            YAML, say), so that a change would reach more than its diameter; nothing is written then.
    """
    from plateflow.files import write_atomic

    text, before = decode(path.read_bytes(), windows=False), load_config(path)
    lines, edits = [], set[tuple[int, int, str]]()  # a set: two label sets may share their lines
    segmentation = _values(yaml.compose(text)).get("segmentation")
    for name, (key, value) in diameters.items():
        old = getattr(before.segmentation[name], key)
        if old == value:
            continue
        mapping = _values(segmentation).get(name)
        if not isinstance(mapping, yaml.MappingNode) or not mapping.value:
            raise _refused(path, name)
        node = _values(mapping).get(key)
        if node is not None:
            start, end = node.start_mark.index, node.end_mark.index
            edits.add((start, end, " " * (text[start - 1] == ":") + f"{value:g}"))
        else:
            first = mapping.value[0][0].start_mark
            after = ", " if mapping.flow_style else "\n" + " " * first.column
            edits.add((first.index, first.index, f"{key}: {value:g}{after}"))
        lines.append(f"segmentation.{name}.{key}: {value:g}" + (f" (was {old:g})" if old is not None else ""))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    if not edits:
        return []
    wanted = before.model_dump()
    for name, (key, value) in diameters.items():
        wanted["segmentation"][name][key] = value
    try:
        same = load_config(yaml.safe_load(text)) == Config.model_validate(wanted)
    except (yaml.YAMLError, ConfigError):
        same = False
    if not same:
        raise _refused(path, ", ".join(diameters))
    write_atomic(path, text.encode())
    return lines


def _values(node: Any) -> dict[str, Any]:
    """The values of a mapping of YAML by their keys; of anything else none."""
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _refused(path: Path, names: str) -> ConfigError:
    return ConfigError(
        "the diameter can't be put into the configuration",
        where=f"{path}: segmentation, {names}",
        why="the label set isn't written there by itself, in lines of its own",
        remedy="put the value into the file by hand",
    )
