"""The one place that knows the paths under results/, and how wells are named in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from plateflow.files import is_litter

_WELL = re.compile(r"([A-Z]{1,2}|[a-z]{1,2})0*(\d{1,2})(?:\.([A-Da-d])([1-4]))?")
_WELL_OF_FRACTAL = re.compile(r"^([A-H])([a-d])(\d\d)([1-4])$")

SCRATCH = "scratch:"
"""In a journal, what the names of files in the scratch begin with."""
SCREEN_PAGE = "index.html"
"""The page over all plates, in the folder of the screen."""


def well_name(row: int, column: int) -> str:
    """The name of a well from its row and column, both counted from 0: (1, 2) is B03, (31, 47) is AF48."""
    return f"{row_name(row)}{column + 1:02d}"


def wells_named(names: Iterable[str]) -> list[str]:
    """Wells in any spelling that `parse_well` knows, each once, by the names that are used here; errors as its own."""
    return list(dict.fromkeys(well_name(*parse_well(name)) for name in names))


def row_name(row: int) -> str:
    """The letters of a row counted from 0: A to Z, then AA to AF."""
    return chr(65 + row) if row < 26 else "A" + chr(65 + row - 26)


def parse_well(name: str) -> tuple[int, int]:
    """Row and column, from 0, of a well's name as people write it: A1, a01, A001, AF48.

    1536 wells may be written as a well of 96 and a place in its 4 x 4: B03.a1 is row 4, column 8, E09. Fractal makes
    the row Ba and the column 031 of it (`wells.py` of fractal-tasks-core), so a row of both cases is never AA to AF.

    Raises:
        ValueError: it is no well name of a plate of up to 1536 wells.
    """
    match = _WELL.fullmatch(_WELL_OF_FRACTAL.sub(r"\1\3.\2\4", name.strip()))
    if match:
        letters, column = match[1].upper(), int(match[2]) - 1
        row = ord(letters[-1]) - 65 + (26 if len(letters) == 2 else 0)
        if match[3]:
            row, column = 4 * row + ord(match[3].upper()) - 65, 4 * column + int(match[4]) - 1
        if (len(letters) == 1 or letters[0] == "A") and row < 32 and 0 <= column < 48:
            return row, column
    raise ValueError(f"{name!r} is not a well name (such as B03; up to AF48)")


@dataclass(frozen=True, kw_only=True)
class PlatePaths:
    """Every file and folder of one plate's results (the data contract in docs/design.md).

    Attributes:
        root: the folder of its results.
        scratch: the folder of its intermediates.
        raw: the folder of its raw data, to which the manifest's paths are relative.
    """

    plate: str
    root: Path
    scratch: Path
    raw: Path = Path()

    @classmethod
    def of(
        cls, plate: str, *, results: str | Path, scratch: str | Path | None = None, raw: str | Path = ""
    ) -> PlatePaths:
        """The paths of a plate below `results`; without `scratch`, its scratch lies beside its results."""
        root = Path(results) / plate
        scratch = Path(scratch) / plate if scratch else root / "scratch"
        return cls(plate=plate, root=root, scratch=scratch, raw=Path(raw))

    @property
    def planes(self) -> Path:
        """The manifest's table: one row per plane."""
        return self.root / "manifest" / "planes.parquet"

    @property
    def metadata(self) -> Path:
        """The manifest's description of the plate, plate.json."""
        return self.root / "manifest" / "plate.json"

    @property
    def window(self) -> Path:
        """The frozen intensity window."""
        return self.root / "manifest" / "window.json"

    @property
    def illumination(self) -> Path:
        """The illumination profiles, beside the window: one array per channel."""
        return self.root / "manifest" / "illumination.npz"

    @property
    def store(self) -> Path:
        """The OME-Zarr plate."""
        return self.root / "plate.zarr"

    def image(self, well: str) -> Path:
        """The group of a well's one image."""
        row, column = parse_well(well)
        return self.store / row_name(row) / f"{column + 1:02d}" / "0"

    def journal(self, stage: str, job: str) -> Path:
        """The journal of a job: the truth about its wells."""
        return self.root / "journal" / f"{stage}-{job}.jsonl"

    def journals(self, stage: str) -> list[Path]:
        """All journals of a stage, of today's parts and of earlier ones."""
        return sorted(_listed(self.root / "journal", f"{stage}-*.jsonl"))

    def receipt(self, stage: str, job: str, digest: str) -> Path:
        """The receipt of a job, named by a digest of what was asked of it: the file that Snakemake sees."""
        return self.root / "receipts" / stage / f"{job}.{digest}.json"

    def receipts(self, stage: str, job: str) -> list[Path]:
        """All receipts of a job, whatever was asked of it."""
        return sorted(_listed(self.root / "receipts" / stage, f"{job}.*json"))

    def watch(self, stage: str, job: str) -> Path:
        """The raw files that a job set aside, with their stat at that time."""
        return self.root / "watch" / f"{stage}-{job}.jsonl"

    def watches(self) -> list[Path]:
        """The files of `watch` of all jobs."""
        return sorted(_listed(self.root / "watch", "*.jsonl"))

    def lease(self, stage: str, job: str) -> Path:
        """The lease of a running job: a folder, made atomically."""
        return self.root / "leases" / f"{stage}-{job}"

    @property
    def requests(self) -> Path:
        """What the command line asked for: one line per request."""
        return self.root / "requests.jsonl"

    @property
    def rates(self) -> Path:
        """For the screen: what jobs have needed so far, for estimates."""
        return self.root / "rates.json"

    def log(self, stage: str, job: str, digest: str) -> Path:
        """The log of a job, named as its receipt."""
        return self.root / "logs" / stage / f"{job}.{digest}.log"

    def logs(self, stage: str, job: str) -> list[Path]:
        """All logs of a job, the latest at the end."""
        return _by_time(_listed(self.root / "logs" / stage, f"{job}.*log"))

    def latest_log(self, stage: str, job: str) -> Path:
        """The log of the last attempt at a job; where there is none, a pattern of its name."""
        return [self.log(stage, job, "*"), *self.logs(stage, job)][-1]

    def benchmark(self, stage: str, job: str, digest: str) -> Path:
        """Snakemake's benchmark of a job, named as its receipt."""
        return self.root / "benchmarks" / stage / f"{job}.{digest}.tsv"

    def benchmarks(self, stage: str, job: str) -> list[Path]:
        """All benchmarks of a job, the latest at the end."""
        return _by_time(_listed(self.root / "benchmarks" / stage, f"{job}.*tsv"))

    def asked(self, run: str) -> Path:
        """For the screen: what a run asks of its jobs."""
        return self.root / "asked" / f"{run}.json"

    def histogram(self, well: str) -> Path:
        """Exact counts, lows and highs, sharpness and tops of a well's raw pixels."""
        return self.root / "histograms" / f"{well}.npz"

    def flows(self, label_set: str, well: str, canvas: int) -> Path:
        """The flow field of a canvas (`segment.scratch`)."""
        return self.scratch / "flows" / label_set / well / f"{canvas}.flows"

    def endpoints(self, label_set: str, well: str, canvas: int, block: int) -> Path:
        """The endpoints of a block's paths (`segment.scratch`)."""
        return self.scratch / "ends" / label_set / well / f"{canvas}-{block}.ends"

    def objects(self, label_set: str, well: str) -> Path:
        """The table of a well's objects, before features."""
        return self.root / "objects" / label_set / f"{well}.parquet"

    def spots(self, name: str, well: str) -> Path:
        """The table of a well's spots of one name."""
        return self.root / "spots" / name / f"{well}.parquet"

    def all_spots(self, well: str) -> list[Path]:
        """All such tables of a well, those of names that the configuration had before among them."""
        return sorted((self.root / "spots").glob(f"*/{well}.parquet"))

    @property
    def corrections(self) -> Path:
        """What labels were corrected by hand, and discarded: one line per import (`state.corrections`)."""
        return self.root / "corrections" / "corrections.jsonl"

    def corrected(self, label_set: str, well: str, digest: str) -> Path:
        """Labels of a well that were corrected by hand, named by a digest of them (`images.corrected`)."""
        return self.root / "corrections" / label_set / f"{well}.{digest}.zip"

    def cells(self, well: str) -> Path:
        """The cell table of a well."""
        return self.root / "cells" / f"{well}.parquet"

    def gates(self, well: str) -> Path:
        """Beside a well's cell table and in its row order: which cells enter statistics, and their populations."""
        return self.root / "gates" / f"{well}.parquet"

    @property
    def frozen_gates(self) -> Path:
        """The plate's frozen thresholds of filters and populations."""
        return self.root / "manifest" / "gates.json"

    def key_of(self, path: Path) -> str:
        """How a journal names a file: its path below the plate's results, or `scratch:` and that below its scratch."""
        if path.is_relative_to(self.scratch):
            return SCRATCH + path.relative_to(self.scratch).as_posix()
        return path.relative_to(self.root).as_posix()

    def path_of(self, key: str) -> Path:
        """The file that a journal names so."""
        return self.scratch / key.removeprefix(SCRATCH) if key.startswith(SCRATCH) else self.root / key

    def table(self, name: str) -> Path:
        """A table or page of the plate by its file name: wells.csv, qc.parquet, report.html."""
        return self.root / name


def _listed(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder; none if it isn't there. Of one that can't be read, `glob` would say that it is empty."""
    try:
        files = [*folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [file for file in files if fnmatch(file.name, pattern) and not is_litter(file.name)]


def _by_time(files: Iterable[Path]) -> list[Path]:
    times = {}
    for file in files:
        with suppress(OSError):  # removed just now
            times[file] = file.stat().st_mtime_ns
    return sorted(times, key=lambda file: (times[file], file))
