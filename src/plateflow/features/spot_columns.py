"""What the table of cells says of the spots in an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from plateflow.features.feature import Feature, Regions

if TYPE_CHECKING:
    import pandas as pd


def spot_features(spots: str, within: str, channel: str) -> list[Feature]:
    """The columns of a set of spots in the table of the objects in which they lie.

    They are named as CellProfiler's RelateObjects names what it says of children.

    Args:
        spots, within: as columns have these names: Foci, Nuclei.
        channel: in which they were found.
    """
    each = f"{{}} of the {spots} in the object"
    table = {
        f"Children_{spots}_Count": ("1", f"number of {spots} in the object", "CellProfiler", ""),
        f"Children_{spots}_Density_um2": ("1/µm²", f"number of {spots} over the area of the object", "Plateflow", ""),
        f"Children_{spots}_IntegratedIntensity": (
            "1",
            f"sum of the intensities of the {spots} in the object, each above its own background; 0 without one",
            "Plateflow",
            channel,
        ),
        f"Mean_{spots}_Intensity_IntegratedIntensity": (
            "1",
            each.format("mean intensity, summed over each and above its own background (CellProfiler's is not),"),
            "Plateflow",
            channel,
        ),
        f"Mean_{spots}_Quality": (
            "1",
            each.format("mean response to the Laplacian of Gaussian, by which they were found,"),
            "Plateflow",
            channel,
        ),
        f"Mean_{spots}_Distance_Centroid_{within}": (
            "px",
            each.format("mean distance from the object's centroid"),
            "CellProfiler",
            "",
        ),
        f"Mean_{spots}_Distance_Minimum_{within}": (
            "px",
            each.format("mean distance from the object's outline"),
            "CellProfiler",
            "",
        ),
        f"Mean_{spots}_Neighbors_FirstClosestDistance": (
            "px",
            each.format("mean distance to the nearest other one"),
            "Plateflow",
            "",
        ),
    }
    return [
        Feature(name=name, family="spots", unit=unit, definition=definition, source=source, channel=of)
        for name, (unit, definition, source, of) in table.items()
    ]


def per_object(spots: pd.DataFrame, objects: Regions, features: Sequence[Feature]) -> pd.DataFrame:
    """The values of `spot_features` by number of object, from `find_spots`; means are NaN where there is no spot."""
    import pandas as pd

    groups, numbers = spots.groupby("label"), objects.numbers
    means = groups[["intensity", "quality", "centroid_px", "border_px", "neighbour_px"]].mean().reindex(numbers)
    count = groups.size().reindex(numbers, fill_value=0).to_numpy(np.float64)
    total = groups["intensity"].sum().reindex(numbers, fill_value=0).to_numpy(np.float64)
    values = [count, count / (objects.areas * np.prod(objects.pixel_size_um)), total, *means.to_numpy().T]
    return pd.DataFrame({each.column: value for each, value in zip(features, values, strict=True)}, index=numbers)
