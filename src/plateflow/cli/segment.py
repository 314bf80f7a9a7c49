"""`plateflow segment`: label images of single pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plateflow.cli.common import WeightsOption
from plateflow.errors import PlateflowError
from plateflow.model.registry import IN_CHANNELS

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
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    weights_dir: WeightsOption = None,
) -> None:
    """Segment single images: one label TIFF per image (uint16, or uint32 above 65,535 objects)."""
    import io

    import numpy as np
    import tifffile
    from rich.progress import track

    from plateflow.files import write_atomic
    from plateflow.model import check_model
    from plateflow.segment import segment_image
    from plateflow.segment.engine import choose_device

    names = [f"{_stem(path)}_labels.tif" for path in images]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise PlateflowError(
            "two images would write the same label file", where=doubled[0], remedy="write them to different folders"
        )
    choose_device(device)
    model = str(check_model(model, weights_dir))
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    for path, name in track(list(zip(images, names, strict=True)), description="segment"):
        try:
            pixels = read_image(path)
            chosen = _numbers(channels, channel_names(path))
            labels = segment_image(pixels, model=model, channels=chosen, diameter=diameter, device=device)
            narrow = labels.max(initial=0) < 2**16
            file = io.BytesIO()
            tifffile.imwrite(file, labels.astype(np.uint16 if narrow else np.uint32), compression="zlib")
            write_atomic(output / name, file.getvalue())
        except (PlateflowError, OSError) as error:
            failed.append(f"{path}: {error}")
            continue
        typer.echo(f"{path}: {labels.max(initial=0)} objects -> {output / name}")
    if failed:
        raise PlateflowError(f"{len(failed)} of {len(images)} images failed", why="\n  ".join(failed))


def _stem(path: Path) -> str:
    name = path.name
    for suffix in (".ome.zarr", ".ome.tiff", ".ome.tif", path.suffix):
        if suffix and name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_image(path: Path) -> np.ndarray:
    """The pixels of a TIFF, a PNG, or the first level of an OME-Zarr image (first time point, z by maximum).

    Returns:
        YX, CYX, or YXS.

    Raises:
        PlateflowError: no such file, or it can't be read as an image.
    """
    if not path.exists():
        raise PlateflowError("there is no such image", where=str(path))
    try:
        if path.is_dir():
            return _read_zarr(path)
        if path.suffix.lower() == ".png":
            import skimage.io

            return skimage.io.imread(path)
        import tifffile

        return tifffile.imread(path)
    except PlateflowError:
        raise
    except Exception as error:
        raise PlateflowError(
            "the image can't be read",
            where=str(path),
            why=f"{type(error).__name__}: {error}",
            remedy="TIFF, PNG and OME-Zarr images are read; is the file complete?",
        ) from error


def channel_names(path: Path) -> list[str]:
    """The names of an image's channels, in order, as an OME-TIFF or OME-Zarr gives them; none for others."""
    if path.is_dir():
        import zarr

        attributes: dict[str, Any] = dict(zarr.open_group(path, mode="r").attrs)
        channels = attributes.get("ome", attributes).get("omero", {}).get("channels", [])
        return [str(channel.get("label", "")) for channel in channels]
    if path.suffix.lower() == ".png":
        return []

    import tifffile
    from defusedxml.ElementTree import fromstring

    with tifffile.TiffFile(path) as file:
        xml = file.ome_metadata
    pixels = fromstring(xml.encode()).find("{*}Image/{*}Pixels") if xml else None
    return [] if pixels is None else [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]


def _numbers(text: str | None, names: list[str]) -> list[int] | None:
    """The numbers of the channels asked for, which may be numbers or names.

    Raises:
        PlateflowError: no channel has such a name, or none is asked for and there are too many.
    """
    named = [name for name in names if name]
    has = f"the image's channels are {', '.join(named)}" if named else "the image doesn't name its channels"
    if text is None:
        if len(named) > IN_CHANNELS:
            raise PlateflowError(
                f"{len(names)} channels are too many: the network takes 1 to {IN_CHANNELS}",
                why=has,
                remedy="choose them with --channels, first the one that shows the objects",
            )
        return None
    unknown = [name for name in text.split(",") if name not in named and not name.isdecimal()]
    if unknown:
        raise PlateflowError(
            f"there is no channel {', '.join(map(repr, unknown))}",
            why=has,
            remedy="numbers from 0 always work",
        )
    return [names.index(name) if name in named else int(name) for name in text.split(",")]


def _read_zarr(path: Path) -> np.ndarray:
    import zarr

    group = zarr.open_group(path, mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if not scales:
        raise PlateflowError(
            "this OME-Zarr folder is not an image",
            where=str(path),
            remedy="for a plate, name one image of it, such as plate.zarr/B/03/0",
        )
    array: Any = group[scales[0]["datasets"][0]["path"]]
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales[0].get("axes", "tczyx")]
    pixels: np.ndarray = array[...]
    if "t" in axes:
        pixels = pixels.take(0, axis=axes.index("t"))
        axes.remove("t")
    if "z" in axes:
        pixels = pixels.max(axis=axes.index("z"))
    return pixels
