"""What all readers share: their protocol, the index that they make, and the checks that every index passes.

A reader turns one vendor's metadata and file names into records, one per plane, with wells, positions and sizes in
Plateflow's terms. `make_index` does the rest, the same for every layout: files on disk, planes that are missing or
claimed twice, wells off the plate, the order of the channels.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError, number_of, printable
from plateflow.files import is_litter
from plateflow.paths import well_name
from plateflow.plates.channel_names import named
from plateflow.plates.copies import later_copies
from plateflow.plates.files import Listing, link_error, list_files
from plateflow.plates.formats import plate_format
from plateflow.plates.headers import LARGEST_PX, few_headers, usual_types
from plateflow.plates.names import refuse_odd_names
from plateflow.plates.pages import refuse_other_pixels, refuse_unused_pages
from plateflow.plates.pixels import pixel_type
from plateflow.plates.raw import RawFolder, machine_error, unmounted
from plateflow.plates.stacks import add_missing, lacking_channels, uneven

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
"""The columns that identify a plane."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """The manifest of a plate.

    Attributes:
        root: the plate's folder, absolute.
        planes: one row per plane, with `COLUMNS` (docs/design.md), sorted by row, column, field, channel, t, z; the
            path is relative to the plate's folder.
        metadata: the content of manifest/plate.json: format, wells, channels, pixel size, layout, disagreements.
        times_s: when each plane was taken, float64 (n,), NaN where unknown; used by preflight only.
        pages_chosen, listed: as in `Records`; used by preflight only.
        format_stated: whether the metadata say the format that is taken.
    """

    root: Path
    planes: pd.DataFrame
    metadata: dict[str, Any]
    times_s: NDArray[np.float64] | None = None
    pages_chosen: bool = False
    listed: bool = False
    format_stated: bool = False


@dataclass(kw_only=True)
class Records:
    """What a reader finds: one dictionary per plane, and what is known about the plate as a whole.

    Attributes:
        planes: dictionaries with row, column (from 0), field, t, z (as the vendor counts them), channel (an
            identifier), path (relative to the plate's folder, empty where there is none), and where known page, y_um,
            x_um (top-left corner, y pointing down), z_um, dy_um, dx_um, height, width, time_s (on any one clock); where
            there is no path, a reason in one word.
        channels: identifier -> what is known about the channel, at least its `name`; in the order of the channels.
        format: rows and columns of the plate, where the metadata give them.
        bit_max: the top of the camera's range, where the metadata give it.
        disagreements: sentences about what the metadata, the file names and the files say differently.
        pages_chosen: whether a table names several pages of the files, and so leaves the others out on purpose.
        listed: whether an index names every plane that was taken: what it doesn't name, no copy can bring.
    """

    planes: list[dict[str, Any]]
    channels: Mapping[Any, Mapping[str, Any]]
    format: tuple[int, int] | None = None
    bit_max: int | None = None
    disagreements: list[str] = field(default_factory=list)
    pages_chosen: bool = False
    listed: bool = False


class Reader(Protocol):
    """Reads one layout."""

    name: str

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
        """Whether a folder looks like this layout, by its first files (of `peek`); opens no image."""

    def read(self, spec: PlateSpec) -> Index:
        """Index a plate of the plate sheet.

        Raises:
            RawDataError: the folder cannot be read as this layout.
        """


def plate_folder(spec: PlateSpec) -> Path:
    """Check the folder of a plate.

    Raises:
        RawDataError: the folder does not exist, is empty, or cannot be listed.
    """
    return _checked(spec, spec.path, "the plate's folder", "the path")


def _checked(spec: PlateSpec, path: str, what: str, column: str) -> Path:
    folder = Path(path)
    where = f"{spec.plate}: {folder}"
    try:
        there = folder.is_dir()
        empty = there and all(is_litter(path.name) for path in folder.iterdir())
    except OSError as error:
        raise machine_error(error, where=where) from error
    if not there:
        remedy = f"fix {column} in the plate sheet; relative paths start at the folder in which snakemake runs"
        raise RawDataError(f"{what} does not exist", where=where, remedy=remedy) from unmounted(folder)
    if empty:
        remedy = f"copy the measurement into it, or fix {column} in the plate sheet"
        # a mount point is empty on a node that lacks the share
        raise RawDataError(f"{what} is empty", where=where, remedy=remedy) from unmounted(folder / "any")
    return folder


def plate_files(spec: PlateSpec) -> Listing:
    """The files of a plate, whose folder is checked; with those that links lead to, where these are followed.

    Raises:
        RawDataError: as `plate_folder`, or there is nothing in the folder that links may lead into.
    """
    folder = plate_folder(spec)
    if spec.follow_links is not None:
        _checked(spec, spec.follow_links, "the folder that links may lead into", "follow_links")
    return list_files(folder, spec.follow_links)


def geometry(y: float, x: float, *, dy: float, dx: float, height: int, width: int) -> dict[str, Any]:
    """The part of a record that says where a field lies and how large it is; `make_index` uses the user's pixel size.

    Args:
        y, x: the centre of the field in um, y pointing down.
        dy, dx: the height and width of a pixel in um.
        height, width: the size of the field in px.
    """
    corner = {"y_um": y - height * dy / 2, "x_um": x - width * dx / 2, "y_centre_um": y, "x_centre_um": x}
    return corner | {"dy_um": dy, "dx_um": dx, "height": height, "width": width}


def other_layout(
    spec: PlateSpec, expected: str, listing: Listing | None = None, *, why: str, remedy: str
) -> RawDataError:
    """The error of a reader for a folder that does not have its layout.

    Args:
        expected: what the reader reads, such as "a Harmony measurement".
        listing: the folder's files; links among them may be all that it lacks.
    """
    if listing is not None and listing.outside:
        return link_error(listing, min(listing.outside), plate=spec.plate)
    remedy = f"{remedy}; for other layouts set `layout` in the plate sheet"
    return RawDataError(f"the folder is not {expected}", where=f"{spec.plate}: {spec.path}", why=why, remedy=remedy)


def make_index(spec: PlateSpec, layout: str, records: Records, listing: Listing, *, base: str = ".") -> Index:
    """Make the manifest from what a reader found.

    Planes whose file does not exist, and planes that a field lacks and others of its well have, are `missing`. Time
    points and z planes are renumbered from 0, in the vendor's order. Only a few images are opened, for their headers:
    the pixel type always comes from them, the size where the metadata do not give it; none may have pages that aren't
    read (`check` looks into all files).

    Args:
        layout: the name of the reader.
        base: the folder that was listed, relative to the plate's, where it is another.

    Raises:
        ConfigError: channels can't have the names that the plate sheet gives them.
        RawDataError: there is no plane at all, two planes claim one place, a well lies off the plate, pages wouldn't be
            used, or the channels of all fields differ in size.
        OSError: the machine is at fault.
    """
    linked = next(filter(None, (listing.link_to(plane.get("path", "")) for plane in records.planes)), None)
    if linked or (listing.outside and not records.planes):
        raise link_error(listing, linked or min(listing.outside), plate=spec.plate)
    if not records.planes:
        raise RawDataError(
            "there is no image in the plate's folder",
            where=f"{spec.plate}: {spec.path}",
            remedy="check that the folder holds the images, and the layout in the plate sheet",
        )
    refuse_odd_names(spec, listing, {plane.get("path", "") for plane in records.planes})
    notes = list(map(printable, records.disagreements))
    notes += counted(listing.outside, "link[s lead| leads] out of the plate's folder and [aren't|isn't] followed")
    notes += counted(listing.broken, "link[s lead| leads] nowhere")
    planes = pd.DataFrame.from_records(records.planes)
    for column in COLUMNS:
        if column not in planes:
            planes[column] = np.nan if column.endswith("_um") else "" if column in ("path", "reason") else 0
    planes = planes.fillna({"path": "", "page": 0})
    for axis in ("t", "z"):
        planes[axis] = planes[axis].rank(method="dense").astype("int32") - 1
    channels = named(spec, records.channels.values(), notes)
    names = [channel["name"] for channel in channels]
    planes["channel"] = planes["channel"].map(dict(zip(records.channels, names, strict=True)))
    planes["field"] = planes["field"].astype(str)
    shape = plate_format(spec, records.format, planes, notes)
    planes["well"] = [well_name(row, column) for row, column in zip(planes["row"], planes["column"], strict=True)]
    _refuse_doubled(spec, planes)
    if spec.pixel_size_um is not None:
        planes["dy_um"] = planes["dx_um"] = spec.pixel_size_um
        for axis, side in {"y": "height", "x": "width"}.items() if "y_centre_um" in planes else ():
            corner = planes[f"{axis}_centre_um"] - planes[side] * spec.pixel_size_um / 2
            planes[f"{axis}_um"] = corner.fillna(planes[f"{axis}_um"])
    if spec.z_step_um is not None:
        planes["z_um"] = planes["z_um"].fillna(planes["z"] * spec.z_step_um)
    planes = add_missing(planes)
    pages = _complete_sizes(spec, planes, listing, notes)
    if not records.pages_chosen:
        refuse_unused_pages(spec.plate, planes, pages)
    _one_size_per_field(spec, planes, notes)
    planes[["size_bytes", "mtime_ns"]] = [listing.files.get(path, (-1, -1)) for path in planes["path"]]
    absent = planes["size_bytes"] < 0
    planes["state"] = np.where(absent, "missing", "ok")
    without_path = planes["reason"].replace("", None).fillna("no_record")
    planes["reason"] = np.where(absent, np.where(planes["path"] == "", without_path, "missing"), "")
    planes["path"] = [str(PurePosixPath(base, path)) if path else "" for path in planes["path"]]
    planes["plate"] = spec.plate
    planes["_channel"] = planes["channel"].map(names.index)
    planes["_field"] = planes["field"].map(lambda name: int(name) if name.isdecimal() else np.inf)
    planes = planes.sort_values(["row", "column", "_field", "field", "_channel", "t", "z"], kind="stable")
    copies = later_copies(planes)
    what = "field[s lie| lies] where another of [their|its] well does, and [are|is] not used: the place was taken twice"
    notes += counted([f"{well} field {name}" for well, name in copies], what)
    planes = planes[[place not in copies for place in zip(planes["well"], planes["field"], strict=True)]]
    times = planes["time_s"].to_numpy(float) if "time_s" in planes else None
    planes = planes[list(COLUMNS)].astype(COLUMNS).reset_index(drop=True)
    metadata = {"plate": spec.plate, "format": list(shape), "layout": layout}
    metadata |= _metadata(records.bit_max, channels, planes, notes)
    root = Path(spec.path).absolute()
    told = {"pages_chosen": records.pages_chosen, "listed": records.listed}
    told["format_stated"] = records.format == shape
    return Index(root=root, planes=planes, metadata=metadata, times_s=times, **told)


def _metadata(
    bit_max: int | None, channels: list[dict[str, Any]], planes: pd.DataFrame, notes: list[str]
) -> dict[str, Any]:
    """The content of manifest/plate.json, but for the plate's id, format and layout."""
    sizes = planes[["dy_um", "dx_um"]].dropna().drop_duplicates()
    if len(sizes) > 1:
        listed = [tuple(size) for size in sizes.to_numpy().tolist()]
        notes.append(f"the pixel sizes differ: {listed}; the first is used")
    stored = dict(zip(planes["channel"], planes["dtype"], strict=True))
    what = "channel[s have| has] signed pixels far below 0, as ScanR writes them: 32,768 is added to each"
    notes += counted([name for name, dtype in stored.items() if dtype == "int16"], what)
    types = {name: pixel_type(dtype) for name, dtype in stored.items()}
    wide = "uint16" in types.values()
    lacking = lacking_channels(planes, [channel["name"] for channel in channels])
    notes += [note for wells, what in uneven(planes, lacking) for note in counted(wells, what)]
    return {
        "wells": list(planes["well"].drop_duplicates()),
        "channels": [{**channel, "dtype": types.get(channel["name"], "uint16")} for channel in channels],
        "pixel_size_um": sizes.iloc[0].tolist() if len(sizes) else None,
        "fields": int(planes["field"].nunique()),
        "z": int(planes["z"].max()) + 1,
        "t": int(planes["t"].max()) + 1,
        "bit_max": (bit_max or 65535) if wide else 255,
        "disagreements": notes,
        **({"lacking_channels": lacking} if lacking else {}),
    }


def _refuse_doubled(spec: PlateSpec, planes: pd.DataFrame) -> None:
    doubled = planes.duplicated(PLACE, keep=False)
    if doubled.any():
        rows = planes[doubled].sort_values(PLACE, kind="stable")
        first = rows.iloc[0]
        files = sorted({path or "(no file)" for path in rows.loc[(rows[PLACE] == first[PLACE]).all(axis=1), "path"]})
        raise RawDataError(
            "two planes claim the same place",
            where=f"{spec.plate}: well {first['well']}, field {first['field']}, channel {first['channel']}, "
            f"t {first['t']}, z {first['z']}: {', '.join(files)}",
            why=f"{int(doubled.sum())} planes of the plate share their place with another",
            remedy="remove the copies; if the folder holds two measurements, give each its own (`plateflow init A B`)",
        )


def _complete_sizes(spec: PlateSpec, planes: pd.DataFrame, listing: Listing, notes: list[str]) -> dict[str, int]:
    """Fill in height, width and pixel type by a vote of a few files' headers, so that one bad file does not decide.

    Returns:
        path of each of these files -> the number of planes in it.
    """
    of_channels = few_headers(planes, listing)
    headers = {path: head for of in of_channels.values() for path, head in of.items()}
    present = [path for path in planes["path"].drop_duplicates() if path in listing.files]
    if present and not headers:
        RawFolder(listing.root).look_around(present[0])
    votes = Counter(head.shape[:2] for of in of_channels.values() for head in of.values())
    height, width = votes.most_common(1)[0][0] if votes else (0, 0)
    known = {name: of.values() for name, of in of_channels.items()}
    refuse_other_pixels(f"{spec.plate}: {examples(headers)}", known)
    planes["dtype"] = planes["channel"].map(usual_types(known))
    sides = planes[["height", "width"]].astype(float)
    given = (sides > 0).all(axis=1) & (sides.prod(axis=1) <= LARGEST_PX)
    if odd := int(((sides != 0).any(axis=1) & ~given & (planes["path"] != "")).sum()):
        notes.append(f"the metadata give {number_of(odd, 'plane[s]')} a size of no image; the usual one is expected")
    if given.any() and votes:
        first = planes[given].iloc[0]
        if (first["height"], first["width"]) != (height, width):
            notes.append(
                f"the metadata say {first['height']:.0f} x {first['width']:.0f} pixels, the files {height} x {width}"
            )
    planes.loc[~given, ["height", "width"]] = [height, width]
    if (planes["height"] <= 0).any():
        raise RawDataError(
            "no image of the plate can be read",
            where=f"{spec.plate}: {examples(present)}",
            why="the metadata do not give the size of the images, and the files that were tried are damaged",
            remedy="run `plateflow check`, and copy the images again",
        )
    return {path: head.pages for path, head in headers.items()}


def _one_size_per_field(spec: PlateSpec, planes: pd.DataFrame, notes: list[str]) -> None:
    """Give all planes of a field one size, as they must match pixel for pixel.

    Where the metadata give different sizes within a few fields, the plate's usual size is expected of all their
    planes: a file that really has another size is set aside as `wrong_size` on read, and its field with it.
    """
    fields = planes.groupby(["well", "field"], sort=False)
    mixed = (fields["height"].transform("nunique") > 1) | (fields["width"].transform("nunique") > 1)
    if not mixed.any():
        return
    place = ["well", "field"]
    first = planes[mixed].merge(planes[mixed].iloc[:1][place]).drop_duplicates(["channel", "height", "width"])
    sizes = ", ".join(f"{row.channel} {row.height:.0f} x {row.width:.0f}" for row in first.itertuples())
    where = f"well {first['well'].iloc[0]}, field {first['field'].iloc[0]}: {sizes} px"
    if mixed.all():
        raise RawDataError(
            "the channels of a field have different sizes",
            where=f"{spec.plate}: {where}",
            why="the planes of a field must match pixel for pixel, and those of no field of this plate do",
            remedy="export all channels with the same binning, or resample the images to one size",
        )
    height, width = planes.loc[~mixed, ["height", "width"]].value_counts().index[0]
    several = number_of(len(planes.loc[mixed, place].drop_duplicates()), "field[s] different sizes")
    notes.append(f"the metadata give the planes of {several} ({where}): {height:.0f} x {width:.0f} px is expected")
    planes.loc[mixed, ["height", "width"]] = [height, width]


def examples(names: Iterable[str], *, limit: int = 3) -> str:
    """The first few of many names, for a message."""
    listed = sorted(map(printable, names))
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def counted(names: Collection[str], what: str) -> list[str]:
    """A note about a number of names, with examples; none where there is no name. `what` is as in `number_of`."""
    return [f"{number_of(len(names), what)}: {examples(names)}"] if names else []
