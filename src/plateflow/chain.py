"""The stages of the chain: their jobs, their versions, and the parameters that concern each.

Loaded while the Snakefile is parsed, so it imports the configuration alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from plateflow.config import PLATE_SIZES, Config, PlateEntry
from plateflow.paths import parse_well


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the chain.

    Attributes:
        scope: what one job does: a plate, a CPU part, a GPU part, or a slice of a CPU part.
        version: raised by hand when the stage's results change; part of every fingerprint.
        modules: the files, below the package, whose code decides the results: tests/state/test_versions.py
            compares a hash of their syntax trees with a lock file.
    """

    name: str
    scope: Literal["plate", "cpu", "gpu", "slice"]
    version: int
    modules: tuple[str, ...]

    def jobs(self, config: Config) -> Iterator[str]:
        """The names of the stage's jobs in one plate."""
        if self.scope == "plate":
            yield "plate"
        elif self.scope == "slice":
            for part in range(config.parts.cpu):
                for index in range(config.follow_slices):
                    yield f"{part}-{index}"
        else:
            yield from map(str, range(getattr(config.parts, self.scope)))


READING = (
    "images/read.py",
    "images/layout.py",
    "images/illumination.py",
    "images/histograms.py",
    "images/normalise.py",
)
"""What decides which pixels a stage is given."""
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="ingest",
            scope="plate",
            version=1,
            modules=("plates/*.py", "images/ingest.py", "images/store.py", "images/layout.py"),
        ),
        Stage(
            name="tile",
            scope="cpu",
            version=2,
            modules=(
                "images/tile.py",
                "images/shards.py",
                "images/histograms.py",
                "images/halve.py",
                "images/store.py",
                "images/layout.py",
                "plates/pixels.py",
            ),
        ),
        Stage(
            name="normalise",
            scope="plate",
            version=1,
            modules=("images/normalise.py", "images/illumination.py", "images/histograms.py"),
        ),
        Stage(
            name="infer",
            scope="gpu",
            version=3,
            modules=(
                "segment/infer.py",
                "segment/volume.py",
                "segment/plan.py",
                "segment/grid.py",
                "segment/tiles.py",
                "segment/engine.py",
                "model/vit.py",
                "model/weights.py",
                "model/registry.py",  # a model's diameter, and so the network's grid
                *READING,
            ),
        ),
        Stage(
            name="follow",
            scope="slice",
            version=1,
            modules=("segment/follow.py", "segment/plan.py", "segment/grid.py", "flows/*.py"),
        ),
        Stage(
            name="stitch",
            scope="cpu",
            version=1,
            modules=(
                "segment/stitch.py",
                "segment/plan.py",
                "segment/grid.py",
                "flows/*.py",
                "images/store.py",
                "images/halve.py",
            ),
        ),
        Stage(name="features", scope="cpu", version=2, modules=("features/*.py", *READING)),
        Stage(
            name="aggregate",
            scope="plate",
            version=4,
            modules=("stats/*.py", *(f"plates/{name}.py" for name in ("platemap", "roles", "tables", "barcodes"))),
        ),
        Stage(name="report", scope="plate", version=3, modules=("report/*.py",)),
    )
}


def part_of(well: str, parts: int, n_columns: int) -> int:
    """The part that a well belongs to, from its row and column alone."""
    row, column = parse_well(well)
    return (row * n_columns + column) % parts


def parameters(config: Config, stage: str, entry: PlateEntry, label_set: str | None = None) -> dict[str, Any]:
    """The parameters that decide a stage's results, for one label set or for all.

    They are the rule's `params` (all label sets), and part of the fingerprint of a unit (its own label set). What only
    decides how fast or where something is computed isn't here: parts, slices, device, dtype, batch size, threads.
    """
    sets = {label_set: config.segmentation[label_set]} if label_set else config.segmentation
    match stage:
        case "ingest":
            raw = entry.model_dump(exclude={"plate", "plate_map", *PLATE_SIZES})
            z_kept = config.z == "keep"  # labels have one z plane, or all
            return {"raw": raw, "label_sets": list(config.segmentation), "levels": config.levels, "z_kept": z_kept}
        case "tile":
            return {"levels": config.levels}
        case "normalise":
            return config.normalise.model_dump(mode="json")
        case "infer":
            keys = {"channels", "diameter_um", "dimensions"}
            common = {"z": config.z, "tiling": config.tiling, "augment": config.augment}
            # not the model's name: its hash is in the fingerprint beside these
            return {name: {**value.model_dump(include=keys), **common} for name, value in sets.items()}
        case "follow":
            keys = {"cell_threshold", "diameter_um"}
            return {
                name: {**value.model_dump(include=keys), "block": config.follow_block_px}
                for name, value in sets.items()
            }
        case "stitch":
            return {
                name: value.model_dump(include={"flow_threshold", "min_size_px"}) | {"levels": config.levels}
                for name, value in sets.items()
            }
        case "features":
            label_sets = [[name, value.dimensions] for name, value in config.segmentation.items()]
            return config.features.model_dump() | {"rows": config.rows, "label_sets": label_sets}
        case "aggregate":
            return {
                "quality": config.quality.model_dump(),
                "stats": config.stats.model_dump(mode="json"),
                "rows": config.rows,
            }
    return {}


def window_is_frozen(window: dict[str, Any], config: Config) -> bool:
    """Whether the content of window.json bears the configured freeze number, and was computed as configured."""
    settings = config.normalise.model_dump(mode="json")
    return bool(window.get("settings") == settings and window.get("freeze") == settings["freeze"])
