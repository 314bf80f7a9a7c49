"""A raw plate, whatever its vendor: the readers, the index, and access to the pixels."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from plateflow.config import SAFE_NAME, PlateSpec
from plateflow.errors import RawDataError
from plateflow.files import listed
from plateflow.plates.files import link_error, list_files, peek
from plateflow.plates.harmony import HarmonyReader
from plateflow.plates.imagexpress import ImageXpressReader
from plateflow.plates.load_data import LoadDataReader
from plateflow.plates.names import refuse_odd_name, several_measurements
from plateflow.plates.omezarr import OmeZarrReader
from plateflow.plates.pattern import PatternReader
from plateflow.plates.raw import RawFolder, machine_error
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


class RawPlate(Index):
    """A raw plate: its index, and access to the pixels."""

    def read(self, well: str, field: str, channel: str, *, t: int = 0, z: int = 0) -> NDArray[Any]:
        """The raw pixels of one plane, (height, width).

        Raises:
            KeyError: the plate has no such plane.
            PlaneError: the plane is missing or damaged.
            RawDataError: the machine is at fault.
        """
        place = {"well": well, "field": str(field), "channel": channel, "t": t, "z": z}
        rows = self.planes[(self.planes[list(place)] == pd.Series(place)).all(axis=1)]
        if rows.empty:
            raise KeyError(f"the plate has no plane at {place}")
        return RawFolder(self.root).read(rows.iloc[0].to_dict())


def recognise(folder: Path, follow_links: str | None = None) -> str:
    """The name of the reader for the layout of a folder; `follow_links` as in the plate sheet.

    Raises:
        RawDataError: no reader recognises it, or only folders in it, each of which is a plate.
    """
    if (name := _recognised(folder, follow_links)) is not None:
        return name
    listing = list_files(folder, follow_links) if folder.is_dir() else None
    if listing and listing.outside and listing.files.keys().isdisjoint(listing.image_names()):
        raise link_error(listing, min(listing.outside), plate="plate")  # beside images a link says nothing of them
    below = [path.name for path in listed(folder) if _recognised(path)] if folder.is_dir() else []
    below = [name for name in below if not re.fullmatch(r"r\d+c\d+", name)]  # of Harmony's wells
    if len(below) > 1:
        raise several_measurements(PlateSpec(plate="plate", path=str(folder)), below)
    raise RawDataError(
        "the layout of the folder is unknown",
        where=str(folder),
        why=f"none of the readers ({', '.join(READERS)}) recognises it"
        + "".join(f"; that of {name} in it is known" for name in below),
        remedy="give the folder of one measurement; for TIFFs named in another way use the layout pattern, "
        "with a regular expression",
    )


def _recognised(folder: Path, follow_links: str | None = None) -> str | None:
    if not folder.is_dir():
        return None
    names = peek(folder, follow_links)
    return next((reader.name for reader in READERS.values() if reader.recognise(folder, names)), None)


def vendor_flat_field(metadata: Mapping[str, Any]) -> str:
    """A sentence about the flat field that the vendor's metadata (plate.json) hold or name; empty where they don't."""
    fields = {each["name"]: each["flat_field"] for each in metadata["channels"] if each.get("flat_field")}
    files = len(set(fields.values())) > 1  # else all are in the metadata themselves, under one name
    named = [f"{name} ({place})" if files else name for name, place in fields.items()]
    of = ", ".join(named)
    what = f"the metadata have the vendor's flat field of {of}; it isn't used yet: images alone tell the illumination"
    return what if named else ""


def index_plate(spec: PlateSpec) -> Index:
    """Read the manifest of a plate of the plate sheet afresh.

    Raises:
        RawDataError: the folder, the layout or the metadata cannot be used, or the machine is at fault.
    """
    reader = READERS.get(spec.layout)
    if reader is None:
        where, remedy = f"{spec.plate}: column layout of the plate sheet", f"use one of {', '.join(READERS)}"
        raise RawDataError(f"the layout {spec.layout!r} is unknown", where=where, remedy=remedy)
    try:
        return reader.read(spec)
    except OSError as error:
        raise machine_error(error, where=f"{spec.plate}: {spec.path}") from error


def open_plate(
    path: str | Path | PlateSpec,
    *,
    layout: str | None = None,
    pattern: str | None = None,
    pixel_size_um: float | None = None,
) -> RawPlate:
    """Open a raw plate.

    Args:
        path: the folder of one measurement; or a line of a plate sheet, which makes the other arguments superfluous.
        layout: the name of a reader; recognised if not given (with `pattern` it is "pattern").
        pattern: the regular expression for the layout "pattern".
        pixel_size_um: the pixel size where the layout does not give it, or to override it.

    Raises:
        RawDataError: the folder cannot be read.
    """
    if not isinstance(path, PlateSpec):
        folder = Path(path)
        refuse_odd_name(str(folder))
        name = folder.resolve().name
        spec = PlateSpec(
            plate=name if SAFE_NAME.fullmatch(name) and ".." not in name and name != "screen" else "plate",
            path=str(folder),
            pattern=pattern,
            pixel_size_um=pixel_size_um,
        )
        plate_folder(spec)
        chosen = layout or ("pattern" if pattern is not None else recognise(folder))
        path = spec.model_copy(update={"layout": chosen})
    return RawPlate(**vars(index_plate(path)))
