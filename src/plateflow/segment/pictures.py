"""Single images as people have them (TIFF, PNG, OME-Zarr), their axes as the metadata name them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plateflow.errors import PlateflowError

COLOURS = ["red", "green", "blue"]
"""The names of the channels of a colour image."""
_NARROW = 16
"""Px: what has fewer columns, but more pages than this, is no picture with channels."""


class Picture(NamedTuple):
    """An image as it is segmented.

    Attributes:
        pixels: YX, CYX, or YXS of a colour image.
        names: of its channels, in order; numbers from 0 where the file doesn't name them.
        taken: what was taken for what, for the screen.
    """

    pixels: np.ndarray
    names: list[str]
    taken: str


def read_image(path: Path, time: int | None = None) -> Picture:
    """Read a TIFF, a PNG, or the first level of an OME-Zarr image; of several time points, `time` names one.

    Raises:
        PlateflowError: no such file, it can't be read as an image, or its axes can't be understood.
    """
    if not path.exists():
        raise PlateflowError("there is no such image", where=str(path))
    try:
        if path.is_dir():
            return _read_zarr(path, time)
        if path.suffix.lower() == ".png":
            import imagecodecs

            pixels = imagecodecs.png_decode(path.read_bytes())
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

    from plateflow.plates.pixels import not_brightness
    from plateflow.plates.units import um_per

    with tifffile.TiffFile(path) as file:
        series, xml, imagej = file.series[0], file.ome_metadata, file.imagej_metadata or {}
        if any(other.shape == series.shape for other in file.series[1:]):
            raise PlateflowError(f"the file holds {len(file.series)} images", remedy="save each in a file of its own")
        if any(page is None for page in series.pages):
            what, remedy = "a part of the image is in another file, which isn't there", "put its files into one folder"
            raise PlateflowError(what, remedy=remedy)
        page: Any = series.keyframe
        unused = sum(not other.keyframe.is_reduced for other in file.series[1:])  # without previews and levels
        pixels, axes = series.asarray(), series.axes.lower()
        if why := not_brightness(page, pixels):
            raise PlateflowError(
                "the values of the image aren't its brightness",
                why=why,
                remedy="save it as a grey image in which 0 is black (in ImageJ: Image > Lookup Tables > Grays)",
            )
    names = list[str]()
    um = um_per(imagej.get("unit", "").replace("\\u00B5", "u")) / (page.resolution[0] or math.nan)
    if xml and (described := _described(xml)) is not None:
        names = [channel.get("Name", "") for channel in described.findall("{*}Channel")]
        um = um_per(described.get("PhysicalSizeXUnit", "um")) * float(described.get("PhysicalSizeX", "nan"))
    if any(each != tifffile.EXTRASAMPLE.UNSPECIFIED for each in page.extrasamples):  # transparency
        pixels = pixels.take(range(page.samplesperpixel - len(page.extrasamples)), axis=axes.index("s"))
    colours = tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR
    colour = page.photometric in colours and pixels.shape[axes.find("s")] == len(COLOURS)
    picture = _picture(pixels, axes, names, time, um, colour=colour)
    note = f"; the first of {unused + 1} images in the file (those of other sizes are not used)"
    return picture._replace(taken=picture.taken + note * (unused > 0))


def _described(xml: str) -> Any:
    """What OME-XML says of the first image, if anything."""
    from defusedxml.ElementTree import fromstring

    return fromstring(xml.encode()).find("{*}Image/{*}Pixels")


def _read_zarr(path: Path, time: int | None) -> Picture:
    import zarr

    from plateflow.plates.omezarr import transform
    from plateflow.plates.units import um_per

    group = zarr.open_group(path, mode="r")
    attributes: dict[str, Any] = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    scales = attributes.get("multiscales")
    if not scales:
        remedy = "for a plate, name one image of it, such as plate.zarr/B/03/0"
        raise PlateflowError("this OME-Zarr folder is not an image", remedy=remedy)
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in scales[0].get("axes", "tczyx")]
    names = [str(channel.get("label") or "") for channel in (attributes.get("omero") or {}).get("channels", [])]
    level = scales[0]["datasets"][0]
    scaled = [each for each in (level, scales[0]) if each.get("coordinateTransformations")]
    um = um_per(axes[-1].get("unit") or "") * transform(scaled, len(axes))[0][-1] if scaled else 0
    return _picture(group[level["path"]], [axis["name"].lower() for axis in axes], names, time, um)


def _picture(
    array: Any, axes: Sequence[str], names: list[str], time: int | None, um: float = 0, *, colour: bool = False
) -> Picture:
    """Arrange the axes of an image, by one rule for every kind of file.

    Args:
        array: of NumPy or zarr.
        axes: of the array: t, c, z, y, x, s (samples of a pixel), i or q (pages that no metadata explain).
        names: of the channels; not used unless there are as many as channels.
        time: the time point, from 0; needed where there are several.
        um: the size of a pixel; 0 or NaN where it isn't known.
        colour: whether samples, where there are any, are red, green and blue.
    """
    sizes = list(zip(axes, array.shape, strict=True))
    given = "axes " + ", ".join(f"{axis} ({size})" for axis, size in sizes)
    n_times = dict(sizes).get("t", 1)
    if (time is None and n_times > 1) or not 0 <= (time or 0) < n_times:
        what = f"there is no time point {time}" if time is not None else f"it is a time series of {n_times} time points"
        remedy = f"choose one with --time, from 0 to {n_times - 1}" if n_times > 1 else "leave out --time"
        raise PlateflowError(what, why=given, remedy=remedy)
    kept = [axis in ("y", "x") or (axis != "t" and size > 1) for axis, size in sizes]
    first = {"t": time or 0}
    pixels = array[tuple(slice(None) if k else first.get(axis, 0) for k, axis in zip(kept, axes, strict=True))]
    left = [axis for k, axis in zip(kept, axes, strict=True) if k]
    taken = [given, *[f"{um:.4g} \u03bcm per pixel"] * (um > 0), *[f"time point {time} of {n_times}"] * (n_times > 1)]
    if "z" in left:
        at = left.index("z")
        taken.append(f"the maximum of {pixels.shape[at]} z planes")
        pixels = pixels.max(axis=at)
        left.remove("z")
    others = [axis for axis in left if axis not in ("y", "x")]
    swapped = len(left) == 3 and left[0] in others and pixels.shape[-1] <= _NARROW < pixels.shape[0]
    if swapped or [axis for axis in left if axis not in others] != ["y", "x"] or others not in ([], *map(list, "csiq")):
        rule = "it looks like y, x, channels" if swapped else "beside t and z, there may be one of channels or colours"
        raise PlateflowError(
            "the axes of the image can't be understood",
            why=f"{given}; {rule}",
            remedy="save it as OME-TIFF, ImageJ TIFF or OME-Zarr, which name the axes t, c, z, y and x",
        )
    if not others:
        return Picture(pixels, names if len(names) == 1 else ["0"], "; ".join(taken))
    at, last = left.index(others[0]), colour and others == ["s"]
    numbers = [str(number) for number in range(pixels.shape[at])]
    names = names if len(names) == len(numbers) else numbers
    names = COLOURS if last else [a or b for a, b in zip(names, numbers, strict=True)]
    if any(a in numbers and a != b for a, b in zip(names, numbers, strict=True)):  # "1", "2": numbers stay numbers
        names = [f"{b} (named {a})" if a.isdecimal() else a for a, b in zip(names, numbers, strict=True)]
    listed = ", ".join(names) if names != numbers or len(numbers) <= _NARROW else f"0 to {numbers[-1]}"
    note = " (equal ones count once, those without contrast don't)" if last else ""
    unexplained = " (pages that no metadata explain: if they aren't channels, save the image as OME-TIFF)"
    taken.append(f"channels {listed}{unexplained if others[0] in 'iq' else note}")
    return Picture(np.moveaxis(pixels, at, 2 if last else 0), names, "; ".join(taken))
