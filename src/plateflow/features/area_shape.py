"""Area and shape, by scikit-image's region properties, under the names of CellProfiler's MeasureObjectSizeShape."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.feature import Feature, Regions, Values

_PROPERTIES = {
    "AreaShape_Area": "area",
    "AreaShape_BoundingBoxArea": "area_bbox",
    "AreaShape_BoundingBoxMinimum_Y": "bbox-0",
    "AreaShape_BoundingBoxMinimum_X": "bbox-1",
    "AreaShape_BoundingBoxMaximum_Y": "bbox-2",
    "AreaShape_BoundingBoxMaximum_X": "bbox-3",
    "AreaShape_Center_Y": "centroid-0",
    "AreaShape_Center_X": "centroid-1",
    "AreaShape_ConvexArea": "area_convex",
    "AreaShape_Eccentricity": "eccentricity",
    "AreaShape_EquivalentDiameter": "equivalent_diameter_area",
    "AreaShape_EulerNumber": "euler_number",
    "AreaShape_Extent": "extent",
    "AreaShape_MajorAxisLength": "axis_major_length",
    "AreaShape_MinorAxisLength": "axis_minor_length",
    "AreaShape_Orientation": "orientation",
    "AreaShape_Perimeter": "perimeter",
    "AreaShape_Solidity": "solidity",
}


def _feature(name: str, unit: str, definition: str, source: str = "CellProfiler, scikit-image") -> Feature:
    position = "Center" in name or "BoundingBoxM" in name
    return Feature(
        name=f"AreaShape_{name}",
        family="area_shape",
        unit=unit,
        definition=definition,
        source=source,
        kind="position" if position else "measurement",
    )


FEATURES = (
    _feature("Area", "px²", "number of pixels"),
    _feature("Area_um2", "µm²", "number of pixels times the size of one", "Plateflow"),
    _feature("BoundingBoxArea", "px²", "area of the upright box around the object"),
    _feature("BoundingBoxMaximum_X", "px", "right end of the box in the image, exclusive"),
    _feature("BoundingBoxMaximum_Y", "px", "lower end of the box in the image, exclusive"),
    _feature("BoundingBoxMinimum_X", "px", "left end of the box in the image"),
    _feature("BoundingBoxMinimum_Y", "px", "upper end of the box in the image"),
    _feature("Center_X", "px", "x of the centroid in the image"),
    _feature("Center_Y", "px", "y of the centroid in the image, downwards"),
    _feature("Compactness", "1", "perimeter² / (4 π area): 1 for a disk, greater for others"),
    _feature("ConvexArea", "px²", "area of the convex hull"),
    _feature("Eccentricity", "1", "of the ellipse with the same second moments: 0 for a disk, 1 for a line"),
    _feature("EquivalentDiameter", "px", "diameter of the disk with the same area"),
    _feature("EquivalentDiameter_um", "µm", "diameter of the disk with the same area", "Plateflow"),
    _feature("EulerNumber", "1", "number of parts less the number of holes"),
    _feature("Extent", "1", "area over the area of the box"),
    _feature("FormFactor", "1", "4 π area / perimeter²: 1 for a disk; NaN where the perimeter is 0"),
    _feature("MajorAxisLength", "px", "long axis of the ellipse with the same second moments"),
    _feature("MinorAxisLength", "px", "short axis of the ellipse with the same second moments"),
    _feature("Orientation", "degree", "angle between the image's y axis and the long axis, -90 to 90"),
    _feature("Perimeter", "px", "length of the border through the centres of its pixels; 0 for one pixel"),
    _feature("Solidity", "1", "area over convex area"),
)


def measure(regions: Regions, plane: NDArray[Any] | None) -> dict[str, Values]:
    """Area and shape of every object; see `Family.measure`.

    The ratios that divide by the perimeter are NaN for objects without one (a single pixel), where CellProfiler
    has infinity.
    """
    from skimage.measure import regionprops_table

    if not len(regions.numbers):
        return {feature.name: np.zeros(0) for feature in FEATURES}
    wanted = tuple(sorted({name.partition("-")[0] for name in _PROPERTIES.values()}))
    table = regionprops_table(regions.labels, properties=wanted)
    values = {name: np.asarray(table[key], np.float64) for name, key in _PROPERTIES.items()}
    for name, value in values.items():
        if name.endswith(("_Y", "_X")):
            values[name] = value + regions.origin_px[name.endswith("_X")]
    area, perimeter = values["AreaShape_Area"], values["AreaShape_Perimeter"]
    around = np.where(perimeter > 0, perimeter, np.nan) ** 2
    values["AreaShape_FormFactor"] = 4 * np.pi * area / around
    values["AreaShape_Compactness"] = around / (4 * np.pi * area)
    values["AreaShape_Orientation"] = np.degrees(values["AreaShape_Orientation"])
    pixel_um2 = regions.pixel_size_um[0] * regions.pixel_size_um[1]
    values["AreaShape_Area_um2"] = area * pixel_um2
    values["AreaShape_EquivalentDiameter_um"] = values["AreaShape_EquivalentDiameter"] * np.sqrt(pixel_um2)
    return {feature.name: values[feature.name] for feature in FEATURES}
