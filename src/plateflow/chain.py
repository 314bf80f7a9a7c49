"""The chain: its stages, their jobs and versions, and the parameters that concern each.

Loaded while the Snakefile is parsed, so it imports the configuration alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from plateflow.config import PLATE_SIZES, Config, LabelSet, PlateSpec, Propagate, Spots, Stats, evenly_grown
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well

Scope = Literal["plate", "cpu", "gpu", "slice"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the chain; its code is `plateflow.stages.<name>`.

    Attributes:
        scope: what one job does: a plate, a CPU part, a GPU part, or a slice of a CPU part.
        version: raised by hand when the stage's results change; part of every fingerprint.
            tests/state/test_versions.py compares a hash of the code with a lock file.
        why: what the last raise of the version changed, for `plateflow plan`; CHANGELOG.md has them all.
        reads: the stages whose files it reads.
        intermediate: whether its files lie in the scratch: they may be gone as long as nothing that is wanted needs
            them.
    """

    name: str
    scope: Scope
    version: int
    why: str
    reads: tuple[str, ...]
    intermediate: bool = False

    def jobs(self, config: Config) -> Iterator[str]:
        """The names of the stage's jobs per plate."""
        if self.scope == "plate":
            yield "plate"
        elif self.scope == "slice":
            for part in range(config.parts.cpu):
                for index in range(config.follow_slices):
                    yield f"{part}-{index}"
        else:
            yield from map(str, range(self.parts(config)))

    def parts(self, config: Config) -> int:
        """The number of parts into which the stage deals a plate's wells; 1 where it does the plate as a whole."""
        return 1 if self.scope == "plate" else config.parts.gpu if self.scope == "gpu" else config.parts.cpu


_LIGHT = "light is fitted to the brightness of cells; saturated fields and blank wells don't count"
_MEASURED = "textures are scaled per object; volumes have lengths and surfaces by the size of a voxel"
_TABLES = "objects that touch the border of a canvas are counted, but don't enter medians; "
_TABLES += "summary.csv holds what matters of each well, in words"
_PAGE = "a section says which cells enter the statistics, and to which populations they belong"
_LISTS = "aggregate lists the tables of an image, where it puts the cell tables, and features its labels, "
_LISTS += "as corrected ones are among them"
# Who raises the version of `follow` raises that of `stitch`, which does its work where there is one slice.
_CHAIN: tuple[tuple[str, Scope, int, str, tuple[str, ...]], ...] = (
    ("ingest", "plate", 5, _LISTS, ()),
    ("tile", "cpu", 4, "saturation is found where pixels pile up; lows and highs are kept for the light", ("ingest",)),
    ("normalise", "plate", 2, _LIGHT, ("ingest", "tile")),
    ("infer", "gpu", 3, "", ("ingest", "tile", "normalise")),
    ("follow", "slice", 1, "", ("ingest", "infer")),
    ("stitch", "cpu", 4, "flow errors and probabilities are summed as integers", ("ingest", "infer", "follow")),
    ("features", "cpu", 3, _MEASURED, ("ingest", "tile", "normalise", "stitch")),
    ("aggregate", "plate", 8, _TABLES, ("ingest", "tile", "normalise", "stitch", "features")),
    ("report", "plate", 8, _PAGE, ("ingest", "tile", "normalise", "stitch", "aggregate")),
)
STAGES = {
    name: Stage(name=name, scope=scope, version=version, why=why, reads=reads, intermediate=name in ("infer", "follow"))
    for name, scope, version, why, reads in _CHAIN
}
"""All stages of a plate, in order. A configuration may lack some: see `stages_of`."""
SPOTS = "spots"
"""The block of the configuration; without one fingerprints stay equal."""
THRESHOLDS = "thresholds"
"""By this name, the channels of which the window says from where on they show cells; a frozen one gets more."""
KEEP_FLOWS = "keep_flows"
"""By this name, what `infer` makes depends on the key of the configuration: where they aren't kept, it makes labels."""


def labels_stage(config: Config) -> str:
    """The stage that writes labels and tables of objects: `infer` itself where flow fields aren't kept."""
    return "stitch" if config.keep_flows else "infer"


def stages_of(config: Config) -> dict[str, Stage]:
    """The stages that a configuration has, in order.

    Without flow fields that are kept, `infer` makes labels; its version is the sum of those of the three stages whose
    work it does, so that each raise of one raises it. With one slice, `stitch` follows the flow itself.
    """
    labels, stages = labels_stage(config), dict(STAGES)
    if not config.keep_flows:
        done = [stages[name] for name in ("infer", "follow", "stitch")]
        stages["infer"] = replace(
            stages["infer"],
            version=sum(stage.version for stage in done),
            why="; ".join(stage.why for stage in done if stage.why),
            intermediate=False,
        )
        del stages["follow"], stages["stitch"]
    elif config.follow_slices == 1:
        del stages["follow"]

    def reads(stage: Stage) -> tuple[str, ...]:
        names = [labels if name == "stitch" else name for name in stage.reads]
        return tuple(dict.fromkeys(name for name in names if name in stages))

    return {name: replace(stage, reads=reads(stage)) for name, stage in stages.items()}


def stage_of(config: Config, name: str) -> Stage:
    """A stage of a configuration by its name.

    Raises:
        PlateflowError: there is no such stage, or this configuration lacks it.
    """
    stages = stages_of(config)
    if name in stages:
        return stages[name]
    if name not in STAGES:
        raise PlateflowError(f"there is no stage {name!r}", remedy=f"the stages are {', '.join(stages)}")
    where, why, by = why_lacking(config)
    raise PlateflowError(f"this configuration has no stage {name}", where=where, why=why, remedy=f"name {by} instead")


def why_lacking(config: Config) -> tuple[str, str, str]:
    """Why a configuration lacks a stage: by which key, what that means, and which stage does its work."""
    if config.keep_flows:
        return "follow_slices: 1", "with one slice `stitch` follows the flow itself", "stitch"
    return "keep_flows: false", "flow fields aren't kept, so `infer` makes labels itself", "infer"


def part_of(job: str) -> int:
    """The part that a job does; of a job of `follow` the part without the slice."""
    return int(job.partition("-")[0])


def part_of_well(well: str, parts: int, n_columns: int) -> int:
    """The part that a well belongs to, from its row and column alone."""
    row, column = parse_well(well)
    return (row * n_columns + column) % parts


def parameters(config: Config, stage: str, spec: PlateSpec, label_set: str | None = None) -> dict[str, Any]:
    """The parameters that decide a stage's results, for one label set or for all.

    They are part of what is asked of a job (all label sets), and of a work item's fingerprint (its own label set).
    What only decides how fast or where something is computed isn't here: parts, slices, device, dtype, batch size,
    threads.
    """
    sets = {label_set: config.segmentation[label_set]} if label_set else config.segmented
    match stage:
        case "ingest":
            raw = spec.model_dump(exclude={"plate", "plate_map", "channel_names", *PLATE_SIZES})
            for younger in ("image", "format", "follow_links"):  # as are those of `more`: fingerprints stay equal
                if raw[younger] is None:
                    del raw[younger]
            raw |= _aliases(spec)
            z_kept = config.z == "keep"  # labels have one z plane, or all
            more: dict[str, Any] = {"plane": config.z} if config.z.startswith("plane") else {}
            if any(label_set.dimensions == 3 for label_set in config.segmentation.values()):
                more["deep"] = True  # needs a stack
            own = {"label_sets": list(config.segmented), "levels": config.levels, "z_kept": z_kept}
            return {"raw": raw, **own, **more}
        case "tile":
            return {"levels": config.levels}
        case "normalise":
            saturated = {"saturated_fraction": config.quality.saturated_fraction}
            own = config.normalise.model_dump(mode="json") | saturated | _aliases(spec)  # the window is by names
            spots = {name: found for name, each in config.spots.items() if (found := background_of(config, each))}
            stains = [rule.channels for rule in config.grown.values() if isinstance(rule, Propagate)]
            more = {SPOTS: spots, THRESHOLDS: sorted(set(chain(*stains)))}
            return own | {key: value for key, value in more.items() if value}
        case "infer":
            # "tiling" was a key once; the constant keeps fingerprints equal
            common = {"z": config.z, "tiling": "plateflow", "augment": config.augment}
            # not the model's name: its hash is in the fingerprint beside these
            keys = ("channels", "dimensions")
            bounds = {name: _bound(value) if config.keep_flows else {} for name, value in sets.items()}
            return {name: {**_sized(value, *keys), **bounds[name], **common} for name, value in sets.items()}
        case "follow":
            block = config.follow_block_px
            return {name: {**_sized(value, "cell_threshold"), "block": block} for name, value in sets.items()}
        case "stitch":
            return {
                name: value.model_dump(include={"flow_threshold", "min_size_px"}) | {"levels": config.levels}
                for name, value in sets.items()
            }
        case "features":
            label_sets = [[name, value.dimensions] for name, value in config.segmentation.items()]
            own = config.features.model_dump() | {"rows": config.row_label_set, "label_sets": label_sets}
            spots = {name: each.model_dump(exclude_none=True) for name, each in config.spots.items()}
            return own | _related(config) | ({SPOTS: spots} if spots else {})
        case "aggregate":
            return {
                "quality": config.quality.model_dump(),
                "stats": _compared(config.stats),
                "rows": config.row_label_set,
                **_gated(config),
            }
    return {}


LABEL_KEYS = ("cell_threshold", "flow_threshold", "min_size_px", "levels")
"""The keys that decide which labels a flow field gives."""


def label_parameters(config: Config, label_set: str) -> dict[str, Any]:
    """What decides which labels a flow field gives, by `LABEL_KEYS`."""
    settings = config.segmentation[label_set]
    return {key: getattr(config if key == "levels" else settings, key) for key in LABEL_KEYS}


def labels_depend_on(config: Config, stage: str, label_set: str) -> dict[str, Any]:
    """Of a stage that makes labels in another one's place, on what else a label set depends, by name."""
    if stage != "infer" or config.keep_flows:
        return {}
    return {KEEP_FLOWS: False, **label_parameters(config, label_set)}


def background_of(config: Config, spots: Spots) -> dict[str, Any]:
    """What decides the background of spots whose threshold is that of the plate; empty where it is given as a number.

    The first channel of the label set tells where its objects are; of one that is grown evenly, where it is grown from.
    """
    if spots.threshold != "auto":
        return {}
    own = spots.model_dump(include={"channel", "diameter_um", "diameter_px"}, exclude_none=True)
    grown = evenly_grown(config.segmentation, spots.within)
    rules = [config.grown[name].model_dump(exclude={"source"}) for name in grown]
    own |= {"seen": config.segmentation[spots.within].channels[0], "z": config.z}
    return own | ({"grown": rules} if rules else {})


def _aliases(spec: PlateSpec) -> dict[str, Any]:
    """The names that a plate's channels are given, if any; without them fingerprints stay equal."""
    return {"channel_names": spec.names_of_channels} if spec.channel_names else {}


def _compared(stats: Stats) -> dict[str, Any]:
    """The settings of the statistics; those of groups and time only if given, so that fingerprints stay equal."""
    values = stats.model_dump(mode="json")
    return {k: v for k, v in values.items() if k not in ("group_by", "time") or v != Stats.model_fields[k].default}


def _related(config: Config) -> dict[str, Any]:
    """How label sets are made from others and matched with others, if any are; else fingerprints stay equal."""
    rules = {name: {type(rule).__name__.lower(): rule.model_dump()} for name, rule in config.grown.items()}
    return {name: value for name, value in (("grown", rules), ("paired", config.paired)) if value}


def _bound(label_set: LabelSet) -> dict[str, Any]:
    """The bound of stored flows, if given: the model's own goes with its hash; without one fingerprints stay equal."""
    return {} if label_set.least_logit is None else {"least_logit": label_set.least_logit}


def _gated(config: Config) -> dict[str, Any]:
    """Filters and populations, if there are any; without them fingerprints stay equal."""
    filters = {name: value.filter for name, value in config.segmentation.items() if value.filter}
    populations = {name: value.model_dump() for name, value in config.populations.items()}
    return {key: value for key, value in (("filters", filters), ("populations", populations)) if value}


def _sized(label_set: LabelSet, *keys: str) -> dict[str, Any]:
    """Some settings of a label set, and its diameter; that in pixels only if given, so that fingerprints stay equal."""
    values = label_set.model_dump(include={*keys, "diameter_um", "diameter_px"})
    return values if label_set.diameter_px else {key: value for key, value in values.items() if key != "diameter_px"}
