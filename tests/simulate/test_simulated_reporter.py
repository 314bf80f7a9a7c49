"""Foci and positive cells are drawn as the truth says, apart enough to be told and bright enough to be seen."""

import numpy as np
import pytest
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from plateflow.simulate.bodies import border_distance
from plateflow.simulate.cells import camera, simulate_field
from plateflow.simulate.reporter import APART_PX, INSIDE_PX, draw_reporter


@pytest.fixture(scope="module")
def scene():
    return simulate_field(np.random.default_rng(0), (512, 512), density=0.2, diameter_px=24)


@pytest.fixture(scope="module")
def reporter(scene):
    return draw_reporter(np.random.default_rng(1), scene, foci=3.0, positive=0.4)


def test_numbers_are_those_asked_for(scene, reporter):
    n = len(scene.brightness)
    counts = np.bincount(reporter.nucleus, minlength=n + 1)[1:]
    assert n > 100
    assert counts.mean() == pytest.approx(3, abs=4 * np.sqrt(3 / n))
    assert counts.var() == pytest.approx(3, rel=0.5)  # Poisson's, less what finds no room
    assert reporter.positive.mean() == pytest.approx(0.4, abs=4 * np.sqrt(0.24 / n))
    assert abs(np.corrcoef(counts, reporter.positive)[0, 1]) < 4 / np.sqrt(n)  # one says nothing of the other
    none = draw_reporter(np.random.default_rng(1), scene, foci=0.0, positive=0.0)
    assert (len(none.foci), none.positive.sum()) == (0, 0)


def test_foci_lie_apart_within_their_nuclei(scene, reporter):
    y, x = np.rint(reporter.foci).astype(int).T
    assert np.array_equal(scene.nuclei[y, x], reporter.nucleus)
    assert border_distance(scene.nuclei)[y, x].min() > INSIDE_PX
    for number in np.unique(reporter.nucleus):
        places = reporter.foci[reporter.nucleus == number]
        assert not cKDTree(places).query_pairs(APART_PX)


def test_where_nuclei_have_no_room_there_are_as_many_foci_as_fit(scene):
    crowd = draw_reporter(np.random.default_rng(2), scene, foci=80.0, positive=0.0)
    counts = np.bincount(crowd.nucleus, minlength=len(scene.brightness) + 1)[1:]
    room = np.bincount(scene.nuclei[border_distance(scene.nuclei) > INSIDE_PX], minlength=len(counts) + 1)[1:]
    assert 4 < counts.mean() < 40
    assert np.corrcoef(counts, room)[0, 1] > 0.9


def test_a_recorded_focus_is_six_to_seven_times_the_noise_where_it_was_drawn(scene, reporter):
    """The noise is that between two pictures of the scene; what lies around a focus is the median of 9 x 9 px."""
    one, two = (camera(np.random.default_rng(seed), {"GFP": reporter.channel})[0].astype(float) for seed in (3, 4))
    noise = ((one - two) / np.sqrt(2))[scene.nuclei > 0].std()
    detail = one - ndi.median_filter(one, 9)
    y, x = np.rint(reporter.foci).astype(int).T
    assert 6 < np.median(detail[y, x]) / noise < 7.5


def test_positive_cells_are_told_by_their_cytoplasm_and_not_by_their_nucleus(scene, reporter):
    image = camera(np.random.default_rng(3), {"GFP": reporter.channel}, illumination=0.0)[0].astype(float)
    numbers = np.arange(1, len(scene.brightness) + 1)
    cytoplasm = np.where((scene.nuclei == 0) & (ndi.minimum_filter(scene.cells, 5) == scene.cells), scene.cells, 0)
    seen = np.bincount(cytoplasm.ravel(), minlength=len(numbers) + 1)[1:] > 50
    level = ndi.median(image, cytoplasm, numbers)
    low, high = level[seen & ~reporter.positive], level[seen & reporter.positive]
    assert np.mean(high > np.percentile(low, 99)) > 0.97
    core = np.where(border_distance(scene.nuclei) > 3, scene.nuclei, 0)
    inner = ndi.median(image, core, numbers)
    medians = [np.nanmedian(inner[group]) for group in (reporter.positive, ~reporter.positive)]
    assert medians[0] == pytest.approx(medians[1], rel=0.12)
