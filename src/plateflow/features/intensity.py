"""Intensity of objects, under the names and by the definitions of CellProfiler's MeasureObjectIntensity, 2D and 3D.

Sums run over each object's pixels in raster order, so that a value depends on nothing but its object.
"""

from collections.abc import Sequence

import numpy as np

from plateflow.compiled import compiled
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

_EDGE = "of its pixels with a neighbour (side by side) outside; NaN without one"
_MASS = "of the centre of mass of the intensities in the image; NaN if they sum up to 0"
_BRIGHTEST = "of the brightest pixel in the image, the first in raster order"
_TABLE = {
    "IntegratedIntensity": ("1", "sum of the pixels' intensities"),
    "MeanIntensity": ("1", "mean intensity of the pixels"),
    "StdIntensity": ("1", "standard deviation of the pixels' intensities (divided by n)"),
    "MinIntensity": ("1", "least intensity of a pixel"),
    "MaxIntensity": ("1", "greatest intensity of a pixel"),
    "IntegratedIntensityEdge": ("1", f"sum {_EDGE}"),
    "MeanIntensityEdge": ("1", f"mean {_EDGE}"),
    "StdIntensityEdge": ("1", f"standard deviation {_EDGE}"),
    "MinIntensityEdge": ("1", f"least {_EDGE}"),
    "MaxIntensityEdge": ("1", f"greatest {_EDGE}"),
    "LowerQuartileIntensity": ("1", "intensity below which a quarter of the pixels lie"),
    "MedianIntensity": ("1", "intensity below which half of the pixels lie"),
    "UpperQuartileIntensity": ("1", "intensity below which three quarters of the pixels lie"),
    "MADIntensity": ("1", "median of the absolute differences to the median intensity"),
    "MassDisplacement": ("px", "distance of the centroid to the centre of mass of the intensities"),
    **{f"CenterMassIntensity_{axis.upper()}": ("px", f"{axis} {_MASS}") for axis in "zyx"},
    **{f"MaxIntensity_{axis.upper()}": ("px", f"{axis} {_BRIGHTEST}") for axis in "zyx"},
}
_ROW = np.dtype([(name, np.float64) for name in _TABLE])


def _columns(ndim: int) -> list[str]:
    return [name for name in _TABLE if ndim == 3 or not name.endswith("_Z")]


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return [
        Feature(
            name=f"{'Location' if Feature.is_position(name) else 'Intensity'}_{name}",
            unit="plane" if name.endswith("_Z") else _TABLE[name][0],
            definition=_TABLE[name][1],
            kind="position" if Feature.is_position(name) else "measurement",
            channel=channel,
        )
        for channel in channels
        for name in _columns(ndim)
    ]


def _measure(regions: Regions, image: Image) -> Values:
    """Measure intensities.

    Quartiles are CellProfiler's: between the sorted pixels k and k + 1, counted from 0, where k + fraction = area *
    quartile, so slightly above the usual ones; the MAD likewise, in 3D too.
    """
    spacing = np.ones(3) if regions.ndim == 2 else regions.spacing
    return regions.columns(regions.each(_intensity, len(image), image, spacing, row=_ROW), _columns(regions.ndim))


INTENSITY = Family(name="intensity", features=_features, measure=_measure, in_3d=True)


@compiled
def _is_edge(volume: Volume, z: int, y: int, x: int) -> bool:
    label = volume[z, y, x]
    depth, height, width = volume.shape
    return (
        (z > 0 and volume[z - 1, y, x] != label)
        or (z < depth - 1 and volume[z + 1, y, x] != label)
        or (y > 0 and volume[z, y - 1, x] != label)
        or (y < height - 1 and volume[z, y + 1, x] != label)
        or (x > 0 and volume[z, y, x - 1] != label)
        or (x < width - 1 and volume[z, y, x + 1] != label)
    )


@compiled
def _statistics(values: Values) -> tuple[float, float, float, float, float]:
    """Sum, mean, standard deviation, minimum, maximum."""
    total = 0.0
    for value in values:
        total += value
    mean = total / len(values)
    squares = 0.0
    for value in values:
        squares += (value - mean) ** 2
    return total, mean, np.sqrt(squares / len(values)), values.min(), values.max()


@compiled
def _intensity(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows, spacing: Values) -> None:
    _, height, width = volume.shape
    for index in range(len(rows)):
        first, last = starts[index], starts[index + 1]
        n = last - first
        place, edge = np.empty((n, 3)), np.empty(n, np.int64)
        n_edge = 0
        for k in range(n):
            plane_pixel, x = divmod(np.int64(pixels[first + k]), width)
            z, y = divmod(plane_pixel, height)
            place[k, 0], place[k, 1], place[k, 2] = z, y, x
            if _is_edge(volume, z, y, x):
                edge[n_edge] = k
                n_edge += 1
        for channel in range(len(values)):
            inside = values[channel, first:last]
            row = rows[index, channel]
            total, row.MeanIntensity, row.StdIntensity, row.MinIntensity, row.MaxIntensity = _statistics(inside)
            row.IntegratedIntensity = total
            if n_edge:
                statistics = _statistics(inside[edge[:n_edge]])
                row.IntegratedIntensityEdge, row.MeanIntensityEdge, row.StdIntensityEdge = statistics[:3]
                row.MinIntensityEdge, row.MaxIntensityEdge = statistics[3:]
            brightest, displacement = 0, 0.0
            for k in range(n):
                if inside[k] > inside[brightest]:
                    brightest = k
            mass_centre = np.empty(3)
            for axis in range(3):
                middle = mass = 0.0
                for k in range(n):
                    middle += place[k, axis]
                    mass += place[k, axis] * inside[k]
                mass_centre[axis] = mass / total if total != 0 else np.nan
                displacement += (spacing[axis] * (mass_centre[axis] - middle / n)) ** 2
            row.CenterMassIntensity_Z, row.CenterMassIntensity_Y = mass_centre[0], mass_centre[1]
            row.CenterMassIntensity_X = mass_centre[2]
            row.MaxIntensity_Z, row.MaxIntensity_Y = place[brightest, 0], place[brightest, 1]
            row.MaxIntensity_X = place[brightest, 2]
            row.MassDisplacement = np.sqrt(displacement)
            ranked = inside.copy()
            row.LowerQuartileIntensity, rank = _quantile(ranked, 0, n * 0.25)
            row.MedianIntensity, rank = _quantile(ranked, rank, n * 0.5)
            row.UpperQuartileIntensity, rank = _quantile(ranked, rank, n * 0.75)
            row.MADIntensity = _quantile(np.abs(inside - row.MedianIntensity), 0, n * 0.5)[0]


@compiled
def select(values: Values, first: int, k: int) -> float:
    """Put the k-th smallest value in its place in values[first:]: what precedes it is smaller, what follows larger."""
    low, high = first, len(values) - 1
    while low < high:
        a, b, c = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@compiled
def _quantile(values: Values, first: int, position: float) -> tuple[float, int]:
    """The value at a position between two ranks (from 0), and the rank below; values before `first` are smaller.

    Much faster than sorting. Positions from the last rank on give the largest value.
    """
    below = min(int(position), len(values) - 1)
    value = select(values, first, below)
    part = position - below
    if part > 0 and below + 1 < len(values):
        value = value * (1 - part) + values[below + 1 :].min() * part
    return value, below
