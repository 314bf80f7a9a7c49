"""Area and shape, by scikit-image's region properties, under the names of CellProfiler's MeasureObjectSizeShape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values

# Name, unit, scikit-image's property (with its column), definition; ours where there is no property.
_TABLE = (
    ("Area", "px²", "area", "number of pixels"),
    ("Area_um2", "µm²", "", "number of pixels times the size of one"),
    ("BoundingBoxArea", "px²", "area_bbox", "area of the upright box around the object"),
    ("BoundingBoxMaximum_X", "px", "bbox-3", "right end of the box in the image, exclusive"),
    ("BoundingBoxMaximum_Y", "px", "bbox-2", "lower end of the box in the image, exclusive"),
    ("BoundingBoxMinimum_X", "px", "bbox-1", "left end of the box in the image"),
    ("BoundingBoxMinimum_Y", "px", "bbox-0", "upper end of the box in the image"),
    ("Center_X", "px", "centroid-1", "x of the centroid in the image"),
    ("Center_Y", "px", "centroid-0", "y of the centroid in the image, downwards"),
    ("Compactness", "1", "", "perimeter² / (4 π area): 1 for a disk, greater for others; NaN without a perimeter"),
    ("ConvexArea", "px²", "area_convex", "area of the convex hull"),
    ("Eccentricity", "1", "eccentricity", "of the ellipse with the same second moments: 0 for a disk, 1 for a line"),
    ("EquivalentDiameter", "px", "equivalent_diameter_area", "diameter of the disk with the same area"),
    ("EquivalentDiameter_um", "µm", "", "diameter of the disk with the same area"),
    ("EulerNumber", "1", "euler_number", "number of parts less the number of holes"),
    ("Extent", "1", "extent", "area over the area of the box"),
    ("FormFactor", "1", "", "4 π area / perimeter²: 1 for a disk, less for others; NaN without a perimeter"),
    ("MajorAxisLength", "px", "axis_major_length", "long axis of the ellipse with the same second moments"),
    ("MinorAxisLength", "px", "axis_minor_length", "short axis of the ellipse with the same second moments"),
    ("Orientation", "degree", "orientation", "angle between the image's y axis and the long axis, -90 to 90"),
    ("Perimeter", "px", "perimeter", "length of the border through the centres of its pixels; 0 for one pixel"),
    ("Solidity", "1", "solidity", "area over convex area"),
)
FEATURES: tuple[Feature, ...] = tuple(
    Feature(
        name=f"AreaShape_{name}",
        family="area_shape",
        unit=unit,
        definition=definition,
        source="Plateflow" if "_um" in name else "CellProfiler, scikit-image",
        kind="position" if name.endswith(("_X", "_Y")) else "measurement",
    )
    for name, unit, _, definition in _TABLE
)


def measure(regions: Regions, plane: NDArray[Any] | None) -> dict[str, Values]:
    """Area and shape of every object; see `Family.measure`.

    The ratios that divide by the perimeter are NaN for objects without one (a single pixel), where CellProfiler
    has infinity.
    """
    from skimage.measure import regionprops_table

    if not len(regions.numbers):
        return {feature.name: np.zeros(0) for feature in FEATURES}
    columns = {name: column for name, _, column, _ in _TABLE if column}
    wanted = tuple(sorted({column.partition("-")[0] for column in columns.values()}))
    table = regionprops_table(regions.labels, properties=wanted)
    values = {name: np.asarray(table[column], np.float64) for name, column in columns.items()}
    for name, value in values.items():
        if name.endswith(("_Y", "_X")):
            values[name] = value + regions.origin_px[name.endswith("_X")]
    area, perimeter = values["Area"], values["Perimeter"]
    around = np.where(perimeter > 0, perimeter, np.nan) ** 2
    values["FormFactor"] = 4 * np.pi * area / around
    values["Compactness"] = around / (4 * np.pi * area)
    values["Orientation"] = np.degrees(values["Orientation"])
    pixel_um2 = regions.pixel_size_um[0] * regions.pixel_size_um[1]
    values["Area_um2"] = area * pixel_um2
    values["EquivalentDiameter_um"] = values["EquivalentDiameter"] * np.sqrt(pixel_um2)
    return {feature.name: values[feature.name.removeprefix("AreaShape_")] for feature in FEATURES}
