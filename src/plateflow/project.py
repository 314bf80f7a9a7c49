"""A project and its plates: what the Snakefile, the command line and every job ask about them.

Loaded while the Snakefile is parsed, so it imports nothing heavy; what needs arrays imports them when it is called.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plateflow.chain import (
    KEEP_FLOWS,
    SPOTS,
    STAGES,
    THRESHOLDS,
    labels_stage,
    parameters,
    part_of,
    part_of_well,
    stages_of,
)
from plateflow.config import CORRECTED, Config, PlateSpec, load_config, load_plates
from plateflow.errors import ChannelError, PlateflowError, ResultsError
from plateflow.files import digest
from plateflow.paths import PlatePaths, parse_well, well_name
from plateflow.state.corrections import Correction, corrections
from plateflow.state.journal import PLATE_KEY, Entry, Journal, Key, LeftOut, exceptions, item_key, left_out, outcomes
from plateflow.state.requests import request_number

if TYPE_CHECKING:
    from plateflow.images.canvas import Canvas
    from plateflow.segment.grid import Grid

SCREEN = "screen"
"""The folder of the tables over all plates, and the name that takes a plate's place there."""


class Outcomes(dict[Key, Entry]):
    """The latest outcome of each work item of a stage of a plate, by key."""

    def __init__(self, plate: str, stage: str, entries: Mapping[Key, Entry]) -> None:
        super().__init__(entries)
        self.plate, self.stage = plate, stage

    def required(self, well: str = "", label_set: str = "", block: int = -1) -> Entry:
        """The outcome of a work item that a later stage builds on.

        Raises:
            ResultsError: the stage never did it.
        """
        entry = self.get(item_key(well, label_set, block))
        if entry is None:
            target = f"{self.plate}/{well}" if well else self.plate
            raise ResultsError(
                f"{self.stage} has not done this {'well' if well else 'plate'}",
                where="/".join(filter(None, (self.plate, well, label_set))),
                why="its journals have no line about it",
                remedy=f"`snakemake`; if its receipt is there, `plateflow retry {target} --stage {self.stage}` first",
            )
        return entry


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A plate of a project: its line of the plate sheet, its configuration, and what its results tell."""

    config: Config
    spec: PlateSpec

    @property
    def name(self) -> str:
        """The plate id."""
        return self.spec.plate

    @cached_property
    def paths(self) -> PlatePaths:
        """The plate's files."""
        results, scratch = self.config.results, self.config.scratch
        return PlatePaths.of(self.name, results=results, scratch=scratch, raw=self.spec.path)

    @property
    def metadata(self) -> dict[str, Any]:
        """manifest/plate.json, as ingest wrote it last.

        Raises:
            ResultsError: ingest hasn't run, or what it wrote is damaged.
        """
        again = f"`plateflow verify {self.name}`, then `snakemake`"
        try:
            stat = self.paths.metadata.stat()
            return _read_json(self.paths.metadata, stat.st_size, stat.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            what, why, remedy = "the plate has no manifest", "", "run `snakemake`; ingest writes it"
            attempts = Journal.brief(self.paths.journal("ingest", "plate")).attempts
            if self.paths.receipts("ingest", "plate"):
                remedy = again
            elif attempts and attempts[-1].state == "failed":
                why = f"ingest failed: {attempts[-1].error.partition(chr(10))[0]}"
                remedy = f"`plateflow status {self.name}` says more; fix the cause, and run `snakemake`"
            raise ResultsError(what, where=self.name, why=why, remedy=remedy) from None
        except ValueError as error:
            where = str(self.paths.metadata)
            raise ResultsError("the plate's manifest is damaged", where=where, why=str(error), remedy=again) from None

    @property
    def wells(self) -> list[str]:
        """The wells that have raw planes, in the manifest's order."""
        wells: list[str] = self.metadata["wells"]
        return wells

    @property
    def n_columns(self) -> int:
        """Columns of the plate's format."""
        return int(self.metadata["format"][1])

    @property
    def channels(self) -> list[str]:
        """The names of the plate's channels, in order."""
        return [channel["name"] for channel in self.metadata["channels"]]

    def channels_of(self, label_set: str) -> list[str]:
        """The channels in which a label set is segmented.

        Raises:
            ChannelError: the plate lacks one.
        """
        channels = self.config.segmentation[label_set].channels
        if set(channels) - set(self.channels):
            raise ChannelError.missing(
                channels,
                self.channels,
                where=f"{self.name}, label set {label_set}",
                remedy=f"name one of these in segmentation.{label_set}.channels",
            )
        return channels

    def check_well(self, well: str) -> None:
        """Refuse a well that the plate doesn't have.

        Raises:
            PlateflowError: no such well.
            ResultsError: ingest hasn't run.
        """
        if well not in self.wells:
            raise PlateflowError(f"the plate has no well {well}", where=self.name)

    def wells_of(self, stage: str, job: str) -> list[str]:
        """The wells of a job's part, in the manifest's order; all of them for the stages that do a whole plate."""
        if STAGES[stage].scope == "plate":
            return self.wells
        parts, n_columns = STAGES[stage].parts(self.config), self.n_columns
        return [well for well in self.wells if part_of_well(well, parts, n_columns) == part_of(job)]

    def part_of_well(self, stage: str, well: str) -> int:
        """The part of a stage that a well belongs to."""
        return part_of_well(well, STAGES[stage].parts(self.config), self.n_columns)

    def parameters(self, stage: str, label_set: str | None = None) -> dict[str, Any]:
        """The parameters of a stage, for one label set or for all; see `plateflow.chain.parameters`."""
        return parameters(self.config, stage, self.spec, label_set)

    def outcomes(self, stage: str) -> Outcomes:
        """The latest outcome of each work item of a stage.

        Of `stitch`, those whose labels `infer` has replaced since, as flow fields weren't kept, vouch for nothing.
        """
        entries = outcomes(self.paths.journals(stage))
        if stage == "stitch":
            over = {key for key, entry in outcomes(self.paths.journals("infer")).items() if KEEP_FLOWS in entry.depends}
            void: dict[str, Any] = {"fingerprint": "", "depends": {KEEP_FLOWS: ""}, "files": {}}
            entries |= {key: replace(entries[key], **void) for key in over & entries.keys()}
        return Outcomes(self.name, stage, entries)

    def grid(self, label_set: str) -> Grid:
        """The network's grid for a label set.

        Raises:
            ConfigError, ModelError: as in `segment.grid.grid_for`.
        """
        from plateflow.segment.grid import grid_for

        return grid_for(self.config, label_set, self.metadata, plate=self.name)

    def canvases(self, well: str, label_set: str = "") -> list[Canvas]:
        """The canvases of a well, without the fields that tile left out: the same for every stage that asks.

        For a label set in three dimensions they are volumes; planes where no label set is named.
        """
        from plateflow.images.canvas import canvases
        from plateflow.images.well import WellImage

        tile = self.outcomes("tile").get(item_key(well))
        settings = self.config.segmentation.get(label_set)
        dimensions, channels = (settings.dimensions, settings.channels) if settings else (2, [])
        layout = WellImage.open(self.paths, well).layout
        return canvases(layout, tile.fields if tile else (), self.config.z, dimensions, channels)

    def label_sets(self, well: str) -> list[str]:
        """The label sets that a well has: those whose channels it has, at some time point all together."""
        from plateflow.images.well import WellImage

        layout = WellImage.open(self.paths, well).layout
        return [name for name, settings in self.config.segmentation.items() if layout.shows(settings.channels)]

    def segmented(self, well: str) -> list[str]:
        """Those of them that the network makes."""
        return [name for name in self.label_sets(well) if name in self.config.segmented]

    def labelled(self, label_set: str) -> Outcomes:
        """The outcomes of the stage that makes the labels of a label set, by well and label set: of one that is made
        from others, those of `features`.
        """
        if label_set in self.config.segmented:
            return self.outcomes(labels_stage(self.config))
        entries = {item_key(entry.well, label_set): entry for entry in self.outcomes("features").values()}
        return Outcomes(self.name, "features", entries)

    def labels_name(self, well: str, label_set: str) -> str:
        """The labels of a well that stand for a label set: the pipeline's, or corrected ones, as the store has them."""
        corrected = self.paths.image(well) / "labels" / (label_set + CORRECTED)
        return corrected.name if (corrected / "zarr.json").is_file() else label_set

    def correction(self, well: str, label_set: str) -> Correction | None:
        """The correction by hand that is in use for a label set of a well; None where there is none, or it was drawn on
        other images.

        Raises:
            ResultsError: tile has not done the well.
        """
        found = corrections(self.paths).get((well, label_set))
        return found if found and found.images == self.labelled_image(well, label_set) else None

    def corrected(self, well: str) -> dict[str, str]:
        """What the features of a well depend on of corrections, by a name that says so; errors as of `correction`."""
        names = [name for of_well, name in corrections(self.paths) if of_well == well and name in self.label_sets(well)]
        return {f"corrected {name}": each.name for name in names if (each := self.correction(well, name))}

    def labelled_image(self, well: str, label_set: str) -> str:
        """A digest of what labels of a well are drawn on: the pixels of its raw files, and its canvases.

        Raises:
            ResultsError: tile has not done the well.
        """
        raw = self.outcomes("tile").required(well).raw
        pixels = [[name, known and known[2]] for name, known in sorted(raw.items())]
        return digest(pixels, [asdict(canvas) for canvas in self.canvases(well, label_set)])

    def labels_id(self, well: str, label_set: str) -> str:
        """A digest of the pipeline's labels of a label set of a well, from the stamps of their files.

        Raises:
            ResultsError: they weren't made.
        """
        files = self.labelled(label_set).required(well, label_set).files
        return digest(sorted([name, *stamp] for name, stamp in files.items() if f"/labels/{label_set}/" in name))

    def doubts(self) -> list[str]:
        """What to look at before the plate is believed, as `aggregate` has found it: a drift, a poor segmentation."""
        if not (entry := self.outcomes("aggregate").get(PLATE_KEY)):
            return []
        found: dict[str, list[str]] = {}
        for doubt in entry.info.get("segmentation", ()):
            found.setdefault(doubt["label_set"], []).append(doubt["line"])
        return [
            *(f"look at the intensities: {what}" for what in entry.info.get("doubts", ())),
            *(
                f"look at the segmentation: {'; '.join(lines)}: check channels, diameter and model of "
                f"segmentation.{name}"
                for name, lines in found.items()
            ),
            *(f"look at the populations: {what}" for what in entry.info.get("gates", {}).get("doubts", ())),
            *(f"look at the corrections: {what}" for what in entry.info.get("corrections", ())),
        ]

    def left_out(self) -> list[LeftOut]:
        """What was left out of the plate, by its journals; nothing as long as it isn't ingested."""
        stages = stages_of(self.config)
        return self.left_out_of((stage, entry) for stage in stages for entry in exceptions(self.paths.journals(stage)))

    def left_out_of(self, entries: Iterable[tuple[str, Entry]]) -> list[LeftOut]:
        """The same by some outcomes, each with its stage; those of former wells and label sets are history."""
        try:
            wells = set(self.wells)
        except (OSError, ValueError, ResultsError):
            return []
        sets = ("", *self.config.segmented)
        current = ((stage, entry) for stage, entry in entries if entry.well in wells and entry.label_set in sets)
        return list(left_out(self.name, current))

    def has_frozen_window(self) -> bool:
        """Whether window.json bears the configured freeze number, and was computed as configured."""
        try:
            return self.is_frozen_window(json.loads(self.paths.window.read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False  # not where it can't be read for a moment: a frozen window would be computed again

    def is_frozen_window(self, window: Mapping[str, Any]) -> bool:
        """Whether a window bears the configured freeze number, was computed as configured, and since it was last asked,
        and knows the thresholds of all spots and stains.

        Args:
            window: content of window.json; one that knows nothing of light is of an earlier release.
        """
        parameters = self.parameters("normalise")
        stains = (window.get(THRESHOLDS, {}).get(channel) for channel in parameters.get(THRESHOLDS, ()))
        if not self.has_frozen_limits(window) or any(threshold is None for threshold in stains):
            return False
        try:
            asked = self.backgrounds_asked() if SPOTS in parameters else {}
        except PlateflowError:  # no manifest, or sizes that don't fit it: who needs them says so
            return False
        known = window.get(SPOTS, {})
        return all(each.items() <= known.get(name, {}).items() for name, each in asked.items())

    def backgrounds_asked(self) -> dict[str, dict[str, Any]]:
        """What decides the thresholds of spots that are the plate's; see `segment.fits.backgrounds_asked`.

        Raises:
            ConfigError, ResultsError: sizes don't fit the plate, or it has no manifest.
        """
        from plateflow.segment.fits import backgrounds_asked

        return backgrounds_asked(self.config, self.metadata)

    def has_frozen_limits(self, window: Mapping[str, Any]) -> bool:
        """The same, whatever it says of spots and stains: those that are asked for later change no limit."""
        parameters = self.parameters("normalise")
        settings = {key: value for key, value in parameters.items() if key not in (SPOTS, THRESHOLDS)}
        wanted = {"settings": settings, "freeze": settings["freeze"]}
        asked = request_number(self.paths, "normalise", "")  # 0 where the requests are lost, too: that asks for nothing
        return "light" in window and wanted.items() <= window.items() and asked in (0, window["request"])


@lru_cache(maxsize=1024)
def _read_json(path: Path, _size: int, _mtime_ns: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    if not {"wells", "format"} <= content.keys():
        raise ValueError("it lacks wells or format")
    return content


@dataclass(frozen=True, kw_only=True)
class Project:
    """A configuration and its plates, by plate id, in the order of the sheet."""

    config: Config
    plates: dict[str, Plate]

    @classmethod
    def load(cls, source: Path | Mapping[str, Any]) -> Project:
        """Read the configuration, from a file or from what Snakemake made of it, and the plate sheet that it names.

        Raises:
            ConfigError: as in `load_config` and `load_plates`.
        """
        config = load_config(source)
        return cls.of(config, load_plates(Path(config.plates)))

    @classmethod
    def of(cls, config: Config, specs: Mapping[str, PlateSpec]) -> Project:
        """A project from what was read."""
        return cls(config=config, plates={name: Plate(config=config, spec=spec) for name, spec in specs.items()})

    @cached_property
    def screen(self) -> PlatePaths:
        """The files over all plates."""
        return PlatePaths.of(SCREEN, results=self.config.results, scratch=self.config.scratch)

    def plate(self, name: str) -> Plate:
        """A plate by its id.

        Raises:
            PlateflowError: no such plate.
        """
        if name not in self.plates:
            raise PlateflowError(
                f"there is no plate {name!r}",
                where=self.config.plates,
                remedy=f"the plates are {', '.join(list(self.plates)[:20])}",
            )
        return self.plates[name]

    def target(self, text: str) -> tuple[Plate, str]:
        """A plate and a well (empty: the whole plate) from PLATE or PLATE/WELL.

        Raises:
            PlateflowError: no such plate, or no well name.
        """
        name, _, well = text.partition("/")
        plate = self.plate(name)
        if well:
            try:
                well = well_name(*parse_well(well))
            except ValueError as error:
                raise PlateflowError(str(error), where=text) from None
        return plate, well
