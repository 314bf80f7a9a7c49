"""The seam test: are there more, fewer or other objects where the pipeline cuts images than beside these places?

A cell that is cut in two counts twice and is half as large; one that is lost counts nowhere. So objects whose seed lies
at a border (of the network's tiles, of the blocks of flow following, between fields) are compared with those a little
farther off, in density per area and in area, well by well: what differs between wells, or over a field, as light does,
is in both. The outer border of a canvas, where cells are cut by the camera, is left out with a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.errors import number_of
from plateflow.images.canvas import Canvas
from plateflow.stats.reference import MIN_WELLS

KINDS = {"tile": "tiles of the network", "block": "blocks of flow following", "field": "fields"}
"""The kinds of borders, and what lies on either side."""
ALARM = 0.05
"""Chance that any of a plate's tests finds a seam where there is none: each is at this level over their number."""
LEAST = 0.05
"""A smaller difference isn't called a seam, however sure."""
TIGHT = 1.2
"""Factor within which the 95 % interval must lie, either way, for `no seams`."""
FEW = 5
"""Objects that a well must have on either side for its median areas to be compared."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Where the borders of a canvas lie, in px of the canvas.

    Attributes:
        lines: of tiles and of blocks, by kind: y of the lines between rows, x of those between columns.
        edges: y and x at which the owner may change, from 0 to the canvas's height and width.
        owner: number of the field that each rectangle between these belongs to, -1 outside of fields.
        tile_px: half the width of the zone in which neighbouring tiles are blended.
    """

    lines: dict[str, tuple[Numbers, Numbers]]
    edges: tuple[Numbers, Numbers]
    owner: NDArray[np.int16]
    tile_px: float

    @classmethod
    def of(cls, canvas: Canvas, *, tiles: tuple[Numbers, Numbers], tile_px: float, block_px: int) -> Borders:
        """The borders of a canvas of one plane.

        Args:
            canvas: it.
            tiles, tile_px: its tiles' (`segment.tiles.blending_lines`).
            block_px: edge of the blocks in which flow is followed.
        """
        rows, columns = (np.arange(block_px, size, block_px, dtype=float) for size in canvas.shape[-2:])
        edges, owner = _owner(canvas)
        return cls(lines={"tile": tiles, "block": (rows, columns)}, edges=edges, owner=owner, tile_px=tile_px)

    def regions(self, y: Numbers, x: Numbers, diameter: float) -> dict[str, tuple[NDArray[np.bool_], ...]]:
        """Of each kind of border, which points lie at one, and which beside it.

        At a border: no farther than half a diameter, or where tiles are blended. Beside it: within four diameters more,
        but half a diameter clear of all such places. Points within a diameter of the outer border are in neither.

        Args:
            y, x: of the points, which are broadcast.
            diameter: of the objects, px.
        """
        inside = self._inside(y, x, diameter)
        half = {kind: max(diameter / 2, self.tile_px if kind == "tile" else 0) for kind in KINDS}
        clear = inside.copy()
        for kind, width in half.items():
            clear &= ~self._near(kind, y, x, width + diameter / 2)
        return {
            kind: (
                inside & self._near(kind, y, x, width),
                clear & self._near(kind, y, x, width + 4 * diameter),
            )
            for kind, width in half.items()
        }

    def rectangles(self, diameter: float) -> Rectangles:
        """`regions` of every point of the canvas: exact, as what a point is in changes only at known y and x."""
        cuts = []
        for axis in (0, 1):
            own = [self.lines["tile"][axis], self.lines["block"][axis], self.edges[axis]]
            far = [max(diameter / 2, self.tile_px if number == 0 else 0) for number in range(3)]
            steps = [(0, half, half + diameter / 2, half + 4 * diameter, diameter) for half in far]
            lower, upper = (
                [line + sign * step for line, by in zip(own, steps, strict=True) for step in by] for sign in (-1, 1)
            )
            all_cuts = [*lower, *(np.nextafter(cut, np.inf) for cut in upper)]  # what is near a line includes its end
            cuts.append(np.unique(np.concatenate([*all_cuts, self.edges[axis]]).clip(0, self.edges[axis][-1])))
        middle = [(cut[1:] + cut[:-1]) / 2 for cut in cuts]
        found = self.regions(middle[0][:, None], middle[1][None], diameter)
        sides = [np.diff(cut) for cut in cuts]

        def area(where: NDArray[np.bool_]) -> float:
            return float(sides[0] @ where @ sides[1])

        areas = {kind: (area(at), area(beside)) for kind, (at, beside) in found.items()}
        return Rectangles(cuts=(cuts[0], cuts[1]), found=found, areas=areas)

    def _near(self, kind: str, y: Numbers, x: Numbers, width: float) -> NDArray[np.bool_]:
        if kind != "field":
            rows, columns = (_distance(values, own) for values, own in zip((y, x), self.lines[kind], strict=True))
            return np.asarray((rows <= width) | (columns <= width))
        near = np.zeros(np.broadcast(y, x).shape, bool)
        if self.owner.size == 1:
            return near
        here = self._owner_at(y, x)
        for dy, dx in ((width, 0), (-width, 0), (0, width), (0, -width)):
            there = self._owner_at(y + dy, x + dx)
            near |= (there != here) & (there >= 0) & (here >= 0)
        return near

    def _inside(self, y: Numbers, x: Numbers, margin: float) -> NDArray[np.bool_]:
        inside = np.ones(np.broadcast(y, x).shape, bool)
        for dy in (-margin, 0, margin):
            for dx in (-margin, 0, margin):
                inside &= self._owner_at(y + dy, x + dx) >= 0
        return inside

    def _owner_at(self, y: Numbers, x: Numbers) -> NDArray[np.int16]:
        at = [np.searchsorted(edges, values, side="right") for edges, values in zip(self.edges, (y, x), strict=True)]
        return self._padded[at[0], at[1]]

    @cached_property
    def _padded(self) -> NDArray[np.int16]:
        return np.pad(self.owner, 1, constant_values=-1)


@dataclass(frozen=True, kw_only=True)
class Rectangles:
    """What each point of a canvas is in: that of its rectangle, as there are far more objects than rectangles.

    Attributes:
        cuts: y and x between the rectangles, ascending, from 0 to the canvas's height and width.
        found: by kind of border, the rectangles that lie at one, and those beside it.
        areas: of these, px.
    """

    cuts: tuple[Numbers, Numbers]
    found: dict[str, tuple[NDArray[np.bool_], ...]]
    areas: dict[str, tuple[float, float]]

    def regions(self, y: Numbers, x: Numbers) -> dict[str, tuple[NDArray[np.bool_], ...]]:
        """`Borders.regions` of points of the canvas."""
        row, column = (
            (np.searchsorted(cut, values, side="right") - 1).clip(0, len(cut) - 2)
            for cut, values in zip(self.cuts, (y, x), strict=True)
        )
        return {kind: tuple(where[row, column] for where in both) for kind, both in self.found.items()}


def _owner(canvas: Canvas) -> tuple[tuple[Numbers, Numbers], NDArray[np.int16]]:
    """`Canvas.owner`, of rectangles instead of pixels, and their edges."""
    regions = [canvas.regions(with_gaps=gaps) for gaps in (True, False)]
    both = [*regions[0], *regions[1]]
    edges = [np.unique([end for region in both for end in (region[k].start, region[k].stop)]) for k in (0, 1)]
    owner = np.full((len(edges[0]) - 1, len(edges[1]) - 1), -1, np.int16)
    for numbered in (list(enumerate(each)) for each in regions):
        for number, region in reversed(numbered):
            rows, columns = (
                slice(*np.searchsorted(own, (part.start, part.stop))) for own, part in zip(edges, region, strict=True)
            )
            owner[rows, columns] = number
    return (edges[0].astype(float), edges[1].astype(float)), owner


def _distance(values: Numbers, lines: Numbers) -> Numbers:
    if not len(lines):
        return np.full(values.shape, np.inf)
    after = np.searchsorted(lines, values).clip(0, len(lines) - 1)
    return np.minimum(np.abs(values - lines[after]), np.abs(values - lines[(after - 1).clip(0)]))


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Objects at borders of a kind, and beside them, in one well.

    Attributes:
        objects, area: numbers, and px in which they were looked for: at borders, beside.
        medians: of the objects' areas, px; NaN of none.
    """

    objects: tuple[int, int]
    area: tuple[float, float]
    medians: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Seam:
    """What was found at the borders of a kind.

    Attributes:
        kind: of KINDS.
        verdict: `seams`, `none`, or `unknown`.
        why: of `unknown`.
        objects: at borders, beside them.
        density, size: ratio at borders to beside, with its 95 % interval: of objects per area, of the median area.
    """

    kind: str
    verdict: str
    why: str
    objects: tuple[int, int]
    density: tuple[float, float, float]
    size: tuple[float, float, float]


def count_objects(parts: Sequence[tuple[Rectangles, Numbers, Numbers, Numbers]]) -> dict[str, Counted]:
    """The objects of a well by kind of border, of the kinds that it has.

    Args:
        parts: of each canvas its rectangles, and of each object y and x in the canvas and area, px.
    """
    taken: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for rectangles, y, x, sizes in parts:
        for kind, regions in rectangles.regions(y, x).items():
            if rectangles.areas[kind][0]:
                taken[kind].append((rectangles.areas[kind], [sizes[where] for where in regions]))
    counted = {}
    for kind, found in taken.items():
        if found:
            at, beside = (np.concatenate([each[1][side] for each in found]) for side in (0, 1))
            counted[kind] = Counted(
                objects=(len(at), len(beside)),
                area=(sum(each[0][0] for each in found), sum(each[0][1] for each in found)),
                medians=(_median(at), _median(beside)),
            )
    return counted


def _median(values: Numbers) -> float:
    return float(np.median(values)) if len(values) else np.nan


def judge_seams(kind: str, wells: Sequence[Counted], tests: int) -> Seam:
    """The verdict on the borders of a kind; wells are the units, as objects of one aren't independent.

    The ratio of densities is Mantel and Haenszel's for rates, which wells of different density don't bias (Greenland &
    Robins, Biometrics 41 (1985) 55); that of areas the mean of the logarithms of the wells' ratios of medians, weighted
    by n₁ n₂ / (n₁ + n₂). Intervals are from the jackknife over wells, with Student's t on the logarithm; those of the
    density at least as wide as Poisson's, as few wells with few objects may agree by chance. Where no object at all
    lies at a border, the interval is Poisson's exact one for a count of 0.

    Args:
        kind: of borders.
        wells: all that have such borders.
        tests: how many tests the plate has (`ALARM`).
    """
    n = np.array([each.objects for each in wells], float).reshape(-1, 2)
    area = np.array([each.area for each in wells], float).reshape(-1, 2)
    medians = np.array([each.medians for each in wells], float).reshape(-1, 2)
    both = (area > 0).all(axis=1)
    n, area, medians = n[both], area[both], medians[both]
    total = area.sum(axis=1)
    rates = n[:, 0] * area[:, 1] / total, n[:, 1] * area[:, 0] / total
    many = (n >= FEW).all(axis=1)
    weight = np.prod(n[many], axis=1) / n[many].sum(axis=1)
    sizes = weight * np.log(medians[many, 0] / medians[many, 1]), weight
    used = n.sum(axis=1) > 0
    levels = 0.05, ALARM / max(tests, 1)
    with np.errstate(divide="ignore"):
        poisson = float(np.sqrt((1 / n.sum(axis=0)).sum()))
    density = [_ratio(rates[0][used], rates[1][used], level, least=poisson) for level in levels]
    if not n[:, 0].any() and n.any() and used.sum() >= MIN_WELLS:  # all were lost there: no logarithm tells that
        expected = float((n[:, 1] * area[:, 0] / area[:, 1]).sum())
        density = [(0.0, 0.0, float(-np.log(level / 2) / expected)) for level in levels]
    size = [_ratio(*sizes, level) for level in levels]
    found = [wide for narrow, wide in (density, size) if _is_off(narrow[0]) and (wide[1] > 1 or wide[2] < 1)]
    why = ""
    if len(wells) and not len(n):
        why = "there is no room beside the borders"
    elif used.sum() < MIN_WELLS:
        why = f"{number_of(int(used.sum()), 'well[s]')} with objects there; {MIN_WELLS} are needed"
    elif not all(1 / TIGHT <= end <= TIGHT for end in density[0][1:]):
        why = "not enough objects to tell"
    verdict = "seams" if found else "unknown" if why else "none"
    counts = int(n[:, 0].sum()), int(n[:, 1].sum())
    return Seam(kind=kind, verdict=verdict, why=why, objects=counts, density=density[0], size=size[0])


def _is_off(ratio: float) -> bool:
    return bool(np.isfinite(ratio)) and not 1 / (1 + LEAST) <= ratio <= 1 + LEAST


def _ratio(above: Numbers, below: Numbers, level: float, least: float | None = None) -> tuple[float, float, float]:
    """sum(above) / sum(below) with the interval of the jackknife: of its logarithm, whose standard error is `least` or
    more; without `least` it is a logarithm itself, and the exponentials are returned.
    """
    from scipy.special import stdtrit

    n = len(above)
    with np.errstate(divide="ignore", invalid="ignore"):
        own, without = above.sum() / below.sum(), (above.sum() - above) / (below.sum() - below)
        if least is not None:
            own, without = np.log(own), np.log(without)
    if n < MIN_WELLS or not np.isfinite([own, *without]).all():
        return (float(np.exp(own)) if n and np.isfinite(own) else np.nan), np.nan, np.nan
    error = max(np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2)), least or 0)
    half = float(stdtrit(n - 1, 1 - level / 2) * error)
    return float(np.exp(own)), float(np.exp(own - half)), float(np.exp(own + half))


def in_words(seam: Seam) -> str:
    """A verdict as a sentence."""
    borders = f"borders between {KINDS[seam.kind]}"
    if seam.verdict == "unknown":
        return f"{borders}: {seam.why}"
    numbers = "density is {:.2f} times that beside them (95 %: {:.2f} to {:.2f})".format(*seam.density)
    if np.isfinite(seam.size).all():
        numbers += ", median area {:.2f} times (95 %: {:.2f} to {:.2f})".format(*seam.size)
    return f"{'seams' if seam.verdict == 'seams' else 'no seams'} at {borders}: {numbers}"
