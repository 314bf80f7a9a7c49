"""A fluorescent reporter with two readouts that say different things: foci in nuclei, and cells that are positive.

Foci are round spots near the resolution of the optics, on the even light of the nucleus. A cell is positive where its
cytoplasm is bright; its nucleus, and so the background of its foci, is as in others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plateflow.simulate.bodies import border_distance, noise
from plateflow.simulate.cells import Float, SimulatedField, smooth_field

CHANNEL = "GFP"
NUCLEUS, NEGATIVE, POSITIVE = 0.1, 0.05, 0.2
"""Median levels of nuclei, and of the cytoplasm of negative and positive cells."""
NUCLEUS_SPREAD, CYTOPLASM_SPREAD = 0.15, 0.2
"""Standard deviations of the log of these levels."""
FOCUS_LEVEL, FOCUS_SPREAD, FOCUS_SIGMA_PX = 0.45, 0.1, 0.6
"""Of a focus before the optics: median level of its middle, standard deviation of its log, and the Gaussian's own.
The usual blur of `camera` leaves a quarter of the level, six to seven times the noise in a nucleus."""
APART_PX, INSIDE_PX = 4.0, 2.0
"""Least distance of two foci (recorded, one is 2.7 px wide at half its height), and of a focus from the border."""


@dataclass(frozen=True, kw_only=True)
class Reporter:
    """The reporter in a scene, and its truth."""

    channel: Float
    """Without optics or noise, float32 YX."""
    foci: NDArray[np.float64]
    """Place of each focus, (n, 2): y and x in px, whole numbers at the centres of pixels."""
    nucleus: NDArray[np.uint32]
    """The nucleus in which it lies, (n,)."""
    positive: NDArray[np.bool_]
    """Of each cell, (cells,): number `i` is at index `i - 1`."""


def draw_reporter(rng: np.random.Generator, scene: SimulatedField, *, foci: float, positive: float) -> Reporter:
    """Draw the reporter in a scene's cells.

    Args:
        rng: source of every random number.
        foci: mean number of foci per nucleus. The number is Poisson's; where a small nucleus has no room for it, as
            many as there is room for.
        positive: share of cells that are positive.
    """
    n = len(scene.brightness)
    shape = scene.nuclei.shape
    nucleus = NUCLEUS * rng.lognormal(0, NUCLEUS_SPREAD, n)
    is_positive = rng.random(n) < positive
    cytoplasm = np.where(is_positive, POSITIVE, NEGATIVE) * rng.lognormal(0, CYTOPLASM_SPREAD, n)
    places, owners = _place(rng, scene.nuclei, rng.poisson(foci, n))
    levels = FOCUS_LEVEL * rng.lognormal(0, FOCUS_SPREAD, len(places))
    grain = 1 + np.float32(0.05) * noise(rng, shape, 2.0)
    of_nucleus, of_cell = (np.concatenate([[0], values]).astype(np.float32) for values in (nucleus, cytoplasm))
    channel = np.where(scene.nuclei > 0, of_nucleus[scene.nuclei], of_cell[scene.cells]) * grain
    channel += np.float32(0.02) * smooth_field(rng, shape)
    _add_spots(channel, places, levels)
    return Reporter(channel=channel, foci=places, nucleus=owners, positive=is_positive)


def _place(
    rng: np.random.Generator, nuclei: NDArray[np.uint32], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
    """Places (n, 2) and nuclei (n,) of foci: one by one, anywhere in the nucleus that no earlier one is near."""
    ys, xs = np.nonzero(border_distance(nuclei) > INSIDE_PX)
    order = np.argsort(nuclei[ys, xs], kind="stable")
    ys, xs = ys[order], xs[order]
    starts = np.searchsorted(nuclei[ys, xs], np.arange(1, len(wanted) + 2))
    places: list[NDArray[np.float64]] = []
    owners: list[int] = []
    for number, count in enumerate(wanted, 1):
        free = np.stack([ys, xs], -1)[starts[number - 1] : starts[number]] * 1.0
        for _ in range(count):
            if not len(free):
                break
            place = free[rng.integers(len(free))] + rng.uniform(-0.5, 0.5, 2)
            places.append(place)
            owners.append(number)
            free = free[np.hypot(*(free - place).T) > APART_PX + 0.5]
    return np.reshape(places, (-1, 2)), np.array(owners, np.uint32)


def _add_spots(image: Float, places: NDArray[np.float64], levels: NDArray[np.float64]) -> None:
    """Add a Gaussian of FOCUS_SIGMA_PX at each place (y, x) to an image, in place."""
    reach = int(np.ceil(4 * FOCUS_SIGMA_PX))
    for (y, x), level in zip(places, levels, strict=True):
        top, left = max(0, round(y) - reach), max(0, round(x) - reach)
        part = image[top : round(y) + reach + 1, left : round(x) + reach + 1]
        dy, dx = np.arange(part.shape[0])[:, None] + top - y, np.arange(part.shape[1]) + left - x
        part += (level * np.exp(-(dy**2 + dx**2) / (2 * FOCUS_SIGMA_PX**2))).astype(np.float32)
