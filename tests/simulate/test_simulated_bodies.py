"""Bodies and their layouts: outlines of the size asked for, objects in one piece, sheets without holes."""

import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage.draw import polygon

from plateflow.simulate.bodies import FORMS, MIN_AREA_PX, body_outline, border_distance, noise, scatter, tile

SHEET = {"jitter": 0.25, "stretch": 1.3, "waviness": 0.05, "gap_px": 0.0, "rounding": 0.0, "present": 1.0}


def assert_whole_and_numbered(labels: np.ndarray) -> None:
    count = int(labels.max())
    assert np.array_equal(np.unique(labels[labels > 0]), np.arange(1, count + 1))
    assert [ndi.label(labels == n)[1] for n in range(1, count + 1)] == [1] * count
    assert np.bincount(labels.ravel())[1:].min(initial=MIN_AREA_PX) >= MIN_AREA_PX


@pytest.mark.parametrize("form", FORMS)
def test_an_outline_has_the_area_of_its_diameter(form):
    for seed in range(5):
        outline = body_outline(np.random.default_rng(seed), 60.0, form)
        inside = polygon(outline[:, 0] + 400, outline[:, 1] + 400, (800, 800))
        assert inside[0].size == pytest.approx(np.pi * 30**2, rel=0.12)


def test_spindles_are_long_and_round_bodies_are_not():
    def elongation(form):
        values = []
        for seed in range(8):
            outline = body_outline(np.random.default_rng(seed), 40.0, form)
            long, short = np.sqrt(np.linalg.eigvalsh(np.cov(outline.T))[::-1])
            values.append(long / short)
        return np.median(values)

    assert elongation("round") < 1.5
    assert elongation("spindle") > 2.5


def test_scattered_bodies_cover_what_was_asked_and_are_whole():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        labels = scatter(rng, (256, 256), diameter=24, spread=0.2, coverage=0.3, forms=FORMS, overlap=0.2)
        assert (labels > 0).mean() == pytest.approx(0.3, abs=0.04)
        assert_whole_and_numbered(labels)
    assert not scatter(rng, (64, 64), diameter=24, spread=0.2, coverage=0.0, forms=FORMS).any()


@pytest.mark.parametrize("diameter", [12, 40])
def test_a_sheet_has_no_holes_and_cells_of_the_diameter(diameter):
    labels = tile(np.random.default_rng(1), (256, 256), diameter=diameter, **SHEET)
    assert (labels > 0).mean() > 0.97
    assert_whole_and_numbered(labels)
    area = np.bincount(labels[8:-8, 8:-8].ravel())[1:]
    assert 2 * np.sqrt(np.median(area[area > 0]) / np.pi) == pytest.approx(diameter, rel=0.2)


def test_colonies_leave_bare_ground_and_seams_part_cells():
    bare = tile(np.random.default_rng(1), (256, 256), diameter=20, **{**SHEET, "present": 0.4})
    assert 0.2 < (bare > 0).mean() < 0.6
    apart = tile(np.random.default_rng(1), (256, 256), diameter=20, **{**SHEET, "gap_px": 3.0})
    grown = ndi.grey_dilation(apart, size=3)
    assert (grown[apart > 0] == apart[apart > 0]).all()  # no cell touches one of a higher number
    assert_whole_and_numbered(apart)


def test_distance_from_the_border_ends_at_labels_not_at_the_image():
    labels = np.zeros((20, 40), np.uint32)
    labels[:, :20], labels[:, 20:30] = 1, 2
    depth = border_distance(labels)
    assert depth[10, 0] == 19.5  # the edge of the image is no border
    assert depth[10, 19] == depth[10, 20] == 0.5
    assert (depth[:, 30:] == 0).all()
    assert border_distance(np.ones((9, 9), np.uint32)).min() > 0


@pytest.mark.parametrize("sigma", [0.8, 3.0, 12.0])
def test_noise_has_unit_variance_and_the_grain_asked_for(sigma):
    field = noise(np.random.default_rng(0), (300, 280), sigma)
    assert field.shape == (300, 280)
    assert field.mean() == pytest.approx(0, abs=1e-4)
    assert field.std() == pytest.approx(1, abs=1e-3)
    step = np.diff(field, axis=1).std()  # of filtered white noise, sqrt(2 (1 - exp(-1 / 4 sigma^2)))
    assert step == pytest.approx(np.sqrt(2 * (1 - np.exp(-1 / (4 * sigma**2)))), rel=0.2)
