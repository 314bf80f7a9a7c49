"""The plates below a folder of results as they are at a request: they may be made while they are seen."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES
from plateflow.config import CORRECTED
from plateflow.errors import PlateflowError, ResultsError
from plateflow.files import stat_of
from plateflow.images.canvas import canvases
from plateflow.images.layout import FieldBox
from plateflow.images.ngff import colour
from plateflow.images.well import WellImage
from plateflow.paths import PlatePaths, parse_well
from plateflow.project import Project
from plateflow.report.thumbnails import OUTLINES
from plateflow.state.journal import exceptions, left_out, outcomes
from plateflow.viewer.tiles import OVERLAP_PX, TILE_PX, Look, n_levels, parts

CACHE_BYTES = 2**27
"""Of drawn tiles: those of some hundred screens."""
AT_ONCE = os.cpu_count() or 1
"""Tiles that are drawn at a time: more would only share the processors, and take memory."""
COLOUR_CORRECTED = "#3fd0ff"
"""Outlines of labels that were corrected by hand."""


class Missing(PlateflowError):
    """There is no such plate or well below the results."""


@dataclass(frozen=True, kw_only=True)
class ShownPlate:
    """A plate whose files had these times; what was read of it counts as long as they are the same."""

    paths: PlatePaths
    z: str
    stamp: tuple[Any, ...]
    _images: dict[str, tuple[WellImage, list[FieldBox]]] = field(default_factory=dict, init=False, compare=False)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """manifest/plate.json."""
        try:
            content: dict[str, Any] = json.loads(self.paths.metadata.read_text())
        except (FileNotFoundError, ValueError):
            remedy = "run `snakemake`; ingest writes it"
            raise ResultsError("the plate has no manifest", where=str(self.paths.metadata), remedy=remedy) from None
        return content

    @cached_property
    def _outcomes(self) -> dict[str, Any]:
        return {str(key[0]): entry for key, entry in outcomes(self.paths.journals("tile")).items() if key[0]}

    def image(self, well: str) -> tuple[WellImage, list[FieldBox]]:
        """The image of a well, and its fields in use.

        Raises:
            Missing: the plate has no such well.
            ResultsError: it was left out, or isn't made yet.
        """
        if well not in self.metadata["wells"]:
            raise Missing(f"the plate has no well {well}", where=self.paths.plate)
        if well not in self._images:
            where = f"{self.paths.plate}/{well}"
            entry = self._outcomes.get(well)
            if entry is None:
                raise ResultsError("the well isn't done yet", where=where, remedy="run `snakemake`; tile does it")
            if entry.left_out:
                remedy = "fix the file that is named, and run `snakemake`"
                what = f"the well was left out: {entry.reason}"
                raise ResultsError(what, where=where, why=entry.detail, remedy=remedy)
            image = WellImage.open(self.paths, well, entry.info.get("lacking"))
            found = canvases(image.layout, entry.fields, "max")
            used = {box.name for canvas in found for box in canvas.fields}
            self._images[well] = image, [box for box in image.layout.fields if box.name in used]
        return self._images[well]

    def labels(self, well: str) -> list[str]:
        """Names of the labels that a well's store lists, those corrected by hand included."""
        group = self.paths.image(well) / "labels" / "zarr.json"
        try:
            names: list[str] = json.loads(group.read_text())["attributes"]["ome"]["labels"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return []
        return [name for name in names if (group.parent / name / "0" / "zarr.json").is_file()]

    def look(self, well: str) -> Look:
        """How a well is first shown: up to three channels in the colours of their light, and its plane by `z`."""
        image, _ = self.image(well)
        known = {channel["name"]: channel for channel in self.metadata["channels"]}
        channels = [(name, f"#{colour(known[name]).lower()}") for name in image.layout.channels[:3]]
        z = f"plane {image.layout.shape[2] // 2}" if self.z == "keep" else self.z
        return Look(channels=tuple(channels), labels=(), z=z)

    def about(self) -> dict[str, Any]:
        """What the page of the plate shows: its wells, each with why it was left out, or what it lacks."""
        said: dict[str, dict[str, str]] = {}
        gathered = [
            (stage, entry) for stage in STAGES for entry in exceptions(self.paths.journals(stage)) if entry.well
        ]
        for item in left_out(self.paths.plate, gathered):
            known = said.setdefault(item.well, {"state": "flagged" if item.field else item.state, "why": ""})
            why = f"field {item.field}: {item.reason}" if item.field else item.reason
            known["why"] += ("; " if known["why"] else "") + why
        rows, columns = self.metadata["format"]
        wells = [
            {
                "name": well,
                "row": row,
                "column": column,
                "state": "ok" if well in self._outcomes else "to do",
                "why": "",
            }
            | said.get(well, {})
            for well, (row, column) in ((well, parse_well(well)) for well in self.metadata["wells"])
        ]
        return {"plate": self.paths.plate, "rows": rows, "columns": columns, "wells": wells}

    def about_well(self, well: str) -> dict[str, Any]:
        """What the page of a well shows of it: sizes, fields, channels, labels, times and planes."""
        image, used = self.image(well)
        layout, look, labels = image.layout, self.look(well), self.labels(well)
        known = {channel["name"]: channel for channel in self.metadata["channels"]}
        first = dict(look.channels)
        others = iter(OUTLINES)
        return {
            "plate": self.paths.plate,
            "well": well,
            "tile": TILE_PX,
            "overlap": OVERLAP_PX,
            "levels": n_levels(image),
            "pixel_um": layout.pixel_um[-1] if layout.unit_known else None,
            "parts": [[ys.start, xs.start, ys.stop - ys.start, xs.stop - xs.start] for ys, xs in parts(layout)],
            "fields": [[box.name, box.y, box.x, box.height, box.width] for box in used],
            "channels": [
                {"name": name, "colour": f"#{colour(known[name]).lower()}", "on": name in first, "limits": limits}
                for name, limits in ((name, image.window.limits(name)) for name in layout.channels)
            ],
            "labels": [
                {
                    "name": name,
                    "colour": COLOUR_CORRECTED if name.endswith(CORRECTED) else next(others, OUTLINES[-1]),
                    # what was corrected stands for what the pipeline made
                    "on": name.endswith(CORRECTED) or name + CORRECTED not in labels,
                }
                for name in labels
            ],
            "times": layout.shape[0],
            "planes": layout.shape[2],
            "z": look.z,
            "wells": [each for each in self.metadata["wells"] if not self._left_out(each)],
        }

    def _left_out(self, well: str) -> bool:
        entry = self._outcomes.get(well)
        return entry is None or entry.left_out


class Plates:
    """The plates below a folder of results, of a project where it is known, and what was drawn of them.

    Without the project, planes are projected by their maximum, and the raw folder of a plate in place isn't known.
    """

    def __init__(self, folder: Path, project: Project | None = None) -> None:
        self.folder, self.project = folder.resolve(), project
        self._plates: dict[str, ShownPlate] = {}
        self._drawn: OrderedDict[Any, bytes] = OrderedDict()
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)

    def paths(self, name: str) -> PlatePaths:
        """The files of a plate below the folder.

        Raises:
            Missing: there is no such plate, or it is a link that leads out of the results.
        """
        root = self.folder / name
        if name in ("", ".", "..") or os.sep in name or "\0" in name or not (root / "plate.zarr").is_dir():
            raise Missing(
                f"there is no plate {name!r}", where=str(self.folder), remedy="`plateflow view RESULTS/PLATE`"
            )
        if not (root / "plate.zarr").resolve().is_relative_to(self.folder):
            why, remedy = "nothing outside of the results is served", f"`plateflow view {root.resolve()}`"
            raise Missing("the plate is a link that leads elsewhere", where=str(root), why=why, remedy=remedy)
        if self.project and name in self.project.plates:
            own = self.project.plates[name].paths
            return PlatePaths(plate=name, root=root, scratch=own.scratch, raw=own.raw.absolute())
        return PlatePaths.of(name, results=self.folder)

    def plate(self, name: str) -> ShownPlate:
        """A plate as it is now; errors as of `paths`."""
        paths = self.paths(name)
        with self._lock:
            stamp = _stamp(paths)
            if name not in self._plates or self._plates[name].stamp != stamp:
                self._plates[name] = ShownPlate(
                    paths=paths, z=self.project.config.z if self.project else "max", stamp=stamp
                )
            shown = self._plates[name]
            _ = shown.metadata, shown._outcomes  # journals are read by one thread at a time
            return shown

    def about(self, plate: str) -> dict[str, Any]:
        """See `ShownPlate.about`."""
        shown = self.plate(plate)
        with self._lock:
            return shown.about()

    def drawn(self, key: Any, draw: Callable[[], bytes], is_wanted: Callable[[], bool]) -> bytes:
        """What `draw` gives, kept under a key that begins with the plate's name; what was asked for longest ago goes
        first. `AT_ONCE` are drawn at a time; the others wait.

        Args:
            is_wanted: whether somebody still waits for it, asked when its turn comes.

        Raises:
            ConnectionAbortedError: nobody does any more.
            ResultsError: pixels are damaged, or just being written: their checksums don't fit.
        """
        if (known := self._known(key)) is not None:
            return known
        with self._turns:
            if (known := self._known(key)) is not None:  # drawn for another, while this one waited
                return known
            if not is_wanted():
                raise ConnectionAbortedError
            return self._draw(key, draw)

    def _known(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._drawn:
                self._drawn.move_to_end(key)
            return self._drawn.get(key)

    def _draw(self, key: Any, draw: Callable[[], bytes]) -> bytes:
        try:
            data = draw()
        except (ValueError, RuntimeError) as error:
            if isinstance(error, PlateflowError):
                raise
            what, remedy = "the pixels can't be read", f"`plateflow verify {key[0]}`, then `snakemake`, makes them anew"
            raise ResultsError(what, where=key[0], why=f"{type(error).__name__}: {error}", remedy=remedy) from error
        with self._lock:
            self._drawn[key] = data
            while sum(map(len, self._drawn.values())) > CACHE_BYTES:
                self._drawn.popitem(last=False)
        return data


def _stamp(paths: PlatePaths) -> tuple[Any, ...]:
    """Sizes and times of the journals, one of which gets a line whenever something has changed."""
    files = [file for folder in (paths.root, paths.root / "journal") if folder.is_dir() for file in folder.iterdir()]
    return tuple((file.name, *(stat_of(file) or ())) for file in sorted(files) if file.suffix == ".jsonl")
