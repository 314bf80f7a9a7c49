"""What a job will need: processor time, memory, bytes, storage; from a plate's sizes and a table of measured rates.

Every estimate is a line: so much for a job, whatever it does, and so much for a unit of its work (time), of what it
holds at once (memory), or of what it reads and writes. `work`, `held` and `moved` say what a unit is. The table was
measured with the default model (docs/scale.md); `learn` refines it from the ledger of real runs. Loaded while the
Snakefile is parsed: imports nothing heavy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from plateflow.chain import stages_of
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
FILE_OVER_HELD = 33  # of a cell, its row in a file over what `aggregate` holds of it
BLOCK_MPX = 537
"""Values of an image block of 1 GiB: the most that `tile` holds of a level."""
CELLS_PER_MPX = 470.0
DEFAULT_MODEL_MB = 13.4
"""Size of the default model's weights file, with which the table was measured."""
LARGE_MODEL = 1220.0, 740 / 315
"""A ViT-L on a GPU: size of its weights file, MB, and what one of its tiles costs in tiles of the default model.
Measured on an H100 in bfloat16: infer jobs of 96 fields of 1080 px ran 740 tiles per second with the default model and
315 with a ViT-L. What lies between is taken as a line; on a CPU a tile costs in proportion to the weights."""
LEARN_MB = 100.0
"""Only jobs whose memory grows by so much with what they hold say how much that is; so of bytes that are written."""


@dataclass(frozen=True)
class Rate:
    """The rates of a stage: processor seconds and MB (10^6 bytes) of a job, and of a unit of its work.

    `read_mb` is what a job reads whatever it does: Python's modules, weights, journals.
    """

    seconds: float
    per_unit: float
    memory_mb: float
    memory_per_unit: float = 0.0
    read_mb: float = 0.0
    read_per_unit: float = 0.0
    written_per_unit: float = 0.0


# Measured; see docs/scale.md, also for what isn't: on a GPU, a job's start, its memory, and the time of labels.
# Bytes: `python bench/traffic.py`.
RATES = {
    # seconds, a unit; memory, a unit (MB); read, a unit; written, a unit (MB)
    "ingest": Rate(1.0, 0.00025, 215, 0.01, 4, 0.0018, 0.0007),
    "tile": Rate(1.25, 0.019, 297, 5, 10, 2, 1.75),
    "normalise": Rate(0.4, 0.008, 120, 0.005, 8, 0.011, 0),
    "infer cpu": Rate(2.6, 0.32, 570, 79, 112, 1.32, 2.06),
    "infer cpu labels": Rate(3.0, 0.34, 700, 99, 122, 1.33, 0.113),
    "infer cuda": Rate(15.0, 1 / 740, 2200, 79, 112, 1.32, 2.06),
    "infer cuda labels": Rate(15.0, 1 / 220, 2200, 99, 122, 1.33, 0.113),
    "follow": Rate(1.0, 0.3, 250, 62, 25, 2.71, 0.092),
    "stitch": Rate(1.9, 0.32, 290, 28, 37, 2.05, 0.106),
    "stitch ends": Rate(1.4, 0.12, 290, 28, 37, 2.26, 0.106),
    "features": Rate(2.2, 0.29, 331, 16, 35, 1.38, 0.71),
    "aggregate": Rate(2.4, 0.013, 295, 0.02, 38, 0.794, 0.19),
    "report": Rate(5.0, 0.1, 540, 0.5, 52, 7.3, 0.12),
    "screen": Rate(5.0, 0.006, 450, 0.002, 0, 0, 0),
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
        """Pixels of all label sets of a well that the network makes, in millions."""
        return self._planes * self.size.fields * self.size.field_mpx * len(self.config.segmented)

    @cached_property
    def tiles(self) -> int:
        """Tiles of a well, over its label sets; a volume is run along three axes. Canvases are taken as squares."""
        overlap = TILE // 2 if self.config.augment else OVERLAP
        canvases = max(1.0, self.size.fields * self.size.field_mpx / self.size.canvas_mpx)
        tiles = 0
        for name, label_set in self.config.segmented.items():
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
        return self.size.wells * self.label_mpx / len(self.config.segmented) * CELLS_PER_MPX

    def work(self, stage: str) -> float:
        """The work of a plate in a stage: in planes (ingest, normalise), raw Mpx (tile), tiles (infer), Mpx of labels
        (follow, stitch), that by channel (features), thousand cells by channel and label set (aggregate), wells
        (report)."""
        size = self.size
        match stage:
            case "ingest" | "normalise":
                return size.wells * size.fields * size.channels * size.z * size.t
            case "tile":
                return size.wells * size.raw_mpx
            case "infer":
                return size.wells * self.tiles
            case "follow" | "stitch":
                return size.wells * self.label_mpx
            case "features":
                return self.cells / CELLS_PER_MPX * size.channels * len(self.config.segmentation)
            case "aggregate":
                return self._values
        return size.wells

    @cached_property
    def _values(self) -> float:
        """What the cell tables hold: thousand cells by channel and label set."""
        return self.cells / 1000 * self.size.channels * len(self.config.segmentation)

    def moved(self, stage: str) -> tuple[float, float]:
        """What the bytes that a stage reads and writes of a plate grow with, where it isn't the work of both.

        Images are read as Mpx over all channels, of `infer` over those of its label sets (a model reads each once, but
        for volumes); flow fields, end points and labels as Mpx of labels, tables as `_values`.
        """
        size, work, sets = self.size, self.work(stage), self.config.segmented.items()
        match stage:
            case "infer":
                read = {(s.model, s.dimensions == 3 and name, channel) for name, s in sets for channel in s.channels}
                return size.wells * size.raw_mpx * len(read) / size.channels, size.wells * self.label_mpx
            case "features":
                return size.wells * size.raw_mpx, self._values
            case "aggregate":
                return work, size.wells
        return work, work

    def held(self, stage: str) -> float:
        """What a job holds at once: Mpx of a canvas, by channel (and label set) where it holds these; of the stages of
        a plate their work."""
        canvas = self.size.canvas_mpx
        depth = self._planes / self.size.t if any(s.dimensions == 3 for s in self.config.segmentation.values()) else 1
        block = min(canvas * depth, self.config.follow_block_px**2 / 1e6)
        match stage:
            case "tile":
                return min(self.size.image_mpx * self.size.channels, BLOCK_MPX)
            case "infer":
                return canvas * depth
            case "follow":
                return block
            case "stitch":  # which follows block after block, unless there are jobs for that
                return canvas * depth + (2 * block if self.config.follow_slices == 1 else 0)
            case "features":
                return canvas * depth * (self.size.channels + len(self.config.segmentation))
            case "aggregate":  # and the table of a well
                return self.work(stage) * (1 + FILE_OVER_HELD / self.size.wells)
        return self.work(stage)

    def rate_name(self, stage: str) -> str:
        """The row of the table for a stage as it is configured; `auto` is CUDA until only CPUs were seen."""
        if stage == "infer":
            return f"infer {self.device}" + ("" if self.config.keep_flows else " labels")
        return "stitch ends" if stage == "stitch" and self.config.follow_slices > 1 else stage

    def rate(self, stage: str) -> Rate:
        """The rates of a stage as it is configured."""
        return self.rates[self.rate_name(stage)]

    def cost(self, name: str) -> float:
        """What a unit of a row of the table costs with this model, in units with the default one: of `infer` alone."""
        if not name.startswith("infer"):
            return 1.0
        device, times = name.split()[1], self.model_mb / DEFAULT_MODEL_MB
        if device == "cuda":
            large_mb, large = LARGE_MODEL
            times = 1 + (large - 1) * (self.model_mb - DEFAULT_MODEL_MB) / (large_mb - DEFAULT_MODEL_MB)
        network = RATES[f"infer {device}"].per_unit / RATES[name].per_unit  # labels cost the same with any model
        return 1 + network * max(0.0, times - 1)

    def jobs(self, stage: str) -> int:
        """Jobs of a stage in a plate; none of a stage that the configuration lacks."""
        step = stages_of(self.config).get(stage)
        return len(list(step.jobs(self.config))) if step else 0

    def hours(self, stage: str) -> float:
        """Hours that all jobs of a stage take: of one processor, or of the GPU."""
        return self.seconds(stage) * self.jobs(stage) / 3600

    def seconds(self, stage: str) -> float:
        """Seconds that a job of a stage takes: of one processor, or of the GPU."""
        rate, jobs = self.rate(stage), self.jobs(stage)
        return rate.seconds + self._per_unit(stage) * self.work(stage) / jobs if jobs else 0.0

    def _per_unit(self, stage: str) -> float:
        return self.rate(stage).per_unit * self.cost(self.rate_name(stage))

    def memory_mb(self, stage: str) -> float:
        """Peak memory of a job of a stage, MB, without Snakemake's own."""
        rate = self.rate(stage)
        weights = 2.5 * (self.model_mb - DEFAULT_MODEL_MB) if stage == "infer" else 0.0  # the file, and the network
        return rate.memory_mb + rate.memory_per_unit * self.held(stage) + weights

    def resources(self, stage: str) -> dict[str, int]:
        """What a job of a stage asks for the first time: mem_mb, and runtime in minutes."""
        return _resources(self.seconds(stage), self.memory_mb(stage))

    def moved_gb(self, stage: str) -> tuple[float, float]:
        """GB (10^9 bytes) that the jobs of a stage read and write of a plate."""
        jobs = self.jobs(stage)
        if not jobs:
            return 0.0, 0.0
        rate, (read, written) = self.rate(stage), self.moved(stage)
        return (jobs * rate.read_mb + rate.read_per_unit * read) / 1000, rate.written_per_unit * written / 1000

    def traffic_gb(self) -> dict[str, float]:
        """GB that a plate's jobs read and write, by stage."""
        return {stage: sum(self.moved_gb(stage)) for stage in stages_of(self.config)}

    def change_hours(self) -> dict[str, float]:
        """Hours of "gpu" and "cpu" until there are labels again, once a threshold of the segmentation changed."""
        hours = sum(self.hours(name) for name in (("follow", "stitch") if self.config.keep_flows else ("infer",)))
        on_gpu = not self.config.keep_flows and self.device == "cuda"
        return {"gpu": hours if on_gpu else 0.0, "cpu": 0.0 if on_gpu else hours}

    def storage(self) -> dict[str, float]:
        """GB (10^9 bytes) and files of a plate's results and scratch; raw pixels have two bytes."""
        size, sets, levels = self.size, len(self.config.segmentation), self.config.levels
        planes = size.t * size.z
        regions = min(math.ceil(size.image_mpx * size.channels / BLOCK_MPX), 4 * size.fields)  # with a field in them
        shards = levels * (planes + sets * self._planes) * regions
        jobs = sum(self.jobs(stage) for stage in stages_of(self.config))
        blocks = math.ceil(math.sqrt(size.canvas_mpx) * 1000 / self.config.follow_block_px) ** 2
        canvases = max(1.0, size.fields * size.field_mpx / size.canvas_mpx) * self._planes * len(self.config.segmented)
        written = {stage: self.moved_gb(stage)[1] for stage in stages_of(self.config)}
        scratch = [stage for stage in ("infer", "follow") if stage in written and self.config.keep_flows]
        return {
            "result_gb": sum(amount for stage, amount in written.items() if stage not in scratch),
            "result_files": size.wells * (6 + levels + sets * (1 + levels) + shards + 2 + sets) + 4 * jobs,
            "scratch_gb": sum(written[stage] for stage in scratch),
            "scratch_files": size.wells * canvases * (len(scratch) and 1 + blocks * (len(scratch) - 1)),
            "raw_gb": size.wells * size.raw_mpx * 2e6 / 1e9,
        }

    def propose(self) -> dict[str, int]:
        """`parts` with which a GPU job lasts 5 to 30 minutes, or does a whole plate where that is shorter, and no job
        of a CPU stage more than 30; those of the configuration where they do."""
        rate, parts = self.rate("infer"), self.config.parts
        stages = [stage for stage in ("tile", "follow", "stitch", "features") if self.jobs(stage)]
        enough = self.seconds("infer") >= 300 or parts.gpu == 1
        if enough and max(self.seconds(stage) for stage in ("infer", *stages)) <= 1800:
            return parts.model_dump()
        gpu = min(
            max(1, math.ceil(self._per_unit("infer") * self.work("infer") / (1800 - rate.seconds))),
            self.size.wells,
            384,
        )
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
        the rates of the stages of which enough was seen: time and bytes for a unit are the mean over all work that was
        done, memory for a unit the most that was seen, as too little of it kills a job.
    """
    seen: dict[str, _Seen] = {}
    for row in rows:
        stage, estimate = row["stage"], estimates.get(row["plate"])
        if estimate is None or row["state"] != "ok" or not row["share"]:
            continue
        device = ("cuda" if row["gpus"] else "cpu") if stage == "infer" else ""
        name = " ".join(filter(None, (stage, device, row["mode"])))
        seen.setdefault(name, _Seen(RATES[name])).add(row, estimate, name)
    return {name: rate for name, all_seen in seen.items() if (rate := all_seen.learnt()) != RATES[name]}


@dataclass
class _Seen:
    """What jobs of a row of the table used, beyond what a job needs whatever it does, and for how much work."""

    rate: Rate
    seconds: float = 0.0
    work: float = 0.0
    read_mb: float = 0.0
    written_mb: float = 0.0
    to_read: float = 0.0
    to_write: float = 0.0
    memory_per_unit: float = 0.0

    def add(self, row: Mapping[str, Any], estimate: Estimate, name: str) -> None:
        rate, stage = self.rate, row["stage"]
        spent = row["seconds"] if name.startswith("infer cuda") else row["cpu_s"]
        self.seconds += max(0.0, spent - rate.seconds)
        self.work += estimate.work(stage) * estimate.cost(name) * row["share"]
        if row["read_mb"] is not None and row["written_mb"] is not None:
            to_read, to_write = (amount * row["share"] for amount in estimate.moved(stage))
            self.read_mb += max(0.0, row["read_mb"] - rate.read_mb)
            self.written_mb += row["written_mb"]
            self.to_read, self.to_write = self.to_read + to_read, self.to_write + to_write
        held = estimate.held(stage)
        if row["peak_mb"] and rate.memory_per_unit * held > LEARN_MB:  # what it holds, not its start, was measured
            self.memory_per_unit = max(self.memory_per_unit, (row["peak_mb"] - rate.memory_mb) / held)

    def learnt(self) -> Rate:
        rate = self.rate
        if self.seconds > 5 * rate.seconds:  # else it is the start of the jobs that was measured; so of bytes
            rate = replace(rate, per_unit=self.seconds / self.work)
        if self.read_mb > 5 * rate.read_mb:
            rate = replace(rate, read_per_unit=self.read_mb / self.to_read)
        if self.written_mb > LEARN_MB:
            rate = replace(rate, written_per_unit=self.written_mb / self.to_write)
        return replace(rate, memory_per_unit=self.memory_per_unit) if self.memory_per_unit else rate


def estimates_of(project: Project) -> dict[str, Estimate]:
    """What the plates need, by id, at the rates that earlier runs showed; without plates of unknown size."""
    config = project.config
    model_mb, diameters = DEFAULT_MODEL_MB, {}
    for name, label_set in config.segmented.items():
        try:
            model_mb = max(model_mb, find_weights(label_set.model).stat().st_size / 1e6)
            sized = label_set.diameter_um or label_set.diameter_px
            diameters[name] = model_spec(label_set.model).diameter if sized else None
        except (ValueError, OSError):
            continue  # infer says what is wrong with it
    try:
        values = json.loads(project.screen.rates.read_text())
        learnt = {name: replace(RATES[name], **value) for name, value in values.items()}
    except (OSError, ValueError, TypeError, KeyError):  # of another release, too
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
