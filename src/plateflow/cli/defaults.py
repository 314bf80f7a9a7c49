"""The files under config/ that are made from the configuration's model: `make config` writes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from plateflow.config import Config, LabelSet, PlateSpec, config_yaml
from plateflow.config.section import Section

SHEET_HEAD = "plate\tpath\tlayout\tpattern\tpixel_size_um\tz_step_um\tplate_map\n"


def default_files() -> dict[str, str]:
    """The content of each file under config/, by name."""
    return {
        "config.yaml": config_yaml(),
        "config.schema.json": json.dumps(Config.model_json_schema(), indent=1) + "\n",
        "README.md": _readme(),
        "plates.tsv": SHEET_HEAD,
    }


def _readme() -> str:
    lines = [
        "# Configuration",
        "",
        "`config.yaml` holds every key with its default, `plates.tsv` one line per plate; `plateflow init RAW_FOLDER`",
        "writes both for a plate. Relative paths in them count from the folder that holds `config/`, in which",
        "`snakemake` runs. This page is made from `src/plateflow/config/` by `make config`.",
        "",
        "## config.yaml",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
        *(f"| `{key}` | `{json.dumps(value)}` | {text} |" for key, value, text in _keys(Config(), "")),
        "",
        "## plates.tsv",
        "",
        "| column | meaning |",
        "| --- | --- |",
        *(f"| `{name}` | {field.description} |" for name, field in PlateSpec.model_fields.items()),
        "",
    ]
    return "\n".join(lines).replace("null", "")


def _keys(section: Section, prefix: str) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _keys(value, f"{prefix}{name}.")
        elif name == "segmentation":
            yield from _keys(LabelSet(channels=["DNA"]), f"{prefix}{name}.<label set>.")
        else:
            yield f"{prefix}{field.alias or name}", value, (field.description or "").replace("|", "or")
        if name in type(section).BLOCKS:
            yield from _keys_of_block(field, f"{prefix}{name}.")


def _keys_of_block(field: FieldInfo, prefix: str) -> Iterator[tuple[str, Any, str]]:
    """The keys of a block that isn't there by default."""
    block: Any = get_args(field.annotation)[0]
    for name, own in getattr(block, "model_fields", {}).items():
        default = None if own.is_required() else own.default
        yield f"{prefix}{own.alias or name}", default, own.description or ""


def main(folder: Path = Path("config")) -> None:
    """Write the files; an existing plate sheet stays."""
    folder.mkdir(exist_ok=True)
    for name, content in default_files().items():
        path = folder / name
        if name != "plates.tsv" or not path.exists():
            path.write_text(content)


if __name__ == "__main__":
    main()
