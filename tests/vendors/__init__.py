"""Writers of vendors' raw-data layouts, so that one simulated plate can be read in each of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from plateflow.paths import well_name
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import FaultKind, Layout, PlateDescription, Record, write_tiff

from .columbus import ColumbusLayout
from .cv8000 import CV8000Layout
from .imagexpress import ImageXpressLayout
from .load_data import LoadDataLayout
from .omezarr import OmeZarr05Layout, OmeZarrLayout


class PatternLayout:
    """File names alone, `B02_s1_w1.tif`, with `_t1_z2` if there is a second time point or plane."""

    def __init__(self, out: Path, plate: PlateDescription) -> None:
        self.raw = out / plate.name
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
