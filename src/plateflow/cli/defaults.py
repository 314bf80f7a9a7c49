"""The files under config/ that are made from the configuration's model: `make config` writes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from plateflow.config import Config, LabelSet, PlateSpec, Spots, config_yaml
from plateflow.config.section import Section

GATES = """\
## Which cells count: `filter` and `populations`

```yaml
segmentation:
  nuclei:
    channels: [DNA]
    filter:
      border: true                  # false: objects at the border enter medians, too
      area_um2: [40, 2000]
      solidity: ">0.8"
      Nuclei_Intensity_MeanIntensity_DNA: "<p99.5"
populations:
  positive:
    where: Cells_Intensity_MeanIntensity_Marker > negatives.p99
  large:
    where: [Nuclei_AreaShape_Area_um2 > 300, Nuclei_AreaShape_Solidity > 0.9]
  cycle:
    cell_cycle: DNA
```

A `filter` says which objects of its label set stay in counts and medians; tables of cells and the store keep all. Keys:

- `border`: `true`: those that don't touch the border of the canvas; `false`: all. Without the key, those that touch it
  are counted, but enter no median and no share (in 2D; volumes mostly touch the first or the last plane).
- `area_um2`, `solidity`: `<Set>_AreaShape_Area_um2` and `<Set>_AreaShape_Solidity`.
- A column of the cell table: any measurement of that label set (docs/features.md); of `cells`, of the cytoplasm, too.

A value is `[least, greatest]`, or a condition: `<`, `>`, `<=` or `>=` and a threshold; `and` joins several, and so
does a list. A threshold is a number; `p99` or `plate.p99`, a percentile of the plate's cells; `negatives.p99`, one of
its negative controls' cells; `otsu`; or `mixture`, where two normal distributions cross. In `populations`, `where`
names the column, too: all conditions must hold. `cell_cycle` names the channel of DNA, and makes three populations,
G1, S and G2M, of the nuclei's integrated intensity. Numbers of the plate are frozen. docs/statistics.md says how each
is computed, and what becomes of missing values.
"""
"""What the page says of blocks that only some assays have."""
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
        *GATES.splitlines(),
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
        elif name == "spots":
            example = Spots(channel="GFP", within="nuclei", diameter_um=0.8)
            yield from _keys(example, f"{prefix}{name}.<name>.")
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
