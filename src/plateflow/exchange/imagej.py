"""ImageJ and Fiji: a TIFF with ImageJ's metadata, and objects as regions of interest in a zip file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import PlateflowError
from plateflow.exchange.frame import Frame
from plateflow.exchange.outlines import Polygon, fill, outlines

if TYPE_CHECKING:
    from roifile import ImagejRoi

HOW = (
    "open: NAME.tif in Fiji or ImageJ, then drag NAME_rois.zip onto its window; the ROI Manager lists the objects",
    "save: ROI Manager, Update what you changed and Add what you drew; Deselect, More > Save, over NAME_rois.zip",
)
LARGEST_PX = 60_535
"""Of a coordinate in a file of a region."""
LARGEST_REGION = 2**26
"""Bytes of a region's file: more than the outline of the largest object, and far less than memory."""
_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0


def write(folder: Path, frame: Frame) -> str:
    """Write a frame of one plane; the name of the file that holds its labels.

    Raises:
        PlateflowError: it is too large for the coordinates of ImageJ's regions.
    """
    if max(frame.labels.shape) > LARGEST_PX:
        why = f"it is {' x '.join(map(str, frame.labels.shape))} px; coordinates of regions end at {LARGEST_PX:,}"
        raise PlateflowError("an image is too large for ImageJ", where=frame.name, why=why, remedy="--to napari")
    _write_image(folder / f"{frame.name}.tif", frame)
    file = folder / f"{frame.name}_rois.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, polygons in outlines(frame.labels):
            archive.writestr(f"{number}.roi", _region(str(number), polygons).tobytes())
    return file.name


def _write_image(path: Path, frame: Frame) -> None:
    import tifffile

    described: dict[str, Any] = {"axes": "CYX", "mode": "composite", "Labels": frame.channels}
    described["Ranges"] = tuple(float(limit) for pair in frame.limits for limit in pair)
    described["min"], described["max"] = described["Ranges"][:2]
    resolution = None
    if frame.pixel_um:
        described["unit"] = "um"
        resolution = 1 / frame.pixel_um[1], 1 / frame.pixel_um[0]
    tifffile.imwrite(path, frame.pixels, imagej=True, resolution=resolution, metadata=described)


def _region(name: str, polygons: list[Polygon]) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    points = np.concatenate([ring for polygon in polygons for ring in polygon]).astype(np.int32)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    box = {"left": left, "top": top, "right": right, "bottom": bottom}
    if len(polygons) == 1 and len(polygons[0]) == 1:
        points = points - [left, top]
        kind = ROI_TYPE.TRACED
        return ImagejRoi(name=name, roitype=kind, n_coordinates=len(points), integer_coordinates=points, **box)
    path: list[float] = []
    for ring in (ring for polygon in polygons for ring in polygon):
        for step, (x, y) in zip([_MOVE, *[_LINE] * (len(ring) - 1)], ring.tolist(), strict=True):
            path += (step, x, y)
        path.append(_CLOSE)
    shape = np.array(path, np.float32)
    return ImagejRoi(name=name, roitype=ROI_TYPE.RECT, shape_roi_size=len(shape), multi_coordinates=shape, **box)


def read(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """The labels (y, x) of all regions in a file: a region's name is its number; of new ones it is a new number.

    Raises:
        ValueError: it isn't a zip file of regions, or a region is no area.
        RawDataError: as of `fill`.
    """
    from roifile import ImagejRoi

    objects = []
    with zipfile.ZipFile(file) as archive:
        for about in archive.infolist():
            if about.filename.endswith(".roi"):
                stem = Path(about.filename).stem
                if about.file_size > LARGEST_REGION:
                    raise ValueError(f"region {stem} has {about.file_size:,} bytes")
                objects.append((stem, _polygons(stem, ImagejRoi.frombytes(archive.read(about)))))
    return fill(objects, shape)


def _polygons(name: str, region: ImagejRoi) -> list[Polygon]:
    """A region as one polygon: where it is composite, what lies in an odd number of its rings, as in ImageJ."""
    from roifile import ROI_SUBTYPE, ROI_TYPE

    if region.roitype == ROI_TYPE.OVAL:
        low, high = np.array([region.left, region.top]), np.array([region.right, region.bottom])
        angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)[:, None]
        return [[(low + high) / 2 + (high - low) / 2 * np.hstack([np.cos(angles), np.sin(angles)])]]
    drawn = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED, ROI_TYPE.RECT)
    if region.roitype not in drawn or region.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        raise ValueError(f"region {name} is a {region.roitype.name.lower()}, which is no area: remove it")
    if region.subpixelrect and not region.composite:
        x, y, width, height = region.xd, region.yd, region.widthd, region.heightd
        return [[np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])]]
    return [[np.asarray(ring, np.float64) for ring in region.coordinates(multi=True)]]
