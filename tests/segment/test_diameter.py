"""The estimate of the diameter: of simulated objects of known size, whatever the size of a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from skimage.transform import resize

from plateflow.errors import ArgumentError
from plateflow.segment import estimate_diameter
from plateflow.segment.diameter import brightest, median_diameter
from plateflow.simulate.cells import camera, simulate_field

TINY = Path(__file__).parents[1] / "data" / "tiny.safetensors"


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_the_estimate_is_near_the_true_median(factor: float) -> None:
    rng = np.random.default_rng(5)
    scene = simulate_field(rng, (300, 280), dim_fraction=0.0)
    image = camera(rng, {"DNA": scene.channels["DNA"]})[0]
    shape = [round(side * factor) for side in image.shape]
    image = resize(image, shape, preserve_range=True, anti_aliasing=factor < 1)
    true = median_diameter(scene.nuclei) * factor
    assert estimate_diameter(image, model=TINY, device="cpu") == pytest.approx(true, rel=0.25)


def test_of_nothing_there_is_no_estimate() -> None:
    assert estimate_diameter(np.full((40, 60), 7, np.uint8), model=TINY) is None
    with pytest.raises(ArgumentError, match="can't be segmented"):
        estimate_diameter(np.zeros((2, 2, 40, 60)), model=TINY)


def test_the_brightest_square_holds_the_most() -> None:
    pixels = np.zeros((30, 40), np.float32)
    pixels[11:16, 23:28] = 1
    assert brightest(pixels, 5) == (slice(11, 16), slice(23, 28))
    assert brightest(pixels, 35) == (slice(0, 30), slice(0, 35))
