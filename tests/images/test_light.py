import re
from typing import Any

import numpy as np
import pytest

from plateflow.images.histograms import focus_score, plane_statistics
from plateflow.images.illumination import Light, fit_light
from plateflow.simulate.cells import camera, simulate_field

SIZE = 192
_Y, _X = np.mgrid[:SIZE, :SIZE]
_R2 = ((_Y - SIZE / 2 + 0.5) ** 2 + (_X - SIZE / 2 + 0.5) ** 2) / (SIZE / 2) ** 2
VIGNETTING = (1 - 0.27 * _R2) / (1 - 0.27 * _R2).mean()
EVEN = np.ones((SIZE, SIZE))


def shaded(
    light: np.ndarray,
    *,
    fields: int = 24,
    reach: float = 1.0,
    background: float = 150,
    amplitude: float = 1500,
    thinner: float = 0.0,
    nuclei: int = 24,
    offset: int = 100,
    spread: float = 0.0,
    bias: float = 0.0,
) -> list[np.ndarray]:
    """Fields of round nuclei over a background, with a dark level; some are cut by the border.

    `reach` 0.6: they lie mid-field alone; `thinner` 0.6: at the corners there are that much fewer; `bias` 0.6: they
    are that much dimmer.
    """
    rng, planes = np.random.default_rng(0), []
    for _ in range(fields):
        scene = np.full((SIZE, SIZE), background)
        around = reach * (1 + 16 / SIZE)
        for y, x in SIZE / 2 * (1 + around * rng.uniform(-1, 1, (round(nuclei * (1 + 16 / SIZE) ** 2), 2))):
            far = np.hypot(y - SIZE / 2, x - SIZE / 2) / (SIZE / 2)
            if (reach == 1 or far < reach) and (not thinner or rng.uniform() > thinner * far**2 / 2):
                shown = np.hypot(_Y - y, _X - x) < 7
                scene[shown] = background + amplitude * np.exp(rng.normal(0, spread)) * (1 - bias * far**2 / 2)
        planes.append((rng.poisson(light * scene) + offset).astype(np.uint16))
    return planes


def light_of(planes: list[np.ndarray]) -> Light:
    statistics = [plane_statistics(plane) for plane in planes]
    shown = [each for each in statistics if each.sharpness > -np.inf]
    low, high = (np.array([getattr(s, name) for s in shown], np.float32).reshape(-1, 8, 8) for name in ("low", "high"))
    return fit_light(low, high)


def off(light: Light, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((light.profile(*true.shape) / true - 1) ** 2)))


def test_the_light_is_found_over_the_dark_level_and_a_speck_changes_little() -> None:
    planes = shaded(VIGNETTING, fields=60)
    light = light_of(planes)
    assert off(light, VIGNETTING) < 0.03
    assert off(Light.even("flat"), VIGNETTING) > 0.1
    assert 40 < light.dark < 160
    assert light.profile(SIZE, SIZE).mean() == pytest.approx(1, abs=1e-3)
    assert light.ratio() == pytest.approx(VIGNETTING.max() / VIGNETTING.min(), rel=0.1)
    coefficients = light.coefficients.ravel().tolist()
    assert coefficients == [round(value, 9) for value in coefficients], "the same on every machine"
    planes[5][:20, :20] = 65535
    assert off(light_of(planes), VIGNETTING) < 0.03
    raw = np.full((1, SIZE, SIZE), 100 + 900 * VIGNETTING, np.float32)
    light.correct(raw, light.profile(SIZE, SIZE), True)
    assert np.ptp(raw) < 0.25 * 900 * np.ptp(VIGNETTING)


@pytest.mark.parametrize(
    ("light", "planes", "alone"),
    [
        (EVEN, {"bias": 0.5}, True),  # as where cells pile up
        (VIGNETTING, {"background": 0}, True),
        (VIGNETTING, {"background": 20}, False),
    ],
)
def test_light_that_cells_alone_tell_is_doubted(light: np.ndarray, planes: dict[str, Any], alone: bool) -> None:
    found = light_of(shaded(light, nuclei=60, spread=0.2, **planes))
    assert (found.alone, found.why) == (alone, "")


def test_a_stuck_pixel_makes_no_light_and_hides_none() -> None:
    for true, y, x in ((EVEN, 5, 5), (EVEN, 75, 110), (VIGNETTING, 5, 5)):
        planes = shaded(true, nuclei=60, spread=0.2)
        for plane in planes:
            plane[y, x] = 65535
        assert light_of(planes).ratio() == pytest.approx(true.max() / true.min(), rel=0.1)


def left(light: Light, true: np.ndarray) -> float:
    ratio = true / light.profile(*true.shape)
    return float(ratio.max() / ratio.min())


@pytest.mark.parametrize(
    "planes",
    [
        {},
        {"thinner": 0.5},
        {"background": 5},  # nearly all of the background is the camera's offset
        {"background": 0},
        {"offset": 0},
        {"amplitude": 400},
    ],
)
def test_the_light_is_told_from_how_bright_cells_are(planes: dict[str, Any]) -> None:
    light = light_of(shaded(VIGNETTING, **{"nuclei": 60, "spread": 0.2, **planes}))
    assert light.ratio() == pytest.approx(VIGNETTING.max() / VIGNETTING.min(), rel=0.1)


def test_a_subtracted_black_level_and_wells_without_cells_change_nothing() -> None:
    planes = [
        np.where(plane > 240, plane - 240, 0).astype(np.uint16) for plane in shaded(VIGNETTING, fields=60, nuclei=60)
    ]
    light = light_of(planes + shaded(VIGNETTING, amplitude=0))
    assert light.dark == 0
    assert left(light, VIGNETTING) < 1.2


@pytest.mark.parametrize(
    ("planes", "why"),
    [
        ({"light": EVEN, "reach": 0.6}, "seldom show cells"),  # spheroids, colonies
        ({"light": VIGNETTING, "reach": 0.5}, "seldom show cells"),
        ({"light": EVEN}, "as bright everywhere"),
        ({"light": EVEN, "thinner": 0.3, "fields": 60}, "as bright everywhere"),
        ({"light": EVEN, "thinner": 0.5, "fields": 60}, "as bright everywhere"),
        ({"light": VIGNETTING, "fields": 7}, "fewer than 8 fields"),
        ({"light": VIGNETTING, "amplitude": 0, "fields": 12}, "cells"),
        ({"light": EVEN, "amplitude": 0, "background": 0, "fields": 12}, "fewer than 8 fields show cells"),
    ],
)
def test_no_light_is_invented(planes: dict[str, Any], why: str) -> None:
    light = light_of(shaded(**planes))
    assert re.search(why, light.why)
    assert (light.profile(50, 60) == 1).all()
    raw = np.full((1, 50, 60), 321.7, np.float32)
    light.correct(raw, light.profile(50, 60), True)
    assert (raw == np.float32(321.7)).all()


def grids(rng: np.random.Generator, light: np.ndarray, background: np.ndarray, fields: int = 24) -> Light:
    """The light of fields whose cells differ by a third (`light`: of 8 x 8 places) and of which a third shows none."""
    shape = (fields, 8, 8)
    cells = light * np.exp(rng.normal(0, 0.35, shape)) * (rng.uniform(size=shape) > 1 / 3)
    low = 100 + background + rng.normal(0, 1, shape)
    high = low + 800 * cells * np.exp(rng.normal(0, 0.3, (fields, 1, 1)))
    return fit_light(low.astype(np.float32), high.astype(np.float32))


def test_chance_makes_no_light_and_the_background_bears_the_cells_out() -> None:
    rng, plates, even = np.random.default_rng(0), 150, np.ones((8, 8))
    true = VIGNETTING.reshape(8, 24, 8, 24).mean(axis=(1, 3))
    for background in (0 * even, 60 * even, 60 * true):
        # of evenly lit plates, one in a thousand may be corrected: more than two of 150 are one case in two thousand
        assert sum(not grids(rng, even, background).why for _ in range(plates)) <= 2
    least = np.sqrt(5) * 0.35 / np.sqrt(24 * 64 * 2 / 3)  # what least squares leave of five terms, told from the cells
    for background, bound in ((0 * even, 1.5 * least), (60 * true, least)):
        found = [grids(rng, true, background) for _ in range(50)]
        assert sum(bool(light.why) for light in found) <= 3  # of 1 %, more are one case in a thousand
        assert np.median([off(light, true) for light in found]) < bound
    apart = {grids(rng, true, 60 * (2 - true)).why for _ in range(50)}
    assert apart == {"the cells and the background show different light"}


def test_an_uneven_background_under_evenly_lit_cells_is_no_light() -> None:
    planes = [plane + np.rint(60 * VIGNETTING).astype(np.uint16) for plane in shaded(EVEN)]
    assert light_of(planes).why


def test_sharpness_tells_blur_and_neither_cells_nor_light() -> None:
    def score(density: float, defocus: float, photons: float, seed: int = 3) -> float:
        rng = np.random.default_rng(seed)
        scene = simulate_field(rng, (192, 192), density=density, diameter_px=20)
        return focus_score(camera(rng, {"DNA": scene.channels["DNA"]}, defocus_px=defocus, photons=photons)[0])

    sharp = [score(density, 0.0, photons) for density in (0.05, 0.2) for photons in (200, 2000)]
    blurred = [score(density, 4.5, photons) for density in (0.05, 0.2) for photons in (200, 2000)]
    assert min(sharp) > max(blurred) + 0.3
    assert np.isnan(focus_score(np.full((64, 64), 7, np.uint16)))
    assert np.isnan(focus_score(np.zeros((8, 8), np.uint16)))
