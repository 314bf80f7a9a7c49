"""`plateflow segment`: label images of single pictures."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plateflow.cli.common import WeightsOption
from plateflow.errors import PlateflowError
from plateflow.model.registry import check_channels

if TYPE_CHECKING:
    from plateflow.segment.pictures import Picture


def segment(
    images: Annotated[list[Path], typer.Argument(help="TIFF, PNG or OME-Zarr images")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder for the label TIFFs")],
    model: Annotated[str, typer.Option(help="a registered model, or a path to a weights file")] = "default",
    diameter: Annotated[float | None, typer.Option(help="typical diameter in pixels; default: no resizing")] = None,
    channels: Annotated[
        str | None,
        typer.Option(
            help="numbers from 0, or names of an OME image, such as 0,2; the channel that shows the objects first"
        ),
    ] = None,
    time: Annotated[int | None, typer.Option(help="the time point of a time series, from 0")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Segment single images: one label TIFF per image (uint16, or uint32 above 65,535 objects).

    The axes of an image are read from its OME, ImageJ or OME-Zarr metadata. A z stack is projected by its maximum; of
    a time series --time names the time point. Pages that no metadata explain are taken for channels, if they aren't
    more than the model takes. What was taken for what is printed, and how large a pixel is, where the file says it.
    """
    import io

    import numpy as np
    import tifffile
    from rich.progress import track

    from plateflow.files import is_litter, write_atomic
    from plateflow.model import check_model
    from plateflow.segment import segment_image
    from plateflow.segment.engine import choose_device
    from plateflow.segment.pictures import read_image

    if len(images) > 1:  # a shell's * takes them along
        images = [path for path in images if not is_litter(path.name)]
    targets = [output / re.sub(r"(?i)(?<=.)(\.ome)?\.[^.]+$|$", "_labels.tif", path.name, count=1) for path in images]
    _refuse_taken(images, targets)
    choose_device(device)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("plateflow").setLevel(logging.INFO)  # what an image is taken for
    model = str(check_model(model, weights_dir))
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for path, target in track(list(zip(images, targets, strict=True)), description="segment"):
        try:
            picture = read_image(path, time)
            chosen = _numbers(channels, picture, model)
            labels = segment_image(picture.pixels, model=model, channels=chosen, diameter=diameter, device=device)
            file = io.BytesIO()
            labels = labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)
            tifffile.imwrite(file, labels, compression="zlib", metadata={_SOURCE: str(path.resolve())})
            write_atomic(target, file.getvalue())
        except (PlateflowError, OSError) as error:
            failed.append(f"{path}: {error}")
            continue
        used = ", ".join(picture.names[number] for number in chosen or ())
        typer.echo(f"{path}: {picture.taken}" + f"; used: {used}" * bool(used))
        typer.echo(f"{path}: {labels.max(initial=0)} objects -> {target}")
    if failed:
        raise PlateflowError(f"{len(failed)} of {len(images)} images failed", why="\n  ".join(failed))


_SOURCE = "source"
"""Key in the description of a label TIFF: the path of the image that it is of."""


def _refuse_taken(images: list[Path], targets: list[Path]) -> None:
    """Refuse to write over the labels of another image."""
    import tifffile

    for number, (path, target) in enumerate(zip(images, targets, strict=True)):
        remedy = "write them to different folders"
        if target in targets[:number]:
            why = f"{images[targets.index(target)]} and {path}"
            raise PlateflowError("two images would write one label file", where=str(target), why=why, remedy=remedy)
        if not target.exists():
            continue
        try:
            with tifffile.TiffFile(target) as file:
                source = (file.shaped_metadata or ({},))[0].get(_SOURCE)
        except (OSError, ValueError):
            source = None
        if source != str(path.resolve()):
            unnamed = "it doesn't name its image, as labels of earlier versions don't"
            raise PlateflowError(
                "a label file of this name is there already",
                where=str(target),
                why=f"it is of {source}, not of {path.resolve()}" if source else unnamed,
                remedy=f"{remedy}, or remove the file",
            )


def _numbers(text: str | None, picture: Picture, model: str) -> list[int] | None:
    """The numbers of the channels asked for, which may be numbers or names."""
    from plateflow.segment.image import bright_background
    from plateflow.segment.pictures import COLOURS

    names = picture.names
    if text is None:
        stained = len(names) == len(COLOURS) and names != COLOURS and bright_background(picture.pixels)
        if names != COLOURS and not stained:  # of colours, those without contrast don't count
            remedy = "choose them with --channels, first the one that shows the objects"
            check_channels(model, names, where=picture.taken, remedy=remedy)
        return None
    asked = text.split(",")
    unknown = [name for name in asked if names.count(name) != 1 and (name in names or not name.isdecimal())]
    if unknown:
        there = "is no" if set(names).isdisjoint(unknown) else "isn't one"
        what = f"there {there} channel {', '.join(map(repr, unknown))}"
        note = " (the image doesn't name its channels)" * (names == [str(number) for number in range(len(names))])
        why = f"the channels are {', '.join(names)}{note}"
        raise PlateflowError(what, why=why, remedy="numbers from 0 always work")
    return [names.index(name) if name in names else int(name) for name in asked]
