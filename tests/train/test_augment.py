"""Crops: targets that belong to their image, the same for the same seed, and images as the pipeline may show them."""

import numpy as np
import pytest
from skimage.measure import label as connected

from plateflow.flows import flows_from_labels
from plateflow.train.augment import random_crop
from plateflow.train.data import Sample, simulated_samples


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, Sample]:
    nuclei, cells = simulated_samples(1, seed=5, size=192)
    return nuclei[0], cells[0]


def discs(diameter: float, shape: tuple[int, int] = (256, 256)) -> Sample:
    """A grid of bright discs on black."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    pitch = int(2 * diameter)
    inside = np.hypot(y % pitch - pitch / 2, x % pitch - pitch / 2) < diameter / 2
    labels = np.where(inside, 1 + (y // pitch) * 100 + x // pitch, 0).astype(np.int32)
    return Sample(
        source="discs", name="discs", image=inside[None].astype(np.float32), labels=labels, diameter=float(diameter)
    )


def test_the_same_seed_gives_the_same_crop(samples: tuple[Sample, Sample]) -> None:
    first, again, other = (random_crop(np.random.default_rng(seed), samples[1], 64) for seed in (3, 3, 4))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.target, again.target)
    assert not np.array_equal(first.image, other.image)


def test_targets_are_unit_flows_inside_objects_and_nothing_outside() -> None:
    for seed in range(8):
        target = random_crop(np.random.default_rng(seed), discs(20), 128).target
        inside = target[2] == 1
        length = np.hypot(target[0], target[1])
        assert inside.any()
        assert set(np.unique(target[2])) <= {0.0, 1.0}
        assert (length[~inside] == 0).all()
        assert np.median(length[inside]) == pytest.approx(1, abs=1e-5)


def test_a_crop_knows_nothing_of_what_lies_beyond_it() -> None:
    """An object cut by the border flows to the middle of what is left of it, as one at the border of an image does."""
    for seed in range(10):
        target = random_crop(np.random.default_rng(seed), discs(40), 64).target
        seen = connected(target[2] > 0, background=0, connectivity=1)  # discs don't touch
        assert np.array_equal(target[:2], flows_from_labels(seen))


def test_image_and_target_are_turned_alike() -> None:
    """Wherever contrast and noise left something to see, it lies where the target says that objects are."""
    agree = []
    for seed in range(12):
        crop = random_crop(np.random.default_rng(seed), discs(30), 128)
        inside = crop.target[2] > 0
        if inside.any() and not inside.all():
            agree.append(crop.image[0][inside].mean() - crop.image[0][~inside].mean() > 0)
    assert np.mean(agree) == 1


def test_sizes_spread_over_the_range_asked_for() -> None:
    widths = [longest_run(random_crop(np.random.default_rng(s), discs(20), 256).target[2]) for s in range(40)]
    assert min(widths) < 18
    assert max(widths) > 35


def longest_run(inside: np.ndarray) -> int:
    """The longest row of ones: about an object's diameter, if objects don't touch."""
    best = run = 0
    for value in inside.ravel():
        run = run + 1 if value else 0
        best = max(best, run)
    return best


def test_unused_channels_are_zero_and_helpers_sometimes_absent(samples: tuple[Sample, Sample]) -> None:
    nuclei, cells = samples
    assert not random_crop(np.random.default_rng(0), nuclei, 64).image[1:].any()
    helpers = [random_crop(np.random.default_rng(s), cells, 64).image[1].any() for s in range(60)]
    assert 0 < sum(not h for h in helpers) < 20


def test_some_images_are_as_dim_as_a_plate_window_makes_them() -> None:
    tops = [random_crop(np.random.default_rng(s), discs(20), 128).image[0].max() for s in range(60)]
    assert np.mean(np.array(tops) < 0.4) > 0.1
    assert max(tops) > 1.5


def test_an_image_without_objects_gives_an_empty_target() -> None:
    empty = Sample(
        source="empty",
        name="empty",
        image=np.zeros((1, 100, 100), np.float32),
        labels=np.zeros((100, 100), np.int32),
        diameter=0.0,
    )
    assert not random_crop(np.random.default_rng(0), empty, 64).target.any()
