"""Crops: targets that belong to their image, the same for the same seed, and images as the pipeline may show them."""

from dataclasses import fields, replace

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage as ndi
from skimage.measure import label as connected

from plateflow.flows import flows_from_labels
from plateflow.train import augment
from plateflow.train.augment import Augmentation, random_crop
from plateflow.train.data import Sample, look_sample, make_sample, plate_sample
from plateflow.train.warp import blur, cut, enlarge, flow_target, shrink

NOTHING = replace(Augmentation(), **{f.name: 0.0 for f in fields(Augmentation) if f.type is float or f.type == "float"})


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, Sample]:
    cells = next(s for n in range(20) if len((s := plate_sample("cells", 5, n, size=192)).pixels) == 2)
    return plate_sample("nuclei", 5, 0, size=192), cells


def discs(diameter: float, shape: tuple[int, int] = (256, 256)) -> Sample:
    """A grid of bright discs on black."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    pitch = int(2 * diameter)
    inside = np.hypot(y % pitch - pitch / 2, x % pitch - pitch / 2) < diameter / 2
    labels = np.where(inside, 1 + (y // pitch) * 100 + x // pitch, 0).astype(np.int32)
    return make_sample("discs", "discs", [(1000 * inside).astype(np.uint16)], labels)


def picture(seed: int = 0) -> Sample:
    return look_sample("tissue", seed, 0)


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
    how = replace(Augmentation(), diameters=(30.0, 39.0))
    for seed in range(10):
        target = random_crop(np.random.default_rng(seed), discs(30), 64, how).target
        seen = connected(target[2] > 0, background=0, connectivity=1)  # discs don't touch
        assert np.array_equal(target[:2], flows_from_labels(seen))


def test_flows_of_large_objects_are_those_of_every_second_pixel_interpolated_within_each() -> None:
    y, x = np.mgrid[:128, :128]
    labels = np.where(np.hypot(y - 60, x - 40) < 38, 1, 0)
    labels = np.where((np.hypot(y - 70, x - 95) < 30) & (labels == 0), 2, labels).astype(np.int32)
    exact, quick = flows_from_labels(labels), flow_target(labels, 70.0)
    inside = labels > 0
    cosine = (exact * quick[:2]).sum(0)[inside]
    assert np.mean(cosine > np.cos(np.radians(15))) > 0.98
    assert np.array_equal(quick[2] > 0, inside)
    assert np.hypot(*quick[:2])[inside].mean() == pytest.approx(1, abs=0.01)
    assert np.array_equal(flow_target(labels, 20.0)[:2], exact)


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
    widths = [longest_run(random_crop(np.random.default_rng(s), discs(30), 256).target[2]) for s in range(40)]
    assert min(widths) < 15
    assert max(widths) > 80


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
    assert 0 < sum(not h for h in helpers) < 24


def test_some_images_are_as_dim_as_a_plate_window_makes_them() -> None:
    tops = [random_crop(np.random.default_rng(s), discs(20), 128).image[0].max() for s in range(60)]
    assert np.mean(np.array(tops) < 0.4) > 0.1
    assert max(tops) > 1.5


def test_an_image_without_objects_gives_an_empty_target() -> None:
    empty = make_sample("empty", "empty", [np.zeros((100, 100), np.uint16)], np.zeros((100, 100), np.int32))
    assert not random_crop(np.random.default_rng(0), empty, 64).target.any()


def test_a_cut_without_turning_is_the_image_normalised() -> None:
    sample = discs(20, (80, 90))
    image, labels = cut(sample.pixels, sample.limits, sample.labels, np.eye(2), np.array([5.0, 7.0]), 64)
    assert np.allclose(image[0], sample.image[0, 5:69, 7:71], atol=1e-6)
    assert np.array_equal(labels, sample.labels[5:69, 7:71])


def test_a_cut_mirrors_at_borders_and_averages_when_it_shrinks() -> None:
    pixels = np.tile(np.array([0, 1000], np.uint16), (40, 20))[None]
    limits, labels = np.array([[0.0, 1000.0]]), np.arange(1600, dtype=np.int32).reshape(40, 40)
    _, mirrored = cut(pixels, limits, labels, np.eye(2), np.array([-4.0, -4.0]), 8)
    assert mirrored[3, 3] == labels[1, 1] and mirrored[0, 0] == labels[4, 4]
    small, _ = cut(pixels, limits, labels, 4 * np.eye(2), np.array([4.0, 4.0]), 8)
    assert np.abs(small - 0.5).max() < 0.1  # stripes of a pixel become grey


def test_blur_keeps_the_sum_and_widens_by_its_sigma() -> None:
    point = np.zeros((161, 161), np.float32)
    point[80, 80] = 1
    y = np.arange(161) - 80
    for sigma in (1.0, 2.5, 8.0):
        out = blur(point, sigma, sigma)
        assert out.sum() == pytest.approx(1, rel=0.01)
        assert np.sqrt((out.sum(1) * y**2).sum()) == pytest.approx(sigma, rel=0.12)
    streak = blur(point, 3.0, 0.0)
    assert np.count_nonzero(streak.sum(0)) == 1 and np.count_nonzero(streak.sum(1)) > 7


def test_shrinking_takes_means_and_enlarging_gives_the_shape_back() -> None:
    image = np.arange(48, dtype=np.float32).reshape(6, 8)
    assert np.array_equal(shrink(image, 2), image.reshape(3, 2, 4, 2).mean((1, 3)))
    assert shrink(np.ones((7, 7), np.float32), 3).shape == (3, 3)
    assert np.allclose(enlarge(np.full((3, 3), 2, np.float32), 3, (7, 7)), 2)
    ramp = enlarge(np.tile(np.arange(8, dtype=np.float32), (8, 1)), 4, (32, 32))
    assert np.allclose(np.diff(ramp[:, 2:30], axis=1), 0.25)


def how(**values: float) -> Augmentation:
    """Each range narrowed to one value."""
    return replace(Augmentation(), **{name: (value, value) for name, value in values.items()})


def test_each_disturbance_of_light_and_lens_does_what_its_name_says() -> None:
    rng = np.random.default_rng(0)
    x = ndi.gaussian_filter(rng.random((128, 128), dtype=np.float32), 2)
    x = (x - x.min()) / np.ptp(x)
    assert np.allclose(augment.bend(rng, x - 0.5, how(gamma_power=2)), np.sign(x - 0.5) * (x - 0.5) ** 2)
    wide = how(glow_sigma=10, glow_level=0.7)
    assert np.allclose(augment.glow(rng, x, wide), x + 0.7 * blur(x, 10, 10), atol=1e-5)
    assert np.allclose(augment.soften(rng, x, how(soft_sigma=1.5)), blur(x, 1.5, 1.5))
    assert np.allclose(augment.defocus(rng, x, how(defocus_sigma=0.1), 30.0), blur(x, 3, 3), atol=1e-6)
    assert np.allclose(augment.defocus(rng, x, how(defocus_sigma=0.1), 5.0), blur(x, 1.2, 1.2), atol=1e-6)
    point = np.zeros((41, 41), np.float32)
    point[20, 20] = 1
    streak = augment.streak(rng, point, replace(Augmentation(), streak_sigma=(4.0, 0.0)))
    assert np.count_nonzero(streak[20]) == 1 and np.count_nonzero(streak[:, 20]) > 3


def test_each_disturbance_of_the_camera_does_what_its_name_says() -> None:
    rng = np.random.default_rng(0)
    x, flat = rng.random((128, 128), dtype=np.float32), np.full((200, 200), 0.5, np.float32)
    assert np.array_equal(augment.coarse(rng, x, how(coarse_factor=2)), enlarge(shrink(x, 2), 2, x.shape))
    shot = augment.few_photons(rng, flat, how(photon_count=50))
    assert shot.mean() == pytest.approx(0.5, abs=0.005)
    assert shot.std() == pytest.approx(np.sqrt(0.5 / 50), rel=0.03)
    assert augment.saturate(rng, x, how(saturate_at=0.6)).max() == np.float32(0.6)
    noise = augment.camera_noise(rng, flat, replace(how(noise_sigma=0.1), grainy=0.0), 0.5) - flat
    assert noise.mean() == pytest.approx(0, abs=0.002) and noise.std() == pytest.approx(0.05, rel=0.03)


def test_uneven_light_and_dim_objects_leave_what_their_ranges_say() -> None:
    rng = np.random.default_rng(0)
    light = augment.uneven_light(rng, 64, how(uneven_loss=0.4))
    assert light.max() == pytest.approx(1) and light.min() == pytest.approx(0.6)
    labels = np.repeat(np.arange(1, 5, dtype=np.int32), 256).reshape(32, 32)
    assert np.allclose(augment.dim_objects(rng, labels, how(dim_share=1, dim_level=0.3)), 0.3, atol=1e-3)
    assert np.allclose(augment.dim_objects(rng, labels, how(dim_share=0, dim_level=0.3)), 1, atol=1e-3)


def test_crops_are_turned_by_any_angle_mirrored_and_resized() -> None:
    """Two ramps tell for each pixel of a crop from which row and column of its image it is."""
    y, x = np.mgrid[:240, :240].astype(np.uint16)
    labels = np.zeros((240, 240), np.int32)
    labels[110:130, 110:130] = 1
    sample = make_sample("ramps", "ramps", [y, x], labels)
    span = np.ptp(sample.limits, axis=1)[0]
    size = replace(NOTHING, diameters=(2 * sample.diameter, 2 * sample.diameter))
    angles, signs, scales = [], [], []
    for seed in range(60):
        crop = random_crop(np.random.default_rng(seed), sample, 33, size).image[:2] * span
        matrix = np.stack([crop[:, 17, 16] - crop[:, 15, 16], crop[:, 16, 17] - crop[:, 16, 15]], -1) / 2
        angles.append(np.arctan2(matrix[0, 1], matrix[1, 1]) % (2 * np.pi))
        signs.append(np.sign(np.linalg.det(matrix)))
        scales.append(np.sqrt(abs(np.linalg.det(matrix))))
    assert np.histogram(angles, 4, (0, 2 * np.pi))[0].min() > 5
    assert 15 < np.sum(np.array(signs) > 0) < 45
    assert np.median(scales) == pytest.approx(0.5, rel=0.02)


def test_a_name_that_is_no_augmentation_is_refused() -> None:
    with pytest.raises(ValidationError, match="gama"):
        TypeAdapter(Augmentation).validate_python({"gama": 0.5})


def test_without_disturbances_a_channel_is_changed_by_no_more_than_its_exposure() -> None:
    x = np.random.default_rng(1).random((64, 64), dtype=np.float32)
    out = augment.disturb(np.random.default_rng(2), x, NOTHING, diameter=20.0, light=None)
    gain, offset = np.polyfit(x.ravel(), out.ravel(), 1)
    assert np.allclose(out, gain * x + offset, atol=1e-5)
    assert 0.4 < gain < 2


def test_pictures_come_in_any_order_of_colours_inverted_or_grey() -> None:
    sample = picture()
    assert {
        len(augment.shown(np.random.default_rng(s), sample.image, replace(NOTHING, drop=1.0))) for s in range(9)
    } == {1, 2}
    colours, inverted, grey = set(), 0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        out = augment.shown(rng, sample.image, replace(Augmentation(), drop=0.0))
        if len(out) == 1:
            grey += 1
            continue
        flipped = not any(np.allclose(out[0], c) for c in sample.image)
        inverted += flipped
        first = 1 - out[0] if flipped else out[0]
        colours.add(next(i for i, c in enumerate(sample.image) if np.allclose(first, c, atol=1e-5)))
    assert colours == {0, 1, 2} and inverted > 5 and grey > 5


def test_fluorescence_keeps_its_channels_in_their_places(samples: tuple[Sample, Sample]) -> None:
    cells = samples[1]
    for seed in range(10):
        crop = random_crop(np.random.default_rng(seed), cells, 128, replace(NOTHING, diameters=(20.0, 40.0)))
        assert crop.image[1].any() and not crop.image[2].any()
