"""What the Snakefile needs: receipts, their inputs, their params, and what was left out.

The workflow is static: plates and parts come from the configuration, never from looking at images. One instance lives
as long as the Snakefile is parsed; it imports nothing heavier than pydantic.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES
from plateflow.estimate import Estimate, estimates_of
from plateflow.files import digest, stat_of
from plateflow.model.registry import find_weights, licence_notice, model_spec
from plateflow.paths import PlatePaths
from plateflow.project import Project
from plateflow.state.progress import failure_lines
from plateflow.state.requests import request_digest

SMALL_MODEL = 2**26
"""Bytes up to which a model is hashed while the Snakefile is parsed: a twentieth of a second."""
UNSIZED = {
    "ingest": (2000, 60),
    "tile": (2000, 60),
    "normalise": (2000, 30),
    "infer": (4000, 120),
    "follow": (4000, 60),
    "stitch": (4000, 60),
    "features": (4000, 60),
    "aggregate": (4000, 60),
    "report": (2000, 30),
}
"""Memory (MB) and time (minutes) of a stage's jobs for plates whose sizes the plate sheet does not give."""


class Workflow:
    """The jobs of all plates, by receipt.

    Args:
        config: the configuration, as Snakemake read it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.project = Project.load(config)
        self.config, self.plates = self.project.config, self.project.plates

    def pattern(self, kind: str, stage: str) -> str:
        """A path with wildcards, for a rule: kind is receipt, log or benchmark."""
        job = {"plate": "plate", "slice": "{part}-{slice}"}.get(STAGES[stage].scope, "{part}")
        paths = PlatePaths.of("{plate}", results=self.config.results)
        path: Path = getattr(paths, kind)(stage, job)
        return str(path)

    def screen(self, kind: str) -> str:
        """The path of the receipt, log or benchmark of the page over all plates."""
        path: Path = getattr(self.project.screen, kind)("report", "screen")
        return str(path)

    def receipts(self, plate: str, stage: str) -> list[str]:
        """The receipts of all jobs of a stage in a plate."""
        return [self._receipt(plate, stage, job) for job in STAGES[stage].jobs(self.config)]

    def targets(self) -> list[str]:
        """Every receipt: a missing one is made again even while its old consumers stand."""
        return [receipt for plate in self.plates for stage in STAGES for receipt in self.receipts(plate, stage)] + [
            self.screen("receipt")
        ]

    def inputs(self, stage: str, plate: str, part: int = -1) -> list[str]:
        """The receipts that a job waits for."""
        parts = self.config.parts
        match stage:
            case "tile":
                return self.receipts(plate, "ingest")
            case "normalise":
                return [] if self._frozen(plate) else self.receipts(plate, "tile")
            case "infer":
                tiles = [self._receipt(plate, "tile", str(p)) for p in range(part, parts.cpu, parts.gpu)]
                return [*self.receipts(plate, "normalise"), *tiles]
            case "follow":
                return [self._receipt(plate, "infer", str(part % parts.gpu))]
            case "stitch":
                return [self._receipt(plate, "follow", f"{part}-{j}") for j in range(self.config.follow_slices)]
            case "features":
                return [self._receipt(plate, "stitch", str(part))]
            case "aggregate":
                return self.receipts(plate, "features")
            case "report":
                return self.receipts(plate, "aggregate")
        return []

    def _frozen(self, plate: str) -> bool:
        try:
            return self.plates[plate].has_frozen_window()
        except OSError:  # then the job waits for all tiles, and looks itself
            return False

    def _receipt(self, plate: str, stage: str, job: str) -> str:
        return str(self.plates[plate].paths.receipt(stage, job))

    def params(self, stage: str, plate: str, job: str = "plate") -> str:
        """What makes Snakemake run a job again beside its inputs: parameters, version, requests, fixed files."""
        requests = request_digest(self.plates[plate].paths, stage, job, STAGES[stage].parts(self.config))
        more: list[Any] = [requests]
        if stage == "aggregate":
            # As a declared input, a map that is gone would stop all plates, and one that was exchanged for an older
            # file would not be noticed.
            plate_map = self.plates[plate].spec.plate_map
            more += [plate_map, self._map_stats(plate_map) if plate_map else None]
        settings = self._settings(stage, plate if stage == "ingest" else next(iter(self.plates)))
        return digest(settings, STAGES[stage].version, self.config.parts.model_dump(), more)

    @cache  # noqa: B019
    def _map_stats(self, plate_map: str) -> Any:
        """The stat of a plate map; for a table of barcodes also of the maps and metadata that it leads to."""
        path = Path(plate_map)
        if "barcode" not in path.name.lower():
            return stat_of(plate_map)
        beside = [*path.parent.glob("*"), *path.parent.glob("platemap/*")]
        beside += path.parent.parent.parent.glob("external_metadata/*")
        return [[str(file), stat_of(file)] for file in sorted(beside)]

    @cache  # noqa: B019
    def _settings(self, stage: str, plate: str) -> str:
        """A digest of a stage's parameters; of all stages but ingest they are equal for all plates."""
        settings = digest(self.plates[plate].parameters(stage))
        if stage != "infer":
            return settings
        return digest(settings, [_model_stamp(label_set.model) for label_set in self.config.segmentation.values()])

    def resources(self, stage: str) -> dict[str, Callable[..., int]]:
        """What a rule asks for: mem_mb, and runtime in minutes, growing with the attempt."""

        def growing(kind: str) -> Callable[..., int]:
            return lambda wildcards, attempt: self.first_resources(stage, wildcards.plate)[kind] * attempt

        return {kind: growing(kind) for kind in ("mem_mb", "runtime")}

    @cache  # noqa: B019
    def first_resources(self, stage: str, plate: str) -> dict[str, int]:
        """What a job of a stage asks for at its first attempt: mem_mb, and runtime in minutes."""
        estimate = self._estimates.get(plate)
        return estimate.resources(stage) if estimate else dict(zip(("mem_mb", "runtime"), UNSIZED[stage], strict=True))

    @cached_property
    def _estimates(self) -> dict[str, Estimate]:
        return estimates_of(self.project)

    def licence_notices(self) -> list[str]:
        """What to say, once, about the models whose licence is restricted."""
        notices = []
        for model in dict.fromkeys(label_set.model for label_set in self.config.segmentation.values()):
            try:
                notices.append(licence_notice(find_weights(model)))
            except (ValueError, OSError):
                continue  # infer says what is wrong with it
        return [notice for notice in notices if notice]

    def left_out(self) -> list[str]:
        """What was left out of the plates, one line each."""
        return [str(item) for plate in self.plates.values() for item in plate.left_out()]

    def last_words(self) -> None:
        """Say why a run failed: at the very end, below Snakemake's messages, and should Snakemake crash."""
        failures = failure_lines(self.config, [plate.paths for plate in self.plates.values()])
        reasons = failures or ["Snakemake's messages above say why."]
        print("\nThe run failed:", *reasons, sep="\n", file=sys.stderr)
        print("Fix the cause and rerun `snakemake`: what is done stays done.", file=sys.stderr)


def _model_stamp(name: str) -> Any:
    """What shows that a model's file has changed: the hash of a small file, size and time of a large one."""
    try:
        path = find_weights(name)
        small = path.stat().st_size < SMALL_MODEL
        return model_spec(name).sha256 if small else stat_of(path)
    except (ValueError, OSError):
        return None  # infer says what is wrong with it
