"""Area and shape, as CellProfiler's MeasureObjectSizeShape and scikit-image's region properties define them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.features import geometry, ranks
from plateflow.features.feature import Feature, Regions, Values

_BOTH = {
    "BoundingBoxMaximum_X": ("px", "right end of the box in the image, exclusive"),
    "BoundingBoxMaximum_Y": ("px", "lower end of the box in the image, exclusive"),
    "BoundingBoxMinimum_X": ("px", "left end of the box in the image"),
    "BoundingBoxMinimum_Y": ("px", "upper end of the box in the image"),
    "Center_X": ("px", "x of the centroid in the image"),
    "Center_Y": ("px", "y of the centroid in the image, downwards"),
    "EquivalentDiameter": ("px", "diameter of the disk (3D: ball) with as many pixels"),
    "EquivalentDiameter_um": ("µm", "diameter of the disk (3D: ball) with the same area (volume)"),
    "EulerNumber": ("1", "number of parts less the number of holes; in 3D plus that of cavities"),
    "Extent": ("1", "area over the area of the box"),
    "MajorAxisLength": ("px", "long axis of the ellipse with the same second moments"),
    "MinorAxisLength": ("px", "short axis of the ellipse with the same second moments"),
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
    "BoundingBoxMaximum_Z": ("px", "end of the box along z, exclusive"),
    "BoundingBoxMinimum_Z": ("px", "begin of the box along z"),
    "BoundingBoxVolume": ("px³", "volume of the upright box around the object"),
    "Center_Z": ("px", "z of the centroid"),
    "SurfaceArea": ("px²", "area of the surface through the nearest voxels outside (marching cubes)"),
    "SurfaceArea_um2": ("µm²", "the same surface in micrometres"),
    "Volume": ("px³", "number of voxels"),
    "Volume_um3": ("µm³", "number of voxels times the size of one"),
} | _BOTH


def features(channels: Sequence[str], ndim: int) -> list[Feature]:
    """See `Family.features`."""
    return [
        Feature(
            name=f"AreaShape_{name}",
            family="area_shape",
            unit=unit,
            definition=definition,
            source="Plateflow" if "_um" in name else "CellProfiler, scikit-image",
            kind="position" if name.endswith(("_X", "_Y", "_Z")) else "measurement",
        )
        for name, (unit, definition) in sorted((_FLAT if ndim == 2 else _SOLID).items())
    ]


def measure(sets: Sequence[Regions], image: NDArray[Any]) -> list[Values]:
    """See `Family.measure`. Ratios that divide by 0 are NaN, where CellProfiler has infinity."""
    return [_flat(regions) if regions.ndim == 2 else _solid(regions) for regions in sets]


def _flat(regions: Regions) -> Values:
    raw = regions.each(_shape, len(_RAW))
    found = {name: raw[:, column] for column, name in enumerate(_RAW)}
    area, perimeter = found["Area"], np.where(found["Perimeter"] > 0, found["Perimeter"], np.nan)
    found["Compactness"] = perimeter**2 / (4 * np.pi * area)
    found["FormFactor"] = 1 / found["Compactness"]
    found["Solidity"] = area / found["ConvexArea"]
    pixel_um2 = float(np.prod(regions.pixel_size_um))
    found["Area_um2"] = area * pixel_um2
    found["EquivalentDiameter"] = np.sqrt(4 * area / np.pi)
    found["EquivalentDiameter_um"] = found["EquivalentDiameter"] * np.sqrt(pixel_um2)
    found["BoundingBoxArea"] = (found["BoundingBoxMaximum_Y"] - found["BoundingBoxMinimum_Y"]) * (
        found["BoundingBoxMaximum_X"] - found["BoundingBoxMinimum_X"]
    )
    found["Extent"] = area / found["BoundingBoxArea"]
    long, short, found["Orientation"] = axes(found["yy"], found["yx"], found["xx"])
    found["MajorAxisLength"], found["MinorAxisLength"] = 4 * np.sqrt(long), 4 * np.sqrt(short)
    found["Eccentricity"] = np.sqrt(1 - np.divide(short, long, out=np.ones_like(long), where=long > 0))
    return _placed(found, sorted(_FLAT), regions)


def _placed(found: dict[str, Values], names: list[str], regions: Regions) -> Values:
    """The columns, with positions moved to the image's origin."""
    origin = dict(zip("ZYX"[-regions.ndim :], regions.origin_px, strict=True))
    columns = [found[name] + (origin[name[-1]] if name[-2:] in ("_X", "_Y", "_Z") else 0) for name in names]
    return np.column_stack(columns)


def axes(yy: Values, yx: Values, xx: Values) -> tuple[Values, Values, Values]:
    """The eigenvalues (greater, smaller) of the matrix of second moments, and the long axis's angle in degrees."""
    middle, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    angle = np.where(yy == xx, np.where(yx > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * yx, yy - xx))
    return middle + spread, np.maximum(middle - spread, 0), np.degrees(angle)


_RAW = (
    "Area",
    "BoundingBoxMinimum_Y",
    "BoundingBoxMaximum_Y",
    "BoundingBoxMinimum_X",
    "BoundingBoxMaximum_X",
    "Center_Y",
    "Center_X",
    "yy",
    "yx",
    "xx",
    "Perimeter",
    "EulerNumber",
    "ConvexArea",
    "MaximumRadius",
    "MeanRadius",
    "MedianRadius",
    "MinFeretDiameter",
    "MaxFeretDiameter",
)


@njit(cache=True, nogil=True)
def _shape(
    values: Values, pixels: NDArray[np.int32], starts: NDArray[np.int64], volume: NDArray[np.int32], out: Values
) -> None:
    _, height, width = volume.shape
    for index in range(len(out)):
        mine = pixels[starts[index] : starts[index + 1]]
        n = len(mine)
        mask, top, left = geometry.box_mask(mine, height, width, 0)
        sum_y = sum_x = 0
        for pixel in mine:
            sum_y += pixel // width - top
            sum_x += pixel % width - left
        yy = yx = xx = 0.0
        for pixel in mine:
            y, x = pixel // width - top - sum_y / n, pixel % width - left - sum_x / n
            yy += y * y
            yx += y * x
            xx += x * x
        row = out[index]
        row[0], row[1], row[2] = n, top + 1, top + mask.shape[0] - 1
        row[3], row[4] = left + 1, left + mask.shape[1] - 1
        row[5], row[6] = top + sum_y / n, left + sum_x / n
        row[7], row[8], row[9] = yy / n, yx / n, xx / n
        row[10], row[11] = _perimeter(mask), _euler(mask)
        low, high = geometry.row_ends(mask)
        row[12] = geometry.convex_area(low, high)
        squared = geometry.squared_distance(mask)
        distance = np.empty(n)
        for k in range(n):
            distance[k] = np.sqrt(squared[mine[k] // width - top, mine[k] % width - left])
        row[13], row[14] = distance.max(), distance.mean()
        row[15] = ranks.quantile(distance, 0, (n - 1) / 2)[0]
        row[16], row[17] = geometry.feret(geometry.hull(low, high))


@njit(cache=True, nogil=True)
def _perimeter(mask: NDArray[np.uint8]) -> float:
    """Benkrid and Crookes' estimate: steps from border pixel to border pixel, straight ones 1, slanted ones √2."""
    height, width = mask.shape
    border = np.zeros((height, width), np.uint8)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if mask[y, x] and not (mask[y - 1, x] and mask[y + 1, x] and mask[y, x - 1] and mask[y, x + 1]):
                border[y, x] = 1
    straight = slanted = mixed = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if border[y, x]:
                beside = border[y - 1, x] + border[y + 1, x] + border[y, x - 1] + border[y, x + 1]
                across = border[y - 1, x - 1] + border[y - 1, x + 1] + border[y + 1, x - 1] + border[y + 1, x + 1]
                if across < 3 and beside in (2, 3):
                    straight += 1
                elif (across == 2 and beside == 0) or (across == 3 and beside == 1):
                    slanted += 1
                elif beside == 1 and across in (1, 2):
                    mixed += 1
    return straight + np.sqrt(2) * slanted + (1 + np.sqrt(2)) / 2 * mixed


@njit(cache=True, nogil=True)
def _euler(mask: NDArray[np.uint8]) -> float:
    """Parts less holes, pixels joined by corners too: from the 2 x 2 squares with one, three and two slanted pixels."""
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


def _solid(regions: Regions) -> Values:
    """3D objects by scikit-image, one by one; what it can't compute for an odd object is NaN."""
    from skimage.measure import marching_cubes, mesh_surface_area, regionprops

    spacing = regions.pixel_size_um
    names, rows = sorted(_SOLID), []
    labels = regions.volume
    for region in regionprops(labels):
        around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in region.slice)
        vertices, faces = np.zeros((0, 3)), np.zeros((0, 3), int)
        surface = surface_um = np.nan
        if not (box := labels[around] == region.label).all():
            vertices, faces, _, _ = marching_cubes(box, level=0)
            surface = float(mesh_surface_area(vertices, faces))
            surface_um = float(mesh_surface_area(vertices * np.array(spacing, np.float32), faces))
        area, flat = float(region.area), min(region.image.shape) == 1
        long, middle, short = region.inertia_tensor_eigvals
        diameter = (6 * area / np.pi) ** (1 / 3)
        row = {
            "BoundingBoxVolume": region.area_bbox,
            "EquivalentDiameter": diameter,
            "EquivalentDiameter_um": diameter * float(np.prod(spacing)) ** (1 / 3),
            "EulerNumber": region.euler_number,
            "Extent": region.extent,
            "MajorAxisLength": np.sqrt(10 * max(long + middle - short, 0)),
            "MinorAxisLength": np.sqrt(10 * max(middle + short - long, 0)),
            "Solidity": np.nan if flat else _solidity(region),
            "SurfaceArea": surface,
            "SurfaceArea_um2": surface_um,
            "Volume": area,
            "Volume_um3": area * float(np.prod(spacing)),
        }
        for axis, letter in enumerate("ZYX"):
            row[f"Center_{letter}"] = region.centroid[axis]
            row[f"BoundingBoxMinimum_{letter}"] = region.bbox[axis]
            row[f"BoundingBoxMaximum_{letter}"] = region.bbox[axis + 3]
        rows.append([float(row[name]) for name in names])
    table = np.array(rows).reshape(-1, len(names))
    return _placed(dict(zip(names, table.T, strict=True)), names, regions)


def _solidity(region: Any) -> float:
    """Of a 3D object; NaN where its voxels lie in a plane, so that there is no hull."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        convex = region.area_convex
    return float(region.area / convex) if convex else float("nan")
