"""Random crops with their targets: geometry first, then targets, then what light and camera do.

Targets are made of what the crop shows: an object cut by its border flows to the middle of what is left of it. So a
border of a tile reads as the border of an image, where there is nothing beyond to flow to. Within an image, what a tile
says of objects that its border cuts is outweighed by the neighbour that sees them whole.

The pipeline normalises a whole plate with one window, so a network must read images that are much dimmer than their own
percentiles would make them: the range of gains here is wide on purpose.

Each disturbance is a function of a generator and one channel (float32 YX, about 0 to 1); how often each happens is in
`Augmentation`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import label as connected

from plateflow.model.registry import IN_CHANNELS
from plateflow.segment.tiles import FRAME
from plateflow.train.data import Sample
from plateflow.train.warp import blur, cut, enlarge, flow_target, shrink

Float = NDArray[np.float32]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far crops are varied, and the probability of each disturbance.

    Attributes:
        diameters: px, range over which the median diameter of an image is spread, evenly on a logarithmic scale.
        zoom: an image isn't shrunk or enlarged further than this.
        border: an axis of the crop ends as an image's border does in a tile: black, then mirrored.
        empty: crops that needn't show an object, though their image has some.
        dim_objects: some objects of the crop are made dim (fluorescence).
        gamma: intensities bent.
        soft: a little blur.
        defocus: blur in proportion to the objects.
        uneven: uneven illumination.
        saturate: intensities cut off.
        gain: gain far from 1, as one window for a whole plate gives it.
        noise: camera noise.
        glow: light from out of focus.
        coarse: sampled by two or three times larger pixels.
        photons: shot noise of few photons.
        streak: blur along one direction.
        alone: helper channels left out.
        invert: bright and dark exchanged (transmitted light and colours).
        grey: colours averaged.
    """

    diameters: tuple[float, float] = (7.0, 130.0)
    zoom: tuple[float, float] = (0.25, 4.0)
    border: float = 0.3
    empty: float = 0.1
    dim_objects: float = 0.25
    gamma: float = 0.35
    soft: float = 0.2
    defocus: float = 0.1
    uneven: float = 0.35
    saturate: float = 0.1
    gain: float = 0.55
    noise: float = 0.6
    glow: float = 0.2
    coarse: float = 0.1
    photons: float = 0.12
    streak: float = 0.1
    alone: float = 0.15
    invert: float = 0.4
    grey: float = 0.35


@dataclass(frozen=True)
class Crop:
    """What one training step sees of one sample; float32."""

    image: Float  # (3, size, size)
    target: Float  # (3, size, size): unit flow dy, dx; 1 inside objects


def random_crop(rng: Rng, sample: Sample, size: int, how: Augmentation | None = None) -> Crop:
    """Cut, turn, scale and disturb a square of `size` px; nine times in ten with an object in it, if there is one."""
    how = how or Augmentation()
    zoom = _zoom(rng, sample.diameter, how)
    diameter = sample.diameter * zoom
    may_be_empty = rng.random() < how.empty or not sample.diameter
    for _ in range(6):
        matrix, offset = _geometry(rng, sample.labels.shape, size, zoom)
        if may_be_empty or _sees_object(sample.labels, matrix, offset, size):
            break
    pixels, limits = sample.pixels, sample.limits
    if sample.light == "fluorescence" and rng.random() < how.alone:
        pixels, limits = pixels[:1], limits[:1]
    channels, labels = cut(pixels, limits, sample.labels, matrix, offset, size)
    seen = [border(rng, size) if rng.random() < how.border else np.arange(size) for _ in range(2)]
    black = (seen[0] < 0)[:, None] | (seen[1] < 0)
    labels = np.where(black, 0, labels[np.ix_(*seen)])
    # an object at the image's border and its mirror image may be two pieces of one number
    labels = connected(labels, background=0, connectivity=1).astype(np.int32)
    target = flow_target(labels, diameter)

    if sample.light != "fluorescence":
        channels = shown(rng, channels, how)
    elif rng.random() < how.dim_objects:
        factors = dim_objects(rng, labels)
        low = np.percentile(channels[:, ::4, ::4], 5, axis=(1, 2)).astype(np.float32)[:, None, None]
        channels = low + (channels - low) * factors
    light = uneven_light(rng, size) if rng.random() < how.uneven else None
    image = np.zeros((IN_CHANNELS, size, size), np.float32)
    alike = len(channels) == IN_CHANNELS and sample.light == "colour"  # the colours of one picture: one lens, one lamp
    seed = int(rng.integers(2**32))
    for number, channel in enumerate(channels):
        own = np.random.default_rng(seed if alike else (seed, number))
        image[number] = disturb(own, channel, how, diameter=diameter, light=light)
    image = np.where(black, np.float32(0), image[:, seen[0][:, None], seen[1]])
    return Crop(np.clip(image, -60, 60), target)


def border(rng: Rng, size: int) -> NDArray[np.int64]:
    """Which rows (or columns) of a crop are seen where, -1 for black, when its image ends: as `tile_layout` pads it.

    A large image ends with a black frame at the tile's edge; one smaller than a tile lies in its middle, in a frame
    that the mirror image of all this surrounds.
    """
    width = FRAME if rng.random() < 0.7 else int(rng.integers(1, FRAME + 1))
    seen = np.arange(size)
    if rng.random() < 0.5:
        ends = rng.integers(0, 3)  # the first, the last, both
        if ends != 1:
            seen[:width] = -1
        if ends != 0:
            seen[-width:] = -1
        return seen
    length = int(np.exp(rng.uniform(np.log(size / 4), np.log(size - 2 * width))))
    lacking = size - length - 2 * width
    start = int(rng.integers(0, size - length + 1))
    framed = np.pad(seen[start : start + length], width, constant_values=-1)
    return np.pad(framed, (lacking // 2, lacking - lacking // 2), mode="symmetric")


def _zoom(rng: Rng, diameter: float, how: Augmentation) -> float:
    """How much an image is enlarged, so that its objects have a random size."""
    if not diameter:
        return float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    wanted = np.exp(rng.uniform(*np.log(how.diameters)))
    return float(np.clip(wanted / diameter, *how.zoom))


def _geometry(
    rng: Rng, shape: tuple[int, ...], size: int, zoom: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset from crop to image coordinates: any angle, mirrored or not, a little stretched, somewhere."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.9, 1.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([rng.choice([-1, 1]) * stretch, 1 / stretch]) / zoom
    reach = size / 2 / zoom
    centre = np.array([rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in shape])
    return matrix, centre - matrix @ np.full(2, (size - 1) / 2)


def _sees_object(
    labels: NDArray[np.int32], matrix: NDArray[np.float64], offset: NDArray[np.float64], size: int
) -> bool:
    """Whether a point of a coarse grid over the crop lies in an object."""
    steps = np.linspace(4, size - 5, 24)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij")).reshape(2, -1)
    at = np.rint(matrix @ grid + offset[:, None]).astype(int)
    within = ((at >= 0) & (at < np.array(labels.shape)[:, None])).all(0)
    return bool(labels[at[0, within], at[1, within]].any())


def dim_objects(rng: Rng, labels: NDArray[np.int32]) -> Float:
    """Factors that make some objects of the crop dim, with soft borders; YX."""
    factors = np.ones(int(labels.max()) + 1, np.float32)
    chosen = rng.random(factors.size) < rng.uniform(0.1, 0.6)
    factors[chosen] = rng.uniform(0.15, 0.6, int(chosen.sum()))
    factors[0] = 1
    spread = ndi.minimum_filter(factors[labels], 3)  # the halo of an object dims with it
    return blur(spread, 0.7, 0.7)


def uneven_light(rng: Rng, size: int) -> Float:
    """Uneven illumination, YX: 1 at its brightest, 0.35 to 1 at its darkest."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = axis[:, None], axis[None]
    a, b, c, d = rng.normal(0, 1, 4).astype(np.float32)
    field = a * y + b * x + 0.5 * (c * y * y + d * x * x)
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return (1 - np.float32(rng.uniform(0.0, 0.65)) * field).astype(np.float32)


def shown(rng: Rng, channels: Float, how: Augmentation) -> Float:
    """The ways in which one picture of transmitted light may be given: inverted, grey, its colours in any order."""
    if len(channels) == IN_CHANNELS:
        channels = channels.mean(0, keepdims=True) if rng.random() < how.grey else channels[rng.permutation(3)]
    return 1 - channels if rng.random() < how.invert else channels


def glow(rng: Rng, x: Float) -> Float:
    """Add light from out of focus."""
    sigma = float(np.exp(rng.uniform(np.log(4), np.log(25))))
    return x + np.float32(rng.uniform(0.2, 1.5)) * blur(x, sigma, sigma)


def coarse(rng: Rng, x: Float) -> Float:
    """Sample with pixels that are two or three times larger, and enlarge again."""
    factor = int(rng.integers(2, 4))
    return enlarge(shrink(x, factor), factor, x.shape)


def few_photons(rng: Rng, x: Float) -> Float:
    """Shot noise of 6 to 200 photons at level 1."""
    photons = np.exp(rng.uniform(np.log(6), np.log(200)))
    # normal noise of the variance that Poisson's has: a tenth of the time
    spread = np.sqrt(np.clip(x, 0.02, 8) / np.float32(photons))
    return x + spread * rng.standard_normal(x.shape, dtype=np.float32)


def disturb(rng: Rng, x: Float, how: Augmentation, *, diameter: float, light: Float | None) -> Float:
    """Change one channel (YX, about 0..1) as stain, focus, light, exposure and camera would.

    Args:
        rng: source of every random number.
        x: the channel.
        how: probabilities.
        diameter: median of the objects in px, for the width of defocus.
        light: illumination, YX; None where it is even.
    """
    if rng.random() < how.gamma:
        x = np.sign(x) * np.abs(x) ** np.float32(rng.uniform(0.6, 1.6))
    if rng.random() < how.glow:
        x = glow(rng, x)
    if rng.random() < how.soft:
        sigma = rng.uniform(0.3, 2.0)
        x = blur(x, sigma, sigma)
    if rng.random() < how.defocus:
        sigma = rng.uniform(0.04, 0.14) * max(diameter, 12.0)
        x = blur(x, sigma, sigma)
    if rng.random() < how.streak:
        x = blur(x, rng.uniform(0, 2.5), rng.uniform(0, 0.8))
    if rng.random() < how.coarse:
        x = coarse(rng, x)
    if light is not None:
        x = x * light
    if rng.random() < how.photons:
        x = few_photons(rng, x)
    if rng.random() < how.saturate:
        x = np.minimum(x, np.float32(rng.uniform(0.5, 1.0)))
    gain = np.exp(rng.uniform(np.log(0.15), np.log(2.0)) if rng.random() < how.gain else rng.normal(0, 0.2))
    x = x * np.float32(gain)
    if rng.random() < how.noise:
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        if rng.random() < 0.2:
            noise = blur(noise, 0.8, 0.8) * np.float32(2.5)
        x = x + noise * np.float32(np.exp(rng.uniform(np.log(0.004), np.log(0.12))) * max(gain, 0.2))
    offset = rng.uniform(-0.1, 0.15) if rng.random() < 0.4 else rng.normal(0, 0.02)
    return (x + np.float32(offset)).astype(np.float32)
