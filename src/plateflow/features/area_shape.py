"""Area, shape and location, as CellProfiler's MeasureObjectSizeShape and scikit-image's region properties define them.

A column has one name throughout: in the tables below, in the records that the kernels fill, and in the cell table.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.features import geometry
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

_BOTH = {
    "BoundingBoxMaximum_X": ("px", "right end of the box in the image, exclusive"),
    "BoundingBoxMaximum_Y": ("px", "lower end of the box in the image, exclusive"),
    "BoundingBoxMinimum_X": ("px", "left end of the box in the image"),
    "BoundingBoxMinimum_Y": ("px", "upper end of the box in the image"),
    "Center_X": ("px", "x of the centroid in the image"),
    "Center_Y": ("px", "y of the centroid in the image, downwards"),
    "EquivalentDiameter": ("px", "diameter of the disk (3D: ball) with the same area (volume)"),
    "EquivalentDiameter_um": ("µm", "the same diameter in micrometres"),
    "EulerNumber": ("1", "number of parts less the number of holes; in 3D plus that of cavities"),
    "Extent": ("1", "area over the area of the box"),
    "MajorAxisLength": ("px", "longest axis of the ellipse (3D: ellipsoid) with the same second moments"),
    "MinorAxisLength": ("px", "shortest axis of the ellipse (3D: ellipsoid) with the same second moments"),
    "Solidity": ("1", "area over convex area; in 3D NaN for a flat object"),
}
_FLAT = {
    "Area": ("px²", "number of pixels"),
    "Area_um2": ("µm²", "number of pixels times the size of one"),
    "BoundingBoxArea": ("px²", "area of the upright box around the object"),
    "Compactness": ("1", "perimeter² / (4 π area): 1 for a disk, greater for others; NaN without a perimeter"),
    "ConvexArea": ("px²", "pixels in the convex hull"),
    "Eccentricity": ("1", "of the ellipse with the same second moments: 0 for a disk, 1 for a line"),
    "FormFactor": ("1", "4 π area / perimeter²: 1 for a disk, less for others; NaN without a perimeter"),
    "MaxFeretDiameter": ("px", "greatest distance of two pixels' centres"),
    "MaximumRadius": ("px", "greatest distance of a pixel to the nearest one outside"),
    "MeanRadius": ("px", "mean distance of the pixels to the nearest one outside"),
    "MedianRadius": ("px", "median distance of the pixels to the nearest one outside"),
    "MinFeretDiameter": ("px", "least distance of parallel lines that enclose the pixels' centres; 0 for a line"),
    "Orientation": ("degree", "angle between the image's y axis and the long axis, -90 to 90"),
    "Perimeter": ("px", "length of the border through the centres of its pixels; 0 for one pixel"),
} | _BOTH
_SOLID = {
    "BoundingBoxMaximum_Z": ("plane", "end of the box along z, exclusive"),
    "BoundingBoxMinimum_Z": ("plane", "begin of the box along z"),
    "BoundingBoxVolume": ("voxel", "number of voxels in the upright box around the object"),
    "Center_Z": ("plane", "z of the centroid"),
    "MajorAxisLength_um": ("µm", "the same longest axis in micrometres"),
    "MinorAxisLength_um": ("µm", "the same shortest axis in micrometres"),
    "SurfaceArea": ("px²", "area of the surface halfway between voxels inside and outside (marching cubes)"),
    "SurfaceArea_um2": ("µm²", "the same surface in square micrometres"),
    "Volume": ("voxel", "number of voxels"),
    "Volume_um3": ("µm³", "number of voxels times the size of one"),
} | _BOTH
"""Lengths and areas in px are physical ones over the size of a pixel in its plane: voxels may be longer along z."""
_ROW = np.dtype([(name, np.float64) for name in (*_FLAT, "yy", "yx", "xx")])


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    table = dict(sorted((_FLAT if ndim == 2 else _SOLID).items()))
    features = Feature.of_table("AreaShape", table, source="CellProfiler, scikit-image")
    return [replace(each, source="Plateflow") if "_um" in each.name else each for each in features]


def _measure(regions: Regions, image: Image) -> Values:
    """Measure masks. Ratios that divide by 0 are NaN, where CellProfiler has infinity."""
    if regions.ndim == 3:
        return _measure_volumes(regions)
    rows = regions.each(_shape, 1, row=_ROW)
    area, perimeter = rows["Area"], np.where(rows["Perimeter"] > 0, rows["Perimeter"], np.nan)
    rows["Compactness"] = perimeter**2 / (4 * np.pi * area)
    rows["FormFactor"] = 1 / rows["Compactness"]
    rows["Solidity"] = area / rows["ConvexArea"]
    pixel_um2 = float(np.prod(regions.pixel_size_um))
    rows["Area_um2"] = area * pixel_um2
    rows["EquivalentDiameter"] = np.sqrt(4 * area / np.pi)
    rows["EquivalentDiameter_um"] = rows["EquivalentDiameter"] * np.sqrt(pixel_um2)
    rows["BoundingBoxArea"] = (rows["BoundingBoxMaximum_Y"] - rows["BoundingBoxMinimum_Y"]) * (
        rows["BoundingBoxMaximum_X"] - rows["BoundingBoxMinimum_X"]
    )
    rows["Extent"] = area / rows["BoundingBoxArea"]
    long, short, rows["Orientation"] = axes(rows["yy"], rows["yx"], rows["xx"])
    rows["MajorAxisLength"], rows["MinorAxisLength"] = 4 * np.sqrt(long), 4 * np.sqrt(short)
    rows["Eccentricity"] = np.sqrt(1 - np.divide(short, long, out=np.ones_like(long), where=long > 0))
    return regions.columns(rows, sorted(_FLAT))


AREA_SHAPE = Family(name="area_shape", features=_features, measure=_measure, in_3d=True)


def _location_features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return [
        Feature(
            name=f"Location_Center_{letter}{suffix}",
            unit="plane" if letter == "Z" and not suffix else unit,
            definition=f"{letter.lower()} of the centroid in the image of the well",
            source="Plateflow" if suffix else "CellProfiler",
            kind="position",
        )
        for suffix, unit in (("", "px"), ("_um", "µm"))
        for letter in "XYZ"[:ndim]
    ]


def _locate(regions: Regions, image: Image) -> Values:
    centre = regions.centres() + np.array(regions.origin_px)
    return np.hstack([centre[:, ::-1], (centre * np.array(regions.pixel_size_um))[:, ::-1]])


LOCATION = Family(name="location", features=_location_features, measure=_locate, in_3d=True)


def axes(yy: Values, yx: Values, xx: Values) -> tuple[Values, Values, Values]:
    """The eigenvalues (larger, smaller) of the matrix of second moments, and the angle of the long axis in degrees."""
    middle, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    angle = np.where(yy == xx, np.where(yx > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * yx, yy - xx))
    return middle + spread, np.maximum(middle - spread, 0), np.degrees(angle)


@compiled
def _shape(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    _, height, width = volume.shape
    for index in range(len(rows)):
        inside = pixels[starts[index] : starts[index + 1]]
        n = len(inside)
        mask, top, left = geometry.box_mask(inside, height, width, 0)
        sum_y = sum_x = 0
        for pixel in inside:
            sum_y += pixel // width - top
            sum_x += pixel % width - left
        yy = yx = xx = 0.0
        for pixel in inside:
            y, x = pixel // width - top - sum_y / n, pixel % width - left - sum_x / n
            yy += y * y
            yx += y * x
            xx += x * x
        row = rows[index, 0]
        row.Area = n
        row.BoundingBoxMinimum_Y, row.BoundingBoxMaximum_Y = top + 1, top + mask.shape[0] - 1
        row.BoundingBoxMinimum_X, row.BoundingBoxMaximum_X = left + 1, left + mask.shape[1] - 1
        row.Center_Y, row.Center_X = top + sum_y / n, left + sum_x / n
        row.yy, row.yx, row.xx = yy / n, yx / n, xx / n
        row.Perimeter, row.EulerNumber = _perimeter(mask), _euler(mask)
        low, high = geometry.row_spans(mask)
        row.ConvexArea = geometry.convex_area(low, high)
        squared = geometry.squared_distance(mask)
        distance = np.empty(n)
        for k in range(n):
            distance[k] = np.sqrt(squared[inside[k] // width - top, inside[k] % width - left])
        row.MaximumRadius, row.MeanRadius, row.MedianRadius = distance.max(), distance.mean(), np.median(distance)
        row.MinFeretDiameter, row.MaxFeretDiameter = geometry.feret(geometry.hull(low, high))


@compiled
def _perimeter(mask: NDArray[np.uint8]) -> float:
    """Estimate of Benkrid and Crookes: steps from border pixel to border pixel, 1 if straight and √2 if diagonal."""
    height, width = mask.shape
    border = np.zeros((height, width), np.uint8)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if mask[y, x] and not (mask[y - 1, x] and mask[y + 1, x] and mask[y, x - 1] and mask[y, x + 1]):
                border[y, x] = 1
    straight = diagonal = mixed = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if border[y, x]:
                beside = border[y - 1, x] + border[y + 1, x] + border[y, x - 1] + border[y, x + 1]
                across = border[y - 1, x - 1] + border[y - 1, x + 1] + border[y + 1, x - 1] + border[y + 1, x + 1]
                if across < 3 and beside in (2, 3):
                    straight += 1
                elif (across == 2 and beside == 0) or (across == 3 and beside == 1):
                    diagonal += 1
                elif beside == 1 and across in (1, 2):
                    mixed += 1
    return straight + np.sqrt(2) * diagonal + (1 + np.sqrt(2)) / 2 * mixed


@compiled
def _euler(mask: NDArray[np.uint8]) -> float:
    """Parts minus holes, 8-connected: from the 2 x 2 squares with one, three and two diagonal pixels set."""
    count = 0
    for y in range(mask.shape[0] - 1):
        for x in range(mask.shape[1] - 1):
            a, b, c, d = mask[y, x], mask[y, x + 1], mask[y + 1, x], mask[y + 1, x + 1]
            total = a + b + c + d
            if total == 1:
                count += 1
            elif total == 3:
                count -= 1
            elif total == 2 and a == d:
                count -= 2
    return count / 4


def _measure_volumes(regions: Regions) -> Values:
    """3D objects by scikit-image, one by one; NaN where it cannot compute a value, or needs a size that isn't known."""
    from skimage.measure import marching_cubes, mesh_surface_area, regionprops

    sizes, pixel_um, spacing = np.array(regions.pixel_size_um), regions.pixel_um, regions.spacing
    names = sorted(_SOLID)
    rows = np.full((len(regions.numbers), 1), np.nan, [(name, np.float64) for name in names])
    for row, region in zip(rows[:, 0], regionprops(regions.volume), strict=True):
        voxels = float(region.area)
        if np.isfinite(spacing).all():
            vertices, faces, _, _ = marching_cubes(np.pad(region.image, 1), level=0.5, spacing=tuple(spacing))
            row["SurfaceArea"] = mesh_surface_area(vertices, faces)
            moments = np.cov(region.coords.T * spacing[:, np.newaxis], bias=True)
            squares = np.linalg.eigvalsh(moments).clip(0)  # a fifth of a ball's squared radius
            row["MinorAxisLength"], _, row["MajorAxisLength"] = 2 * np.sqrt(5 * squares)
            row["EquivalentDiameter"] = (6 * voxels * spacing.prod() / np.pi) ** (1 / 3)
        if min(region.image.shape) > 1:
            with warnings.catch_warnings():  # about voxels that lie in a plane: they have no hull
                warnings.simplefilter("ignore", UserWarning)
                if convex := region.area_convex:
                    row["Solidity"] = voxels / convex
        row["BoundingBoxVolume"], row["Volume"] = region.area_bbox, voxels
        row["EulerNumber"], row["Extent"] = region.euler_number, region.extent
        for axis, letter in enumerate("ZYX"):
            row[f"Center_{letter}"] = region.centroid[axis]
            row[f"BoundingBoxMinimum_{letter}"] = region.bbox[axis]
            row[f"BoundingBoxMaximum_{letter}"] = region.bbox[axis + 3]
    for name in ("EquivalentDiameter", "MajorAxisLength", "MinorAxisLength"):
        rows[f"{name}_um"] = rows[name] * pixel_um
    rows["SurfaceArea_um2"], rows["Volume_um3"] = rows["SurfaceArea"] * pixel_um**2, rows["Volume"] * sizes.prod()
    return regions.columns(rows, names)
