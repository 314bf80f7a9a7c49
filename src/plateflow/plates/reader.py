"""What every reader of a layout shares: the protocol, the index it makes, and the checks that all indexes pass.

A reader turns one vendor's metadata and file names into records, one a plane, with wells, positions and sizes in
Plateflow's terms. `make_index` does the rest, the same for every layout: files on disk, planes that are missing or
claimed twice, wells off the plate, the channels' order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import well_name
from plateflow.plates.files import Listing
from plateflow.plates.pixels import header

FORMATS = ((8, 12), (16, 24), (32, 48))
"""Rows and columns that are assumed where the metadata don't say: 96, 384 or 1536 wells."""

COLUMNS = {
    "plate": "object",
    "row": "int16",
    "column": "int16",
    "well": "object",
    "field": "object",
    "t": "int32",
    "z": "int32",
    "channel": "object",
    "path": "object",
    "page": "int32",
    "y_um": "float64",
    "x_um": "float64",
    "z_um": "float64",
    "dy_um": "float64",
    "dx_um": "float64",
    "height": "int32",
    "width": "int32",
    "dtype": "object",
    "size_bytes": "int64",
    "mtime_ns": "int64",
    "state": "object",
    "reason": "object",
}
"""The manifest's columns (docs/design.md) and their types."""

PLACE = ["well", "field", "channel", "t", "z"]
HEADERS_READ = 5
LARGEST_PX = 2**32
"""Pixels of the largest image that is believed: more is a mistake in the metadata, or a trap."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a reader knows of a plate: the manifest.

    Attributes:
        planes: one row a plane, with `COLUMNS`, sorted by row, column, field, channel, t, z.
        info: the content of manifest/plate.json.
        times_s: when each plane was taken, float64 (n,), NaN where unknown; for preflight alone.
    """

    planes: pd.DataFrame
    info: dict[str, Any]
    times_s: NDArray[np.float64] | None = None


@dataclass(kw_only=True)
class Records:
    """What a reader found: one dict a plane, and what it knows of the whole plate.

    Attributes:
        planes: dicts with row, column (from 0), field, t, z (as the vendor counts them), channel (an identifier),
            path (relative to the plate's folder, empty where there is none), and where known page, y_um, x_um
            (top-left corner, y downwards), z_um, dy_um, dx_um, height, width, time_s (on any one clock); without a
            path a reason in one word.
        channels: identifier -> what is known of the channel, in the channels' order; `name` at least.
        format: rows and columns of the plate, where the metadata say so.
        bit_max: the top of the camera's range, where the metadata say so.
        disagreements: what the metadata, the file names and the files say differently.
    """

    planes: list[dict[str, Any]]
    channels: Mapping[Any, Mapping[str, Any]]
    format: tuple[int, int] | None = None
    bit_max: int | None = None
    disagreements: list[str] = field(default_factory=list)


class Reader(Protocol):
    """A layout that Plateflow reads."""

    name: str

    def recognise(self, folder: Path) -> bool:
        """Whether a folder looks like this layout; opens no image."""

    def read(self, entry: PlateEntry) -> Index:
        """Index the plate that an entry of the plate sheet names.

        Raises:
            PlateflowError: the folder can't be read as this layout.
        """


def plate_folder(entry: PlateEntry) -> Path:
    """The plate's folder, checked.

    Raises:
        PlateflowError: it isn't there, or has nothing in it.
    """
    folder = Path(entry.path)
    if not folder.is_dir():
        raise PlateflowError(
            "the plate's folder is not there",
            where=f"{entry.plate}: {folder}",
            remedy="mend the path in the plate sheet; relative paths count from the folder where snakemake runs",
        )
    if next(folder.iterdir(), None) is None:
        raise PlateflowError(
            "the plate's folder is empty",
            where=f"{entry.plate}: {folder}",
            remedy="copy the measurement into it, or mend the path in the plate sheet",
        )
    return folder


def make_index(entry: PlateEntry, layout: str, records: Records, listing: Listing) -> Index:
    """The manifest of what a reader found.

    Planes whose file isn't there, and planes that a field should have and hasn't, get the state `missing`. Time
    points and z planes are numbered anew from 0, in the vendor's order. No image is opened, but the headers of a few
    where the metadata don't give their size; the pixel type always comes from them.

    Raises:
        PlateflowError: no plane at all, two planes at one place, a well that no plate has, or channels of different
            sizes.
    """
    if not records.planes:
        raise PlateflowError(
            "no image was found in the plate's folder",
            where=f"{entry.plate}: {entry.path}",
            remedy="check that the folder holds the images, and the layout in the plate sheet",
        )
    notes = list(records.disagreements)
    planes = pd.DataFrame.from_records(records.planes)
    for column in COLUMNS:
        if column not in planes:
            planes[column] = np.nan if column.endswith("_um") else "" if column in ("path", "reason") else 0
    planes = planes.fillna({"path": "", "page": 0})
    for axis in ("t", "z"):
        planes[axis] = planes[axis].rank(method="dense").astype("int32") - 1
    planes["channel"] = planes["channel"].map(_channel_names(records.channels, notes))
    planes["field"] = planes["field"].astype(str)
    shape = _plate_format(entry, records.format, planes, notes)
    planes["well"] = [well_name(row, column) for row, column in zip(planes["row"], planes["column"], strict=True)]
    _refuse_doubled(entry, planes)
    if entry.pixel_size_um is not None:
        planes["dy_um"] = planes["dx_um"] = entry.pixel_size_um
    if entry.z_step_um is not None:
        planes["z_um"] = planes["z_um"].fillna(planes["z"] * entry.z_step_um)
    planes = _add_missing(planes)
    _complete_sizes(entry, planes, listing, notes)
    _one_size_a_field(entry, planes, notes)
    stats = [listing.files.get(path, (-1, -1)) for path in planes["path"]]
    planes["size_bytes"] = [size for size, _ in stats]
    planes["mtime_ns"] = [time for _, time in stats]
    absent = planes["size_bytes"] < 0
    planes["state"] = np.where(absent, "missing", "ok")
    said = planes["reason"].replace("", None).fillna("no_record")
    planes["reason"] = np.where(absent, np.where(planes["path"] == "", said, "missing"), "")
    planes["path"] = [str(listing.root / path) if path else "" for path in planes["path"]]
    planes["plate"] = entry.plate
    order = {name["name"]: n for n, name in enumerate(_channel_list(records.channels))}
    planes["_channel"] = planes["channel"].map(order)
    planes["_field"] = planes["field"].map(
        {name: n for n, name in enumerate(sorted(set(planes["field"]), key=_natural))}
    )
    planes = planes.sort_values(["row", "column", "_field", "_channel", "t", "z"], kind="stable")
    times = planes["time_s"].to_numpy(float) if "time_s" in planes else None
    planes = planes[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)
    info = {"plate": entry.plate, "format": list(shape), "layout": layout, **_info(records, planes, notes)}
    return Index(planes=planes, info=info, times_s=times)


def _info(records: Records, planes: pd.DataFrame, notes: list[str]) -> dict[str, Any]:
    sizes = planes[["dy_um", "dx_um"]].dropna().drop_duplicates()
    if len(sizes) > 1:
        notes.append(
            f"the pixel sizes differ: {[tuple(size) for size in sizes.to_numpy().tolist()]}; the first is used"
        )
    wide = (planes["dtype"] == "uint16").any()
    return {
        "wells": list(planes["well"].drop_duplicates()),
        "channels": _channel_list(records.channels),
        "pixel_size_um": sizes.iloc[0].tolist() if len(sizes) else None,
        "fields": int(planes["field"].nunique()),
        "z": int(planes["z"].max()) + 1,
        "t": int(planes["t"].max()) + 1,
        "bit_max": records.bit_max if wide and records.bit_max else (65535 if wide else 255),
        "disagreements": notes,
    }


def _channel_list(channels: Mapping[Any, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The channels in order, each name once: a name that comes again gets a number."""
    seen: Counter[str] = Counter()
    listed = []
    for about in channels.values():
        name = about["name"]
        seen[name] += 1
        listed.append({**about, "name": name if seen[name] == 1 else f"{name} ({seen[name]})"})
    return listed


def _channel_names(channels: Mapping[Any, Mapping[str, Any]], notes: list[str]) -> dict[Any, str]:
    names = [about["name"] for about in _channel_list(channels)]
    new = [name for name, about in zip(names, channels.values(), strict=True) if name != about["name"]]
    if new:
        notes.append(f"several channels bear the same name; they are told apart by a number: {some(new)}")
    return dict(zip(channels, names, strict=True))


def _plate_format(
    entry: PlateEntry, said: tuple[int, int] | None, planes: pd.DataFrame, notes: list[str]
) -> tuple[int, int]:
    lowest = int(min(planes["row"].min(), planes["column"].min()))
    rows, columns = int(planes["row"].max()) + 1, int(planes["column"].max()) + 1
    largest = FORMATS[-1]
    if said is not None and rows <= said[0] <= largest[0] and columns <= said[1] <= largest[1] and lowest >= 0:
        return said
    fitting = [shape for shape in FORMATS if shape[0] >= rows and shape[1] >= columns]
    if not fitting or lowest < 0:
        raise PlateflowError(
            "a well lies off the plate",
            where=f"{entry.plate}: rows {planes['row'].min() + 1} to {rows}, "
            f"columns {planes['column'].min() + 1} to {columns}",
            why="plates have at most 32 rows and 48 columns, counted from 1",
            remedy="mend the metadata, or the pattern in the plate sheet",
        )
    if said is not None:
        notes.append(f"the metadata say {said[0]} x {said[1]} wells, but wells reach row {rows} and column {columns}")
    return fitting[0]


def _refuse_doubled(entry: PlateEntry, planes: pd.DataFrame) -> None:
    doubled = planes.duplicated(PLACE, keep=False)
    if doubled.any():
        first = planes[doubled].sort_values(PLACE, kind="stable")
        place = first.iloc[0]
        same = (first[PLACE] == place[PLACE]).all(axis=1)
        files = sorted({path or "(no file)" for path in first.loc[same, "path"]})
        raise PlateflowError(
            "two planes claim the same place",
            where=f"{entry.plate}: well {place['well']}, field {place['field']}, channel {place['channel']}, "
            f"t {place['t']}, z {place['z']}: {', '.join(files)}",
            why=f"{int(doubled.sum())} planes of the plate share their place with another",
            remedy="remove the copies; if two measurements lie in one folder, make two plates of it",
        )


def _add_missing(planes: pd.DataFrame) -> pd.DataFrame:
    """Rows for planes that a field lacks: of each time point up to its well's last, all channels and their z planes.

    A channel's z planes are those that it has anywhere on the plate, so that stacks may differ between channels.
    """
    stacks = planes[["channel", "z"]].drop_duplicates()
    fields = planes[["row", "column", "well", "field"]].drop_duplicates()
    last = planes.groupby("well", sort=False)["t"].max()
    times = pd.DataFrame([(well, t) for well, n in last.items() for t in range(n + 1)], columns=["well", "t"])
    whole = fields.merge(times, on="well").merge(stacks, how="cross")
    if len(whole) == len(planes):
        return planes
    known = pd.MultiIndex.from_frame(planes[PLACE])
    lacking = whole[~pd.MultiIndex.from_frame(whole[PLACE]).isin(known)]
    of_field = planes.groupby(["well", "field"], sort=False)[
        ["y_um", "x_um", "dy_um", "dx_um", "height", "width"]
    ].first()
    lacking = lacking.join(of_field, on=["well", "field"])
    return pd.concat([planes, lacking.assign(path="", page=0, z_um=np.nan)], ignore_index=True)


def _complete_sizes(entry: PlateEntry, planes: pd.DataFrame, listing: Listing, notes: list[str]) -> None:
    """Height, width and pixel type: what most of a few headers say, so that one bad file doesn't decide."""
    present = [path for path in planes["path"].drop_duplicates() if path in listing.files]
    step = max(1, len(present) // HEADERS_READ)
    heads = (header(listing.root / path) for path in present[::step][:HEADERS_READ])
    votes = Counter(head for head in heads if head is not None and 0 < head[0] * head[1] <= LARGEST_PX)
    height, width, dtype = votes.most_common(1)[0][0] if votes else (0, 0, "uint16")
    # Anything but uint8 and uint16 is set aside when it is read: 32-bit planes are how Harmony marks invalid images.
    planes["dtype"] = dtype if dtype in ("uint8", "uint16") else "uint16"
    sides = planes[["height", "width"]].astype(float)
    said = (sides > 0).all(axis=1) & (sides.prod(axis=1) <= LARGEST_PX)
    if odd := int(((sides != 0).any(axis=1) & ~said).sum()):
        notes.append(f"the metadata give {odd} planes a size that no image has; the usual size is expected of them")
    if said.any() and votes:
        first = planes[said].iloc[0]
        if (first["height"], first["width"]) != (height, width):
            notes.append(
                f"the metadata say {first['height']:.0f} x {first['width']:.0f} pixels, the files {height} x {width}"
            )
    planes.loc[~said, ["height", "width"]] = [height, width]
    if (planes["height"] <= 0).any():
        raise PlateflowError(
            "no image of the plate can be read",
            where=f"{entry.plate}: {some(present)}",
            why="the metadata don't give the images' size, and the files that were tried are no sound TIFFs",
            remedy="run `plateflow check`, and copy the images again",
        )


def _one_size_a_field(entry: PlateEntry, planes: pd.DataFrame, notes: list[str]) -> None:
    """All planes of a field must have one size, as they lie on each other pixel for pixel.

    Where the metadata give those of a few fields different sizes, the plate's usual size is expected of all of them:
    a file that really has another is set aside as `wrong_size` when it is read, and its field with it.
    """
    fields = planes.groupby(["well", "field"], sort=False)
    mixed = (fields["height"].transform("nunique") > 1) | (fields["width"].transform("nunique") > 1)
    if not mixed.any():
        return
    place = ["well", "field"]
    first = planes[mixed].merge(planes[mixed].iloc[:1][place]).drop_duplicates(["channel", "height", "width"])
    said = ", ".join(f"{row.channel} {row.height:.0f} x {row.width:.0f}" for row in first.itertuples())
    where = f"well {first['well'].iloc[0]}, field {first['field'].iloc[0]}: {said} px"
    if mixed.all():
        raise PlateflowError(
            "the channels of a field have different sizes",
            where=f"{entry.plate}: {where}",
            why="the planes of a field must lie on each other pixel for pixel, and it is so in no field of the plate",
            remedy="export all channels with the same binning, or bring the smaller images to the size of the others",
        )
    height, width = planes.loc[~mixed, ["height", "width"]].value_counts().index[0]
    notes.append(
        f"the metadata give the planes of {len(planes.loc[mixed, place].drop_duplicates())} fields different sizes "
        f"({where}); {height:.0f} x {width:.0f} px is expected of all"
    )
    planes.loc[mixed, ["height", "width"]] = [height, width]


def _natural(text: str) -> tuple[int, int, str]:
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def some(names: Iterable[str], *, limit: int = 3) -> str:
    """The first few of many names, for a message."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more
