"""What the Snakefile needs: receipts, their inputs, their params, and what was left out.

The plan is static: plates and parts come from the configuration, never from looking at images. One instance lives as
long as the Snakefile is parsed; it imports nothing heavier than pydantic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from plateflow.config import Config, PlateEntry, load_config, load_plates
from plateflow.paths import PlatePaths
from plateflow.state.journal import LEFT_OUT
from plateflow.state.requests import asked
from plateflow.state.stages import STAGES, digest, parameters, window_is_frozen


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
        """The receipts (and the plate map) that a job waits for."""
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
                plate_map = self.plates[plate].plate_map
                return [*self.receipts(plate, "features"), *([plate_map] if plate_map else [])]
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
        question = asked(self.paths(plate), stage, job, parts)
        return digest(
            self._settings_digest(stage, plate), STAGES[stage].version, self.config.parts.model_dump(), question
        )

    def _settings(self, stage: str, plate: str) -> dict[str, Any]:
        return parameters(self.config, stage, self.plates[plate])

    @cache  # noqa: B019
    def _settings_digest(self, stage: str, plate: str) -> str:
        shared = stage != "ingest"
        return self._shared_digests[stage] if shared else digest(self._settings(stage, plate))

    @cached_property
    def _shared_digests(self) -> dict[str, str]:
        entry = next(iter(self.plates.values()))
        return {stage: digest(parameters(self.config, stage, entry)) for stage in STAGES}

    def left_out(self) -> list[str]:
        """What was left out of the plates, one line each, from the receipts."""
        return [line for plate in self.plates for line in left_out_lines(self.paths(plate), self.config)]


def left_out_lines(paths: PlatePaths, config: Config) -> Iterator[str]:
    """What was left out of a plate: plate, well, field, stage, reason, detail; each once, at its first stage."""
    seen: set[tuple[str, str]] = set()
    for stage in STAGES:
        for job in STAGES[stage].jobs(config):
            try:
                receipt = json.loads(paths.receipt(stage, job).read_text())
            except (OSError, ValueError):
                continue
            for item in receipt["left_out"]:
                detail = f" ({item['detail']})" if item["detail"] else ""
                fields = item.get("fields", {})
                whole = item["state"] in LEFT_OUT
                reason = ", ".join(dict.fromkeys(fields.values())) if whole and fields else item["reason"]
                for field, why in {"": reason}.items() if whole else fields.items():
                    if seen & {(item["well"], ""), (item["well"], field)}:
                        continue
                    seen.add((item["well"], field))
                    place = f"{paths.plate}/{item['well']}" + (f" field {field}" if field else "")
                    yield f"{place}: {item['state'] if whole else 'quarantined'} at {stage}: {why}{detail}"
