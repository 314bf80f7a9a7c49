"""OME-Zarr plates (NGFF 0.4 to 0.6, Zarr 2 and 3): fields or whole wells as images, with three to five axes.

A plane of the manifest is part of the array of an image's first level: `path` is the folder of the array, `page` the
number of the plane over all axes but y and x. Metadata are in `.zattrs` or `zarr.json`, below `ome` or not (some plates
mix the two). Rows and columns go by their names, as many writers list only those in use. Which images are fields is a
matter of `places`; where none is moved by a translation, no place is known. A plane without a chunk, where other fields
have one, is missing, not black; where a part of it has none, though those of others have, that is noted: writers may
leave out chunks of zeros.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from plateflow.config import PlateSpec
from plateflow.errors import RawDataError
from plateflow.paths import well_name
from plateflow.plates.files import PARSE_ERRORS, Listing, inside, link_error, list_files, parsing
from plateflow.plates.formats import FORMATS, USUAL
from plateflow.plates.names import parse_place
from plateflow.plates.pixels import own_fault
from plateflow.plates.places import Image, fields_of
from plateflow.plates.raw import RawFolder
from plateflow.plates.reader import Index, Records, counted, make_index, other_layout, plate_files, plate_folder
from plateflow.plates.units import um_per

_METADATA = ("zarr.json", ".zattrs")
_CHUNK = re.compile(r"(?:c[/.])?(\d+(?:[/.]\d+)*)")


class OmeZarrReader:
    """Reads the metadata of the groups and the names of the chunks.

    As `omezarr_in_place`, the pixels stay where they are: the plate's store then has only a preview.
    """

    def __init__(self, *, in_place: bool = False) -> None:
        self.name, self.in_place = "omezarr_in_place" if in_place else "omezarr", in_place

    def recognise(self, folder: Path, names: Sequence[str]) -> bool:
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
        files = plate_files(spec) if root == folder else list_files(root, spec.follow_links)
        for link in files.outside:
            if "/" in link or link in _METADATA:  # of a chunk there would be nothing but its lack to see
                raise link_error(files, link, plate=spec.plate)
        plate = _Plate(spec, files)
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
    for name in _METADATA:
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
    for path in (path for name in _METADATA if (path := group / name).is_file()):
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
        self.listing = replace(files, files={})  # the "files" of images are arrays
        self.chunks = _chunks(files)
        self.channels: dict[Any, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.first: dict[Any, Image] = {}  # of a group, and of it in a well
        self.known: dict[Any, list[str]] = {}  # by group, its channels
        self.identifiers: dict[str, list[tuple[Any, int]]] = {}
        self.unnamed: list[str] = []
        self.units: dict[str, None] = {}  # notes, each once
        self.parts: dict[Any, dict[tuple[str, Any], set[Any]]] = {}  # grid of y and x -> planes -> where chunks are

    def records(self) -> Records:
        """All planes of the plate."""
        where, remedy = f"{self.spec.plate}: {self.root}", "check the plate with an OME-Zarr validator, and rewrite it"
        with parsing("the metadata of the plate", where=where, remedy=remedy):
            wells = {self._inside(well["path"]): self._place(well) for well in self.metadata["wells"]}
            images = {path: self._images(path) for path in wells}
            fields = fields_of(self.spec, images, self.notes)
            unused = [path for path, listed in images.items() if listed and not any(i.path in fields for i in listed)]
            what = "well[s have| has] no image of those that `image` names and [are|is] left out"
            self.notes += counted([well_name(*wells[path]) for path in unused], what)
            shown = [image for listed in images.values() for image in listed if image.path in fields and image.shape]
            for image in sorted(shown, key=lambda image: (-len(image.labels), not image.named)):
                self._identify(image, fields[image.path][1])
            planes = [
                plane
                for path, (row, column) in wells.items()
                for image in images[path]
                if image.path in fields
                for plane in self._planes(
                    image,
                    {"row": row, "column": column, "field": fields[image.path][0]},
                    fields[image.path][1],
                    placed=any(other.moved for other in images[path]),
                )
            ]
            if not self.channels:
                raise ValueError("; ".join(self.notes) or "it has no image")
            shape = len(self.metadata["rows"]), len(self.metadata["columns"])
        # An array may be larger than what was written; but a plane that some image has is missing where others lack it.
        written = {(plane["channel"], plane["t"], plane["z"]) for plane in planes if plane["path"]}
        planes = [p for p in planes if p["path"] or "reason" in p or (p["channel"], p["t"], p["z"]) in written]
        self.notes += self.units
        what = "channel[s] of fields [lack|lacks] chunks where others have them: these parts are read as 0, so unless "
        self.notes += counted(self._cut(), f"{what}they are black, the copy is incomplete: copy the plate again")
        what = "image[s don't| doesn't] name [their|its] channels, which are taken in the others' order"
        self.notes += counted(self.unnamed, what)
        return Records(
            planes=planes,
            channels=dict(sorted(self.channels.items())),
            format=shape if shape in (FORMATS[wells] for wells in USUAL) else None,
            disagreements=self.notes,
        )

    def _inside(self, name: str, base: str = ".") -> str:
        return inside(self.files, name, base=base, plate=self.spec.plate, source="the plate's metadata")

    def _place(self, well: Mapping[str, Any]) -> tuple[int, int]:
        """Row and column of a well by their names; numbers count from 0 or 1 only where a whole plate's are listed."""
        row, column = str(well["path"]).split("/")[-2:]
        rows, columns = ([str(item["name"]) for item in self.metadata[key]] for key in ("rows", "columns"))
        from_zero = any(name.isdecimal() and not int(name) for name in columns)
        try:
            if not (row.isdecimal() or from_zero):
                return parse_place({"row": row, "column": column})
            if (len(rows), len(columns)) not in FORMATS.values():
                raise ValueError
            first = _counted(row, rows) if row.isdecimal() else parse_place({"row": row, "column": "1"})[0]
            return first, _counted(column, columns)
        except ValueError:
            raise RawDataError(
                "the name of a well isn't understood",
                where=f"{self.spec.plate}: {self.root}: {well['path']}",
                why="rows are A to AF, and columns numbers from 1; 1536 wells may also be named as Fractal does "
                "(Ba/031); rows that are numbers, and columns from 0, are understood where the plate lists all its "
                "rows and columns in order",
                remedy="rename the wells' folders, and the rows, columns and wells in the plate's metadata",
            ) from None

    def _images(self, path: str) -> list[Image]:
        """The images of a well; what can't be understood of one is noted."""
        listed = _attributes(self.root / path).get("well", {}).get("images", [])
        if not listed:
            self.notes.append(f"the well {path} has no image")
        images = []
        for item in listed:
            about = {"path": self._inside(str(item["path"]), base=path), "acquisition": item.get("acquisition", 0)}
            try:
                images.append(self._image(**about))
            except (*PARSE_ERRORS, OSError) as error:  # one bad image leaves its field out, not the plate
                if not own_fault(error):
                    raise
                RawFolder(self.root).look_around(about["path"])
                self.notes.append(f"the image {about['path']} can't be understood: {type(error).__name__}: {error}")
                images.append(Image(**about))
        present = {array.rpartition("/")[0] for array in self.chunks if array.startswith(f"{path}/")}
        extra = present - {image.path for image in images}
        extra = {group for group in extra if group.count("/") == path.count("/") + 1}
        self.notes += counted(extra, "image[s are| is] not in [their|the] well's metadata and [are|is] not used")
        return images

    def _image(self, path: str, acquisition: Any) -> Image:
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
        scale, shift, moved = transform([first, multiscale], len(names))
        if 0 in scale:
            raise ValueError(f"its scale is {scale}")
        given = [str(axis.get("unit") or "") for axis in axes] or [""] * len(names)
        um = [self._um(*axis) for axis in zip(names, given, scale, shape, strict=True)]
        listed = (attributes.get("omero") or {}).get("channels", [])
        count = shape[names.index("c")] if "c" in names else 1
        labels = [str(listed[n].get("label") or n) if n < len(listed) else str(n) for n in range(count)]
        about: dict[str, Any] = {"path": path, "acquisition": acquisition, "array": array, "shape": shape}
        about |= {"chunk": chunk, "names": names, "scale": scale, "shift": shift, "um": um}
        return Image(**about, moved=moved, labels=labels)

    def _um(self, axis: str, unit: str, step: float, count: int) -> float:
        """How many um the unit of an axis is, along which count pixels are a step wide; NaN where it is unknown."""
        if axis not in "zyx":
            return math.nan
        um, note, what = um_per(unit), "", "distances of planes" if axis == "z" else "sizes"
        if math.isnan(um) and axis != "z" and self.spec.pixel_size_um:
            um = self.spec.pixel_size_um / step
        elif not unit and step != 1:
            um, note = 1.0, f"the images give {what} without a unit: they are taken to be in micrometres"
        elif unit and math.isnan(um):
            note = f"the images give {what} in {unit!r}, which is no known unit of length: they are unknown"
        if note and (axis != "z" or count > 1):
            self.units[note] = None
        return um

    def _planes(
        self, image: Image, place: dict[str, Any], group: Any | None, *, placed: bool
    ) -> Iterator[dict[str, Any]]:
        """The planes of an image (see `Records.planes`); `placed`: whether the well's images have places."""
        if not image.shape:
            # One plane of it, of a channel that other images have; `make_index` adds the rest of theirs.
            channel = next((key for key in self.channels if key[0] == (group or 0)), (group or 0, 0))
            yield {**place, "t": 0, "z": 0, "channel": channel, "path": "", "reason": "unreadable"}
            return
        names, shape, array = image.names, image.shape, image.array
        identifiers = self.identifiers[image.path]
        positions, self.listing.files[array] = self.chunks.get(array, ([], (0, 0)))
        steps = {name: step * um for name, step, um in zip(names, image.scale, image.um, strict=True)}
        start = {name: shift * um for name, shift, um in zip(names, image.shift, image.um, strict=True)}
        geometry = {"y_um": start["y"], "x_um": start["x"]} if placed else {"y_um": math.nan, "x_um": math.nan}
        geometry |= {"dy_um": steps["y"], "dx_um": steps["x"], "height": shape[-2], "width": shape[-1]}
        parts = self.parts.setdefault((shape[-2:], image.chunk[-2:]), {})
        where = f"{well_name(place['row'], place['column'])} field {place['field']}"
        for position in positions:
            first = [n * size for n, size in zip(position, image.chunk, strict=False)]
            if len(position) == len(shape) and all(map(int.__lt__, first, shape)):
                name = image.labels[first[names.index("c")]] if "c" in names else ""
                parts.setdefault((f"{where} {name}".rstrip(), (image.path, *position[:-2])), set()).add(position[-2:])
        present = _present(shape, image.chunk, positions)
        for index in np.ndindex(*shape[:-2]):
            at = dict(zip(names, index, strict=False))
            z_um = start.get("z", math.nan) + steps.get("z", math.nan) * at.get("z", 0)
            plane = {"t": at.get("t", 0), "z": at.get("z", 0), "z_um": z_um}
            page = int(np.ravel_multi_index(index, shape[:-2])) if index else 0
            path = array if index in present else ""
            yield {**place, **geometry, **plane, "channel": identifiers[at.get("c", 0)], "path": path, "page": page}

    def _cut(self) -> set[str]:
        """The fields and channels with a plane that has some chunks, but not all that another of its size has."""
        alike = [(planes, set().union(*planes.values())) for planes in self.parts.values()]
        return {name for planes, every in alike for (name, _), held in planes.items() if held < every}

    def _identify(self, image: Image, group: Any | None) -> None:
        """Find an image's channels by their names; those of the first image of a well are all that the well has."""
        first = self.first.setdefault(group or 0, image)
        of_well = self.first.setdefault((group or 0, image.path.rpartition("/")[0]), image)
        known, own = self.known.setdefault(group or 0, [*first.labels]), image.labels
        numbers = list(range(len(own)))
        if first.named and not image.named:
            self.unnamed.append(image.path)
        elif own != known[: len(own)]:
            unique = all(len(set(labels)) == len(labels) for labels in (own, known))
            if not (unique and set(own) <= set(of_well.labels if first.named else known)):
                raise RawDataError(
                    "the images of the plate have different channels",
                    where=f"{self.spec.plate}: {image.path}",
                    why=f"its channels are {', '.join(own)}; those of {of_well.path} are {', '.join(of_well.labels)}",
                    remedy="give the channels of all images the same names in the metadata (omero: channels: label) or "
                    "make a plate of each kind; `plateflow init --image` leaves images out",
                )
            known += [label for label in own if label not in known]
            numbers = [known.index(label) for label in own]
        self.identifiers[image.path] = [(group or 0, number) for number in numbers]
        for identifier, label in zip(self.identifiers[image.path], own, strict=True):
            self.channels.setdefault(identifier, {"name": label if group is None else f"{label} A{group}"})


def _counted(name: str, names: list[str]) -> int:
    """Where a number is in a list that counts on from 0 or 1."""
    numbers = [int(name) for name in names]
    if numbers not in ([*range(len(names))], [*range(1, len(names) + 1)]):
        raise ValueError(f"{names} doesn't count on")
    return numbers.index(int(name))


def _grid(array: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of an array, and that of its chunks, or of its shards where it has shards."""
    v3 = (array / "zarr.json").is_file()
    content = json.loads((array / ("zarr.json" if v3 else ".zarray")).read_text())
    shape, chunk = content["shape"], content["chunk_grid"]["configuration"]["chunk_shape"] if v3 else content["chunks"]
    if min(*shape, *chunk) < 1:
        raise ValueError(f"{array.name} has the shape {shape} in chunks of {chunk}")
    return tuple(int(n) for n in shape), tuple(int(n) for n in chunk)


def _present(shape: tuple[int, ...], chunk: tuple[int, ...], positions: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """The planes of an array of which a chunk exists, as indices of all axes but y and x."""
    planes: set[tuple[int, ...]] = set()
    for position in {position[:-2] for position in positions if len(position) == len(shape)}:
        steps = zip(position, chunk[:-2], shape[:-2], strict=True)
        planes.update(product(*(range(at * size, min((at + 1) * size, stop)) for at, size, stop in steps)))
    return planes


def transform(levels: list[Mapping[str, Any]], n: int) -> tuple[list[float], list[float], bool]:
    """Scale and translation of the first level of an image: those of the level, then those of the image.

    Also whether there is a translation at all.
    """
    scale, shift, moved = [1.0] * n, [0.0] * n, False
    for level in levels:
        for step in level.get("coordinateTransformations") or []:
            values = [float(value) for value in step.get(step["type"], [])]
            if values and step["type"] == "scale":
                scale = [a * b for a, b in zip(scale, values, strict=True)]
                shift = [a * b for a, b in zip(shift, values, strict=True)]
            elif values and step["type"] == "translation":
                shift, moved = [a + b for a, b in zip(shift, values, strict=True)], True
    return scale, shift, moved


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
