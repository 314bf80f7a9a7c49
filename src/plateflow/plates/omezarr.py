"""OME-Zarr plates (NGFF 0.4 to 0.6, Zarr 2 and 3): fields or whole wells as images, with three to five axes.

A plane of the manifest is part of the array of an image's first level: `path` is the folder of the array, `page` the
number of the plane over all axes but y and x. Metadata are in `.zattrs` or `zarr.json`, below `ome` or not (some plates
mix the two). Rows and columns go by their names, as many writers list only those in use, or by their index where the
names are not letters and numbers. Several acquisitions of a well share their fields, and each has its own channels. A
plane without a chunk, where other fields have one, is missing, not black.
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

from plateflow.config import PlateSpec
from plateflow.paths import parse_well
from plateflow.plates.files import PARSE_ERRORS, Listing, inside, list_files, parsing
from plateflow.plates.pixels import own_fault
from plateflow.plates.raw import RawFolder
from plateflow.plates.reader import Index, Records, counted, examples, make_index, other_layout, plate_folder

_TO_UM = {
    **{"": 1.0, "micrometer": 1.0, "micron": 1.0},
    **{"nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6, "angstrom": 1e-4},
}
PLATES = {(2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48)}
"""Rows and columns of real plates; any other shape counts only the rows and columns in use."""
_CHUNK = re.compile(r"(?:c[/.])?(\d+(?:[/.]\d+)*)")


class OmeZarrReader:
    """Reads the metadata of the groups and the names of the chunks.

    As `omezarr_in_place`, the pixels stay where they are: the plate's store then has only a preview.
    """

    def __init__(self, *, in_place: bool = False) -> None:
        self.name, self.in_place = "omezarr_in_place" if in_place else "omezarr", in_place

    def recognise(self, folder: Path) -> bool:
        """By a group with the attribute `plate`: the folder itself, or the only Zarr group in it."""
        return not self.in_place and _plate_group(folder) is not None

    def read(self, spec: PlateSpec) -> Index:
        """Index an OME-Zarr plate (see `Reader.read`)."""
        folder = plate_folder(spec)
        root = _plate_group(folder)
        if root is None:
            why = _unreadable(Path(spec.path)) or "it has no zarr.json or .zattrs with the attribute plate"
            remedy = "give the plate's own group, the folder that holds the rows; a single image is not a plate"
            raise other_layout(spec, "an OME-Zarr plate", why=why, remedy=remedy)
        plate = _Plate(spec, list_files(root))
        base = root.relative_to(folder).as_posix()
        index = make_index(spec, self.name, plate.records(), plate.listing, base=base)
        if self.in_place:
            index.metadata["in_place"] = True
        return index


def _plate_group(folder: Path) -> Path | None:
    below = [path for path in sorted(folder.iterdir()) if path.suffix == ".zarr" and path.is_dir()][:2]
    for place in (folder, *below) if len(below) == 1 else (folder,):
        if isinstance(_attributes(place).get("plate"), dict):
            return place
    return None


def _attributes(group: Path) -> dict[str, Any]:
    """The OME attributes of a group; empty where it has none, or cannot be read."""
    for name in ("zarr.json", ".zattrs"):
        try:
            attributes = json.loads((group / name).read_text(encoding="utf-8"))
            attributes = attributes.get("attributes", {}) if name == "zarr.json" else attributes
            attributes = attributes.get("ome", attributes)
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            if not own_fault(error):
                raise
            continue
        return attributes if isinstance(attributes, dict) else {}
    return {}


def _unreadable(group: Path) -> str:
    """Why a group's metadata can't be read; empty where they can, or it has none."""
    for path in (path for name in ("zarr.json", ".zattrs") if (path := group / name).is_file()):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"its {path.name} can't be parsed: {type(error).__name__ if not str(error) else error}"
    return ""


class _Plate:
    """The walk through the groups of a plate."""

    def __init__(self, spec: PlateSpec, files: Listing) -> None:
        self.spec, self.files, self.root = spec, files, files.root
        self.metadata = _attributes(files.root)["plate"]
        self.listing = Listing(root=files.root, files={}, outside=files.outside)  # the "files" of images are arrays
        self.chunks = _chunks(files)
        self.channels: dict[Any, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.differing: list[str] = []

    def records(self) -> Records:
        """All planes of the plate."""
        planes: list[dict[str, Any]] = []
        where, remedy = f"{self.spec.plate}: {self.root}", "check the plate with an OME-Zarr validator, and rewrite it"
        with parsing("the metadata of the plate", where=where, remedy=remedy):
            for well in self.metadata["wells"]:
                path = self._inside(well["path"])
                try:
                    row, column = parse_well("".join(path.split("/")[-2:]))
                except ValueError:
                    row, column = int(well["rowIndex"]), int(well["columnIndex"])
                planes += self._well(row, column, path)
            if not self.channels:
                raise ValueError("; ".join(self.notes) or "it has no image")
            shape = len(self.metadata["rows"]), len(self.metadata["columns"])
        if self.differing:
            names = examples(set(self.differing))
            self.notes.append(f"images name their channels otherwise than the first: {names}")
        return Records(
            planes=planes,
            channels=dict(sorted(self.channels.items())),
            format=shape if shape in PLATES else None,
            disagreements=self.notes,
        )

    def _inside(self, name: str, base: str = ".") -> str:
        return inside(self.files, name, base=base, plate=self.spec.plate, source="the plate's metadata")

    def _well(self, row: int, column: int, path: str) -> Iterator[dict[str, Any]]:
        images = _attributes(self.root / path).get("well", {}).get("images", [])
        if not images:
            self.notes.append(f"the well {path} has no image")
        acquisitions = sorted({image.get("acquisition", 0) for image in images})
        several = len(acquisitions) > 1 or len(self.metadata.get("acquisitions", [])) > 1
        if several and not any("acquisitions" in note for note in self.notes):
            self.notes.append("the plate has several acquisitions: they are taken to lie on each other pixel for pixel")
        counts: dict[int, int] = {}
        for image in images:
            acquisition = image.get("acquisition", 0)
            number = counts[acquisition] = counts.get(acquisition, -1) + 1
            place = {"row": row, "column": column, "field": str(number if several else image["path"])}
            image_path, group = self._inside(str(image["path"]), base=path), acquisition if several else None
            try:
                yield from list(self._image(image_path, place, group))
            except (*PARSE_ERRORS, OSError) as error:  # one bad image leaves its field out, not the plate
                if not own_fault(error):
                    raise
                RawFolder(self.root).look_around(image_path)
                self.notes.append(f"the image {image_path} can't be understood: {type(error).__name__}: {error}")
                # One plane of it, of a channel that other images have; `make_index` adds the rest of theirs.
                channel = next((key for key in self.channels if key[0] == (group or 0)), (group or 0, 0))
                yield {**place, "t": 0, "z": 0, "channel": channel, "path": "", "reason": "unreadable"}
        listed = {self._inside(str(image["path"]), base=path) for image in images}
        present = {array.rpartition("/")[0] for array in self.chunks if array.startswith(f"{path}/")}
        extra = {group for group in present - listed if group.count("/") == path.count("/") + 1}
        self.notes += counted(extra, "images are not in their well's metadata and are not used")

    def _image(self, path: str, place: dict[str, Any], acquisition: int | None) -> Iterator[dict[str, Any]]:
        attributes = _attributes(self.root / path)
        if "multiscales" not in attributes:
            raise ValueError("it has no multiscales")
        multiscale = attributes["multiscales"][0]
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
        identifiers = self._identifiers(attributes, shape[names.index("c")] if "c" in names else 1, path, acquisition)
        positions, self.listing.files[array] = self.chunks.get(array, ([], (0, 0)))
        geometry = {"y_um": um["y"][1], "x_um": um["x"][1], "dy_um": um["y"][0], "dx_um": um["x"][0]}
        geometry |= {"height": shape[-2], "width": shape[-1]}
        present = _present(shape, chunk, positions)
        if not present:
            last = shape[names.index("t")] - 1 if "t" in names else 0
            yield {**place, **geometry, "t": last, "z": 0, "channel": identifiers[0], "path": ""}
        for index in present:
            at = dict(zip(names, index, strict=False))
            z_step, z_start = um.get("z", (math.nan, math.nan))
            plane = {"t": at.get("t", 0), "z": at.get("z", 0), "z_um": z_start + z_step * at.get("z", 0)}
            page = int(np.ravel_multi_index(index, shape[:-2])) if index else 0
            yield {**place, **geometry, **plane, "channel": identifiers[at.get("c", 0)], "path": array, "page": page}

    def _identifiers(
        self, attributes: Mapping[str, Any], count: int, path: str, acquisition: int | None
    ) -> list[tuple[int, int]]:
        """The identifiers of an image's channels; new ones are added to those of the plate."""
        listed = (attributes.get("omero") or {}).get("channels", [])
        for number in range(count):
            label = str(listed[number].get("label") or number) if number < len(listed) else str(number)
            name = label if acquisition is None else f"{label} A{acquisition}"
            if self.channels.setdefault((acquisition or 0, number), {"name": name})["name"] != name:
                self.differing.append(f"{path} ({name})")
        return [(acquisition or 0, number) for number in range(count)]


def _grid(array: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of an array, and that of its chunks, or of its shards where it has shards."""
    v3 = (array / "zarr.json").is_file()
    content = json.loads((array / ("zarr.json" if v3 else ".zarray")).read_text())
    shape, chunk = content["shape"], content["chunk_grid"]["configuration"]["chunk_shape"] if v3 else content["chunks"]
    if min(*shape, *chunk) < 1:
        raise ValueError(f"{array.name} has the shape {shape} in chunks of {chunk}")
    return tuple(int(n) for n in shape), tuple(int(n) for n in chunk)


def _present(shape: tuple[int, ...], chunk: tuple[int, ...], positions: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The planes of an array of which a chunk exists, as indices of all axes but y and x."""
    planes: set[tuple[int, ...]] = set()
    for position in {position[:-2] for position in positions if len(position) == len(shape)}:
        steps = zip(position, chunk[:-2], shape[:-2], strict=True)
        planes.update(product(*(range(at * size, min((at + 1) * size, stop)) for at, size, stop in steps)))
    return sorted(planes)


def _transform(levels: list[Mapping[str, Any]], n: int) -> tuple[list[float], list[float]]:
    """Scale and translation of the first level of an image: those of the level, then those of the image."""
    scale, shift = [1.0] * n, [0.0] * n
    for level in levels:
        for step in level.get("coordinateTransformations") or []:
            values = [float(value) for value in step.get(step["type"], [])]
            if values and step["type"] == "scale":
                scale = [a * b for a, b in zip(scale, values, strict=True)]
                shift = [a * b for a, b in zip(shift, values, strict=True)]
            elif values and step["type"] == "translation":
                shift = [a + b for a, b in zip(shift, values, strict=True)]
    return scale, shift


def _chunks(files: Listing) -> dict[str, tuple[list[tuple[int, ...]], tuple[int, int]]]:
    """Of each array the grid positions of its chunks or shards, and its size in bytes and latest modification time."""
    chunks: dict[str, tuple[list[tuple[int, ...]], tuple[int, int]]] = {}
    arrays = {name.rpartition("/")[0] for name in files.files if name.endswith(("/.zarray", "/zarr.json"))}
    for name, (size, time) in files.files.items():
        folder = name.rpartition("/")[0]
        while folder and folder not in arrays:
            folder = folder.rpartition("/")[0]
        match = _CHUNK.fullmatch(name[len(folder) + 1 :])
        if folder and match:
            positions, (total, latest) = chunks.get(folder, ([], (0, 0)))
            positions.append(tuple(int(n) for n in re.split(r"[/.]", match[1])))
            chunks[folder] = positions, (total + size, max(latest, time))
    return chunks
