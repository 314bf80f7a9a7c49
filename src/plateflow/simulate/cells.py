"""Fluorescent cells in two dimensions, drawn with their truth, and the camera that records them.

`simulate_field` draws a scene: what is on the slide, in units where a bright nucleus is about 0.6, without optics or
noise. `camera` makes the recorded picture of it. A plate draws one scene a well, cuts it into fields and records each
field, so that cells cross the borders of fields; training records a scene as it is.

The shapes are our own: outlines are ellipses with a few Fourier terms, cells take the nearest nucleus in a distance
scaled by their own outline, textures are filtered white noise. They are meant to be as hard to segment as real cells
in the ways that matter (touching, dim beside bright, blurred, uneven light), not to be a model of biology.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import label as connected
from skimage.segmentation import find_boundaries

CHANNELS = ("DNA", "AGP", "Marker")

Float = NDArray[np.float32]
_ANGLES = np.linspace(-np.pi, np.pi, 65)
_GAIN, _OFFSET, _READ_NOISE = 6.0, 200.0, 2.0
"""Of the camera: counts an electron, counts without light, standard deviation in electrons."""
_DIM = 0.12, 0.30
"""The level of dim nuclei as a fraction of the usual one."""


@dataclass(frozen=True, kw_only=True)
class SimulatedField:
    """A scene and its truth; number `i` in `nuclei` and `cells` is the same cell, described at index `i - 1`."""

    channels: dict[str, Float]
    """DNA, AGP, Marker: float32 YX."""
    nuclei: NDArray[np.uint32]
    """Label image YX, 0 is background."""
    cells: NDArray[np.uint32]
    """Label image YX; every nucleus lies within its cell."""
    brightness: Float
    """Mean DNA level of each nucleus before texture."""
    marker: Float
    """Marker level of each cell before texture."""


@dataclass(frozen=True)
class _Nucleus:
    y: float
    x: float
    radius: float
    brightness: float
    mitotic: bool


def simulate_field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    density: float = 0.15,
    diameter_px: float = 22.0,
    size_spread: float = 0.15,
    elongation: float = 1.25,
    irregularity: float = 0.05,
    clumping: float = 0.45,
    overlap: float = 0.10,
    brightness: float = 0.55,
    brightness_spread: float = 0.30,
    dim_fraction: float = 0.20,
    mitotic_fraction: float = 0.03,
    chromatin: float = 0.18,
    cell_scale: float = 2.4,
    marker: float = 0.3,
    debris: float = 1.0,
    haze: float = 0.03,
) -> SimulatedField:
    """Draw one scene of cells.

    Args:
        rng: source of every random number; the same state gives the same scene.
        density: fraction of the area that nuclei cover, 0 to about 0.45; 0 gives background and debris only.
        diameter_px: mean diameter of an interphase nucleus.
        size_spread: standard deviation of the log of the diameter.
        elongation: mean ratio of the long to the short axis, at least 1.
        irregularity: relative size of the Fourier terms of an outline (0 is an ellipse, 0.15 is lobed).
        clumping: fraction of nuclei that are set against another one.
        overlap: how far clumped nuclei may run into each other, as a fraction of the sum of their radii.
        brightness: median DNA level of the nuclei that are not dim.
        brightness_spread: standard deviation of the log of the level.
        dim_fraction: fraction of nuclei at `_DIM`.
        mitotic_fraction: fraction of small, bright, condensed nuclei.
        chromatin: contrast of the texture within nuclei.
        cell_scale: radius of a free cell over the radius of its nucleus.
        marker: mean marker level of a cell.
        debris: number of specks and out-of-focus blobs relative to the usual number.
        haze: level of the uneven background, in DNA; the other channels have as much of their own.

    Returns:
        The scene; labels run from 1 without a gap, and slivers at the border are not labelled.
    """

    def level(mitotic: bool) -> float:
        drawn = brightness * rng.lognormal(0, brightness_spread)
        if mitotic:
            return brightness * rng.uniform(1.6, 2.4)
        return brightness * rng.uniform(*_DIM) if rng.random() < dim_fraction else drawn

    placed = _place(rng, shape, density, diameter_px, size_spread, clumping, overlap, mitotic_fraction, level)
    n = len(placed)
    fine = _noise(rng, shape, max(0.7, diameter_px * 0.045))
    coarse = _noise(rng, shape, max(1.2, diameter_px * 0.12))

    dna = np.zeros(shape, np.float32)
    nearest = np.full(shape, np.inf, np.float32)
    nuclei = np.zeros(shape, np.uint32)
    cell_near = np.full(shape, np.inf, np.float32)
    cells = np.zeros(shape, np.uint32)
    whole = np.zeros(n + 1)
    for number, nucleus in enumerate(placed, 1):
        stretch = (1.0 + rng.gamma(2.0, (elongation - 1.0) / 2.0)) * (1.5 if nucleus.mitotic else 1.0)
        angle = rng.uniform(-np.pi, np.pi)
        outline = _outline(rng, nucleus.radius, stretch, angle, irregularity)
        where, scaled = _scaled_distance(shape, nucleus.y, nucleus.x, outline, limit=1.1)
        if scaled is not None:
            inside = scaled < 1
            whole[number] = np.pi * nucleus.radius**2
            closer = inside & (scaled < nearest[where])
            nearest[where][closer] = scaled[closer]
            nuclei[where][closer] = number
            strength = chromatin * rng.uniform(0.5, 1.5) * (0.5 if nucleus.mitotic else 1.0)
            mix = rng.uniform(0.3, 0.8)
            texture = 1 + strength * (mix * fine[where] + (1 - mix) * coarse[where])
            # nucleoli: the deep valleys of the coarse texture, where chromatin is thin
            texture = texture - rng.uniform(0, 0.35) * np.clip(-coarse[where] - 1.0, 0, 1)
            if rng.random() < 0.25:  # chromocentres: bright spots, as in mouse cells
                texture = texture + rng.uniform(0.3, 0.9) * np.clip(fine[where] - 1.0, 0, 1.5)
            dome = 1 - rng.uniform(0.1, 0.5) * scaled ** rng.uniform(2, 5)
            dna[where] += np.where(inside, nucleus.brightness * np.clip(texture, 0.15, None) * dome, 0)
        body = nucleus.radius * (1.8 if nucleus.mitotic else cell_scale * rng.lognormal(0, 0.15))
        outline = _outline(rng, body, 1 + 0.6 * (stretch - 1), angle, irregularity + 0.05)
        where, scaled = _scaled_distance(shape, nucleus.y, nucleus.x, outline, limit=1.0)
        if scaled is not None:
            closer = (scaled < 1) & (scaled < cell_near[where])
            cell_near[where][closer] = scaled[closer]
            cells[where][closer] = number

    nuclei = whole_objects(nuclei)
    area = np.bincount(nuclei.ravel(), minlength=n + 1)
    keep = (area >= 12) & (area > 0.06 * whole)
    keep[0] = False
    cells = np.where(nuclei > 0, nuclei, cells)
    cells = whole_objects(cells)
    cells = np.where(nuclei > 0, nuclei, cells)

    levels = np.array([p.brightness for p in placed], np.float32)
    marker_levels = (marker * rng.lognormal(-0.08, 0.4, n)).astype(np.float32)
    levels_agp = rng.lognormal(np.log(0.35), 0.35, n)
    agp = _cytoplasm(rng, cells=cells, nuclei=nuclei, scaled=cell_near, levels=levels_agp, diameter=diameter_px)
    grains = _noise(rng, shape, max(0.8, diameter_px * 0.05))
    inner = np.where(nuclei > 0, 0.55, 1.0)
    shade = np.clip(1.15 - 0.75 * np.where(cells > 0, cell_near, 0), 0.2, 1.2)
    spots = np.clip(1 + 0.25 * grains + 0.8 * np.clip(grains - 1.2, 0, None), 0.1, None)
    lookup = np.concatenate([[0], marker_levels])
    marked = (lookup[cells] * inner * shade * spots).astype(np.float32)

    dna += 0.02 * agp  # a little of the stain binds to the cytoplasm
    channels = {"DNA": dna, "AGP": agp, "Marker": marked}
    _add_debris(rng, channels, diameter_px, debris)
    for name in channels:
        channels[name] += haze * smooth_field(rng, shape)

    renumber = np.zeros(n + 1, np.uint32)
    renumber[keep] = np.arange(1, keep.sum() + 1)
    return SimulatedField(
        channels=channels,
        nuclei=renumber[nuclei],
        cells=renumber[cells],
        brightness=levels[keep[1:]],
        marker=marker_levels[keep[1:]],
    )


def illumination_profile(rng: np.random.Generator, shape: tuple[int, int], falloff: float) -> Float:
    """Light over a field, float32 YX, 1 at its brightest: falls by about `falloff` to the farthest corner."""
    height, width = shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    centre_y, centre_x = rng.uniform(-0.3, 0.3, 2)
    distance = (y - centre_y) ** 2 + (x - centre_x) ** 2
    light = 1 - falloff * distance / distance.max()
    return (light / light.max()).astype(np.float32)


def camera(
    rng: np.random.Generator,
    channels: Mapping[str, Float],
    *,
    blur_px: float = 1.0,
    defocus_px: float = 0.0,
    illumination: float | Float = 0.25,
    photons: float = 600.0,
) -> NDArray[np.uint16]:
    """Record a scene.

    Args:
        rng: source of the noise (and of the light's centre, where `illumination` is a number).
        channels: scenes by channel, float32 YX, all of one shape.
        blur_px: standard deviation of the point spread function in px.
        defocus_px: further blur of a field that is out of focus, in px.
        illumination: fall-off from centre to corner as a fraction, or the light itself as float32 YX.
        photons: electrons at level 1; fewer give more noise.

    Returns:
        uint16 CYX, channels in the order given.
    """
    planes = []
    light = illumination
    sigma = float(np.hypot(blur_px, defocus_px))
    for scene in channels.values():
        if not isinstance(light, np.ndarray):
            light = illumination_profile(rng, scene.shape, light)
        image = ndi.gaussian_filter(scene, sigma, mode="nearest", truncate=3.0) if sigma > 0 else scene
        electrons = rng.poisson(np.clip(image * light * photons, 0, None))
        noise = _READ_NOISE * rng.standard_normal(scene.shape, dtype=np.float32)
        planes.append(np.clip(np.rint(_OFFSET + _GAIN * (electrons + noise)), 0, 65535).astype(np.uint16))
    return np.stack(planes)


def _place(
    rng: np.random.Generator,
    shape: tuple[int, int],
    density: float,
    diameter: float,
    size_spread: float,
    clumping: float,
    overlap: float,
    mitotic_fraction: float,
    level: Callable[[bool], float],
) -> list[_Nucleus]:
    """Positions, sizes and levels: some nuclei anywhere, others against one that is already there."""
    height, width = shape
    margin = diameter / 4
    wanted = round(density * (height + 2 * margin) * (width + 2 * margin) / (np.pi * diameter**2 / 4))
    ys, xs, radii = np.empty(wanted), np.empty(wanted), np.empty(wanted)
    placed: list[_Nucleus] = []
    for _ in range(wanted):
        radius = diameter / 2 * rng.lognormal(0, size_spread)
        mitotic = rng.random() < mitotic_fraction
        radius *= rng.uniform(0.5, 0.7) if mitotic else 1
        n = len(placed)
        for _attempt in range(20):
            if n and rng.random() < clumping:
                other = rng.integers(n)
                angle = rng.uniform(-np.pi, np.pi)
                away = (radius + radii[other]) * rng.uniform(1 - overlap, 1.08)
                y, x = ys[other] + away * np.sin(angle), xs[other] + away * np.cos(angle)
                if not (-margin < y < height + margin and -margin < x < width + margin):
                    continue
            else:
                y, x = rng.uniform(-margin, height + margin), rng.uniform(-margin, width + margin)
            if not np.any(np.hypot(ys[:n] - y, xs[:n] - x) < (1 - overlap) * (radii[:n] + radius)):
                break
        else:
            continue  # no room: a crowded field holds fewer than wanted
        ys[n], xs[n], radii[n] = y, x, radius
        placed.append(_Nucleus(y, x, radius, level(mitotic), mitotic))
    return placed


def _outline(rng: np.random.Generator, radius: float, stretch: float, angle: float, irregularity: float) -> Float:
    """Radius at `_ANGLES` of an ellipse of the same area as the circle, with Fourier terms 2 to 6 that decay."""
    long, short = radius * np.sqrt(stretch), radius / np.sqrt(stretch)
    turned = _ANGLES - angle
    ellipse = long * short / np.hypot(short * np.cos(turned), long * np.sin(turned))
    order = np.arange(2, 7)[:, None]
    size = irregularity * rng.standard_normal((5, 1)) * (2.0 / order)
    waves = (size * np.cos(order * _ANGLES + rng.uniform(0, 2 * np.pi, (5, 1)))).sum(0)
    return (ellipse * np.clip(1 + waves, 0.6, 1.6)).astype(np.float32)


def _scaled_distance(
    shape: tuple[int, int], y: float, x: float, outline: Float, *, limit: float
) -> tuple[tuple[slice, slice], Float | None]:
    """Distance from the centre over the outline's radius there (1 is on it), in the box that holds `limit`."""
    reach = float(outline.max()) * limit + 1
    top, bottom = max(0, int(y - reach)), min(shape[0], int(y + reach) + 2)
    left, right = max(0, int(x - reach)), min(shape[1], int(x + reach) + 2)
    where = (slice(top, bottom), slice(left, right))
    if top >= bottom or left >= right:
        return where, None
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
    dx = np.arange(left, right, dtype=np.float32)[None] - np.float32(x)
    edge = np.interp(np.arctan2(dy, dx), _ANGLES, outline)
    return where, (np.hypot(dy, dx) / edge).astype(np.float32)


def whole_objects(labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Keep the largest connected piece of every label: a neighbour may have cut an object in two."""
    pieces = connected(labels, background=0, connectivity=1)
    count = int(pieces.max())
    if count == 0:
        return labels
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    owner = np.zeros(count + 1, np.int64)
    owner[pieces.ravel()] = labels.ravel()
    order = np.argsort(size[1:], kind="stable") + 1
    largest = np.zeros(int(labels.max()) + 1, np.int64)
    largest[owner[order]] = order  # the last one written is the largest
    good = np.zeros(count + 1, bool)
    good[largest[1:]] = True
    good[0] = False
    return np.where(good[pieces], labels, 0).astype(np.uint32)


def _cytoplasm(
    rng: np.random.Generator,
    *,
    cells: NDArray[np.uint32],
    nuclei: NDArray[np.uint32],
    scaled: Float,
    levels: NDArray[np.float64],
    diameter: float,
) -> Float:
    """Actin, Golgi and membrane: thick around the nucleus, thin at the edge, a bright rim, fibres."""
    present = cells > 0
    lookup = np.concatenate([[0], levels])
    edges = find_boundaries(cells)
    depth = ndi.distance_transform_edt(~edges).astype(np.float32) if edges.any() else np.zeros(cells.shape, np.float32)
    rim = np.exp(-((depth / rng.uniform(1.0, 2.2)) ** 2))
    across = rng.uniform(1, 3, 2) * max(0.7, diameter * 0.05)
    fibres = _noise(rng, cells.shape, tuple(across))
    patches = _noise(rng, cells.shape, diameter * 0.25)
    thick = np.clip(1.1 - rng.uniform(0.6, 0.95) * np.where(present, scaled, 0), 0.12, 1.1)
    body = thick * np.clip(1 + 0.22 * fibres + 0.2 * patches, 0.1, None) * np.where(nuclei > 0, 0.75, 1.0)
    return (lookup[cells] * (body + rng.uniform(0.2, 0.7) * rim * present)).astype(np.float32)


def _add_debris(rng: np.random.Generator, channels: dict[str, Float], diameter: float, amount: float) -> None:
    """Specks (small, sharp, bright) and blobs far out of focus; in place, a third of them in all channels."""
    shape = channels["DNA"].shape
    per_area = amount * shape[0] * shape[1] / 400**2
    kinds = [
        (rng.poisson(7 * per_area), (0.6, 2.2), (0.15, 1.2)),
        (rng.poisson(2 * per_area), (0.4, 1.1), (0.03, 0.15)),
    ]
    y = x = 0.0
    for kind, (count, sizes, levels) in enumerate(kinds):
        for number in range(count):
            sigma = rng.uniform(*sizes) * (diameter if kind else max(1.0, min(diameter, 30.0) / 22))
            if number and rng.random() < (0.0 if kind else 0.4):  # fragments of one dead cell lie together
                y, x = y + rng.normal(0, 0.4 * diameter), x + rng.normal(0, 0.4 * diameter)
            else:
                y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
            outline = _outline(rng, 1.0, 1 + rng.gamma(2.0, 0.3), rng.uniform(-np.pi, np.pi), 0.05)
            where, distance = _scaled_distance(shape, y, x, outline * sigma, limit=3.0)
            if distance is None:
                continue
            spot = rng.uniform(*levels) * np.exp(-0.5 * distance**2)
            everywhere = rng.random() < 0.33
            for name in channels if everywhere else [rng.choice(list(channels), p=[0.6, 0.2, 0.2])]:
                channels[str(name)][where] += spot


def _noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float | tuple[float, ...]) -> Float:
    """Gaussian-filtered white noise with mean 0 and standard deviation 1, float32 YX."""
    noise = ndi.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3.0)
    return (noise / max(float(noise.std()), 1e-9)).astype(np.float32)


def smooth_field(rng: np.random.Generator, shape: tuple[int, int]) -> Float:
    """Slow variation between 0 and 2 with mean about 1: a few long waves."""
    y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None]
    field = np.ones(shape, np.float32)
    for _ in range(6):
        fy, fx = rng.normal(0, 1.2, 2) * 2 * np.pi / 400  # waves of 400 px and longer, whatever the scene's size
        wave = np.cos(fy * y + rng.uniform(0, 2 * np.pi)) * np.cos(fx * x + rng.uniform(0, 2 * np.pi))
        field += (rng.uniform(0.05, 0.3) * wave).astype(np.float32)
    return np.clip(field, 0, 2)
