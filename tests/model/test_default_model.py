"""The model that ships: what a user may rely on, on simulated fields and on a few real images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from plateflow.flows import labels_from_flows
from plateflow.metrics import average_precision, f1
from plateflow.model import load_model
from plateflow.segment import segment_image
from plateflow.segment.image import scale_intensities
from plateflow.simulate.cells import camera, simulate_field
from plateflow.train.folders import read_source


@pytest.fixture(scope="module")
def field() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DNA and AGP of a field, its nuclei and its cells."""
    rng = np.random.default_rng(101)
    scene = simulate_field(rng, (256, 256), density=0.15)
    return camera(rng, scene.channels)[:2], scene.nuclei, scene.cells


def run(image: np.ndarray) -> np.ndarray:
    """Labels of one tile whose intensities are taken as they are; CYX, 256 x 256."""
    x = torch.zeros(1, 3, 256, 256)
    x[0, : len(image)] = torch.from_numpy(image)
    with torch.inference_mode():
        out = load_model("default")(x)[0].numpy()
    return labels_from_flows(out[:2], out[2])


def test_nuclei_and_whole_cells_of_a_simulated_field(field: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    image, nuclei, cells = field
    assert f1(nuclei, segment_image(image[:1])) >= 0.93
    assert f1(cells, segment_image(image, channels=[1, 0])) >= 0.8


@pytest.mark.parametrize("gain", [0.25, 2.0])
def test_images_dimmer_and_brighter_than_the_window_of_their_plate(
    field: tuple[np.ndarray, np.ndarray, np.ndarray], gain: float
) -> None:
    image, nuclei, _ = field
    assert f1(nuclei, run(gain * scale_intensities(image[:1]))) >= 0.88


def test_an_empty_field_in_the_window_of_a_full_plate_has_no_objects() -> None:
    rng = np.random.default_rng(5)
    assert run(np.zeros((1, 256, 256), np.float32)).max() == 0
    assert run(0.02 * rng.standard_normal((1, 256, 256), dtype=np.float32)).max() == 0


def test_flows_shift_with_the_image_by_whole_tokens(field: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """There is no table of positions: away from the borders, what is seen doesn't depend on where it is seen."""
    image = scale_intensities(field[0][:1])[0]
    shifted = np.roll(image, (-32, -32), (0, 1))
    a, b = run(image[None]), run(shifted[None])
    inner, moved = a[64:192, 64:192], b[32:160, 32:160]
    assert average_precision(inner, moved, 0.5)[0][0] >= 0.9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tile_has_the_same_bits_at_any_place_in_a_batch(dtype: torch.dtype) -> None:
    model = load_model("default", dtype=dtype)
    torch.manual_seed(0)
    tiles, others = torch.rand(2, 4, 3, 256, 256).to(dtype)
    others[3] = tiles[1]
    with torch.inference_mode():
        assert torch.equal(model(tiles)[1], model(others)[3])


def test_real_nuclei(test_data: Path) -> None:
    """Four images of the source on which the model card's figure stands."""
    samples = read_source(test_data / "cells2d" / "val" / "dsb2018_fluo_520_u2os")[::11]
    found = [segment_image(s.image) for s in samples]
    assert average_precision([s.labels for s in samples], found, 0.5)[0].mean() >= 0.9
