"""The one place that knows a path under results/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PlatePaths:
    """Every file and folder of one plate's results (the data contract in docs/design.md)."""

    plate: str
    root: Path
    scratch: Path

    @classmethod
    def of(cls, plate: str, *, results: str | Path, scratch: str | Path | None = None) -> PlatePaths:
        """The paths of a plate below `results`; without `scratch`, its scratch lies beside its results."""
        root = Path(results) / plate
        return cls(plate=plate, root=root, scratch=Path(scratch) / plate if scratch else root / "scratch")

    @property
    def planes(self) -> Path:
        """The manifest's table: one row a plane."""
        return self.root / "manifest" / "planes.parquet"

    @property
    def info(self) -> Path:
        """The manifest's description of the plate."""
        return self.root / "manifest" / "plate.json"

    @property
    def window(self) -> Path:
        """The frozen intensity window and illumination profiles' names."""
        return self.root / "manifest" / "window.json"

    @property
    def illumination(self) -> Path:
        """The illumination profiles, beside the window: one array a channel."""
        return self.root / "manifest" / "illumination.npz"

    @property
    def store(self) -> Path:
        """The OME-Zarr plate."""
        return self.root / "plate.zarr"

    def image(self, row: str, column: str) -> Path:
        """The group of a well's one image."""
        return self.store / row / column / "0"

    def journal(self, stage: str, job: str) -> Path:
        """The journal of a job: the truth about its wells."""
        return self.root / "journal" / f"{stage}-{job}.jsonl"

    def journals(self, stage: str) -> list[Path]:
        """All journals of a stage, of today's parts and of earlier ones."""
        return sorted((self.root / "journal").glob(f"{stage}-*.jsonl"))

    def receipt(self, stage: str, job: str) -> Path:
        """The receipt of a job: the file that Snakemake sees."""
        return self.root / "receipts" / stage / f"{job}.json"

    def watch(self, stage: str, job: str) -> Path:
        """The raw files that a job set aside, with their stat at that time."""
        return self.root / "watch" / f"{stage}-{job}.jsonl"

    def lease(self, stage: str, job: str) -> Path:
        """The lease of a running job: a folder, made atomically."""
        return self.root / "leases" / f"{stage}-{job}"

    @property
    def requests(self) -> Path:
        """What the command line asked for: one line a request."""
        return self.root / "requests.jsonl"

    def log(self, stage: str, job: str) -> Path:
        """The log of a job."""
        return self.root / "logs" / stage / f"{job}.log"

    def benchmark(self, stage: str, job: str) -> Path:
        """Snakemake's benchmark of a job."""
        return self.root / "benchmarks" / stage / f"{job}.tsv"

    def histogram(self, well: str) -> Path:
        """Exact counts and sums of a well's raw pixels."""
        return self.root / "histograms" / f"{well}.npz"

    def flows(self, label_set: str, well: str, canvas: int) -> Path:
        """The flow field of a canvas, float16 (D+1, *space)."""
        return self.scratch / "flows" / label_set / well / f"{canvas}.npy"

    def ends(self, label_set: str, well: str, canvas: int, block: int) -> Path:
        """The end points of a block, int32 (D, n)."""
        return self.scratch / "ends" / label_set / well / f"{canvas}-{block}.npy"

    def objects(self, label_set: str, well: str) -> Path:
        """The table of a well's objects, before features."""
        return self.root / "objects" / label_set / f"{well}.parquet"

    def cells(self, well: str) -> Path:
        """The cell table of a well."""
        return self.root / "cells" / f"{well}.parquet"

    def table(self, name: str) -> Path:
        """A table or page of the plate by its file name: wells.csv, qc.parquet, report.html."""
        return self.root / name
