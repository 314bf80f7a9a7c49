"""Random fields of every look that a screen may have, with their truth: domain randomisation for training.

`random_field` draws the size of the objects, their shapes and crowding, stain, optics, dirt and camera anew for each
field, over wider ranges than any one assay has. The aim is variety rather than beauty: a network that has seen all of
these takes a real assay for one more.
"""

from dataclasses import dataclass, replace
from itertools import repeat
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from plateflow.simulate.anatomy import Anatomy, anatomy, divide
from plateflow.simulate.bodies import FORMS, Form, Labels, border_distance, contact_distance, noise, scatter, tidy, tile
from plateflow.simulate.cells import Float, camera, smooth_field
from plateflow.simulate.stains import WHOLE_CELL, nuclear
from plateflow.simulate.transmitted import Contrast, stained_tissue, transmitted

Look = Literal["cells", "nuclei", "transmitted", "tissue", "empty"]
LOOKS: tuple[Look, ...] = get_args(Look)
DIAMETERS: dict[Look, tuple[float, float]] = {
    "cells": (10.0, 150.0),
    "nuclei": (8.0, 120.0),
    "transmitted": (20.0, 130.0),
    "tissue": (9.0, 60.0),
    "empty": (10.0, 80.0),
}
"""Range of the typical diameter (px) of the objects of a look, spread evenly on a logarithmic scale."""
FAINTEST = 0.22
"""The dimmest object of a field, relative to its median."""
LARGEST_SPECK = 2.0
"""Greatest standard deviation (px) of dirt that isn't labelled: more, and bright, is a small nucleus to any eye."""
SOFT: dict[Look, tuple[float, float]] = {"nuclei": (0.5, 0.35)}
"""How often a field is out of focus, and its greatest blur over the objects' diameter, where that isn't 0.15 and 0.06.
Nuclei are spots then, which are still told apart."""
MOST_BLUR = 6.0
"""The greatest blur in px: large nuclei without any edge would be told apart by nobody."""


@dataclass(frozen=True, kw_only=True)
class RandomField:
    """A recorded field and its truth."""

    look: Look
    kind: str
    """The stain or contrast of the first channel."""
    image: NDArray[np.uint16]
    """CYX; the channel in which the objects are seen first. Stained tissue: red, green, blue."""
    scene: Float
    """As `image`, before blur and noise."""
    labels: Labels
    """YX, 1..n."""
    diameter: float
    """Typical diameter that was asked for, in px."""


def random_field(
    rng: np.random.Generator, look: Look, *, kind: str | None = None, diameter: float | None = None
) -> RandomField:
    """Draw a field; larger objects come in larger fields, 256 to 512 px.

    Args:
        rng: source of every random number; the same state gives the same field.
        look: `cells` (fluorescence, whole cells), `nuclei` (fluorescence), `transmitted` (whole cells), `tissue`
            (nuclei in stained sections), or `empty` (no objects, in any of these lights).
        kind: stain of `cells` or contrast of `transmitted`; any, where not given.
        diameter: typical diameter of the objects in px; any of the look's range, where not given.
    """
    d = diameter or float(np.exp(rng.uniform(*np.log(DIAMETERS[look]))))
    side = int(np.clip(32 * round(6.5 * d / 32), 256, 512))
    shape = (side, side)
    if look in ("cells", "transmitted"):
        kind, scene, labels = (_cells if look == "cells" else _transmitted)(rng, shape, d, kind)
    else:
        draw = {"nuclei": _nuclei, "tissue": _tissue, "empty": _empty}[look]
        kind, scene, labels = draw(rng, shape, d)
    bright = look in ("transmitted", "tissue") or kind == "bright empty"
    share, softest = SOFT.get(look, (0.15, 0.06))
    defocus = min(MOST_BLUR, rng.uniform(0.02, softest) * d) if rng.random() < share else 0.0
    image = _record(rng, scene, d, bright=bright, defocus=defocus)
    return RandomField(look=look, kind=kind, image=image, scene=scene, labels=labels, diameter=d)


def _cells(rng: np.random.Generator, shape: tuple[int, int], d: float, kind: str | None) -> tuple[str, Float, Labels]:
    labels = _layout(rng, shape, d)
    a = anatomy(
        rng,
        labels,
        d,
        nucleus=rng.uniform(0.3, 0.75),
        eccentric=rng.uniform(0.0, 0.25),
        anucleate=rng.choice([0.0, rng.uniform(0, 0.2)]),
        binucleate=rng.choice([0.02, rng.uniform(0, 0.4)]),
        lobed=rng.choice([0.05, rng.uniform(0, 0.8)]),
        nucleoli=rng.uniform(0.0, 1.6),
    )
    names = list(WHOLE_CELL)
    chosen = [kind or str(rng.choice(names))]
    chosen += [str(n) for n in rng.choice(names, rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))]
    levels = _levels(rng, a.count, rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.9)], p=[0.6, 0.4]))
    light = np.zeros(shape, np.float32)
    for number, name in enumerate(chosen):
        own = levels * _levels(rng, a.count, 0.2)
        light += (rng.uniform(0.1, 0.7) if number else 1.0) * a.per_cell(own) * WHOLE_CELL[name](rng, a)
    body = rng.uniform(0.05, 0.2)  # some of every stain is everywhere in a cell
    light = _lit(light, labels) + body * a.per_cell(levels) * (0.4 + 0.6 * a.thickness)
    if chosen[0] not in ("membrane", "actin"):  # those have rims; others are thin where cells meet
        light *= 1 - rng.uniform(0.2, 0.7) * np.exp(-((contact_distance(labels) / max(1.0, 0.02 * d)) ** 2))
    light = _surroundings(rng, light, d, haze=rng.uniform(0.0, 0.15), glare=rng.uniform(0.0, 0.2))
    channels = [light]
    if rng.random() < 0.75:
        dna = a.per_cell(_levels(rng, a.count, 0.3)) * nuclear(rng, a)
        channels.append(_surroundings(rng, _lit(dna, a.nuclei), 0.5 * d, haze=0.05, glare=rng.uniform(0, 0.2)))
    if rng.random() < 0.15:
        other = WHOLE_CELL[str(rng.choice(names))](rng, a) * a.per_cell(_levels(rng, a.count, 0.4))
        channels.append(_surroundings(rng, _lit(other, labels), d, haze=0.05, glare=0.1))
    return chosen[0], np.stack(channels), labels


def _nuclei(rng: np.random.Generator, shape: tuple[int, int], d: float) -> tuple[str, Float, Labels]:
    dense = rng.random() < 0.35
    sparse = rng.choice([rng.uniform(0.002, 0.05), rng.uniform(0.05, 0.4)])
    if dense and rng.random() < 0.6:
        labels = tile(
            rng,
            shape,
            diameter=1.05 * d,
            jitter=rng.uniform(0.1, 0.35),
            stretch=rng.uniform(1, 1.8),
            waviness=rng.uniform(0.01, 0.05),
            gap_px=rng.uniform(0.0, 0.25) * d,
            rounding=rng.uniform(0.1, 0.25),
            present=rng.uniform(0.4, 1),
        )
    else:
        round_, lobed = FORMS[:2]
        forms: tuple[Form, ...] = (*repeat(round_, 6), *repeat(lobed, int(rng.integers(0, 6))), "spindle")
        labels = scatter(
            rng,
            shape,
            diameter=d,
            spread=rng.uniform(0.05, 0.35),
            coverage=rng.uniform(0.35, 0.75) if dense else max(sparse, 1.5 * d * d / (shape[0] * shape[1])),
            forms=forms if d > 14 and rng.random() < 0.8 else forms[:-1],
            clumping=rng.uniform(0.1, 0.9),
            overlap=rng.uniform(0.0, 0.3),
        )
    labels, dividing = divide(rng, labels, rng.choice([0.0, rng.uniform(0, 0.15)]) if d > 14 else 0.0)
    a = bare_nuclei(rng, labels, d)
    a = replace(a, nucleoli=a.nucleoli * ~dividing[labels])
    condensed = np.clip(a.smallness(rng), 0.6, 2.5)
    levels = condensed * _levels(rng, a.count, rng.uniform(0.05, 0.7))
    levels = np.where(dividing[1:], rng.uniform(1.2, 2.4, a.count), levels)  # chromosomes are dense
    light = a.per_cell(levels) * nuclear(rng, a)
    light = _lit(light, labels)
    if rng.random() < (0.7 if dense else 0.15):  # nuclei of other layers, out of focus and so not labelled
        light += rng.uniform(0.15, 0.6) * _out_of_focus(rng, shape, d, rng.uniform(0.1, 0.5))
    if d < 40 and rng.random() < 0.25:
        light, labels = _heaped(rng, light, labels, d)
    if rng.random() < 0.3:  # micronuclei and the fragments of dead cells
        _specks(rng, light, d, count=rng.poisson(6), size=(0.02, 0.08), level=(0.3, 1.6))
    haze, glare = rng.uniform(0, 0.2), rng.uniform(0, 0.35 if dense else 0.2)
    return "DNA", _surroundings(rng, light, d, haze=haze, glare=glare)[None], labels


def _transmitted(
    rng: np.random.Generator, shape: tuple[int, int], d: float, kind: str | None
) -> tuple[str, Float, Labels]:
    contrasts: tuple[Contrast, ...] = get_args(Contrast)
    shares = [0.55, 0.25, 0.15, 0.05] if d > 35 else [0.6, 0.3, 0.1, 0]  # small cells are less than their grains
    contrast = contrasts[contrasts.index(kind)] if kind in contrasts else rng.choice(contrasts, p=shares)
    alone = contrast in ("relief", "texture")  # where such cells meet there is nothing to be seen
    labels = _layout(rng, shape, d, seam=d if alone else max(2.5, rng.uniform(0.02, 0.06) * d))
    if alone:
        apart = border_distance(labels) > 1.5 + (0.05 if contrast == "texture" else 0.02) * d
        labels = tidy(np.where(apart, labels, 0).astype(np.uint32))
    a = anatomy(rng, labels, d, nucleus=rng.uniform(0.3, 0.6), nucleoli=rng.uniform(0.3, 1.6))
    light = transmitted(rng, a, contrast)
    _specks(rng, light, d, count=rng.poisson(rng.choice([1, 12, 40])), size=(0.02, 0.08), level=(-0.3, 0.4))
    return str(contrast), light[None], labels


def _tissue(rng: np.random.Generator, shape: tuple[int, int], d: float) -> tuple[str, Float, Labels]:
    labels = scatter(
        rng,
        shape,
        diameter=d,
        spread=rng.uniform(0.1, 0.4),
        coverage=rng.uniform(0.03, 0.5),
        forms=FORMS[: rng.integers(1, 5)],
        clumping=rng.uniform(0.1, 0.8),
        overlap=rng.uniform(0.0, 0.2),
    )
    a = bare_nuclei(rng, labels, d)
    beneath = _out_of_focus(rng, shape, d, rng.uniform(0.02, 0.3))
    return "tissue", stained_tissue(rng, a, beneath), labels


def _empty(rng: np.random.Generator, shape: tuple[int, int], d: float) -> tuple[str, Float, Labels]:
    """Medium, dirt, dust, light of what lies far out of focus; or a lamp alone."""
    nothing = np.zeros(shape, np.uint32)
    if rng.random() < 0.3:
        light = 0.5 + 0.1 * rng.uniform(0, 1) * noise(rng, shape, 60) + rng.uniform(0, 0.03) * noise(rng, shape, 1.5)
        _specks(rng, light, d, count=rng.poisson(5), size=(0.02, 0.1), level=(-0.3, 0.3))
        return "bright empty", np.clip(light, 0.02, None)[None], nothing
    light = np.full(shape, rng.choice([0.0, rng.uniform(0, 0.1)]), np.float32)
    if rng.random() < 0.4:
        far = ndi.gaussian_filter(_out_of_focus(rng, shape, d, 0.2), max(20.0, rng.uniform(0.5, 1.0) * d))
        light += rng.uniform(0.05, 0.6) * far
    light = _surroundings(rng, light, d, haze=rng.uniform(0, 0.3), glare=0.0, blobs=0.0)
    helper = np.full(shape, rng.uniform(0, 0.1), np.float32)  # a second channel in which there is nothing, too
    return "dark empty", np.stack([light, helper][: rng.integers(1, 3)]), nothing


def _layout(rng: np.random.Generator, shape: tuple[int, int], d: float, seam: float = 0.0) -> Labels:
    """Whole cells: a sheet, colonies, or bodies one by one, sparse to crowded; `seam` px at least between a sheet's."""
    how = rng.choice(["sheet", "colonies", "scattered"], p=[0.25, 0.2, 0.55])
    if seam > 0.1 * d:  # too small for seams: sheets of them would show no cells
        how = "scattered"
    if how != "scattered":
        return tile(
            rng,
            shape,
            diameter=d,
            jitter=rng.uniform(0.1, 0.4),
            stretch=rng.choice([1.0, rng.uniform(1, 1.6), rng.uniform(1.6, 3.5 if d > 20 else 1.8)]),
            waviness=rng.uniform(0.01, 0.1),
            gap_px=max(seam, rng.choice([0.0, rng.uniform(0.5, 3.0), rng.uniform(0.02, 0.1) * d])),
            rounding=rng.choice([0.0, rng.uniform(0, 0.2)]),
            present=1.0 if how == "sheet" else rng.uniform(0.15, 0.8),
        )
    possible = FORMS if d > 20 else FORMS[:3]  # thin cells would be thinner than what a pixel shows
    kinds = rng.choice([1, 2, len(possible)], p=[0.5, 0.3, 0.2])
    return scatter(
        rng,
        shape,
        diameter=d,
        spread=rng.uniform(0.1, 0.45),
        coverage=max(rng.choice([rng.uniform(0.03, 0.2), rng.uniform(0.2, 0.8)]), 4 * d * d / (shape[0] * shape[1])),
        forms=tuple(possible[i] for i in rng.choice(len(possible), kinds, replace=False)),
        clumping=rng.uniform(0, 0.9),
        overlap=rng.uniform(0, 0.35),
    )


def bare_nuclei(rng: np.random.Generator, labels: Labels, d: float) -> Anatomy:
    """The anatomy of nuclei of `d` px whose cells aren't seen: the objects are nuclei throughout."""
    inside = anatomy(rng, labels, d, anucleate=1.0)
    grain = noise(rng, labels.shape, max(0.8, 0.09 * d)) - np.float32(rng.uniform(1.1, 2.2))
    return replace(
        inside,
        nuclei=labels,
        diameter=2 * d,
        nucleus_depth=inside.thickness,
        to_nucleus=np.zeros(labels.shape, np.float32),
        nucleoli=np.clip(2 * grain, 0, 1) * (inside.thickness > 0.2),
    )


def _levels(rng: np.random.Generator, n: int, spread: float) -> NDArray[np.float64]:
    """How bright each of n objects is: median 1, none fainter than `FAINTEST`."""
    return np.clip(rng.lognormal(0, spread, n), FAINTEST, 8.0)


def _lit(light: Float, labels: Labels) -> Float:
    """Scale light so that the median over stained pixels is 0.5."""
    inside = light[labels > 0]
    return light * np.float32(0.5 / max(float(np.median(inside)), 0.05)) if inside.size else light


def _out_of_focus(rng: np.random.Generator, shape: tuple[int, int], d: float, coverage: float) -> Float:
    """Round bodies of other layers, blurred, about 0 to 1."""
    labels = scatter(rng, shape, diameter=d, spread=0.2, coverage=coverage, forms=("round",), overlap=0.5)
    levels = np.concatenate([[0], _levels(rng, int(labels.max()), 0.4)]).astype(np.float32)
    return ndi.gaussian_filter(levels[labels], max(2.5, rng.uniform(0.25, 0.6) * d), truncate=3.0)


def _surroundings(
    rng: np.random.Generator, light: Float, d: float, *, haze: float, glare: float, blobs: float = 0.2
) -> Float:
    """Add what isn't the stain of a cell: scattered light, medium, dirt.

    `blobs` far out of focus are told from nuclei by how dim they are, so that they can't be where there are no others.
    """
    if glare > 0.01:
        light = light + np.float32(glare) * ndi.gaussian_filter(light, rng.uniform(0.3, 1.2) * d, truncate=2.5)
    film = np.float32(haze) * smooth_field(rng, light.shape)
    if rng.random() < 0.3:  # what is coated, or on the glass, has holes, darker than the haze about them
        holes = np.zeros(light.shape, np.float32)
        _specks(rng, holes, 40.0, count=rng.poisson(rng.choice([5, 60])), size=(0.02, 0.15), level=(0.3, 2.0), most=4.0)
        film *= 1 - np.minimum(holes, 1)
    light = light + film
    if rng.random() < 0.5:
        _specks(rng, light, d, count=rng.poisson(rng.choice([2, 15])), size=(0.02, 0.07), level=(0.1, 2.0))
    if rng.random() < blobs:
        _specks(rng, light, d, count=rng.poisson(2), size=(0.7, 1.5), level=(0.02, 0.15), most=np.inf)
    return light.astype(np.float32)


def _heaped(rng: np.random.Generator, light: Float, labels: Labels, d: float) -> tuple[Float, Labels]:
    """Heap nuclei on one another over a part of the field: much brighter than one alone, and none told apart."""
    bodies = rng.uniform(3, 9) * d
    heap = scatter(
        rng,
        light.shape,
        diameter=bodies,
        spread=0.3,
        coverage=0.01,
        forms=FORMS,
        clumping=rng.uniform(0, 1),
        overlap=0.5,
    )
    inside = ndi.gaussian_filter((heap > 0).astype(np.float32), 0.3 * d, truncate=3.0)
    grain = 1 + rng.uniform(0, 0.3) * noise(rng, light.shape, 0.3 * d)
    light = light + rng.uniform(0.7, 6.0) * inside * grain
    return light, tidy(np.where(inside > 0.05, 0, labels).astype(np.uint32))


def _specks(
    rng: np.random.Generator,
    light: Float,
    d: float,
    *,
    count: int,
    size: tuple[float, float],
    level: tuple[float, float],
    most: float = LARGEST_SPECK,
) -> None:
    """Add Gaussian spots in place; `size` is their standard deviation over the objects' diameter, `most` px at most."""
    height, width = light.shape
    for _ in range(count):
        sigma = max(0.6, min(most, rng.uniform(*size) * d))
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        top, left = max(0, int(y - 3 * sigma)), max(0, int(x - 3 * sigma))
        rows = np.arange(top, min(height, int(y + 3 * sigma) + 2))[:, None]
        columns = np.arange(left, min(width, int(x + 3 * sigma) + 2))[None]
        spot = np.exp(-0.5 * (((rows - y) / sigma) ** 2 + ((columns - x) / (sigma * rng.uniform(0.6, 1.6))) ** 2))
        light[top : top + spot.shape[0], left : left + spot.shape[1]] += rng.uniform(*level) * spot


def _record(rng: np.random.Generator, scene: Float, d: float, *, bright: bool, defocus: float) -> NDArray[np.uint16]:
    """What a camera makes of a scene: a sharp or a soft lens, few photons or many."""
    photons = rng.uniform(np.log(800), np.log(6000)) if bright else rng.uniform(np.log(50), np.log(2000))
    return camera(
        rng,
        {str(number): np.clip(channel, 0, None) for number, channel in enumerate(scene)},
        blur_px=min(rng.uniform(0.4, 1.6 if bright else 2.2), 0.12 * d),
        defocus_px=defocus,
        illumination=rng.uniform(0.0, 0.15 if bright else 0.5),
        photons=float(np.exp(photons)),
    )
