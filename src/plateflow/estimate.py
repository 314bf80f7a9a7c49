"""What a job will need: processor time, memory, storage; from a plate's sizes and a small table of measured rates.

Every estimate is a line: so much for a job, whatever it does, and so much for a unit of its work (time) or of what it
holds at once (memory). `work` and `held` say what a unit is. The table was measured with the default model on plates of
0.3 to 10.5 Mpx a canvas (docs/scale.md); `learn` refines it from the ledger of real runs. Loaded while the Snakefile is
parsed: imports nothing heavy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from plateflow.chain import STAGES
from plateflow.config import PLATE_SIZES, Config, PlateSpec
from plateflow.files import write_json
from plateflow.model.registry import find_weights, model_spec
from plateflow.project import SCREEN, Project
from plateflow.segment.grid import OVERLAP, TILE

SNAKEMAKE_MB = 260
"""Snakemake's own two processes in a job of a cluster."""
MARGIN = 1.5
"""Memory asked for over memory expected; the next attempt gets as much again."""
PLATE_WELLS = 384
"""Wells of a plate whose line of the plate sheet doesn't say how many it has."""
BLOCK_MPX = 537
"""Values of an image block of 1 GiB: the most that `tile` holds of a level."""
CELLS_PER_MPX = 470.0
DEFAULT_MODEL_MB = 6.0
"""Size of the default model's weights file, with which the table was measured."""
LEARN_MB = 100.0
"""Only jobs whose memory grows by so much with what they hold say how much that is."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The rates of a stage: processor seconds and MB (10^6 bytes) of a job, and of a unit of its work."""

    seconds: float
    per_unit: float
    memory_mb: float
    memory_per_unit: float = 0.0


# Measured; see docs/scale.md. "infer cuda" is the 300 tiles a second that issue 7 takes as given, until a run tells.
RATES = {
    "ingest": Rate(seconds=1.0, per_unit=0.00025, memory_mb=215, memory_per_unit=0.01),
    "tile": Rate(seconds=1.25, per_unit=0.019, memory_mb=297, memory_per_unit=5),
    "normalise": Rate(seconds=0.4, per_unit=0.008, memory_mb=120, memory_per_unit=0.005),
    "infer cpu": Rate(seconds=2.0, per_unit=0.17, memory_mb=570, memory_per_unit=75),
    "infer cuda": Rate(seconds=15.0, per_unit=1 / 300, memory_mb=2200, memory_per_unit=75),
    "follow": Rate(seconds=1.0, per_unit=0.3, memory_mb=250, memory_per_unit=62),
    "stitch": Rate(seconds=1.4, per_unit=0.12, memory_mb=290, memory_per_unit=22),
    "features": Rate(seconds=2.2, per_unit=0.29, memory_mb=331, memory_per_unit=16),
    "aggregate": Rate(seconds=2.4, per_unit=0.013, memory_mb=295, memory_per_unit=0.02),
    "report": Rate(seconds=5.0, per_unit=0.1, memory_mb=540, memory_per_unit=0.5),
    "screen": Rate(seconds=5.0, per_unit=0.006, memory_mb=450, memory_per_unit=0.002),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a plate is; see `PlateSpec`."""

    wells: int
    fields: int
    channels: int
    z: int
    t: int
    field_mpx: float
    canvas_mpx: float
    image_mpx: float
    pixel_um: float | None = None

    @classmethod
    def of(cls, entry: PlateSpec) -> Size | None:
        """The sizes of a line of the plate sheet; None where `init` wrote none."""
        values = entry.model_dump(include=set(PLATE_SIZES))
        return None if None in [values[key] for key in values if key != "pixel_um"] else cls(**values)

    @property
    def raw_mpx(self) -> float:
        """Raw pixels of a well, in millions, over all channels, z and t."""
        return self.fields * self.field_mpx * self.channels * self.z * self.t


class Estimate:
    """What the jobs of a plate need under a configuration."""

    def __init__(
        self,
        size: Size,
        config: Config,
        learnt: Mapping[str, Rate] | None = None,
        *,
        model_mb: float = DEFAULT_MODEL_MB,
        diameters: Mapping[str, float | None] | None = None,
    ) -> None:
        self.size, self.config, self.model_mb, self.diameters = size, config, model_mb, diameters or {}
        self.learnt = dict(learnt or {})
        self.rates = RATES | self.learnt
        cpu_alone = "infer cpu" in self.learnt and "infer cuda" not in self.learnt
        self.device = "cpu" if config.device == "cpu" or (config.device == "auto" and cpu_alone) else "cuda"

    @cached_property
    def _planes(self) -> int:
        """Planes in which a well is segmented."""
        return self.size.t * (self.size.z if self.config.z == "keep" else 1)

    @property
    def label_mpx(self) -> float:
        """Pixels of all label sets of a well, in millions."""
        return self._planes * self.size.fields * self.size.field_mpx * len(self.config.segmentation)

    @cached_property
    def tiles(self) -> int:
        """Tiles of a well, over its label sets; a volume is run along three axes. Canvases are taken as squares."""
        overlap = TILE // 2 if self.config.augment else OVERLAP
        canvases = max(1.0, self.size.fields * self.size.field_mpx / self.size.canvas_mpx)
        tiles = 0
        for name, label_set in self.config.segmentation.items():
            um, pixel, model = label_set.diameter_um, self.size.pixel_um, self.diameters.get(name)
            diameter = um / pixel if um and pixel else label_set.diameter_px
            scale = model / diameter if diameter and model else 1.0  # else only a run tells
            edge = 1000 * math.sqrt(self.size.canvas_mpx) * scale
            of_canvas = max(1, math.ceil((edge - overlap) / (TILE - overlap))) ** 2
            tiles += of_canvas * (3 if label_set.dimensions == 3 else 1)
        return math.ceil(tiles * canvases * self._planes)

    @property
    def cells(self) -> float:
        """Rows of the plate's cell tables."""
        return self.size.wells * self.label_mpx / len(self.config.segmentation) * CELLS_PER_MPX

    def work(self, stage: str) -> float:
        """The work of a plate in a stage: in planes (ingest, normalise), raw Mpx (tile), tiles (infer), Mpx of labels
        (follow, stitch), that by channel (features), thousand cells by channel (aggregate), wells (report)."""
        size = self.size
        match stage:
            case "ingest" | "normalise":
                return size.wells * size.fields * size.channels * size.z * size.t
            case "tile":
                return size.wells * size.raw_mpx
            case "infer":
                # On a CPU a tile costs in proportion to the weights; on a GPU the rate is of the largest model.
                cost = max(1.0, self.model_mb / DEFAULT_MODEL_MB) if self.device == "cpu" else 1.0
                return size.wells * self.tiles * cost
            case "follow" | "stitch":
                return size.wells * self.label_mpx
            case "features":
                return size.wells * self.label_mpx * size.channels
            case "aggregate":
                return self.cells / 1000 * size.channels * len(self.config.segmentation)
        return size.wells

    def held(self, stage: str) -> float:
        """What a job holds at once: Mpx of a canvas, by channel (and label set) where it holds these; of the stages of
        a plate their work."""
        canvas = self.size.canvas_mpx
        depth = self._planes / self.size.t if any(s.dimensions == 3 for s in self.config.segmentation.values()) else 1
        match stage:
            case "tile":
                return min(self.size.image_mpx * self.size.channels, BLOCK_MPX)
            case "infer" | "stitch":
                return canvas * depth
            case "follow":
                return min(canvas * depth, self.config.follow_block_px**2 / 1e6)
            case "features":
                return canvas * depth * (self.size.channels + len(self.config.segmentation))
        return self.work(stage)

    def rate(self, stage: str) -> Rate:
        """The rates of a stage; of infer those of the device, where `auto` is CUDA until only CPUs were seen."""
        return self.rates[f"infer {self.device}" if stage == "infer" else stage]

    def jobs(self, stage: str) -> int:
        """Jobs of a stage in a plate."""
        return len(list(STAGES[stage].jobs(self.config)))

    def seconds(self, stage: str) -> float:
        """Seconds that a job of a stage takes: of one processor, or of the GPU."""
        rate = self.rate(stage)
        return rate.seconds + rate.per_unit * self.work(stage) / self.jobs(stage)

    def memory_mb(self, stage: str) -> float:
        """Peak memory of a job of a stage, MB, without Snakemake's own."""
        rate = self.rate(stage)
        weights = 2.5 * (self.model_mb - DEFAULT_MODEL_MB) if stage == "infer" else 0.0  # the file, and the network
        return rate.memory_mb + rate.memory_per_unit * self.held(stage) + weights

    def resources(self, stage: str) -> dict[str, int]:
        """What a job of a stage asks for the first time: mem_mb, and runtime in minutes."""
        return _resources(self.seconds(stage), self.memory_mb(stage))

    def storage(self) -> dict[str, float]:
        """GB (10^9 bytes) and files of a plate's results and scratch; pixels compress as noisy 12-bit images do."""
        size, sets, levels = self.size, len(self.config.segmentation), self.config.levels
        pyramid = sum(4.0**-level for level in range(levels))
        planes = size.t * size.z
        regions = min(math.ceil(size.image_mpx * size.channels / BLOCK_MPX), 4 * size.fields)  # with a field in them
        shards = levels * (planes + sets * self._planes) * regions
        jobs = sum(self.jobs(stage) for stage in STAGES)
        blocks = math.ceil(math.sqrt(size.canvas_mpx) * 1000 / self.config.follow_block_px) ** 2
        canvases = max(1.0, size.fields * size.field_mpx / size.canvas_mpx) * self._planes * sets
        labels = size.wells * self.label_mpx
        tables = self.cells * size.channels * sets * 650
        return {
            "result_gb": (size.wells * size.raw_mpx * 1.35e6 * pyramid + labels * 0.1e6 * pyramid + tables) / 1e9,
            "result_files": size.wells * (6 + levels + sets * (1 + levels) + shards + 2 + sets) + 4 * jobs,
            "scratch_gb": labels * 1e6 * (6 + 8 * 0.37) / 1e9,
            "scratch_files": size.wells * canvases * (1 + blocks),
            "raw_gb": size.wells * size.raw_mpx * 2e6 / 1e9,
        }

    def traffic_gb(self) -> dict[str, float]:
        """GB that a plate's jobs read and write, by stage; what is below 1 % isn't here. Flows are written once and
        read twice, end points written and read once; of images `infer` reads three channels at most."""
        sizes, labels = self.storage(), 1e-4 * self.size.wells * self.label_mpx
        image = sizes["raw_gb"] * 0.67  # level 0 as it is stored
        flows = self.size.wells * self.label_mpx * 6e-3
        ends = sizes["scratch_gb"] - flows
        tables = sizes["result_gb"] - 1.3 * (image + labels)
        return {
            "tile": sizes["raw_gb"] + 1.3 * image,
            "infer": image * min(1.0, 3 / self.size.channels) + flows,
            "follow": flows + ends,
            "stitch": flows + ends + 1.3 * labels,
            "features": image + labels + tables,
            "aggregate": tables,
        }

    def propose(self) -> dict[str, int]:
        """`parts` with which a GPU job lasts 5 to 30 minutes, or does a whole plate where that is shorter, and no job
        of a CPU stage more than 30; those of the configuration where they do."""
        rate, parts = self.rate("infer"), self.config.parts
        stages = ("tile", "follow", "stitch", "features")
        enough = self.seconds("infer") >= 300 or parts.gpu == 1
        if enough and max(self.seconds(stage) for stage in ("infer", *stages)) <= 1800:
            return parts.model_dump()
        gpu = min(max(1, math.ceil(rate.per_unit * self.work("infer") / (1800 - rate.seconds))), self.size.wells, 384)
        longest = max(self.rate(stage).per_unit * self.work(stage) for stage in stages)
        return {"cpu": min(gpu * max(1, math.ceil(longest / 1790 / gpu)), 384 // gpu * gpu), "gpu": gpu}


def screen_needs(project: Project) -> tuple[float, dict[str, int]]:
    """Seconds of one processor that the job over all plates takes, whose work is in wells, and its first resources."""
    rate, wells = RATES[SCREEN], sum(plate.spec.wells or PLATE_WELLS for plate in project.plates.values())
    seconds = rate.seconds + rate.per_unit * wells
    return seconds, _resources(seconds, rate.memory_mb + rate.memory_per_unit * wells)


def _resources(seconds: float, memory_mb: float) -> dict[str, int]:
    """Time has a margin of 3 and 15 minutes: nodes, file systems and neighbours differ more than memory does."""
    memory = 100 * math.ceil(MARGIN * (memory_mb + SNAKEMAKE_MB) / 100)
    return {"mem_mb": memory, "runtime": 15 + math.ceil(3 * seconds / 60)}


def learn(rows: Iterable[Mapping[str, Any]], estimates: Mapping[str, Estimate]) -> dict[str, Rate]:
    """The table, refined by what jobs used.

    Args:
        rows: of the ledger, one an attempt (state/ledger.py).
        estimates: of the plates, by id; attempts at other plates say nothing.

    Returns:
        the rates of the stages of which enough was seen: time for a unit is the mean over all work that was done,
        memory for a unit the most that was seen, as too little of it kills a job.
    """
    sums: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    for row in rows:
        stage, estimate = row["stage"], estimates.get(row["plate"])
        if estimate is None or row["state"] != "ok" or not row["share"]:
            continue
        name = f"infer {'cuda' if row['gpus'] else 'cpu'}" if stage == "infer" else stage
        rate, work = RATES[name], estimate.work(stage) * row["share"]
        spent = row["seconds"] if name == "infer cuda" else row["cpu_s"]
        total = sums.setdefault(name, [0.0, 0.0])
        total[0] += max(0.0, spent - rate.seconds)
        total[1] += work
        held = estimate.held(stage)
        if row["peak_mb"] and rate.memory_per_unit * held > LEARN_MB:  # what it holds, not its start, was measured
            memory[name] = max(memory.get(name, 0.0), (row["peak_mb"] - rate.memory_mb) / held)
    learnt: dict[str, Rate] = {}
    for name, (spent, work) in sums.items():
        if spent > 5 * RATES[name].seconds:  # else it is the start of the jobs that was measured
            learnt[name] = replace(RATES[name], per_unit=spent / work)
    for name, per_unit in memory.items():
        learnt[name] = replace(learnt.get(name, RATES[name]), memory_per_unit=max(0.0, per_unit))
    return learnt


def estimates_of(project: Project) -> dict[str, Estimate]:
    """What the plates need, by id, at the rates that earlier runs showed; without plates of unknown size."""
    config = project.config
    model_mb, diameters = DEFAULT_MODEL_MB, {}
    for name, label_set in config.segmentation.items():
        try:
            model_mb = max(model_mb, find_weights(label_set.model).stat().st_size / 1e6)
            sized = label_set.diameter_um or label_set.diameter_px
            diameters[name] = model_spec(label_set.model).diameter if sized else None
        except (ValueError, OSError):
            continue  # infer says what is wrong with it
    try:
        values = json.loads(project.screen.rates.read_text())
        learnt = {name: Rate(**value) for name, value in values.items()}
    except (OSError, ValueError, TypeError):
        learnt = {}
    return {
        name: Estimate(size, config, learnt, model_mb=model_mb, diameters=diameters)
        for name, plate in project.plates.items()
        if (size := Size.of(plate.spec))
    }


def refine(project: Project, rows: Iterable[Mapping[str, Any]]) -> None:
    """Learn from the ledger's rows, for the plan and the requests of the next run."""
    if learnt := learn(rows, estimates_of(project)):
        write_json(project.screen.rates, {name: asdict(rate) for name, rate in sorted(learnt.items())})
