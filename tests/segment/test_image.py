from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tifffile import imread

from plateflow.errors import PlateflowError
from plateflow.metrics import f1
from plateflow.model import load_model, save_model
from plateflow.segment import segment_image
from plateflow.segment.image import fitting_batch, scale_intensities
from plateflow.simulate.cells import camera, simulate_field

TAKEN = "the image is taken for red, green and blue of stained tissue: its background is bright"
TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"


@pytest.fixture(scope="module")
def field() -> tuple[NDArray[np.uint16], NDArray[np.uint32]]:
    """DNA and AGP of a simulated field, CYX, and its nuclei."""
    rng = np.random.default_rng(5)
    scene = simulate_field(rng, (300, 280), dim_fraction=0.0)
    return camera(rng, {name: scene.channels[name] for name in ("DNA", "AGP")}), scene.nuclei


def test_the_default_model_finds_simulated_nuclei(field: tuple[NDArray[np.uint16], NDArray[np.uint32]]) -> None:
    image, nuclei = field
    labels = segment_image(image[0], device="cpu")
    assert labels.dtype == np.uint32
    assert f1(nuclei, labels) > 0.85
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


def test_all_shapes_and_types_of_one_image_give_the_same_labels(
    field: tuple[NDArray[np.uint16], NDArray[np.uint32]],
) -> None:
    image = field[0][0]
    expected = segment_image(image, model=TINY)
    assert expected.max() > 5
    fill = np.zeros_like(image)
    opaque = np.full_like(image, 255)
    others = [
        image[None],
        np.stack([image] * 3, axis=-1),
        np.stack([image] * 3 + [opaque], axis=-1),
        np.stack([fill, fill, image], axis=-1),
        np.stack([fill, image]),
        image.astype(np.int32),
        image.astype(np.float64),
    ]
    for other in others:
        assert np.array_equal(segment_image(other, model=TINY), expected)
    assert np.array_equal(segment_image(field[0][::-1], model=TINY, channels=[1]), expected)
    assert np.array_equal(segment_image(np.stack([image] * 3, axis=-1), model=TINY, channels=[2]), expected)


def test_the_first_channel_is_the_objects(field: tuple[NDArray[np.uint16], NDArray[np.uint32]]) -> None:
    image, _ = field
    both = segment_image(image, model=TINY)
    swapped = segment_image(image, model=TINY, channels=[1, 0])
    assert not np.array_equal(both, swapped)
    assert np.array_equal(segment_image(image[::-1], model=TINY), swapped)


@pytest.mark.parametrize("shape", [(40, 60), (1, 40, 60), (2, 40, 60), (40, 60, 3)])
def test_without_contrast_there_are_no_objects(shape: tuple[int, ...]) -> None:
    labels = segment_image(np.full(shape, 7, np.uint8))
    assert labels.shape == (40, 60)
    assert not labels.any()


@pytest.mark.parametrize("shape", [(1, 1), (9, 30), (64, 300)])
def test_images_smaller_than_a_tile_keep_their_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(shape)
    assert segment_image(image, model=TINY).shape == shape


def test_the_diameter_resizes_the_image_and_not_the_labels(
    field: tuple[NDArray[np.uint16], NDArray[np.uint32]], tmp_path: Path
) -> None:
    sized = tmp_path / "sized.safetensors"
    save_model(load_model(TINY), sized, name="sized", diameter=22.0, dtype=torch.float32)
    image = field[0][0]
    expected = segment_image(image, model=TINY)
    assert np.array_equal(segment_image(image, model=sized), expected)
    assert np.array_equal(segment_image(image, model=sized, diameter=22), expected)
    double = np.kron(image, np.ones((2, 2), np.uint16))
    found = segment_image(double, model=sized, diameter=44)
    assert found.shape == double.shape
    assert f1(np.kron(expected, np.ones((2, 2), np.uint32)), found, 0.75) > 0.9
    with pytest.raises(PlateflowError, match=r"objects of 0.1 px can't be resized[\s\S]*220 times"):
        segment_image(image, model=sized, diameter=0.1)


@pytest.mark.parametrize(
    ("image", "keywords", "message"),
    [
        (np.zeros((5, 64, 64)), {}, r"5 channels \(0, 1, 2, 3, 4\) are too many[\s\S]*takes 2[\s\S]*channels="),
        (np.random.default_rng(0).random((3, 64, 64)), {}, r"3 channels .* takes 2\n[\s\S]*2\. one that helps"),
        (np.random.default_rng(0).random((64, 64, 3)) ** 3, {}, r"3 channels \(red, green, blue\) are too many"),
        (np.zeros((64, 70, 2)), {}, r"shape \(64, 70, 2\).*\n[\s\S]*channels to the front"),
        (np.zeros((5, 64, 64)), {"channels": [0, 7]}, r"no channel 7[\s\S]*0, 1, 2, 3, 4"),
        (np.zeros((2, 64, 64)), {"channels": []}, r"one number or more; got \[\]"),
        (np.full((64, 64), np.nan), {}, "4096 values that are NaN"),
        (np.where(np.eye(64), np.inf, 1.0), {}, "64 values that are NaN or infinite"),
        (np.zeros((2, 3, 64, 64)), {}, r"shape \(2, 3, 64, 64\)"),
        (np.zeros((0, 64)), {}, r"shape \(0, 64\)"),
        (np.zeros((64, 64), complex), {}, "type complex128"),
        (np.eye(64), {"model": "no-such-model"}, "the model can't be used"),
    ],
)
def test_bad_input_is_a_clear_error(image: NDArray[np.generic], keywords: dict[str, object], message: str) -> None:
    with pytest.raises(PlateflowError, match=message):
        segment_image(image, **keywords)  # type: ignore[arg-type]


def test_colours_on_a_bright_background_are_refused_by_models_that_read_fluorescence(tmp_path: Path) -> None:
    """Stained nuclei are dark and blue; the same colours inverted are fluorescence."""
    stained = np.full((64, 64, 3), (240, 235, 242), np.uint8)
    stained[10:25, 10:25] = (70, 50, 120)
    for options in ({}, {"channels": [2]}):
        with pytest.raises(PlateflowError, match=r"bright background[\s\S]*reads fluorescence"):
            segment_image(stained, model=TINY, **options)  # type: ignore[arg-type]
    assert segment_image(255 - stained, model=TINY, channels=[0]).shape == (64, 64)
    colours = tmp_path / "colours.safetensors"
    save_model(load_model(TINY), colours, name="colours", colours=True)
    assert segment_image(stained, model=colours).shape == (64, 64)


@pytest.mark.parametrize("weights", [(0, 0, 1), (0.2, 0.5, 1), (1, 0.4, 0)])
def test_dense_cells_in_colours_are_no_bright_background(weights: tuple[float, ...]) -> None:
    """Cells cover two thirds; noise and a camera's offset lie in every colour."""
    rng = np.random.default_rng(0)
    y, x = np.indices((144, 144)) % 24 - 11.5
    cells = (np.hypot(y, x) < 11.5)[..., None]
    image = (cells * 180 * np.array(weights) + rng.normal(12, 3, (144, 144, 3))).clip(0, 255).astype(np.uint8)
    brightest = int(np.argmax(weights))
    labels = segment_image(image, model=TINY, channels=[brightest])
    assert labels.max() >= 16
    assert np.array_equal(labels, segment_image(image[..., brightest], model=TINY))


def test_real_stained_tissue_is_refused(test_data: Path) -> None:
    """Two images among them are dark tissue all over."""
    paths = sorted((test_data / "cells2d").glob("*/*histology*/images/*.tif"))
    for path in paths:
        with pytest.raises(PlateflowError, match="bright background"):
            segment_image(imread(path), model=TINY)
    assert len(paths) == 69


def test_stained_tissue_is_the_same_in_every_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In another order, colours are taken for colours, too, grey ones for one channel; other three are refused."""
    model = tmp_path / "colours.safetensors"
    save_model(load_model(TINY), model, name="colours", colours=True)
    rng = np.random.default_rng(3)
    y, x = np.indices((96, 96)) % 24 - 12
    stained = np.where((np.hypot(y, x) < 8)[..., None], (90, 60, 140), (225, 190, 220))
    image = (stained + rng.normal(0, 4, stained.shape)).astype(np.uint8)
    caplog.set_level("INFO", "plateflow")
    expected = segment_image(image, model=model)
    opaque = np.full((96, 96, 1), 255, np.uint8)
    same = [
        np.concatenate([image, opaque], axis=-1),
        np.moveaxis(image, -1, 0),
        image.astype(np.uint16) * 257,
        image / 255,
    ]
    for other in same:
        assert np.array_equal(segment_image(other, model=model), expected)
    assert segment_image(image[..., [2, 0, 1]], model=model).shape == (96, 96)
    assert [record.message for record in caplog.records].count(TAKEN) == 6
    grey = np.stack([image[..., 1]] * 3, axis=-1)
    assert np.array_equal(segment_image(grey, model=model), segment_image(image[..., 1], model=model))
    assert len(caplog.records) == 6
    assert np.array_equal(segment_image(image, model=model, channels=[0, 1, 2]), expected), "all of them, named"
    for unclear in (np.moveaxis(grey, -1, 0), np.moveaxis(same[0], -1, 0), 255 - image):
        with pytest.raises(PlateflowError, match="too many"):
            segment_image(unclear, model=model)


def test_channels_are_normalised_by_their_own_percentiles() -> None:
    rng = np.random.default_rng(1)
    image = np.stack([rng.normal(500, 20, (100, 100)), np.full((100, 100), 3.0), rng.random((100, 100))])
    pixels = scale_intensities(image)
    assert not pixels[1].any()
    for channel in pixels[[0, 2]]:
        np.testing.assert_allclose(np.percentile(channel, (1, 99)), (0, 1), atol=1e-4)
    assert pixels[0].max() > 1
    spot = np.zeros((1, 100, 100))
    spot[0, 3, 4] = 9
    assert scale_intensities(spot)[0, 3, 4] == 1


@pytest.mark.parametrize(("tiles", "size"), [(1, 1), (4, 4), (9, 3), (25, 5), (16, 8), (7, 7)])
def test_batches_have_no_empty_places_where_that_can_be(tiles: int, size: int) -> None:
    assert fitting_batch(tiles, largest=8) == size


@pytest.mark.parametrize(("factor", "offset"), [(1, 1e9), (1e36, 0), (1e-50, 0)])
def test_contrast_is_kept_whatever_the_range_of_values(factor: float, offset: float) -> None:
    image = np.random.default_rng(3).random((1, 40, 40))
    np.testing.assert_allclose(scale_intensities(image * factor + offset), scale_intensities(image), atol=1e-5)


def test_a_mask_is_an_image_of_two_values() -> None:
    mask = np.zeros((1, 40, 40), bool)
    mask[0, 10:20, 10:20] = True
    assert np.array_equal(scale_intensities(mask), mask)


def test_a_channel_without_contrast_keeps_its_place() -> None:
    """A blank first channel may not push the nuclei into its place: cells would become nuclei."""
    image = np.stack([np.full((8, 8), 7), np.arange(64).reshape(8, 8)])
    made = scale_intensities(image)
    assert made.shape == image.shape
    assert not made[0].any()
    assert made[1].max() > 0.9
