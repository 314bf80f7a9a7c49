"""Spatial moments of an object's mask up to order 3, as scikit-image and CellProfiler define them."""

from collections.abc import Sequence

import numpy as np

from plateflow.compiled import compiled
from plateflow.features.area_shape import axes
from plateflow.features.feature import Family, Feature, Image, Integers, Pixels, Regions, Rows, Values, Volume

_ORDERS = [(p, q) for p in range(4) for q in range(4)]
_SPATIAL = [(p, q) for p, q in _ORDERS if p < 3]
_NORMAL = [(p, q) for p, q in _ORDERS if p + q > 1]  # the others are not defined
_TABLE = {
    **{f"SpatialMoment_{p}_{q}": ("px^n", f"sum of y^{p} x^{q} from the box's corner") for p, q in _SPATIAL},
    **{f"CentralMoment_{p}_{q}": ("px^n", f"sum of y^{p} x^{q} from the centroid") for p, q in _SPATIAL},
    **{f"NormalizedMoment_{p}_{q}": ("1", f"central moment {p}, {q} made independent of size") for p, q in _NORMAL},
    **{
        f"HuMoment_{k}": ("1", f"invariant {k + 1} of Hu (1962): independent of place, size and angle")
        for k in range(7)
    },
    **{f"InertiaTensor_{i}_{j}": ("px²", f"entry {i}, {j} of the inertia tensor") for i in range(2) for j in range(2)},
    **{f"InertiaTensorEigenvalues_{k}": ("px²", f"{('greater', 'smaller')[k]} eigenvalue of it") for k in range(2)},
}


def _features(channels: Sequence[str], ndim: int) -> list[Feature]:
    return Feature.of_table("AreaShape", _TABLE)


def _measure(regions: Regions, image: Image) -> Values:
    raw = regions.each(_moments, 32).reshape(-1, 2, 4, 4)
    spatial, central = raw[:, 0], raw[:, 1]
    area = central[:, 0, 0]
    nu = {(p, q): central[:, p, q] / area ** ((p + q) / 2 + 1) for p, q in _NORMAL}
    a, b = nu[3, 0] + nu[1, 2], nu[2, 1] + nu[0, 3]
    c, d, e = nu[3, 0] - 3 * nu[1, 2], 3 * nu[2, 1] - nu[0, 3], nu[2, 0] - nu[0, 2]
    hu = [
        nu[2, 0] + nu[0, 2],
        e**2 + 4 * nu[1, 1] ** 2,
        c**2 + d**2,
        a**2 + b**2,
        c * a * (a**2 - 3 * b**2) + d * b * (3 * a**2 - b**2),
        e * (a**2 - b**2) + 4 * nu[1, 1] * a * b,
        d * a * (a**2 - 3 * b**2) - c * b * (3 * a**2 - b**2),
    ]
    yy, yx, xx = central[:, 2, 0] / area, central[:, 1, 1] / area, central[:, 0, 2] / area
    larger, smaller, _ = axes(yy, yx, xx)
    columns = {
        **{f"SpatialMoment_{p}_{q}": spatial[:, p, q] for p, q in _SPATIAL},
        **{f"CentralMoment_{p}_{q}": central[:, p, q] for p, q in _SPATIAL},
        **{f"NormalizedMoment_{p}_{q}": nu[p, q] for p, q in _NORMAL},
        **{f"HuMoment_{k}": invariant for k, invariant in enumerate(hu)},
        **{"InertiaTensor_0_0": xx, "InertiaTensor_0_1": -yx, "InertiaTensor_1_0": -yx, "InertiaTensor_1_1": yy},
        **{"InertiaTensorEigenvalues_0": larger, "InertiaTensorEigenvalues_1": smaller},
    }
    return np.column_stack([columns[name] for name in _TABLE])


MOMENTS = Family(name="moments", features=_features, measure=_measure)


@compiled
def _moments(values: Values, pixels: Pixels, starts: Integers, volume: Volume, rows: Rows) -> None:
    _, height, width = volume.shape
    for index in range(len(rows)):
        inside = pixels[starts[index] : starts[index + 1]]
        top, left, sum_y, sum_x = height, width, 0, 0
        for pixel in inside:
            top, left = min(top, pixel // width), min(left, pixel % width)
            sum_y += pixel // width
            sum_x += pixel % width
        rows[index] = 0
        for kind in range(2):
            y0 = top + (sum_y / len(inside) - top if kind else 0.0)
            x0 = left + (sum_x / len(inside) - left if kind else 0.0)
            for pixel in inside:
                y, x = pixel // width - y0, pixel % width - x0
                power = 1.0
                for p in range(4):
                    term = power
                    for q in range(4):
                        rows[index, 16 * kind + 4 * p + q] += term
                        term *= x
                    power *= y
