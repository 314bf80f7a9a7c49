from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from images_project import Project, layout_of

from plateflow.errors import ResultsError
from plateflow.images.canvas import canvases
from plateflow.images.illumination import Light
from plateflow.images.shards import halve_mean
from plateflow.images.well import WellImage
from plateflow.paths import PlatePaths

MakeProject = Callable[..., Project]


def test_a_well_without_an_image_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="the well has no image") as error:
        WellImage.open(PlatePaths.of("p", results=tmp_path), "B03")
    assert "run `snakemake`" in error.value.remedy


def test_a_picture_is_of_the_smallest_level_that_has_its_size(tmp_path: Path) -> None:
    def level(size: int) -> int:
        paths, layout = PlatePaths.of("p", results=tmp_path), layout_of((0, 0), size=size)
        return WellImage(paths=paths, well="B03", layout=layout, levels=3).preview_level(320)

    assert [level(size) for size in (200, 384, 640, 1279, 1280, 9000)] == [0, 0, 1, 1, 2, 2]


def test_a_preview_is_corrected_and_the_first_field_wins(make_project: MakeProject) -> None:
    project = make_project(fields=3, overlap_px=8)
    project.run()
    image = WellImage.open(project.paths, "B02")
    (canvas,) = canvases(image.layout, set(), "max")
    coefficients = np.zeros((5, 5))
    coefficients[0, 0], coefficients[1, 0] = 1, 0.2
    image.window.lights["AGP"] = light = Light(coefficients=coefficients, dark=150.0)
    pixels = image.preview(1, canvas.fields, ["AGP", "DNA"], "max", 0)
    assert (pixels.dtype, pixels.shape) == (np.float32, (2, 60, 76))
    raw = halve_mean(image.array("0")[0, :, 0])
    number = image.layout.channels.index("AGP")
    first, second = raw[number, :32, :40].astype(np.float32), raw[number, :32, 36:].astype(np.float32)
    for part in (first, second):
        light.correct(part, light.profile(32, 40), True)
    assert (first != raw[number, :32, :40]).any()
    np.testing.assert_array_equal(pixels[0, :32, :40], first)
    np.testing.assert_array_equal(pixels[0, :32, 40:], second[:, 4:])
    assert np.isnan(pixels[:, 32:, 40:]).all()
    assert np.isnan(pixels).sum() == pixels[:, 32:, 40:].size
