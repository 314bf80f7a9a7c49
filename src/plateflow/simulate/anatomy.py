"""What lies inside the cells of a field: depth, nuclei, nucleoli, and the poles from which organelles spread.

Everything is an array over the field or a table over the cells, so that a stain is drawn for all cells at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from plateflow.simulate.bodies import Labels, border_distance, noise, tidy
from plateflow.simulate.cells import Float


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The parts of the cells of one field; arrays YX, tables by label (row 0 is the background)."""

    cells: Labels
    """Labels 1..n."""
    nuclei: Labels
    """The cell's number where its nuclei are."""
    diameter: float
    """Typical diameter of a cell in px."""
    depth: Float
    """Distance from the cell's border in px; 0 outside."""
    thickness: Float
    """Depth over the greatest depth of the cell, 0 to 1."""
    nucleus_depth: Float
    """As `thickness`, of the nuclei."""
    to_nucleus: Float
    """Distance (px) from the nearest nucleus; 0 within."""
    nucleoli: Float
    """0 to 1 where nucleoli are."""
    pole: NDArray[np.float64]
    """(n + 1, 2): y and x of a place beside the nucleus, where centrosome and Golgi lie."""
    axis: NDArray[np.float64]
    """(n + 1,): angle of the cell's long axis."""

    @property
    def count(self) -> int:
        """Number of cells."""
        return len(self.axis) - 1

    def smallness(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Of each cell the median area over its own, to a random power."""
        area = np.bincount(self.cells.ravel(), minlength=self.count + 1)[1:]
        return (np.median(area) / area) ** rng.uniform(0, 0.7) if self.count else area.astype(float)

    def per_cell(self, values: NDArray[np.floating], outside: float = 0.0) -> Float:
        """Spread a table of n values over the field."""
        return np.concatenate([[outside], values]).astype(np.float32)[self.cells]


def anatomy(
    rng: np.random.Generator,
    cells: Labels,
    diameter: float,
    *,
    nucleus: float = 0.5,
    eccentric: float = 0.1,
    anucleate: float = 0.03,
    binucleate: float = 0.05,
    lobed: float = 0.1,
    nucleoli: float = 1.0,
) -> Anatomy:
    """Give each cell its parts.

    Args:
        cells: labels YX, 1..n.
        diameter: typical diameter of the cells in px.
        nucleus: diameter of a nucleus over the diameter of its cell.
        eccentric: how far nuclei lie off the middle, over the cell's diameter.
        anucleate: fraction of cells in which no nucleus is seen.
        binucleate: fraction of cells with two nuclei.
        lobed: fraction of nuclei with a second lobe.
        nucleoli: number of nucleoli relative to the usual one.

    Returns:
        The anatomy; every nucleus lies within its cell, at least a pixel from its border.
    """
    n = int(cells.max())
    depth = border_distance(cells)
    deepest = _largest(depth, cells, n)
    thickness = (depth / np.maximum(deepest, 1e-3)[cells]).astype(np.float32)
    middle, axis, long, short = _moments(cells, n)
    radius = np.sqrt(np.maximum(np.bincount(cells.ravel(), minlength=n + 1), 1) / np.pi)

    grid = np.mgrid[: cells.shape[0], : cells.shape[1]].astype(np.float32)
    centre = np.zeros((n + 1, 2))
    if n:
        centre[1:] = ndi.maximum_position(depth, cells, np.arange(1, n + 1))
    # between the deepest point and the centroid, then off it
    centre = centre + rng.uniform(0, 0.4, (n + 1, 1)) * (middle - centre)
    centre += rng.normal(0, eccentric, (n + 1, 2)) * radius[:, None]
    size = radius * nucleus * rng.lognormal(0, 0.1, n + 1)
    size = np.minimum(size, 1.1 * deepest) * (rng.random(n + 1) >= anucleate)
    stretch = np.clip((long / np.maximum(short, 1e-3)) ** rng.uniform(0.2, 0.7, n + 1), 1, 2.5)
    turn = axis + rng.normal(0, 0.3, n + 1)
    wobble = 1 + np.float32(rng.uniform(0.01, 0.09)) * noise(rng, cells.shape, max(1.0, 0.22 * nucleus * diameter))

    reach = _ellipse(grid, cells, centre, size, stretch, turn)
    for share, away, scale in ((binucleate, 1.6, 0.9), (lobed, 0.75, 0.8)):
        has, angle = rng.random(n + 1) < share, rng.uniform(0, 2 * np.pi, n + 1)
        step = (away * size)[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
        more = _ellipse(grid, cells, centre + step, size * scale * has, np.ones(n + 1), turn)
        reach = np.minimum(reach, more)
    inside = (reach * wobble < 1) & (depth > 1.2)
    nuclei = np.where(inside, cells, 0).astype(np.uint32)
    nucleus_depth = border_distance(nuclei)
    nucleus_depth = (nucleus_depth / np.maximum(_largest(nucleus_depth, nuclei, n), 1e-3)[nuclei]).astype(np.float32)
    beyond = ndi.distance_transform_edt(~inside) if inside.any() else np.full(cells.shape, diameter)

    valleys = noise(rng, cells.shape, max(0.8, 0.09 * nucleus * diameter)) - np.float32(1.9 - 0.5 * nucleoli)
    angle = rng.uniform(0, 2 * np.pi, n + 1)
    off = (size * rng.uniform(0.9, 1.3, n + 1))[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    return Anatomy(
        cells=cells,
        nuclei=nuclei,
        diameter=diameter,
        depth=depth,
        thickness=thickness,
        nucleus_depth=nucleus_depth,
        to_nucleus=beyond.astype(np.float32),
        nucleoli=np.clip(2 * valleys, 0, 1) * (nucleus_depth > 0.2),
        pole=centre + off,
        axis=axis,
    )


def divide(rng: np.random.Generator, nuclei: Labels, share: float) -> tuple[Labels, NDArray[np.bool_]]:
    """Put a share of nuclei into mitosis: the plate of metaphase, or the two plates of anaphase, which are two objects.

    Returns labels of the nuclei anew, and by label (0: background) whether it is of a dividing nucleus.
    """
    n = int(nuclei.max())
    stage = np.where(rng.random(n + 1) < share, rng.choice([1, 2], n + 1, p=[0.65, 0.35]), 0)
    stage[0] = 0
    middle, angle = _moments(nuclei, n)[0], rng.uniform(0, np.pi, n + 1)
    radius = np.sqrt(np.maximum(np.bincount(nuclei.ravel(), minlength=n + 1), 1) / np.pi)
    y, x = (grid - middle[nuclei, i] for i, grid in enumerate(np.indices(nuclei.shape)))
    across = (y * np.cos(angle)[nuclei] - x * np.sin(angle)[nuclei]) / radius[nuclei]
    along = (y * np.sin(angle)[nuclei] + x * np.cos(angle)[nuclei]) / radius[nuclei]
    plate = stage[nuclei]
    off = np.where(plate == 2, (np.abs(across) - 0.55) / 0.26, across / 0.38)
    kept = (plate == 0) | (np.hypot(off, along / 0.95) < 1)
    labels = tidy(np.where(kept, nuclei + np.uint32(n) * ((plate == 2) & (across > 0)), 0).astype(np.uint32))
    dividing = np.zeros(int(labels.max()) + 1, bool)
    dividing[labels.ravel()] = plate.ravel() > 0
    dividing[0] = False
    return labels, dividing


def _ellipse(
    grid: Float,
    cells: Labels,
    centre: NDArray[np.float64],
    radius: NDArray[np.float64],
    stretch: NDArray[np.float64],
    turn: NDArray[np.float64],
) -> Float:
    """Distance from each cell's `centre` over the reach of its ellipse there, YX; large where a radius is 0."""
    tables = np.stack([centre[:, 0], centre[:, 1], np.sin(turn), np.cos(turn)]).astype(np.float32)
    long, short = (np.maximum(radius * f, 1e-3).astype(np.float32) for f in (np.sqrt(stretch), 1 / np.sqrt(stretch)))
    y, x, sine, cosine = tables[:, cells]
    dy, dx = grid[0] - y, grid[1] - x
    return np.hypot((dy * sine + dx * cosine) / long[cells], (dy * cosine - dx * sine) / short[cells])


def _moments(
    cells: Labels, n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centroid (n + 1, 2), angle of the long axis, and standard deviations along it and across."""
    flat = cells.ravel()
    y, x = (axis.ravel().astype(np.float64) for axis in np.indices(cells.shape))
    area = np.maximum(np.bincount(flat, minlength=n + 1), 1)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(flat, values, n + 1) / area

    my, mx = mean(y), mean(x)
    yy, xx, yx = mean(y * y) - my**2, mean(x * x) - mx**2, mean(y * x) - my * mx
    root = np.hypot((yy - xx) / 2, yx)
    long, short = (np.sqrt(np.maximum((yy + xx) / 2 + sign * root, 0.08)) for sign in (1, -1))
    return np.stack([my, mx], -1), 0.5 * np.arctan2(2 * yx, xx - yy), long, short


def _largest(values: Float, labels: Labels, n: int) -> NDArray[np.float32]:
    """The largest value of each label, (n + 1,)."""
    out = np.zeros(n + 1, np.float32)
    np.maximum.at(out, labels.ravel(), values.ravel())
    out[0] = 1
    return out
