"""Random crops with their targets: geometry first, then targets, then what light and camera do.

Targets are made of what the crop shows: an object cut by its border flows to the middle of what is left of it. So a
border of a tile reads as the border of an image, where there is nothing beyond to flow to. Within an image, what a tile
says of objects that its border cuts is outweighed by the neighbour that sees them whole.

The pipeline normalises a whole plate with one window, so a network must read images that are much dimmer than their own
percentiles would make them: the range of gains here is wide on purpose.

Each disturbance is a function of a generator and one channel (float32 YX, about 0 to 1); how often each happens, and
how strongly, is in `Augmentation`.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import label as connected

from plateflow.model.registry import IN_CHANNELS
from plateflow.segment.tiles import FRAME
from plateflow.train.data import Sample
from plateflow.train.warp import blur, cut, enlarge, flow_target, shrink

BY_LOG = ("diameters", "zoom", "empty_zoom", "stretch", "glow_sigma", "photon_count", "gain_factor", "noise_sigma")
"""Ranges that can't reach 0, as what is drawn lies evenly on a logarithmic scale or is divided by."""
Float = NDArray[np.float32]
Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How crops are varied: the probability of each disturbance, and the range (pair) from which its size is drawn.

    Attributes:
        diameters: px, range over which the median diameter of an image is spread, evenly on a logarithmic scale.
        zoom: an image isn't shrunk or enlarged further than this.
        empty_zoom: the same for images without objects.
        stretch: along one direction, and back across it.
        border: an axis of the crop ends as an image's border does in a tile: black, then mirrored.
        empty: crops that needn't show an object, though their image has some.
        dim_objects: some objects of the crop are made dim (fluorescence): `dim_share` of them, to `dim_level`.
        gamma: intensities bent by a power.
        glow: light from out of focus: its sigma in px, and how much of it is added.
        soft: a little blur; sigma in px.
        defocus: blur in proportion to the objects; sigma over their diameter.
        streak: blur along one direction; the greatest sigma in px along it and across.
        coarse: sampled by pixels so many times larger.
        uneven: uneven illumination; the darkest place lacks so much of the light.
        photons: shot noise of so many photons at level 1.
        saturate: intensities cut off above.
        gain: gain far from 1, as one window for a whole plate gives it; otherwise ln(gain) deviates by `usual_gain`.
        noise: camera noise; standard deviation at gain 1; a part `grainy` of it with a grain of several px.
        offset: shift of all intensities; otherwise one that deviates by `usual_offset`.
        alone: helper channels left out.
        invert: bright and dark exchanged (transmitted light and colours).
        grey: colours averaged.
        drop: one or two of the colours left out.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    diameters: tuple[float, float] = (7.0, 130.0)
    zoom: tuple[float, float] = (0.25, 4.0)
    empty_zoom: tuple[float, float] = (0.5, 2.0)
    stretch: tuple[float, float] = (0.9, 1.1)
    border: float = 0.3
    empty: float = 0.1
    dim_objects: float = 0.25
    dim_share: tuple[float, float] = (0.1, 0.6)
    dim_level: tuple[float, float] = (0.15, 0.6)
    gamma: float = 0.35
    gamma_power: tuple[float, float] = (0.6, 1.6)
    glow: float = 0.2
    glow_sigma: tuple[float, float] = (4.0, 25.0)
    glow_level: tuple[float, float] = (0.2, 1.5)
    soft: float = 0.2
    soft_sigma: tuple[float, float] = (0.3, 2.0)
    defocus: float = 0.1
    defocus_sigma: tuple[float, float] = (0.04, 0.14)
    streak: float = 0.1
    streak_sigma: tuple[float, float] = (2.5, 0.8)
    coarse: float = 0.1
    coarse_factor: tuple[int, int] = (2, 3)
    uneven: float = 0.35
    uneven_loss: tuple[float, float] = (0.0, 0.65)
    photons: float = 0.12
    photon_count: tuple[float, float] = (6.0, 200.0)
    saturate: float = 0.1
    saturate_at: tuple[float, float] = (0.5, 1.0)
    gain: float = 0.55
    gain_factor: tuple[float, float] = (0.15, 2.0)
    usual_gain: float = 0.2
    noise: float = 0.6
    noise_sigma: tuple[float, float] = (0.004, 0.12)
    grainy: float = 0.2
    offset: float = 0.4
    offset_by: tuple[float, float] = (-0.1, 0.15)
    usual_offset: float = 0.02
    alone: float = 0.15
    invert: float = 0.4
    grey: float = 0.35
    drop: float = 0.1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "streak_sigma":  # greatest along and across, no range
                continue
            if isinstance(value, tuple) and not (value[0] <= value[1] and (value[0] > 0 or name not in BY_LOG)):
                least = " above 0" if name in BY_LOG else ""
                raise ValueError(f"{name} must be a range{least}, the lesser value first, not {value}")
            if isinstance(value, float) and not (0 <= value <= 1):
                raise ValueError(f"{name} must be from 0 to 1, not {value}")


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
        matrix, offset = _geometry(rng, sample.labels.shape, size, zoom, how)
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
        factors = dim_objects(rng, labels, how)
        low = np.percentile(channels[:, ::4, ::4], 5, axis=(1, 2)).astype(np.float32)[:, None, None]
        channels = low + (channels - low) * factors
    light = uneven_light(rng, size, how) if rng.random() < how.uneven else None
    image = np.zeros((IN_CHANNELS, size, size), np.float32)
    alike = sample.light == "colour"  # the colours of one picture: one lens, one lamp
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
        return _evenly_by_log(rng, how.empty_zoom)
    return float(np.clip(_evenly_by_log(rng, how.diameters) / diameter, *how.zoom))


def _evenly_by_log(rng: Rng, between: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(between))))


def _geometry(
    rng: Rng, shape: tuple[int, ...], size: int, zoom: float, how: Augmentation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset from crop to image coordinates: any angle, mirrored or not, a little stretched, somewhere."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(*how.stretch)
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


def dim_objects(rng: Rng, labels: NDArray[np.int32], how: Augmentation) -> Float:
    """Factors that make some objects of the crop dim, with soft borders; YX."""
    factors = np.ones(int(labels.max()) + 1, np.float32)
    chosen = rng.random(factors.size) < rng.uniform(*how.dim_share)
    factors[chosen] = rng.uniform(*how.dim_level, int(chosen.sum()))
    factors[0] = 1
    spread = ndi.minimum_filter(factors[labels], 3)  # the halo of an object dims with it
    return blur(spread, 0.7, 0.7)


def uneven_light(rng: Rng, size: int, how: Augmentation) -> Float:
    """Uneven illumination, YX: 1 at its brightest."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = axis[:, None], axis[None]
    a, b, c, d = rng.normal(0, 1, 4).astype(np.float32)
    field = a * y + b * x + 0.5 * (c * y * y + d * x * x)
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return (1 - np.float32(rng.uniform(*how.uneven_loss)) * field).astype(np.float32)


def shown(rng: Rng, channels: Float, how: Augmentation) -> Float:
    """How one picture of transmitted light may be given: inverted, grey, its colours in any order, or some of them."""
    if len(channels) == IN_CHANNELS:
        channels = channels.mean(0, keepdims=True) if rng.random() < how.grey else channels[rng.permutation(3)]
        if rng.random() < how.drop:
            channels = channels[: rng.integers(1, 3)]
    return 1 - channels if rng.random() < how.invert else channels


def bend(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Raise intensities to a power."""
    return (np.sign(x) * np.abs(x) ** np.float32(rng.uniform(*how.gamma_power))).astype(np.float32)


def glow(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Add light from out of focus."""
    sigma = _evenly_by_log(rng, how.glow_sigma)
    return x + np.float32(rng.uniform(*how.glow_level)) * blur(x, sigma, sigma)


def soften(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Blur alike in all directions."""
    sigma = rng.uniform(*how.soft_sigma)
    return blur(x, sigma, sigma)


def defocus(rng: Rng, x: Float, how: Augmentation, diameter: float) -> Float:
    """Blur in proportion to the objects, as far as these are of 12 px and more."""
    sigma = rng.uniform(*how.defocus_sigma) * max(diameter, 12.0)
    return blur(x, sigma, sigma)


def streak(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Blur along the first axis; crops are turned in any direction before."""
    along, across = how.streak_sigma
    return blur(x, rng.uniform(0, along), rng.uniform(0, across))


def coarse(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Sample with larger pixels, and enlarge again."""
    factor = int(rng.integers(*how.coarse_factor, endpoint=True))
    return enlarge(shrink(x, factor), factor, x.shape)


def few_photons(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Shot noise."""
    photons = _evenly_by_log(rng, how.photon_count)
    # normal noise of the variance that Poisson's has: a tenth of the time
    spread = np.sqrt(np.clip(x, 0.02, 8) / np.float32(photons))
    return x + spread * rng.standard_normal(x.shape, dtype=np.float32)


def saturate(rng: Rng, x: Float, how: Augmentation) -> Float:
    """Cut intensities off above."""
    return np.minimum(x, np.float32(rng.uniform(*how.saturate_at)))


def camera_noise(rng: Rng, x: Float, how: Augmentation, gain: float) -> Float:
    """Noise that doesn't depend on the light; a camera of higher gain has more."""
    noise = rng.standard_normal(x.shape, dtype=np.float32)
    if rng.random() < how.grainy:
        noise = blur(noise, 0.8, 0.8) * np.float32(2.5)
    return x + noise * np.float32(_evenly_by_log(rng, how.noise_sigma) * max(gain, 0.2))


def disturb(rng: Rng, x: Float, how: Augmentation, *, diameter: float, light: Float | None) -> Float:
    """Change one channel (YX, about 0..1) as stain, focus, light, exposure and camera would.

    `diameter` is the median of the objects in px, for the width of defocus; `light` is None where it is even.
    """
    focus = (how.gamma, bend), (how.glow, glow), (how.soft, soften), (how.defocus, partial(defocus, diameter=diameter))
    for chance, change in (*focus, (how.streak, streak), (how.coarse, coarse)):
        x = change(rng, x, how) if rng.random() < chance else x
    if light is not None:
        x = x * light
    for chance, change in ((how.photons, few_photons), (how.saturate, saturate)):
        x = change(rng, x, how) if rng.random() < chance else x
    far = rng.random() < how.gain
    gain = _evenly_by_log(rng, how.gain_factor) if far else float(np.exp(rng.normal(0, how.usual_gain)))
    x = x * np.float32(gain)
    if rng.random() < how.noise:
        x = camera_noise(rng, x, how, gain)
    offset = rng.uniform(*how.offset_by) if rng.random() < how.offset else rng.normal(0, how.usual_offset)
    return (x + np.float32(offset)).astype(np.float32)
