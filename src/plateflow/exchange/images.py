"""Images with labels, as the programs in which people correct them read them.

A folder holds the files of one program and `plateflow.json`, which says what each of them is; a file of labels is read
back by what that says.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from plateflow.config.section import nearest
from plateflow.errors import PlateflowError, RawDataError, ResultsError, number_of
from plateflow.exchange import cellpose, imagej, napari, qupath
from plateflow.exchange.frame import Frame
from plateflow.files import whole_folder, write_json
from plateflow.images.canvas import Canvas
from plateflow.images.corrected import CorrectedLabels
from plateflow.images.well import WellImage
from plateflow.paths import wells_named
from plateflow.project import Plate
from plateflow.segment.fits import spot_diameter
from plateflow.state.journal import item_key
from plateflow.stats.ranking import worst_first

if TYPE_CHECKING:
    from rich.console import Console

PROGRAMS: dict[str, Any] = {"cellpose": cellpose, "qupath": qupath, "imagej": imagej, "napari": napari}
"""Each has `write`, `read`, and `HOW` its files are opened and saved."""
INDEX = "plateflow.json"
_CHOSEN = re.compile(r"(worst|random):([1-9]\d{0,3})")


def export_images(
    plate: Plate, to: str, wells: str, label_set: str, folder: Path, console: Console | None = None
) -> list[str]:
    """Write them for the chosen wells of a plate; what is written, in words.

    Pixels are those that features are measured in: corrected for illumination, rounded to whole counts (uint16; what is
    above 65,535 becomes that). napari is given the spots in objects of the label set, too, with their channels.

    Args:
        to: the program, one of `PROGRAMS`.
        wells: `worst:N` (`stats.ranking`), `random:N` (the first N by a digest of plate and well: the same ones each
            time, and those of a smaller N among them), or names of wells.
        label_set: whose labels, with its channels.
        folder: that is made; nothing is left of it after an error.
        console: that shows the progress.

    Raises:
        PlateflowError: there is no such well or label set, there is something in the folder, or the program can't show
            volumes.
        ResultsError: a well was left out, or has no such labels yet.
    """
    from rich.progress import track

    if label_set not in plate.config.segmentation:
        remedy = nearest(label_set, list(plate.config.segmentation), "the label sets are")
        raise PlateflowError(f"there is no label set {label_set!r}", where=plate.name, remedy=remedy)
    plate.channels_of(label_set)  # says what lacks
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        remedy = "name another with -o, or take it away once its corrections are imported"
        raise PlateflowError("there is something in the folder already", where=str(folder), remedy=remedy)
    chosen = _chosen(plate, wells, label_set)
    canvases = [(well, canvas) for well in chosen for canvas in plate.canvases(well, label_set)]
    if to != "napari" and any(canvas.depth for _, canvas in canvases):
        what = f"{to} shows planes, and the objects of {label_set} go through volumes"
        raise PlateflowError(what, where=plate.name, remedy="--to napari")
    spots = [name for name, each in plate.config.spots.items() if to == "napari" and each.within == label_set]
    items: list[dict[str, Any]] = []
    objects, without_flow, first = 0, 0, None
    with whole_folder(folder) as new:
        for well, canvas in track(
            canvases, number_of(len(chosen), "well[s]"), console=console, disable=console is None
        ):
            flow = _flow(plate, well, canvas, label_set) if to == "cellpose" else None
            without_flow += flow is None and to == "cellpose"
            frame = _frame(plate, well, canvas, label_set, flow, spots)
            first = first or frame
            file = PROGRAMS[to].write(new, frame)
            objects += int(np.count_nonzero(np.unique(frame.labels)))
            place = {"file": file, "well": well, "canvas": canvas.index, "t": canvas.t, "z": canvas.z}
            said = {"exported": digest_of(frame.labels), "pixel_um": frame.pixel_um}
            items.append(place | {"shape": frame.labels.shape} | said)
        head = {"plate": plate.name, "label_set": label_set, "program": to, "plateflow": version("plateflow")}
        shown = {"channels": first.channels, "limits": first.limits} if first else {}
        if spots:
            shown["spots"] = {name: spot_diameter(plate.config, name, plate.metadata) for name in spots}
        write_json(new / INDEX, head | shown | {"items": items}, stamped=False)
    of = f"of {label_set} in {number_of(len(chosen), 'well[s]')} of {plate.name}"
    return [
        f"{number_of(len(items), 'image[s]')} with {number_of(objects, 'object[s]')} {of}: {folder}",
        *([_without_flow(plate, without_flow)] if without_flow else []),
        *(how.replace("FOLDER", shlex.quote(str(folder))) for how in PROGRAMS[to].HOW),
        f"then: `plateflow import {shlex.quote(str(folder))}`",
    ]


def _chosen(plate: Plate, wells: str, label_set: str) -> list[str]:
    """The wells that were asked for, each once, in the order of names or of the ranking."""
    labelled = plate.labelled(label_set)
    if not labelled:
        raise ResultsError("the plate has no labels yet", where=plate.name, remedy="run `snakemake`")
    gone = {key[0]: entry.reason for key, entry in labelled.items() if entry.left_out and key[1] == label_set}
    gone |= {each.well: str(each) for each in plate.left_out() if not each.field and each.label_set in ("", label_set)}
    if (match := _CHOSEN.fullmatch(wells)) is None:
        try:
            named = wells_named(wells.split(","))
        except ValueError as error:
            remedy = "--wells takes worst:6, random:6, or names such as B03,C05"
            raise PlateflowError(str(error), where=plate.name, remedy=remedy) from None
        for well in named:
            plate.check_well(well)
            where, remedy = f"{plate.name}/{well}", "leave the well out"
            if well in gone:
                raise ResultsError("the well was left out", where=where, why=gone[well], remedy=remedy)
            if label_set not in plate.label_sets(well):
                what = f"the well lacks a channel of the label set {label_set}"
                raise ResultsError(what, where=where, remedy=remedy)
            labelled.required(well, label_set)
        return named
    kind, number = match[1], int(match[2])
    if kind == "worst":
        try:
            ranked = worst_first(pd.read_parquet(plate.paths.table("wells.parquet")))
        except (FileNotFoundError, NotADirectoryError):
            remedy = "run `snakemake`, or choose wells by random:6 or by name"
            raise ResultsError("the plate has no well table yet", where=plate.name, remedy=remedy) from None
    else:
        ranked = sorted(plate.wells, key=lambda well: hashlib.sha256(f"{plate.name}/{well}".encode()).digest())
    usable = [well for well in ranked if item_key(well, label_set) in labelled and well not in gone]
    usable = [well for well in usable if label_set in plate.label_sets(well)][:number]
    if not usable:
        raise ResultsError(f"no well has labels of {label_set}", where=plate.name, remedy="run `snakemake`")
    return usable


def _frame(
    plate: Plate, well: str, canvas: Canvas, label_set: str, flow: NDArray[np.float16] | None, spots: list[str]
) -> Frame:
    image = WellImage.open(plate.paths, well)
    more = [channel for name in spots if (channel := plate.config.spots[name].channel) in image.layout.channels]
    channels = list(dict.fromkeys([*plate.channels_of(label_set), *more]))
    pixels = image.read(canvas, channels, plate.config.z)
    sizes = [round(size, 6) for size in image.layout.pixel_um][0 if canvas.depth else 1 :]
    return Frame(
        name=f"{plate.name}_{well}_{canvas.index}",
        channels=channels,
        pixels=np.rint(np.clip(np.nan_to_num(pixels, copy=False), 0, 2**16 - 1)).astype(np.uint16),
        limits=[image.window.limits(channel) for channel in channels],
        label_set=label_set,
        labels=_standing(plate, image, label_set, canvas),
        pixel_um=tuple(sizes) if image.layout.unit_known else None,
        spots={name: places for name in spots if (places := _spots(plate, well, canvas, name)) is not None},
        flow=flow,
    )


def _spots(plate: Plate, well: str, canvas: Canvas, name: str) -> NDArray[np.float64] | None:
    """Where the spots of a canvas lie in it (n, 2); None where features hasn't looked for them."""
    entry, path = plate.outcomes("features").get(item_key(well)), plate.paths.spots(name, well)
    if entry is None or plate.paths.key_of(path) not in entry.files:
        return None
    table = pd.read_parquet(path, columns=["canvas", "y_px", "x_px"])
    own = table.loc[table["canvas"] == canvas.index, ["y_px", "x_px"]]
    return own.to_numpy() - (canvas.y, canvas.x)


def _standing(plate: Plate, image: WellImage, label_set: str, canvas: Canvas) -> NDArray[np.uint32]:
    """The labels that stand in a canvas; corrected ones from their file, so that no run need come between."""
    if correction := plate.correction(image.well, label_set):
        with CorrectedLabels(correction.file(plate.paths), correction.stamp) as labels:
            return labels.canvas(canvas.index)
    return canvas_labels(image, label_set, canvas)


def _flow(plate: Plate, well: str, canvas: Canvas, label_set: str) -> NDArray[np.float16] | None:
    """The flow field of a canvas, where it was kept and is of the fields that the canvas has now."""
    from plateflow.segment.scratch import open_flows

    path = plate.paths.flows(label_set, well, canvas.index)
    if not path.exists():
        return None
    flow = open_flows(path, plate.config.segmentation[label_set].cell_threshold)
    return flow[:] if flow.shape[1:] == canvas.shape else None


def _without_flow(plate: Plate, images: int) -> str:
    why = "none is there" if plate.config.keep_flows else "none is kept (keep_flows: false)"
    what = "their masks can be corrected, but Cellpose can't make them anew with other thresholds"
    return f"{number_of(images, 'image[s]')} without flow fields, as {why}: {what}"


def canvas_labels(image: WellImage, name: str, canvas: Canvas) -> NDArray[np.uint32]:
    """The store's labels ([z,] y, x) of a canvas, without what lies outside of its fields (others' in its box)."""
    labels = image.labels(name, canvas)
    labels[..., canvas.owner() < 0] = 0
    return labels


def digest_of(labels: NDArray[Any]) -> str:
    """A digest of which pixels are one object, the same for whatever numbers: programs renumber what they save."""
    codes, _ = pd.factorize(np.concatenate([[0], np.asarray(labels).ravel()]))  # by first appearance, 0 the first
    shape = ",".join(map(str, np.shape(labels)))
    return hashlib.sha256(shape.encode() + codes[1:].astype("<u4").tobytes()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True)
class Item:
    """Labels of one canvas of a well, as a program has left them.

    Attributes:
        plate: the id of the plate that they were exported from.
        label_set: whose labels they are.
        well: its name.
        canvas: the number of the canvas in `Plate.canvases(well, label_set)`.
        shape: of the labels ([z,] y, x) as they were exported.
        exported: digest of the labels as they were exported, by `digest_of`.
        file: that holds them.
        program: that wrote it.
    """

    plate: str
    label_set: str
    well: str
    canvas: int
    shape: tuple[int, ...]
    exported: str
    file: Path
    program: str

    def read(self) -> NDArray[Any]:
        """The labels ([z,] y, x) as the file has them, of any type and shape: nothing is checked.

        What was exported and not changed comes back bit by bit, but from Cellpose, which numbers masks from 1 on.

        Raises:
            RawDataError: the file can't be read, holds what isn't an area, or objects that overlap.
        """
        try:
            labels: NDArray[Any] = PROGRAMS[self.program].read(self.file, self.shape)
        except RawDataError as error:
            why, where = error.why, str(self.file)
            raise RawDataError(error.what, where=where, why=why, remedy=error.remedy) from None
        except Exception as error:
            where, why = str(self.file), f"{type(error).__name__}: {error}"
            remedy = f"save it again from {self.program}, or remove it: its well then stays as it is"
            raise RawDataError("corrected labels can't be read", where=where, why=why, remedy=remedy) from error
        return labels


class _Listed(BaseModel):
    file: str
    well: str
    canvas: int
    shape: tuple[int, ...]
    exported: str


class _Index(BaseModel):
    plate: str
    label_set: str
    program: Literal["cellpose", "qupath", "imagej", "napari"]
    items: list[_Listed]


def read_items(folder: Path) -> Iterator[Item]:
    """What a folder that `export_images` has made holds, by its `plateflow.json`; a file that was removed is left out.

    Raises:
        RawDataError: it isn't such a folder.
    """
    where, remedy = str(folder / INDEX), "name a folder that `plateflow export --to` has made"
    try:
        index = _Index.model_validate(json.loads((folder / INDEX).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise RawDataError("the folder wasn't exported by Plateflow", where=where, remedy=remedy) from None
    except (ValueError, ValidationError) as error:
        raise RawDataError("the folder's index is damaged", where=where, why=str(error), remedy=remedy) from None
    for each in index.items:
        if Path(each.file).name != each.file:
            why = f"{each.file!r} isn't the name of a file in it"
            raise RawDataError("the folder's index is damaged", where=where, why=why, remedy=remedy)
        if (folder / each.file).is_file():
            yield Item(
                plate=index.plate,
                label_set=index.label_set,
                program=index.program,
                **each.model_dump(exclude={"file"}),
                file=folder / each.file,
            )
