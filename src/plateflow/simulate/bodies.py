"""Outlines of cells and how they lie in a field: the geometry that every random look is drawn on.

A body is a polygon around its centre: round, lobed, spread, spindle or star-shaped with processes. `scatter` throws
bodies into a field, alone or in clumps; `tile` covers a field with a sheet of cells that meet at common borders. Both
give label images whose objects are each in one piece and large enough to be seen.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from skimage.draw import polygon
from skimage.segmentation import expand_labels, find_boundaries

from plateflow.simulate.cells import Float, whole_objects

Labels = NDArray[np.uint32]
Form = Literal["round", "lobed", "spread", "spindle", "star"]
FORMS: tuple[Form, ...] = ("round", "lobed", "spread", "spindle", "star")
MIN_AREA_PX = 20
"""Objects of fewer pixels are neither drawn nor labelled."""
_POINTS = 144


def body_outline(rng: np.random.Generator, diameter: float, form: Form) -> NDArray[np.float64]:
    """Draw the outline of one body.

    Args:
        diameter: of the circle of the same area, in px.
        form: `round`; `lobed`, with bulges; `spread`, flat with uneven corners; `spindle`, long, pointed and bent;
            `star`, with two to six processes.

    Returns:
        A closed polygon, (points, 2), y and x in px about the centre.
    """
    angle = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
    wave, decay = {"round": (0.03, 1.5), "lobed": (0.12, 1.6), "spread": (0.16, 1.0)}.get(form, (0.06, 1.0))
    radius = 1 + _waves(rng, angle, wave * rng.uniform(0.4, 1.5), decay)
    if form == "star":
        for _ in range(rng.integers(2, 7)):
            off = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
            radius += rng.uniform(0.6, 2.8) * np.exp(-0.5 * (off / rng.uniform(0.07, 0.35)) ** 2)
    stretch = {"round": 1 + rng.gamma(2, 0.08), "spindle": rng.uniform(2.5, 7.0)}.get(form, 1 + rng.gamma(2, 0.2))
    along, across = radius * np.cos(angle) * np.sqrt(stretch), radius * np.sin(angle) / np.sqrt(stretch)
    if form == "spindle":
        across *= 1.4 - rng.uniform(0.6, 1.3) * np.abs(along / np.abs(along).max())
    if form in ("spindle", "star"):  # bent as a whole
        across += rng.normal(0, 0.10) * along**2
    turn = rng.uniform(0, 2 * np.pi)
    y = along * np.sin(turn) + across * np.cos(turn)
    x = along * np.cos(turn) - across * np.sin(turn)
    area = 0.5 * abs(np.dot(y, np.roll(x, 1)) - np.dot(x, np.roll(y, 1)))
    return np.stack([y, x], -1) * diameter / 2 * np.sqrt(np.pi / area)


def scatter(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    diameter: float,
    spread: float,
    coverage: float,
    forms: tuple[Form, ...],
    clumping: float = 0.4,
    overlap: float = 0.1,
) -> Labels:
    """Throw bodies into a field; a later one lies beneath those that are there.

    Args:
        diameter: typical diameter in px.
        spread: standard deviation of the log of the diameter.
        coverage: fraction of the field to cover; reached as far as there is room.
        forms: each body has one of these.
        clumping: fraction of bodies that are set against another one.
        overlap: greatest fraction of a body that may lie beneath others.

    Returns:
        Labels YX, 1..n.
    """
    labels = np.zeros(shape, np.uint32)
    height, width = shape
    margin, covered, number = diameter / 2, 0, 0
    centres: list[tuple[float, float]] = []
    goal = coverage * labels.size
    for _ in range(int(60 + 8 * goal / diameter**2)):
        if covered >= goal:
            break
        y, x = rng.uniform(-margin, height + margin), rng.uniform(-margin, width + margin)
        if centres and rng.random() < clumping:
            near, angle, away = centres[rng.integers(len(centres))], rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.2)
            y, x = near[0] + away * diameter * np.sin(angle), near[1] + away * diameter * np.cos(angle)
        outline = body_outline(rng, diameter * rng.lognormal(0, spread), forms[rng.integers(len(forms))])
        inside = polygon(outline[:, 0] + y, outline[:, 1] + x, shape)
        free = labels[inside] == 0
        if free.sum() < max(MIN_AREA_PX, (1 - overlap) * free.size):
            continue
        number += 1
        labels[inside[0][free], inside[1][free]] = number
        centres.append((y, x))
        covered += int(free.sum())
    return tidy(labels)


def tile(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    diameter: float,
    jitter: float,
    stretch: float,
    waviness: float,
    gap_px: float,
    rounding: float,
    present: float,
) -> Labels:
    """Cover a field with cells that meet: a confluent sheet, or colonies of it.

    Args:
        diameter: typical diameter in px.
        jitter: disorder of the cells' places, 0 (honeycomb) to about 0.5.
        stretch: ratio of length to width, all along one direction.
        waviness: how far borders wander, as a fraction of the diameter.
        gap_px: width of the seam between two cells; 0 where they touch.
        rounding: radius of the cells' corners as a fraction of the diameter.
        present: fraction of the field that is covered; the rest is bare, in patches.

    Returns:
        Labels YX, 1..n.
    """
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y = y + np.float32(waviness * diameter) * noise(rng, shape, max(1.0, diameter * rng.uniform(0.08, 0.3)))
    x = x + np.float32(waviness * diameter) * noise(rng, shape, max(1.0, diameter * rng.uniform(0.08, 0.3)))
    angle = rng.uniform(0, np.pi)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = turned @ np.diag([1 / np.sqrt(stretch), np.sqrt(stretch)])
    places = np.stack([y.ravel(), x.ravel()], -1) @ scale
    low, high = places.min(0) - diameter, places.max(0) + diameter
    pitch = 0.95 * diameter  # of a honeycomb whose cells have this diameter
    rows, columns = np.arange(low[0], high[0], pitch * 0.87), np.arange(low[1], high[1], pitch)
    seeds = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    seeds[1::2, :, 1] += pitch / 2
    seeds = seeds.reshape(-1, 2) + rng.normal(0, jitter * pitch, (seeds.size // 2, 2))
    distance, nearest = cKDTree(seeds).query(places, k=3)
    handicap = rng.normal(0, 0.12 * pitch, len(seeds))
    chosen = np.argmin(distance + handicap[nearest], axis=1)[:, None]
    owner = np.take_along_axis(nearest, chosen, 1)[:, 0]
    reach = np.take_along_axis(distance, chosen, 1)[:, 0]
    if present < 1:
        patches = noise(rng, shape, diameter * rng.uniform(0.8, 3.0))
        at = np.clip(np.rint(seeds @ np.linalg.inv(scale)).astype(int), 0, np.array(shape) - 1)
        level = patches[at[:, 0], at[:, 1]]
        reach = np.where(level[owner] < np.quantile(patches, present), reach, np.inf)
    farthest = 0.72 * pitch if present < 1 else np.inf  # colonies have round edges; a sheet has no holes
    labels = np.where(reach < farthest, owner + 1, 0).reshape(shape).astype(np.uint32)
    corner = rounding * diameter
    if gap_px + corner > 0:
        labels = np.where(border_distance(labels) > gap_px / 2 + corner, labels, 0).astype(np.uint32)
        labels = expand_labels(labels, corner)
    return tidy(labels)


def tidy(labels: Labels) -> Labels:
    """Keep the largest piece of each object, drop the small ones, and number the rest 1..n."""
    labels = whole_objects(labels.astype(np.uint32))
    keep = np.bincount(labels.ravel()) >= MIN_AREA_PX
    keep[0] = False
    return np.where(keep, np.cumsum(keep), 0).astype(np.uint32)[labels]


def border_distance(labels: NDArray[np.integer]) -> Float:
    """Distance (px) of each pixel of an object from the object's border; the edge of the image is none."""
    borders = find_boundaries(labels, mode="inner")
    if not borders.any():
        return np.where(labels > 0, np.float32(min(labels.shape)), np.float32(0))
    distance = ndi.distance_transform_edt(~borders) + 0.5
    return np.where(labels > 0, distance, 0).astype(np.float32)


def contact_distance(labels: Labels) -> Float:
    """Distance (px) of each pixel from where two objects touch; the size of the image where none do."""
    low = ndi.minimum_filter(np.where(labels > 0, labels, np.uint32(2**32 - 1)), 3)
    apart = (labels == 0) | ((ndi.maximum_filter(labels, 3) == labels) & (low == labels))
    if apart.all():
        return np.full(labels.shape, np.float32(max(labels.shape)))
    return ndi.distance_transform_edt(apart).astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> Float:
    """Gaussian-filtered white noise, mean 0 and standard deviation 1, float32 YX; drawn coarsely where it is smooth."""
    factor = max(1, int(sigma / 2.5))
    small = [n // factor + 2 for n in shape]
    field = ndi.gaussian_filter(rng.standard_normal(small, dtype=np.float32), sigma / factor, mode="wrap", truncate=3.0)
    if factor > 1:
        field = ndi.zoom(field, factor, order=1, mode="nearest", grid_mode=True)
    field = field[: shape[0], : shape[1]]
    return (field - field.mean()) / np.float32(max(float(field.std()), 1e-6))


def _waves(rng: np.random.Generator, angle: NDArray[np.float64], size: float, decay: float) -> NDArray[np.float64]:
    """Fourier terms 2 to 9 with amplitudes that fall as order**-decay."""
    order = np.arange(2, 10)[:, None]
    amplitude = size * rng.standard_normal((8, 1)) * (2.0 / order) ** decay
    return np.clip((amplitude * np.cos(order * angle + rng.uniform(0, 2 * np.pi, (8, 1)))).sum(0), -0.6, 0.8)
