"""Annotated images as people have them: pairs of an image and its labels in folders, Cellpose's files among them.

A folder of data holds pairs, or folders of pairs, which are its sources. Pairs lie in `images/` and `labels/` (or
`masks/`) under equal names, or side by side, the labels with a suffix: `B03.tif` (or `B03_img.tif`) and
`B03_masks.tif`. Cellpose's `B03_seg.npy`, which its window writes, is such a file, too; it is a pickle, so of its
classes only those that make up an array are loaded. Where labels were also saved as an image, that is read.
"""

import logging
import pickle
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected

from plateflow.errors import PlateflowError, RawDataError
from plateflow.files import is_litter
from plateflow.model.registry import IN_CHANNELS
from plateflow.segment.image import bright_background, scale_intensities
from plateflow.segment.pictures import COLOURS, read_image
from plateflow.train.data import CODEX_CHANNELS, Light, Sample, light_of, make_sample

IMAGES = (".tif", ".tiff", ".png")
LABELS = re.compile(r"(?i)(?P<name>.+?)_(?:cp_)?(?:masks?|labels?|seg)")
NAMED_IMAGES = re.compile(r"(?i)(?P<name>.+?)_(?:img|image)")
MASK_PIECES = 2
"""An object in more pieces than this, alone in its image, isn't one."""
log = logging.getLogger(__name__)


def read_sources(folder: Path, *, mixed: bool = False) -> dict[str, list[Sample]]:
    """Read a folder of data, source by source; of a folder that holds pairs itself, its name is the source's.

    Args:
        mixed: for an evaluation, where images of one source may differ in their channels, and all may be empty.

    Raises:
        RawDataError: there are no pairs, a pair can't be read or its parts don't fit each other, an image or its labels
            are alone, or images of one source differ in their number of channels.
    """
    if not folder.is_dir():
        raise RawDataError("there is no such folder of images", where=str(folder))
    sources = [] if any(_pairs(folder)) else [each for each in sorted(folder.iterdir()) if each.is_dir()]
    labelled = [each for each in sources if any(_pairs(each))]
    alone = [
        each for each in sources if each not in labelled and any(path.suffix.lower() in IMAGES for path in _files(each))
    ]
    if labelled and alone:
        remedy = "label them, or take the folder away"
        raise RawDataError("a folder beside others has images and no labels", where=str(alone[0]), remedy=remedy)
    return {each.name: read_source(each, mixed=mixed) for each in labelled or [folder]}


def read_source(folder: Path, *, mixed: bool = False) -> list[Sample]:
    """Read the pairs of one folder, in order of names; arguments and errors as for `read_sources`."""
    samples: list[Sample] = []
    shown: dict[int, Path] = {}
    for image, labels in _pairs(folder):
        if image is None or labels is None:
            there, lacking = (labels, "image") if image is None else (image, "labels")
            remedy = "give both the same name, or take this one away"
            raise RawDataError(f"a file has no {lacking}", where=str(there), remedy=remedy)
        of_image = _samples(folder.name, image, labels)
        shown.setdefault(len(of_image[0].pixels), image)
        samples += of_image
    if not samples:
        remedy = (
            "put images into images/ and their labels, under the same names, into labels/; or label them X_masks.tif"
        )
        raise RawDataError("the folder holds no image with labels", where=str(folder), remedy=remedy)
    if len(shown) > 1 and not mixed:
        listed = "; ".join(f"{path.name} has {n}" for n, path in shown.items())
        remedy = "keep each kind in a folder of its own"
        raise RawDataError("images differ in their channels", where=str(folder), why=listed, remedy=remedy)
    # tissue or cells may fill a picture, whose background then doesn't tell: the others of its folder do
    kinds: tuple[tuple[Light, int], ...] = ("colour", IN_CHANNELS), ("transmitted", 1)
    for light, channels in kinds:
        if 2 * sum(sample.light == light for sample in samples) >= len(samples):
            samples = [replace(each, light=light) if len(each.pixels) == channels else each for each in samples]
            break
    empty = [sample.name for sample in samples if not sample.diameter]
    if len(empty) == len(samples) and not mixed:
        raise RawDataError("no image has an object in its labels", where=str(folder))
    if empty:
        listed = ", ".join(empty[:5]) + ", ..." * (len(empty) > 5)
        log.warning("%s: %d of %d images have no object: %s", folder, len(empty), len(samples), listed)
    return samples


def _pairs(folder: Path) -> Iterator[tuple[Path | None, Path | None]]:
    """Images and their labels, None where one is alone; nothing of a folder without any labels."""
    apart = next((folder / name for name in ("labels", "masks") if (folder / name).is_dir()), None)
    if apart and (folder / "images").is_dir():
        pictures, objects = _files(folder / "images"), _files(apart)
    else:
        files = _files(folder)
        objects = [path for path in files if LABELS.fullmatch(path.stem)]
        pictures = [path for path in files if path not in objects and path.suffix.lower() in IMAGES]
    labels = _named(objects, LABELS, but={path.stem for path in pictures})
    images = _named(pictures, NAMED_IMAGES, only=labels)
    if labels:
        for name in sorted(images | labels):
            yield images.get(name), labels.get(name)


def _named(
    paths: list[Path], suffixed: re.Pattern[str], *, but: Collection[str] = (), only: Collection[str] | None = None
) -> dict[str, Path]:
    """Files by name without a suffix, which is kept where a name in `but` has it, or `only` doesn't have the rest."""
    found: dict[str, Path] = {}
    for path in paths:
        name = path.stem.removesuffix(".ome")
        match = suffixed.fullmatch(name)
        if match and path.stem not in but and (only is None or (name not in only and match["name"] in only)):
            name = match["name"]
        first = found.setdefault(name, path)
        if first != path and path.suffix != ".npy":
            raise RawDataError("two files have one name", where=f"{first} and {path}", remedy="take one of them away")
    return found


def _files(folder: Path) -> list[Path]:
    """Those that may be read; of a name, label images come before Cellpose's `_seg.npy`."""
    kinds = (*IMAGES, ".npy")
    paths = [path for path in folder.iterdir() if path.suffix.lower() in kinds and not is_litter(path.name)]
    return sorted(paths, key=lambda path: (path.suffix == ".npy", path.name))


def _samples(source: str, image: Path, labels: Path) -> list[Sample]:
    picture, objects = read_image(image), read_labels(labels)
    channels_last = picture.names == COLOURS
    pixels = (
        np.moveaxis(picture.pixels, -1, 0) if channels_last else picture.pixels.reshape(-1, *picture.pixels.shape[-2:])
    )
    if pixels.shape[1:] != objects.shape:
        why = f"the image is {_by(pixels.shape[1:])} px, its labels are {_by(objects.shape)}"
        raise RawDataError("an image and its labels differ in size", where=f"{image} and {labels}", why=why)
    if not np.isfinite(pixels).all():
        raise RawDataError("an image has values that are NaN or infinite", where=str(image), remedy="fix them")
    if len(pixels) > IN_CHANNELS:
        why = f"it has {len(pixels)}, the network takes 1 to {IN_CHANNELS}"
        raise RawDataError("an image has too many channels", where=str(image), why=why, remedy="keep those that matter")
    if channels_last and (pixels == pixels[:1]).all():
        pixels = pixels[:1]
    bright = len(pixels) == IN_CHANNELS and bright_background(pixels)
    light: Light = "colour" if bright else light_of(scale_intensities(pixels), objects)
    if source.startswith("codex") and len(pixels) == IN_CHANNELS:  # whole cells, by either of two stains
        nucleus = pixels[CODEX_CHANNELS["nucleus"]]
        seen = {name: [pixels[CODEX_CHANNELS[name]], nucleus] for name in ("cytoplasm", "membrane")}
        return [make_sample(source, f"{image.stem}:{name}", each, objects) for name, each in seen.items()]
    return [make_sample(source, image.stem, pixels, objects, light)]


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def read_labels(path: Path) -> NDArray[np.int32]:
    """Read label images YX: TIFF, PNG, or the masks of Cellpose's `_seg.npy`.

    Raises:
        RawDataError: the file can't be read, or its values aren't labels of one plane.
    """
    try:
        labels = read_seg(path) if path.suffix == ".npy" else np.squeeze(read_image(path).pixels)
    except (PlateflowError, OSError, ValueError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise RawDataError("a label file can't be read", where=str(path), why=str(error)) from error
    why = ""
    if labels.ndim != 2:
        why = f"they must be one plane, YX; this one has the shape {labels.shape}"
    elif labels.dtype.kind not in "biuf" or (labels.dtype.kind == "f" and not (labels == np.rint(labels)).all()):
        why = f"labels are whole numbers; these are {labels.dtype}"
    elif labels.size and (labels.min() < 0 or labels.max() >= 2**31):
        why = f"labels are 0 to 2^31 - 1; these are {labels.min()} to {labels.max()}"
    elif labels.size and (labels == 0).any() and (n := _pieces(labels)) > MASK_PIECES:
        why = f"all {n} objects have the number {labels.max():g}: this is a mask, which doesn't tell cells that touch"
    if why:
        raise RawDataError(
            "a file doesn't hold labels", where=str(path), why=why, remedy="save the objects as a label image"
        )
    return labels.astype(np.int32)


def _pieces(labels: NDArray[Any]) -> int:
    """In how many pieces the one object lies; 0 where there are several, or none."""
    objects = labels > 0
    alone = objects.any() and (labels[objects] == labels.max()).all()
    return int(connected(objects, connectivity=2).max()) if alone else 0


def read_seg(path: Path) -> NDArray[Any]:
    """The masks of Cellpose's `_seg.npy`; nothing but arrays and plain values is loaded from it.

    Raises:
        pickle.UnpicklingError: it holds something else.
        ValueError, KeyError: it isn't such a file.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, _, dtype = read_header(file)
        if not dtype.hasobject:
            raise ValueError(f"Cellpose's files hold a dictionary; this one holds {dtype} of the shape {shape}")
        content = _Arrays(file).load()
    return np.asarray(content.item()["masks"])


_ALLOWED = {
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
}


class _Arrays(pickle.Unpickler):
    """Loads arrays and plain values, and nothing that could run code."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Only what is allowed."""
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it holds {module}.{name}, which isn't loaded from a file that anyone may have made"
        )
