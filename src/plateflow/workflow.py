"""What the Snakefile needs: receipts, their inputs, their params, and what was left out.

The plan is static: plates and parts come from the configuration, never from looking at images. One instance lives as
long as the Snakefile is parsed; it imports nothing heavier than pydantic.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES, parameters, window_is_frozen
from plateflow.config import Config, PlateEntry, load_config, load_plates
from plateflow.estimate import Estimate, estimates_of
from plateflow.files import digest, stat_of
from plateflow.model.registry import find_weights, licence_notice, model_info
from plateflow.paths import PlatePaths
from plateflow.state.left_out import left_out_lines
from plateflow.state.requests import asked

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
"""Memory (MB) and time (minutes) of a stage's jobs in plates whose sizes the plate sheet doesn't give."""


class Plan:
    """The jobs of all plates, by receipt."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config: Config = load_config(config)
        self.plates: dict[str, PlateEntry] = load_plates(Path(self.config.plates))

    @cache  # noqa: B019  (one instance a process)
    def paths(self, plate: str) -> PlatePaths:
        """The files of a plate."""
        return PlatePaths.of(plate, results=self.config.results, scratch=self.config.scratch)

    def pattern(self, kind: str, stage: str) -> str:
        """A path with wildcards, for a rule: kind is receipt, log or benchmark."""
        job = {"plate": "plate", "slice": "{part}-{slice}"}.get(STAGES[stage].scope, "{part}")
        path: Path = getattr(self.paths("{plate}"), kind)(stage, job)
        return str(path)

    def screen(self, kind: str) -> str:
        """The path of the receipt, log or benchmark of the page over all plates."""
        path: Path = getattr(PlatePaths.of("screen", results=self.config.results), kind)("report", "screen")
        return str(path)

    def receipts(self, plate: str, stage: str) -> list[str]:
        """The receipts of all jobs of a stage in a plate."""
        return [str(self.paths(plate).receipt(stage, job)) for job in STAGES[stage].jobs(self.config)]

    def targets(self) -> list[str]:
        """Every receipt: a missing one is made again even while its old consumers stand."""
        return [receipt for plate in self.plates for stage in STAGES for receipt in self.receipts(plate, stage)] + [
            self.screen("receipt")
        ]

    def inputs(self, stage: str, plate: str, part: int = -1) -> list[str]:
        """The receipts that a job waits for."""
        paths, config = self.paths(plate), self.config
        match stage:
            case "tile":
                return self.receipts(plate, "ingest")
            case "normalise":
                return [] if self.frozen(plate) else self.receipts(plate, "tile")
            case "infer":
                tiles = range(part, config.parts.cpu, config.parts.gpu)
                return [*self.receipts(plate, "normalise"), *(str(paths.receipt("tile", str(p))) for p in tiles)]
            case "follow":
                return [str(paths.receipt("infer", str(part % config.parts.gpu)))]
            case "stitch":
                return [str(paths.receipt("follow", f"{part}-{j}")) for j in range(config.follow_slices)]
            case "features":
                return [str(paths.receipt("stitch", str(part)))]
            case "aggregate":
                return self.receipts(plate, "features")
            case "report":
                return self.receipts(plate, "aggregate")
        return []

    def frozen(self, plate: str) -> bool:
        """Whether the plate's intensity window bears the configured freeze number and settings."""
        try:
            window = json.loads(self.paths(plate).window.read_text())
        except (OSError, ValueError):
            return False
        return window_is_frozen(window, self.config)

    def params(self, stage: str, plate: str, job: str = "plate") -> str:
        """What makes Snakemake run a job again beside its inputs: parameters, version, requests, mended files."""
        parts = self.config.parts.gpu if STAGES[stage].scope == "gpu" else self.config.parts.cpu
        question: list[Any] = [asked(self.paths(plate), stage, job, parts)]
        if stage == "aggregate":
            # As a declared input, a map that is gone would stop all plates, and one that was exchanged for an older
            # file would not be noticed.
            plate_map = self.plates[plate].plate_map
            question += [plate_map, self._map_stats(plate_map) if plate_map else None]
        return digest(
            self._settings_digest(stage, plate), STAGES[stage].version, self.config.parts.model_dump(), question
        )

    @cache  # noqa: B019
    def _map_stats(self, plate_map: str) -> Any:
        """The stat of a plate map; of a table of barcodes also of the maps and metadata that it leads to."""
        path = Path(plate_map)
        if "barcode" not in path.name.lower():
            return stat_of(plate_map)
        beside = [*path.parent.glob("*"), *path.parent.glob("platemap/*")]
        beside += path.parent.parent.parent.glob("external_metadata/*")
        return [[str(file), stat_of(file)] for file in sorted(beside)]

    def resources(self, stage: str) -> dict[str, Callable[..., int]]:
        """What a rule asks for: mem_mb, and runtime in minutes, growing with the attempt."""

        def memory(wildcards: Any, attempt: int) -> int:
            return self.request(stage, wildcards.plate)["mem_mb"] * attempt

        def minutes(wildcards: Any, attempt: int) -> int:
            return self.request(stage, wildcards.plate)["runtime"] * attempt

        return {"mem_mb": memory, "runtime": minutes}

    @cache  # noqa: B019
    def request(self, stage: str, plate: str) -> dict[str, int]:
        """What a job of a stage asks for the first time: mem_mb, and runtime in minutes."""
        estimate = self._estimates.get(plate)
        return estimate.request(stage) if estimate else dict(zip(("mem_mb", "runtime"), UNSIZED[stage], strict=True))

    @cached_property
    def _estimates(self) -> dict[str, Estimate]:
        return estimates_of(self.config, self.plates)

    def _settings(self, stage: str, plate: str) -> dict[str, Any]:
        return parameters(self.config, stage, self.plates[plate])

    @cache  # noqa: B019
    def _settings_digest(self, stage: str, plate: str) -> str:
        shared = stage != "ingest"
        return self._shared_digests[stage] if shared else digest(self._settings(stage, plate))

    @cached_property
    def _shared_digests(self) -> dict[str, str]:
        entry = next(iter(self.plates.values()))
        digests = {stage: digest(parameters(self.config, stage, entry)) for stage in STAGES}
        models = [_model_stamp(label_set.model) for label_set in self.config.segmentation.values()]
        return digests | {"infer": digest(digests["infer"], models)}

    def licence_notices(self) -> list[str]:
        """What to tell, once, of the models whose licence is restricted."""
        notices = []
        for model in dict.fromkeys(label_set.model for label_set in self.config.segmentation.values()):
            try:
                notices.append(licence_notice(find_weights(model)))
            except (ValueError, OSError):
                continue  # infer says what is wrong with it
        return [notice for notice in notices if notice]

    def left_out(self) -> list[str]:
        """What was left out of the plates, one line each, from the receipts."""
        return [line for plate in self.plates for line in left_out_lines(self.paths(plate))]

    def last_words(self) -> None:
        """Say why a run ended without success: at the very end, below Snakemake's messages, and should it crash."""
        from plateflow.state.progress import failure_lines

        failures = failure_lines(self.config, [self.paths(plate) for plate in self.plates])
        print(
            "\nThe run didn't end well:",
            *(failures or ["Snakemake's messages above say why."]),
            sep="\n",
            file=sys.stderr,
        )
        print("Mend it and run `snakemake` again: what is done stays done.", file=sys.stderr)


def _model_stamp(name: str) -> Any:
    """What shows that a model's file is another one: the hash of a small file, size and time of a large one."""
    try:
        path = find_weights(name)
        small = path.stat().st_size < SMALL_MODEL
        return model_info(name).sha256 if small else stat_of(path)
    except (ValueError, OSError):
        return None  # infer says what is wrong with it
