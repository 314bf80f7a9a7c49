"""`plateflow segment`: label images of single pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from plateflow.cli.common import WeightsOption
from plateflow.errors import PlateflowError
from plateflow.model.registry import check_channels

if TYPE_CHECKING:
    import numpy as np


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
    more than the model takes. What was taken for what is printed.
    """
    import io

    import numpy as np
    import tifffile
    from rich.progress import track

    from plateflow.files import write_atomic
    from plateflow.model import check_model
    from plateflow.segment import segment_image
    from plateflow.segment.engine import choose_device

    targets = [output / f"{_stem(path)}_labels.tif" for path in images]
    _refuse_taken(images, targets)
    choose_device(device)
    model = str(check_model(model, weights_dir))
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for path, target in track(list(zip(images, targets, strict=True)), description="segment"):
        try:
            picture = read_image(path, time)
            chosen = _numbers(channels, picture, model)
            labels = segment_image(picture.pixels, model=model, channels=chosen, diameter=diameter, device=device)
            narrow = labels.max(initial=0) < 2**16
            file = io.BytesIO()
            labels = labels.astype(np.uint16 if narrow else np.uint32)
            tifffile.imwrite(file, labels, compression="zlib", metadata={_SOURCE: str(path.resolve())})
            write_atomic(target, file.getvalue())
        except (PlateflowError, OSError) as error:
            failed.append(f"{path}: {error}")
            continue
        if picture.taken:
            typer.echo(f"{path}: {picture.taken}")
        typer.echo(f"{path}: {labels.max(initial=0)} objects -> {target}")
    if failed:
        raise PlateflowError(f"{len(failed)} of {len(images)} images failed", why="\n  ".join(failed))


_SOURCE = "source"
"""Key in the description of a label TIFF: the path of the image that it is of."""


def _refuse_taken(images: list[Path], targets: list[Path]) -> None:
    """Refuse to write over the labels of another image.

    Raises:
        PlateflowError: two images would write one file, or a file is there that isn't known to be of this image.
    """
    import tifffile

    for number, (path, target) in enumerate(zip(images, targets, strict=True)):
        remedy = "write them to different folders"
        if target in targets[:number]:
            raise PlateflowError("two images would write the same label file", where=target.name, remedy=remedy)
        if not target.exists():
            continue
        try:
            with tifffile.TiffFile(target) as file:
                source = (file.shaped_metadata or ({},))[0].get(_SOURCE)
        except (OSError, ValueError):
            source = None
        if source != str(path.resolve()):
            raise PlateflowError(
                "a label file of this name is there already",
                where=str(target),
                why=f"it is of {source or 'an image that it does not name'}, not of {path.resolve()}",
                remedy=f"{remedy}, or remove the file",
            )


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".ome.zarr", ".ome.tiff", ".ome.tif", path.suffix):
        if suffix and name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


class Picture(NamedTuple):
    """An image as it is segmented.

    Attributes:
        pixels: YX, CYX, or YXS of a colour image.
        names: of its channels, in order; empty where the file doesn't name them.
        taken: what was taken for what, for the screen; empty where there was no choice.
    """

    pixels: np.ndarray
    names: list[str]
    taken: str


def read_image(path: Path, time: int | None = None) -> Picture:
    """Read a TIFF, a PNG, or the first level of an OME-Zarr image.

    Args:
        path: the file or folder.
        time: the time point, needed where there are several.

    Raises:
        PlateflowError: no such file, it can't be read as an image, or its axes can't be understood.
    """
    if not path.exists():
        raise PlateflowError("there is no such image", where=str(path))
    try:
        if path.is_dir():
            return _read_zarr(path, time)
        if path.suffix.lower() == ".png":
            import skimage.io

            pixels = skimage.io.imread(path)
            if pixels.ndim == 3 and pixels.shape[-1] in (2, 4):
                pixels = pixels[..., :-1]  # without transparency
            return _picture(pixels, "yxs"[: pixels.ndim], [], time, colour=True)
        return _read_tiff(path, time)
    except PlateflowError:
        raise
    except Exception as error:
        raise PlateflowError(
            "the image can't be read",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            remedy="TIFF, PNG and OME-Zarr images are read; is the file complete?",
        ) from error


def _read_tiff(path: Path, time: int | None) -> Picture:
    import tifffile
    from defusedxml.ElementTree import fromstring

    with tifffile.TiffFile(path) as file:
        series, xml = file.series[0], file.ome_metadata
        if any(other.shape == series.shape for other in file.series[1:]):
            what, remedy = f"the file holds {len(file.series)} images", "save each in a file of its own"
            raise PlateflowError(what, where=str(path), remedy=remedy)
        if any(page is None for page in series.pages):
            raise PlateflowError("a part of the image is in another file, which isn't there", where=str(path))
        page: Any = series.keyframe
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:  # inverted for display, or in truth
            what, remedy = "the file says that 0 is white: its objects may be dark", "save it with 0 as black"
            raise PlateflowError(what, where=str(path), remedy=remedy)
        pixels, axes = series.asarray(), series.axes.lower()
    described = fromstring(xml.encode()).find("{*}Image/{*}Pixels") if xml else None
    names = [] if described is None else [channel.get("Name", "") for channel in described.findall("{*}Channel")]
    if any(kind != tifffile.EXTRASAMPLE.UNSPECIFIED for kind in page.extrasamples):  # transparency
        pixels = pixels.take(range(page.samplesperpixel - len(page.extrasamples)), axis=axes.index("s"))
    colour = page.photometric == tifffile.PHOTOMETRIC.RGB and pixels.shape[axes.find("s")] == len(_COLOURS)
    return _picture(pixels, axes, names, time, colour=colour)


def _read_zarr(path: Path, time: int | None) -> Picture:
    import zarr

    group = zarr.open_group(path, mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    scales = attributes.get("multiscales")
    if not scales:
        raise PlateflowError(
            "this OME-Zarr folder is not an image",
            where=str(path),
            remedy="for a plate, name one image of it, such as plate.zarr/B/03/0",
        )
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales[0].get("axes", "tczyx")]
    names = [str(channel.get("label", "")) for channel in attributes.get("omero", {}).get("channels", [])]
    return _picture(group[scales[0]["datasets"][0]["path"]], axes, names, time)


_COLOURS = ["red", "green", "blue"]


def _picture(array: Any, axes: Sequence[str], names: list[str], time: int | None, *, colour: bool = False) -> Picture:
    """Arrange the axes of an image, by one rule for every kind of file.

    Args:
        array: of NumPy or zarr.
        axes: of the array: t, c, z, y, x, s (samples of a pixel), i or q (pages that no metadata explain).
        names: of the channels; not used unless there are as many as channels.
        time: the time point, from 0; needed where there are several.
        colour: whether samples, where there are any, are red, green and blue.

    Raises:
        PlateflowError: an axis isn't understood, two would be channels, or the time point isn't there.
    """
    given = "the axes are " + ", ".join(f"{axis} ({size})" for axis, size in zip(axes, array.shape, strict=True))
    n_times = array.shape[list(axes).index("t")] if "t" in axes else 1
    if (time is None and n_times > 1) or not 0 <= (time or 0) < n_times:
        what = f"there is no time point {time}" if time is not None else f"it is a time series of {n_times} time points"
        raise PlateflowError(what, why=given, remedy=f"choose one with --time, from 0 to {n_times - 1}")
    kept = [axis in ("y", "x") or (axis != "t" and size > 1) for axis, size in zip(axes, array.shape, strict=True)]
    first = {"t": time or 0}
    pixels = array[tuple(slice(None) if k else first.get(axis, 0) for k, axis in zip(kept, axes, strict=True))]
    left = [axis for k, axis in zip(kept, axes, strict=True) if k]
    taken = [f"time point {time} of {n_times}"] if n_times > 1 else []
    if "z" in left:
        at = left.index("z")
        taken.append(f"the maximum of {pixels.shape[at]} z planes")
        pixels = pixels.max(axis=at)
        left.remove("z")
    others = [axis for axis in left if axis not in ("y", "x")]
    if [axis for axis in left if axis not in others] != ["y", "x"] or others not in ([], *map(list, "csiq")):
        raise PlateflowError(
            "the axes of the image can't be understood",
            why=f"{given}; beside t and z, there may be one of channels or colours",
            remedy="save it as OME-TIFF, ImageJ TIFF or OME-Zarr, which name the axes t, c, z, y and x",
        )
    if not others:
        return Picture(pixels, names if len(names) == 1 else [], ", ".join(taken))
    at, last = left.index(others[0]), colour and others == ["s"]
    numbers = [str(number) for number in range(pixels.shape[at])]
    named = any(names) and len(names) == len(numbers)
    names = _COLOURS if last else [a or b for a, b in zip(names, numbers, strict=True)] if named else []
    order = [axis for axis in range(3) if axis != at]
    unexplained = " (pages that no metadata explain: if they aren't channels, save the image as OME-TIFF)"
    taken.append(f"channels {', '.join(names or numbers)}{unexplained * (others[0] in 'iq')}")
    return Picture(pixels.transpose(*order, at) if last else pixels.transpose(at, *order), names, ", ".join(taken))


def _numbers(text: str | None, picture: Picture, model: str) -> list[int] | None:
    """The numbers of the channels asked for, which may be numbers or names.

    Raises:
        PlateflowError: no channel has such a name, or none is asked for and there are more than the model takes.
    """
    names = [name for name in picture.names if name]
    if text is None:
        if picture.names != _COLOURS:  # of which those without contrast don't count
            remedy = "choose them with --channels, first the one that shows the objects"
            channels = picture.names or range(len(picture.pixels) if picture.pixels.ndim == 3 else 1)
            check_channels(model, channels, where=picture.taken, remedy=remedy)
        return None
    unknown = [name for name in text.split(",") if name not in names and not name.isdecimal()]
    if unknown:
        raise PlateflowError(
            f"there is no channel {', '.join(map(repr, unknown))}",
            why=f"the image's channels are {', '.join(names)}" if names else "the image doesn't name its channels",
            remedy="numbers from 0 always work",
        )
    return [picture.names.index(name) if name in names else int(name) for name in text.split(",")]
