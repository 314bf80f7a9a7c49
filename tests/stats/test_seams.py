"""The seam test finds cells that are cut where the pipeline cuts images, and says nothing of those that aren't."""

import numpy as np
import pytest
from numpy.typing import NDArray

from plateflow.images.canvas import Canvas
from plateflow.images.layout import FieldBox
from plateflow.segment.tiles import blending_lines, network_shape, tile_layout
from plateflow.stats.seams import Borders, Counted, Rectangles, count_objects, in_words, judge_seams

DIAMETER = 24.0


def canvas(n: int = 2, edge: int = 400, overlap: int = 0, hole: bool = False) -> Canvas:
    step = edge - overlap
    boxes = [
        FieldBox(name=f"{i}{j}", y=i * step, x=j * step, height=edge, width=edge)
        for i in range(n)
        for j in range(n)
        if not (hole and i == j == n - 1)
    ]
    size = step * (n - 1) + edge
    return Canvas(index=0, t=0, z=0, y=0, x=0, height=size, width=size, fields=tuple(boxes))


def borders_of(own: Canvas, scale: float = 1.0, block_px: int = 350) -> Borders:
    tiles, tile_px = blending_lines((own.height, own.width), scale)
    return Borders.of(own, tiles=tiles, tile_px=tile_px, block_px=block_px)


def labels_of(rng: np.random.Generator, size: int, density: float = 1 / 1500) -> NDArray[np.int64]:
    """Disks in random places; later ones lie over earlier ones."""
    labels = np.zeros((size, size), np.int64)
    rows, columns = np.ogrid[:size, :size]
    for number in range(1, rng.poisson(density * size * size) + 1):
        y, x, r = *rng.uniform(0, size, 2), DIAMETER / 2 * rng.lognormal(0, 0.15)
        box = tuple(slice(max(int(c - r), 0), int(c + r) + 2) for c in (y, x))
        disk = (rows[box[0]] - y) ** 2 + (columns[:, box[1]] - x) ** 2 <= r * r
        labels[box][disk] = number
    return labels


def objects_of(labels: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """y, x and area of each object."""
    area = np.bincount(labels.ravel())
    y, x = (np.bincount(labels.ravel(), places.ravel()) for places in np.indices(labels.shape) + 0.5)
    there = area > 0
    there[0] = False
    return y[there] / area[there], x[there] / area[there], area[there].astype(float)


def cut(labels: NDArray[np.int64], lines: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[np.int64]:
    """Each object in pieces, one per side of every line."""
    rows, columns = (np.searchsorted(own, np.arange(size) + 0.5) for own, size in zip(lines, labels.shape, strict=True))
    part = rows[:, None] * 100 + columns
    return np.where(labels > 0, np.unique(labels * 10_000 + part, return_inverse=True)[1].reshape(labels.shape) + 1, 0)


def test_regions_and_areas_are_those_of_every_pixel() -> None:
    """Against the owner map and distances pixel by pixel."""
    own = canvas(overlap=30, hole=True)
    borders = borders_of(own, scale=1.25, block_px=300)
    y, x = np.arange(own.height) + 0.5, np.arange(own.width) + 0.5
    regions, areas = borders.regions(y[:, None], x[None], DIAMETER), borders.rectangles(DIAMETER).areas
    owner = own.owner()
    for kind, (at, beside) in regions.items():
        assert not (at & beside).any()
        assert areas[kind] == pytest.approx((at.sum(), beside.sum()), rel=0.03)
    edge = np.pad(owner, 1, constant_values=-1)
    outside = np.argwhere(edge < 0) - 1
    for py, px in np.random.default_rng(0).integers(0, own.height, (200, 2)):
        far = np.abs(outside - (py, px)).max(axis=1).min() > DIAMETER + 0.5
        window = owner[max(py - 12, 0) : py + 13, px], owner[py, max(px - 12, 0) : px + 13]
        meets = any(len(np.unique(part[part >= 0])) > 1 for part in window) and owner[py, px] >= 0
        if far and not meets:
            assert not regions["field"][0][py, px]
        if meets and far:
            assert regions["field"][0][py, px] or np.abs(outside - (py, px)).max(axis=1).min() < DIAMETER + 2
    rows = np.abs(y[:, None] - borders.lines["block"][0]).min(axis=1)
    assert borders.lines["block"][0].tolist() == [300, 600]
    assert not regions["block"][0][rows > 60][:, 100:200].any()


@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_a_rectangle_says_of_its_points_what_they_say_themselves(scale: float) -> None:
    """Those that lie on the lines and at the ends of what is near them, too."""
    borders, rng = borders_of(canvas(n=3, overlap=30, hole=True), scale=scale, block_px=300), np.random.default_rng(4)
    rectangles, size = borders.rectangles(DIAMETER), borders.edges[0][-1]
    ends = [line + far for line in borders.lines["tile"][0] for far in (0, -borders.tile_px, borders.tile_px)]
    y, x = np.concatenate([rng.integers(0, size, (2, 20_000)) + 0.5, rng.uniform(0, size, (2, 20_000))], axis=1)
    y[: len(ends)] = ends
    for kind, found in borders.regions(y, x, DIAMETER).items():
        assert 0 < found[0].sum() < len(y)
        np.testing.assert_array_equal(rectangles.regions(y, x)[kind], found)


def plate(rng: np.random.Generator, kind: str, wells: int = 6) -> dict[str, list[Counted]]:
    """Wells of simulated labels, cut at the borders of a kind."""
    own = canvas()
    borders = borders_of(own)
    lines = borders.lines | {"field": tuple(edges[1:-1] for edges in borders.edges)}
    rectangles, found = borders.rectangles(DIAMETER), []
    for _ in range(wells):
        labels = labels_of(rng, own.height)
        labels = cut(labels, lines[kind]) if kind else labels
        found.append(count_objects([(rectangles, *objects_of(labels))]))
    return {kind: [each[kind] for each in found] for kind in found[0]}


@pytest.mark.parametrize("planted", ["tile", "block", "field"])
def test_cells_that_are_cut_are_found_where_they_are_cut(planted: str) -> None:
    found = plate(np.random.default_rng(1), planted)
    seams = {kind: judge_seams(kind, wells, tests=6) for kind, wells in found.items()}
    assert seams[planted].verdict == "seams"
    assert seams[planted].density[0] > 1.3
    assert seams[planted].size[0] < 0.8
    assert in_words(seams[planted]).startswith("seams at borders between")


def test_cells_that_are_not_cut_are_not_found() -> None:
    for kind, wells in plate(np.random.default_rng(2), "", wells=12).items():
        seam = judge_seams(kind, wells, tests=6)
        assert seam.verdict != "seams"
        assert 0.8 < seam.density[0] < 1.25


def points(rng: np.random.Generator, rectangles: Rectangles, density: float, lost: float) -> dict[str, Counted]:
    """A well of points alone, of which a share at tile borders is lost; denser to one side, as cells settle."""
    size = rectangles.cuts[0][-1]
    y, x = rng.uniform(0, size, (2, rng.poisson(density * size * size * rng.uniform(0.3, 2))))
    keep = rng.random(len(y)) < 0.4 + 0.6 * y / size
    if lost:
        at, _ = rectangles.regions(y, x)["tile"]
        keep &= ~(at & (rng.random(len(y)) < lost))
    sizes = rng.lognormal(6, 0.3, keep.sum())
    return count_objects([(rectangles, y[keep], x[keep], sizes)])


def test_false_alarms_are_as_rare_as_said_and_lost_cells_are_found() -> None:
    rectangles = borders_of(canvas(edge=600), block_px=700).rectangles(DIAMETER)
    rng, verdicts = np.random.default_rng(3), []
    for _ in range(100):
        wells = [points(rng, rectangles, 1 / 1500, 0) for _ in range(12)]
        seams = [judge_seams(kind, [each[kind] for each in wells], tests=6) for kind in rectangles.areas]
        verdicts.append([seam.verdict for seam in seams])
    alarms = np.mean(["seams" in each for each in verdicts])
    assert alarms <= 0.1  # 5 % are meant, at most; two standard errors are 4 %
    assert np.mean([each[0] == "none" for each in verdicts]) > 0.5
    wells = [points(rng, rectangles, 1 / 1500, 0.2)["tile"] for _ in range(24)]
    lost = judge_seams("tile", wells, tests=6)
    assert lost.verdict == "seams"
    assert lost.density[0] == pytest.approx(0.8, abs=0.08)


def test_too_few_objects_or_wells_say_nothing() -> None:
    few = [Counted(objects=(2, 5), area=(1000.0, 3000.0), medians=(400.0, 410.0))] * 4
    assert judge_seams(
        "tile", [*few, Counted(objects=(9, 1), area=(1000.0, 3000.0), medians=(400.0, 90.0))], 1
    ).why == ("not enough objects to tell")
    two = judge_seams("tile", few[:2], 1)
    assert (two.verdict, two.why) == ("unknown", "2 wells with objects there; 3 are needed")
    assert judge_seams("field", [Counted(objects=(0, 0), area=(5.0, 0.0), medians=(np.nan,) * 2)], 1).why.startswith(
        "there is no room"
    )


def test_borders_at_which_every_object_was_lost_are_seams() -> None:
    """Of a count of 0, the upper limit is -ln(level / 2) over the number that is expected."""
    lost = [Counted(objects=(0, 60), area=(1000.0, 3000.0), medians=(np.nan, 400.0))] * 4
    seam = judge_seams("field", lost, tests=6)
    assert seam.verdict == "seams"
    assert seam.density == pytest.approx((0, 0, -np.log(0.025) / 80))
    assert "density is 0.00 times" in in_words(seam)
    rare = [Counted(objects=(0, 1), area=(1000.0, 3000.0), medians=(np.nan, 400.0))] * 4
    assert judge_seams("field", rare, tests=6).verdict == "unknown"
    assert judge_seams("field", lost[:2], tests=6).verdict == "unknown"


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_tiles_are_blended_halfway_at_their_lines(scale: float) -> None:
    shape = 700, 500
    (rows, columns), half = blending_lines(shape, scale)
    layout = tile_layout(network_shape(shape, scale))
    for axis, lines in ((layout.y, rows), (layout.x, columns)):
        assert len(lines) == len(axis.starts) - 1
        for number, line in enumerate(lines):
            at = int(line * scale + axis.before)
            first, second = (axis.weights[at - start] for start in axis.starts[number : number + 2])
            assert first / (first + second) == pytest.approx(0.5, abs=0.1)
    assert half == 20 / scale


def test_the_ratio_is_mantel_and_haenszels_by_hand() -> None:
    wells = [
        Counted(objects=(100, 200), area=(100.0, 200.0), medians=(1.0, 1.0)),
        Counted(objects=(300, 200), area=(100.0, 100.0), medians=(2.0, 1.0)),
        Counted(objects=(60, 80), area=(50.0, 100.0), medians=(3.0, 3.0)),
    ]
    above, below = 100 * 200 / 300 + 300 / 2 + 60 * 100 / 150, 200 * 100 / 300 + 200 / 2 + 80 * 50 / 150
    seam = judge_seams("tile", wells, 1)
    assert seam.density[0] == pytest.approx(above / below)
    weights = np.array([100 * 200 / 300, 300 * 200 / 500, 60 * 80 / 140])
    assert seam.size[0] == pytest.approx(2 ** (weights[1] / weights.sum()))
    without = [
        np.log((150 + 40) / (100 + 80 * 50 / 150)),
        np.log((100 * 200 / 300 + 40) / (200 * 100 / 300 + 80 * 50 / 150)),
        np.log((100 * 200 / 300 + 150) / (200 * 100 / 300 + 100)),
    ]
    error = np.sqrt(2 / 3 * np.sum((without - np.mean(without)) ** 2))
    assert error > np.sqrt(1 / 460 + 1 / 480)
    assert seam.density[2] == pytest.approx(above / below * np.exp(4.302653 * error))
