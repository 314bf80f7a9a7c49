import time

import numpy as np
import pytest
from scipy import ndimage as ndi

from plateflow.simulate.cells import CHANNELS, camera, illumination_profile, simulate_field


def _field(seed=0, shape=(256, 256), **options):
    return simulate_field(np.random.default_rng(seed), shape, **options)


def test_same_seed_same_scene_and_another_seed_another():
    one, two, other = _field(3), _field(3), _field(4)
    for name in CHANNELS:
        assert np.array_equal(one.channels[name], two.channels[name])
    assert np.array_equal(one.nuclei, two.nuclei)
    assert np.array_equal(one.cells, two.cells)
    assert not np.array_equal(one.nuclei, other.nuclei)


@pytest.mark.parametrize("diameter", [12, 22, 50])
def test_labels_are_whole_numbered_and_nested(diameter):
    field = _field(1, (384, 384), diameter_px=diameter, density=0.3)
    assert field.nuclei.dtype == field.cells.dtype == np.uint32
    count = len(field.brightness)
    assert count == len(field.marker) > 5
    assert np.array_equal(np.unique(field.nuclei), np.arange(count + 1))
    assert np.array_equal(field.cells[field.nuclei > 0], field.nuclei[field.nuclei > 0])
    pieces = [ndi.label(field.nuclei == number)[1] for number in range(1, count + 1)]
    assert pieces == [1] * count


@pytest.mark.parametrize("diameter", [12, 22, 50])
def test_diameter_is_the_one_asked_for(diameter):
    field = _field(2, (512, 512), diameter_px=diameter, density=0.15, mitotic_fraction=0.0)
    inner = np.unique(field.nuclei[2:-2, 2:-2])
    edge = np.unique(np.concatenate([field.nuclei[[0, -1]].ravel(), field.nuclei[:, [0, -1]].ravel()]))
    area = np.bincount(field.nuclei.ravel())[np.setdiff1d(inner, edge)]
    assert np.median(2 * np.sqrt(area / np.pi)) == pytest.approx(diameter, rel=0.12)


def test_density_is_the_fraction_covered():
    covered = [(_field(seed, density=0.15).nuclei > 0).mean() for seed in range(6)]
    assert np.mean(covered) == pytest.approx(0.15, rel=0.2)
    empty = _field(0, density=0.0)
    assert not empty.nuclei.any()
    assert not empty.cells.any()
    assert empty.channels["DNA"].max() > 0


def test_dim_nuclei_lie_beside_bright_ones_and_nuclei_touch():
    field = _field(5, (512, 512), dim_fraction=0.25, density=0.2)
    level = ndi.mean(field.channels["DNA"], field.nuclei, np.arange(1, len(field.brightness) + 1))
    bright = np.percentile(level, 75)
    assert 0.1 < np.mean(level < 0.4 * bright) < 0.45
    assert level.min() < 0.25 * bright
    across = (field.nuclei[:, 1:] != field.nuclei[:, :-1]) & (field.nuclei[:, 1:] > 0) & (field.nuclei[:, :-1] > 0)
    assert across.sum() > 50


def test_marker_level_follows_its_parameter():
    low, high = (
        np.median(field.channels["Marker"][field.cells > 0])
        for field in (_field(6, marker=0.15), _field(6, marker=0.6))
    )
    assert high > 2.5 * low


def test_a_training_field_is_fast():
    start = time.process_time()
    _field(7, (384, 384), diameter_px=12, density=0.25)
    assert time.process_time() - start < 2  # 0.1 s where nothing else runs


def test_camera_adds_offset_light_and_noise():
    scene = {"DNA": np.full((96, 128), 0.5, np.float32)}
    rng = np.random.default_rng(0)
    light = illumination_profile(rng, (96, 128), 0.4)
    assert light.max() == 1
    assert light.min() == pytest.approx(0.6, abs=0.02)
    image = camera(rng, scene, illumination=light, photons=600)
    assert image.shape == (1, 96, 128)
    assert image.dtype == np.uint16
    expected = 200 + 6 * 300 * light
    assert np.abs(ndi.gaussian_filter(image[0].astype(float), 5) - expected)[8:-8, 8:-8].max() < 40
    noise = (image[0] - expected) / 6 / np.sqrt(300 * light + 4)
    assert noise.std() == pytest.approx(1, rel=0.05)


def test_defocus_removes_detail():
    field = _field(8)
    sharp, blurred = (
        camera(np.random.default_rng(1), {"DNA": field.channels["DNA"]}, defocus_px=d)[0].astype(float) for d in (0, 5)
    )
    steep = [np.percentile(np.hypot(*np.gradient(ndi.gaussian_filter(i, 1))), 99) for i in (sharp, blurred)]
    assert steep[1] < 0.6 * steep[0]
