"""Helpers of the tests of images: a plate's first stages run as Snakemake would run them, and layouts by hand."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.images.layout import FieldBox, WellLayout
from plateflow.paths import PlatePaths
from plateflow.project import Plate
from plateflow.stages import run_stage
from plateflow.state.journal import Entry


@dataclass(kw_only=True)
class Project:
    """A raw plate and its results."""

    raw: Path
    results: Path
    options: dict[str, Any] = field(default_factory=dict)
    entry_options: dict[str, Any] = field(default_factory=dict)

    @property
    def plate(self) -> Plate:
        options = {"segmentation": {"nuclei": LabelSet(channels=["DNA"])}} | self.options
        config = Config(results=str(self.results), parts={"cpu": 1, "gpu": 1}, **options)
        return Plate(config=config, spec=PlateSpec(plate="p", path=str(self.raw), **self.entry_options))

    @property
    def paths(self) -> PlatePaths:
        return self.plate.paths

    def run(self, *stages: str) -> None:
        for stage in stages or ("ingest", "tile", "normalise"):
            run_stage(self.plate, stage)

    def outcome(self, stage: str, well: str = "") -> Entry:
        return self.plate.outcomes(stage).required(well)

    def raw_file(self, well: str, field: int, channel: int) -> Path:
        row, column = ord(well[0]) - 64, int(well[1:])
        return self.raw / "Images" / f"r{row:02d}c{column:02d}f{field:02d}p01-ch{channel}sk1fk1fl1.tiff"


def layout_of(*boxes: tuple[int, int], size: int = 10, t: int = 1, z: int = 1) -> WellLayout:
    fields = tuple(FieldBox(name=str(n + 1), y=y, x=x, height=size, width=size) for n, (y, x) in enumerate(boxes))
    shape = (t, 1, z, max(b.y for b in fields) + size, max(b.x for b in fields) + size)
    return WellLayout(
        shape=shape,
        dtype="uint16",
        fields=fields,
        channels=("DNA",),
        z_planes=(tuple(range(z)),),
        pixel_um=(1.0, 1.0, 1.0),
        unit_known=True,
        placement="stage",
    )
