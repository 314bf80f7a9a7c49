"""A raw plate, whatever its vendor: the readers, the index of a plate, and access to its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from plateflow.config import SAFE_NAME, PlateEntry
from plateflow.errors import PlateflowError
from plateflow.plates.harmony import HarmonyReader
from plateflow.plates.imagexpress import ImageXpressReader
from plateflow.plates.load_data import LoadDataReader
from plateflow.plates.omezarr import OmeZarrReader
from plateflow.plates.pattern import PatternReader
from plateflow.plates.pixels import PlaneError, read_plane
from plateflow.plates.reader import Index, Reader, plate_folder
from plateflow.plates.yokogawa import YokogawaReader

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        HarmonyReader(),
        ImageXpressReader(),
        YokogawaReader(),
        OmeZarrReader(),
        OmeZarrReader(in_place=True),
        LoadDataReader(),
        PatternReader(),
    )
}


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A raw plate.

    Attributes:
        planes: the manifest, one row a plane (docs/design.md).
        info: the manifest's description: format, wells, channels, pixel size, layout, disagreements.
    """

    planes: pd.DataFrame
    info: dict[str, Any]

    def read(self, well: str, field: str, channel: str, *, t: int = 0, z: int = 0) -> NDArray[Any]:
        """The raw pixels of one plane, (height, width).

        Raises:
            KeyError: the plate has no such plane.
            PlaneError: the plane is missing or damaged.
        """
        planes = self.planes
        place = {"well": well, "field": str(field), "channel": channel, "t": t, "z": z}
        found = planes[(planes[list(place)] == pd.Series(place)).all(axis=1)]
        if found.empty:
            raise KeyError(f"the plate has no plane at {place}")
        return read_row(found.iloc[0].to_dict())


def read_row(row: Mapping[Any, Any], *, decode: bool = True) -> NDArray[Any]:
    """The raw pixels of the plane in one row of the manifest; see `read_plane`."""
    if not row["path"]:
        place = f"channel {row['channel']}, t {row['t']}, z {row['z']}"
        raise PlaneError("missing", f"the metadata have no image for {place}")
    return read_plane(
        row["path"], row["page"], height=row["height"], width=row["width"], dtype=row["dtype"], decode=decode
    )


def recognise(folder: Path) -> str:
    """The layout of a folder.

    Raises:
        PlateflowError: no reader knows it.
    """
    for reader in READERS.values():
        if folder.is_dir() and reader.recognise(folder):
            return reader.name
    raise PlateflowError(
        "the layout of the folder isn't known",
        where=str(folder),
        why=f"none of the readers ({', '.join(READERS)}) recognises it",
        remedy="give the folder of one measurement; for TIFFs named in another way use the layout pattern, "
        "with a regular expression",
    )


def index_plate(entry: PlateEntry) -> Index:
    """The manifest of the plate that an entry of the plate sheet names, read afresh.

    Raises:
        PlateflowError: the folder, the layout or the metadata can't be used.
    """
    reader = READERS.get(entry.layout)
    if reader is None:
        raise PlateflowError(
            f"the layout {entry.layout!r} isn't known",
            where=f"{entry.plate}: column layout of the plate sheet",
            remedy=f"use one of {', '.join(READERS)}",
        )
    return reader.read(entry)


def open_plate(
    path: str | Path | PlateEntry,
    *,
    layout: str | None = None,
    pattern: str | None = None,
    pixel_size_um: float | None = None,
) -> Plate:
    """Open a raw plate.

    Args:
        path: the folder of one measurement, or a line of a plate sheet, which then says all.
        layout: the name of a reader; recognised by itself where not given (with `pattern` it is "pattern").
        pattern: regular expression for the layout "pattern".
        pixel_size_um: where the layout doesn't say, or to overrule it.

    Raises:
        PlateflowError: the folder can't be read.
    """
    if not isinstance(path, PlateEntry):
        folder = Path(path)
        name = folder.resolve().name
        entry = PlateEntry(
            plate=name if SAFE_NAME.fullmatch(name) and ".." not in name and name != "screen" else "plate",
            path=str(folder),
            pattern=pattern,
            pixel_size_um=pixel_size_um,
        )
        plate_folder(entry)
        chosen = layout or ("pattern" if pattern is not None else recognise(folder))
        path = entry.model_copy(update={"layout": chosen})
    index = index_plate(path)
    return Plate(planes=index.planes, info=index.info)
