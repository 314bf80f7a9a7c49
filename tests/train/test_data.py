"""Samples: scaled as images to segment are, drawn the same for the same seed."""

import numpy as np
import pytest

from plateflow.segment.diameter import median_diameter
from plateflow.segment.image import scale_intensities
from plateflow.train.data import look_sample, make_sample, plate_sample


@pytest.mark.parametrize(
    "image",
    [
        np.arange(1001, dtype=np.uint16).reshape(7, 143),
        np.full((4, 4), 7, np.uint16),
        np.pad(np.full((2, 2), 900, np.uint16), 20),
    ],
)
def test_a_sample_is_normalised_as_an_image_to_segment_is(image: np.ndarray) -> None:
    sample = make_sample("x", "x", [image], np.zeros(image.shape, np.int32))
    assert np.allclose(sample.image, scale_intensities(image[None]), atol=1e-5)


def test_both_targets_of_a_plate_field_are_of_the_same_cells() -> None:
    for number in range(4):
        nuclei, cells = (plate_sample(target, 3, number, size=128) for target in ("nuclei", "cells"))
        again = plate_sample("cells", 3, number, size=128)
        assert len(nuclei.pixels) == 1 and len(cells.pixels) in (1, 2)
        if len(cells.pixels) == 2:
            assert np.array_equal(nuclei.pixels[0], cells.pixels[1])  # DNA: the object's channel, and the helper
        assert np.array_equal(cells.pixels, again.pixels)
        assert (cells.labels[nuclei.labels > 0] > 0).all()
    assert not plate_sample("nuclei", 3, 19, size=96).labels.any()


def test_a_field_of_a_look_says_its_light() -> None:
    assert look_sample("cells", 1, 0).light == "fluorescence"
    assert look_sample("transmitted", 1, 0).light == "transmitted"
    assert look_sample("tissue", 1, 0).light == "colour"
    assert {look_sample("empty", 1, n).light for n in range(12)} == {"fluorescence", "transmitted"}
    one, two = look_sample("nuclei", 1, 3), look_sample("nuclei", 1, 3)
    assert np.array_equal(one.pixels, two.pixels)
    assert not np.array_equal(one.labels.sum(), look_sample("nuclei", 2, 3).labels.sum())


def test_diameter_is_the_median_over_objects() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[:4, :4], labels[10:18, 10:18], labels[20:40, 20:40] = 1, 2, 7
    assert median_diameter(labels) == pytest.approx(2 * np.sqrt(64 / np.pi))
