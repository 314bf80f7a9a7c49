"""Corrections: which wells have labels that people have corrected, by whom, when, from what.

`corrections/corrections.jsonl` is written by the command line alone: a line per import, or per discarding, so that all
wells of an import are in it or none. The labels themselves lie beside it, in files named by their content, and are
there before the line is. They are an input of `features`, which puts them into the store; no job changes them. Read
while the Snakefile is parsed, so this stays small.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from plateflow.chain import part_of, part_of_well
from plateflow.errors import ResultsError
from plateflow.files import Stamp, append_line, digest, parse_line, raw_lines, remove, settle, stat_of
from plateflow.paths import PlatePaths


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Labels of a label set of a well, all canvases of it, as people have left them.

    Attributes:
        name: digest of the labels, in the name of their file.
        stamp: of that file.
        images: digest of the images that they were drawn on: see `Plate.labelled_image`.
        made_from: digest of the pipeline's labels from which they were made: see `Plate.labels_id`.
        by: who has imported them.
        at: when, ISO 8601, UTC.
        sources: for each canvas that was corrected, by its number: `exported`, the digest of the labels that were
            exported, `program` and `file`.
        counts: how many objects were kept pixel for pixel, changed, added, removed, in the import of this version.
        n_columns: of the plate's format: it tells the well's part.
    """

    well: str
    label_set: str
    name: str
    stamp: Stamp
    images: str
    made_from: str
    by: str
    at: str
    sources: Mapping[str, Mapping[str, str]]
    counts: Mapping[str, int]
    n_columns: int

    @property
    def place(self) -> tuple[str, str]:
        """Well and label set."""
        return self.well, self.label_set

    def file(self, paths: PlatePaths) -> Path:
        """The file that holds the labels."""
        return paths.corrected(self.label_set, self.well, self.name)

    def __str__(self) -> str:
        counts = ", ".join(f"{n:,} {what}" for what, n in self.counts.items())
        sources = sorted({f"{each['file']} ({each['program']})" for each in self.sources.values()})
        made = f"by {self.by}, {self.at[:16].replace('T', ' ')} UTC, from {', '.join(sources)}"
        return f"{self.label_set} corrected {made}: {counts}"


_FIELDS = {each.name for each in fields(Correction)}


def corrections(paths: PlatePaths) -> Mapping[tuple[str, str], Correction]:
    """The corrections of a plate, by well and label set; whether one is in use, `Plate.correction` tells.

    Raises:
        ResultsError: a line is damaged: without it wells would be measured by the pipeline's labels, and nobody told.
    """
    stamp = stat_of(paths.corrections)
    return _parsed(paths.corrections, tuple(stamp)) if stamp else {}


def record(paths: PlatePaths, new: Iterable[Correction]) -> None:
    """Put corrections whose files are there in the place of earlier ones; all of them, or none."""
    settle()  # before a line names them
    append_line(paths.corrections, {"event": "import", "wells": [asdict(each) for each in new]})
    _remove_unused(paths)


def discard(paths: PlatePaths, places: Collection[tuple[str, str]]) -> None:
    """Take out corrections, by well and label set, and remove their files."""
    append_line(paths.corrections, {"event": "discard", "wells": [*places]})
    _remove_unused(paths)


def unused(paths: PlatePaths) -> list[Path]:
    """Files of labels that no correction names: of an import that was killed before its line, or whose line is lost."""
    used = {each.file(paths) for each in corrections(paths).values()}
    return sorted(path for path in paths.corrections.parent.glob("*/*.zip") if path not in used)


def corrections_digest(paths: PlatePaths, job: str, parts: int) -> str:
    """What corrections ask of a job of `features`, of which there are so many `parts`; empty where there is none."""
    own = [
        each for each in corrections(paths).values() if part_of_well(each.well, parts, each.n_columns) == part_of(job)
    ]
    return digest(sorted([*each.place, each.name] for each in own)) if own else ""


def _remove_unused(paths: PlatePaths) -> None:
    """Remove the files of corrections that were replaced or discarded: those of a lost line are people's work."""
    imports = (line["wells"] for line in _lines(paths.corrections) if line["event"] == "import")
    known = {paths.corrected(each["label_set"], each["well"], each["name"]) for wells in imports for each in wells}
    for path in known.intersection(unused(paths)):
        remove(path)
    settle()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the file; one that a killed import has begun, the only kind without an end, is none."""
    for number, line in enumerate(raw_lines(path), start=1):
        if content := parse_line(line):
            yield content
        elif line.endswith(b'"}'):
            raise ResultsError(
                "the list of what was corrected by hand is damaged",
                where=f"{path}, line {number}",
                remedy="put the file back from a copy; or remove this line, and import again what it has recorded "
                "(`plateflow verify` names files of labels that no line names)",
            )


@cache
def _parsed(path: Path, _stamp: tuple[int, ...]) -> Mapping[tuple[str, str], Correction]:
    found: dict[tuple[str, str], Correction] = {}
    for line in _lines(path):
        for each in line["wells"]:
            if line["event"] == "discard":
                found.pop(tuple(each), None)
            else:
                value: dict[str, Any] = {name: each[name] for name in _FIELDS}
                correction = Correction(**value | {"stamp": tuple(value["stamp"])})
                found[correction.place] = correction
    return found
