"""OME-Zarr plates (NGFF 0.4 to 0.6, Zarr 2 and 3): fields or whole wells as images, three to five axes.

A plane of the manifest is a place in the array of an image's first level: `path` is the array's folder, `page` the
plane's number over all axes but y and x. Metadata lie in `.zattrs` or `zarr.json`, below `ome` or not (plates that mix
the two are about). Rows and columns go by their names, as many writers list only those in use; by index where the
names are no letters and numbers. Images of several acquisitions of a well lie on each other, and their channels beside
each other. A plane without a chunk, where other fields have one, is missing, not black.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well
from plateflow.plates.files import Listing, inside, list_files
from plateflow.plates.reader import Index, Records, make_index, plate_folder, some

_TO_UM = {
    "": 1.0,
    "micrometer": 1.0,
    "micron": 1.0,
    "nanometer": 1e-3,
    "millimeter": 1e3,
    "meter": 1e6,
    "angstrom": 1e-4,
}
PLATES = {(2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48)}
"""Rows and columns of whole plates: others are those in use."""
_CHUNK = re.compile(r"(?:c[/.])?(\d+(?:[/.]\d+)*)")


_BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What metadata raise that aren't as they should be."""


class OmeZarrReader:
    """Reads the groups' metadata and the names of the chunks.

    Under the name `omezarr_in_place` the pixels stay where they are: the plate's store then has a preview alone.
    """

    def __init__(self, *, in_place: bool = False) -> None:
        self.name, self.in_place = "omezarr_in_place" if in_place else "omezarr", in_place

    def recognise(self, folder: Path) -> bool:
        """A group with the attribute `plate`: the folder, or the one folder below it that is a Zarr group."""
        return not self.in_place and _plate_group(folder) is not None

    def read(self, entry: PlateEntry) -> Index:
        """Index an OME-Zarr plate (see `Reader.read`)."""
        folder = plate_folder(entry)
        root = _plate_group(folder)
        if root is None:
            raise PlateflowError(
                "the folder is not an OME-Zarr plate",
                where=f"{entry.plate}: {folder}",
                why="it has no zarr.json or .zattrs with the attribute plate",
                remedy="give the plate's own group, the folder that holds the rows; single images are no plate",
            )
        plate = _Plate(entry, list_files(root))
        index = make_index(entry, self.name, plate.records(), plate.listing)
        if self.in_place:
            index.info["in_place"] = True
        return index


def _plate_group(folder: Path) -> Path | None:
    below = [path for path in sorted(folder.iterdir()) if path.suffix == ".zarr" and path.is_dir()][:2]
    for place in (folder, *below) if len(below) == 1 else (folder,):
        if isinstance(_attributes(place).get("plate"), dict):
            return place
    return None


def _attributes(group: Path) -> dict[str, Any]:
    """What a group says of OME; empty where it says nothing, or can't be read."""
    for name in ("zarr.json", ".zattrs"):
        try:
            found = json.loads((group / name).read_text(encoding="utf-8"))
            found = found.get("attributes", {}) if name == "zarr.json" else found
            found = found.get("ome", found)
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


class _Plate:
    """The walk through a plate's groups."""

    def __init__(self, entry: PlateEntry, files: Listing) -> None:
        self.entry, self.files, self.root = entry, files, files.root
        self.about = _attributes(files.root)["plate"]
        self.listing = Listing(root=files.root, files={}, outside=files.outside)  # of arrays, which are the images here
        self.chunks = _chunks(files)
        self.channels: dict[Any, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.differing: list[str] = []

    def records(self) -> Records:
        """All planes of the plate."""
        planes: list[dict[str, Any]] = []
        try:
            for row, column, path in self._wells():
                planes += self._well(row, column, path)
            if not self.channels:
                raise ValueError("; ".join(self.notes) or "it has no image")
            if not self.channels:
                raise ValueError("; ".join(self.notes) or "it has no image")
            shape = len(self.about["rows"]), len(self.about["columns"])
        except _BROKEN as error:
            raise PlateflowError(
                "the metadata of the plate can't be understood",
                where=f"{self.entry.plate}: {self.root}",
                why=f"{type(error).__name__}: {error}",
                remedy="see whether the plate passes an OME-Zarr validator, and write it again",
            ) from error
        if self.differing:
            self.notes.append(f"images name their channels otherwise than the first: {some(set(self.differing))}")
        return Records(
            planes=planes,
            channels=dict(sorted(self.channels.items())),
            format=shape if shape in PLATES else None,
            disagreements=self.notes,
        )

    def _wells(self) -> Iterator[tuple[int, int, str]]:
        for well in self.about["wells"]:
            path = self._inside(well["path"])
            try:
                row, column = parse_well("".join(path.split("/")[-2:]))
            except ValueError:
                row, column = int(well["rowIndex"]), int(well["columnIndex"])
            yield row, column, path

    def _inside(self, name: str, base: str = ".") -> str:
        return inside(self.files, name, base=base, plate=self.entry.plate, source="the plate's metadata")

    def _well(self, row: int, column: int, path: str) -> Iterator[dict[str, Any]]:
        images = _attributes(self.root / path).get("well", {}).get("images", [])
        if not images:
            self.notes.append(f"the well {path} has no image")
        acquisitions = sorted({image.get("acquisition", 0) for image in images})
        several = len(acquisitions) > 1 or len(self.about.get("acquisitions", [])) > 1
        if several and not any("acquisitions" in note for note in self.notes):
            self.notes.append("the plate has several acquisitions: they are taken to lie on each other pixel for pixel")
        counts: dict[int, int] = {}
        for image in images:
            acquisition = image.get("acquisition", 0)
            number = counts[acquisition] = counts.get(acquisition, -1) + 1
            place = {"row": row, "column": column, "field": str(number if several else image["path"])}
            image_path, of = self._inside(str(image["path"]), base=path), acquisition if several else None
            try:
                yield from list(self._image(image_path, place, of))
            except (*_BROKEN, OSError) as error:  # one bad image leaves its field out, not the plate
                self.notes.append(f"the image {image_path} can't be understood: {type(error).__name__}: {error}")
                yield self._unread(place, of)
        listed = {self._inside(str(image["path"]), base=path) for image in images}
        lying = {array.rpartition("/")[0] for array in self.chunks if array.startswith(f"{path}/")}
        if extra := {group for group in lying - listed if group.count("/") == path.count("/") + 1}:
            self.notes.append(f"{len(extra)} images are not in their well's metadata and are not used: {some(extra)}")

    def _unread(self, place: dict[str, Any], acquisition: int | None) -> dict[str, Any]:
        """A plane that stands for an image without metadata; the plate's other images say which planes it lacks."""
        channel = next((key for key in self.channels if key[0] == (acquisition or 0)), (acquisition or 0, 0))
        return {**place, "t": 0, "z": 0, "channel": channel, "path": "", "reason": "unreadable"}

    def _image(self, path: str, place: dict[str, Any], acquisition: int | None) -> Iterator[dict[str, Any]]:
        about = _attributes(self.root / path)
        if "multiscales" not in about:
            raise ValueError("it has no multiscales")
        multiscale = about["multiscales"][0]
        first = multiscale["datasets"][0]
        array = self._inside(str(first["path"]), base=path)
        shape, chunk = _grid(self.root / array)
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", [])]
        names = [axis["name"] for axis in axes] or list("tczyx")
        if len(names) != len(shape) or names[-2:] != ["y", "x"]:
            raise ValueError(f"{path} has the axes {', '.join(names)} and the shape {shape}; y and x must be its last")
        units = [_TO_UM.get(axis.get("unit") or "", math.nan) for axis in axes] or [1.0] * len(names)
        scale, shift = _transform([first, multiscale], len(names))
        um = {name: (scale[n] * units[n], shift[n] * units[n]) for n, name in enumerate(names)}
        labels = self._labels(about, shape[names.index("c")] if "c" in names else 1, path, acquisition)
        places, self.listing.files[array] = self.chunks.get(array, ([], (0, 0)))
        known = {
            "y_um": um["y"][1],
            "x_um": um["x"][1],
            "dy_um": um["y"][0],
            "dx_um": um["x"][0],
            "height": shape[-2],
            "width": shape[-1],
        }
        present = _present(shape, chunk, places)
        if not present:
            last = shape[names.index("t")] - 1 if "t" in names else 0
            yield {**place, **known, "t": last, "z": 0, "channel": labels[0], "path": ""}
        for index in present:
            at = dict(zip(names, index, strict=False))
            z_step, z_start = um.get("z", (math.nan, math.nan))
            plane = {"t": at.get("t", 0), "z": at.get("z", 0), "z_um": z_start + z_step * at.get("z", 0)}
            page = int(np.ravel_multi_index(index, shape[:-2])) if index else 0
            yield {**place, **known, **plane, "channel": labels[at.get("c", 0)], "path": array, "page": page}

    def _labels(
        self, about: Mapping[str, Any], count: int, path: str, acquisition: int | None
    ) -> list[tuple[int, int]]:
        """The identifiers of an image's channels; what is known of them goes to the plate's."""
        listed = (about.get("omero") or {}).get("channels", [])
        for number in range(count):
            label = str(listed[number].get("label") or number) if number < len(listed) else str(number)
            name = label if acquisition is None else f"{label} A{acquisition}"
            if self.channels.setdefault((acquisition or 0, number), {"name": name})["name"] != name:
                self.differing.append(f"{path} ({name})")
        return [(acquisition or 0, number) for number in range(count)]


def _grid(array: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of an array, and of its chunks, or of its shards where it has such."""
    if (array / "zarr.json").is_file():
        about = json.loads((array / "zarr.json").read_text())
        shape, chunk = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
    else:
        about = json.loads((array / ".zarray").read_text())
        shape, chunk = about["shape"], about["chunks"]
    if min(*shape, *chunk) < 1:
        raise ValueError(f"{array.name} has the shape {shape} in chunks of {chunk}")
    return tuple(int(n) for n in shape), tuple(int(n) for n in chunk)


def _present(shape: tuple[int, ...], chunk: tuple[int, ...], places: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of an array the planes, as indices of all axes but y and x, of which a chunk is there."""
    found: set[tuple[int, ...]] = set()
    for place in {place[:-2] for place in places if len(place) == len(shape)}:
        steps = zip(place, chunk[:-2], shape[:-2], strict=True)
        found.update(product(*(range(at * size, min((at + 1) * size, end)) for at, size, end in steps)))
    return sorted(found)


def _transform(levels: list[Mapping[str, Any]], n: int) -> tuple[list[float], list[float]]:
    """Scale and translation of an image's first level: its own, then the image's."""
    scale, shift = [1.0] * n, [0.0] * n
    for level in levels:
        for step in level.get("coordinateTransformations") or []:
            values = [float(value) for value in step.get(step["type"], [])] or [
                1.0 if step["type"] == "scale" else 0.0
            ] * n
            if step["type"] == "scale":
                scale = [a * b for a, b in zip(scale, values, strict=True)]
                shift = [a * b for a, b in zip(shift, values, strict=True)]
            elif step["type"] == "translation":
                shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale, shift


def _chunks(files: Listing) -> dict[str, tuple[list[tuple[int, ...]], tuple[int, int]]]:
    """Of each array the places of its chunks or shards in their grid, and its size in bytes and newest time."""
    found: dict[str, tuple[list[tuple[int, ...]], tuple[int, int]]] = {}
    arrays = {name.rpartition("/")[0] for name in files.files if name.endswith(("/.zarray", "/zarr.json"))}
    for name, (size, time) in files.files.items():
        folder = name.rpartition("/")[0]
        while folder and folder not in arrays:
            folder = folder.rpartition("/")[0]
        match = _CHUNK.fullmatch(name[len(folder) + 1 :])
        if folder and match:
            places, (total, newest) = found.get(folder, ([], (0, 0)))
            places.append(tuple(int(n) for n in re.split(r"[/.]", match[1])))
            found[folder] = places, (total + size, max(newest, time))
    return found
