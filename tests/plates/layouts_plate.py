"""A plate of noise, small, with all that makes layouts hard, for writing it in each of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from vendors import LAYOUTS

from plateflow.paths import parse_well
from plateflow.simulate.layout import FaultKind, PlateDescription, Record

CHANNELS = {"DNA": 3, "AGP": 1}
"""Channel and its z planes: uneven stacks."""
CENTRES = ((-15.0, -8.0), (-15.0, 12.0), (5.0, -8.0))
"""Of three fields in an L, (y, x) in um: y differs in sign and size from x, so that a flip or a swap is seen."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    record: Record
    pixels: NDArray[np.uint16]
    faults: tuple[FaultKind, ...]


def planes(wells: tuple[str, ...] = ("B02", "C05"), *, times: int = 2) -> Iterator[Plane]:
    """All planes. In the first well the third field's files are missing, and one plane of the second is no image, one
    has 32 bits."""
    rng = np.random.default_rng(7)
    for well in wells:
        row, column = parse_well(well)
        for field, (y, x) in enumerate(CENTRES):
            for t in range(times):
                for channel, (name, depth) in enumerate(CHANNELS.items()):
                    for z in range(depth):
                        faults: tuple[FaultKind, ...] = ()
                        if well == wells[0]:
                            if field == 2:
                                faults = ("missing",)
                            elif (field, t, name, z) == (1, times - 1, "AGP", 0):
                                faults = ("error",)
                            elif (field, t, name, z) == (1, 0, "DNA", 1):
                                faults = ("32bit",)
                        record = Record(
                            **{"row": row, "column": column, "field": field, "channel": channel, "channel_name": name},
                            **{"y_um": y, "x_um": x, "t": t, "z": z, "z_um": 2.0 * z},
                        )
                        pixels = rng.integers(90, 4000, (24, 40)).astype(np.uint16)
                        yield Plane(record=record, pixels=pixels, faults=faults)


def write(out: Path, layout: str, *, shape: tuple[int, int] = (8, 12), **options: object) -> Path:
    """Write the plate; returns its folder."""
    plate = PlateDescription(name="p", plate_shape=shape, field_shape=(24, 40), pixel_size_um=0.5)
    writer = LAYOUTS[layout](out, plate)
    for plane in planes(**options):
        writer.write(plane.record, plane.pixels, plane.faults)
    writer.finish()
    return writer.raw
