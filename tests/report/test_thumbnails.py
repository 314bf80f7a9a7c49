"""Pictures of wells that are smaller than the image: pixels and outlines stay where they are."""

import base64

import imagecodecs
import numpy as np
import pytest

from plateflow.report.thumbnails import _encoded, shrunk


def decoded(url: str) -> np.ndarray:
    return imagecodecs.webp_decode(base64.b64decode(url.partition(",")[2]))


@pytest.mark.parametrize("before", [900, 640])
def test_outlines_lie_on_the_objects_of_a_picture_that_was_shrunk_twice(before: int) -> None:
    labels = np.zeros((900, 700), np.uint32)
    labels[600:780, 450:630] = 1
    pixels = np.repeat((labels > 0).astype(np.float32)[..., None], 3, axis=2)
    made = _encoded(shrunk(pixels, before), {"cells": labels}, 300)
    assert made.size == (233, 300)
    for seen in (decoded(made.url)[..., 0] > 128, decoded(made.overlays["cells"])[..., 3] > 0):
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        np.testing.assert_allclose([rows[0], rows[-1]], [200, 259], atol=1.5)
        np.testing.assert_allclose([columns[0], columns[-1]], [150, 209], atol=1.5)


def test_a_pixel_is_the_mean_of_the_area_that_it_covers() -> None:
    picture = np.random.default_rng(0).random((70, 42, 3), np.float32)
    found = shrunk(picture, 30)
    assert found.shape == (30, 18, 3)
    fine = picture.repeat(3, axis=0).repeat(3, axis=1)  # 7 x 7 of these make a pixel
    np.testing.assert_allclose(found, fine.reshape(30, 7, 18, 7, 3).mean(axis=(1, 3)), atol=1e-5)
