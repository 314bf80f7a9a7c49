"""The layouts in which a simulated plate can be written."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.paths import well_name
from plateflow.simulate.cv8000 import CV8000Layout
from plateflow.simulate.harmony import ColumbusLayout, HarmonyLayout
from plateflow.simulate.imagexpress import ImageXpressLayout
from plateflow.simulate.load_data import LoadDataLayout
from plateflow.simulate.omezarr import OmeZarr05Layout, OmeZarrLayout
from plateflow.simulate.record import About, FaultKind, Layout, Record, write_tiff


class PatternLayout:
    """Names alone, `B02_s1_w1.tif`, with `_t1_z2` where there is a second time or plane."""

    def __init__(self, out: Path, about: About) -> None:
        self.raw = out / about.plate
        self.raw.mkdir(parents=True, exist_ok=True)

    def write(self, record: Record, pixels: NDArray[Any], faults: Collection[FaultKind] = ()) -> None:
        """Write one plane."""
        name = f"{well_name(record.row, record.column)}_s{record.field + 1}_w{record.channel + 1}"
        more = f"_t{record.t}_z{record.z}" if record.t or record.z else ""
        write_tiff(self.raw / f"{name}{more}.tif", pixels, faults)

    def finish(self) -> None:
        """There are no metadata."""


LAYOUTS: dict[str, type[Layout]] = {
    "harmony": HarmonyLayout,
    "columbus": ColumbusLayout,
    "imagexpress": ImageXpressLayout,
    "yokogawa": CV8000Layout,
    "omezarr": OmeZarrLayout,
    "omezarr 0.5": OmeZarr05Layout,
    "load_data": LoadDataLayout,
    "pattern": PatternLayout,
}
