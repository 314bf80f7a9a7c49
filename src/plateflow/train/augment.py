"""Random crops with their targets: geometry first, then targets, then what light and camera do.

Targets are made of what the crop shows: an object cut by its border flows to the middle of what is left of it. So a
border of a tile reads as the border of an image, where there is nothing beyond to flow to. Within an image, what a tile
says of objects that its border cuts is outweighed by the neighbour that sees them whole.

The pipeline normalises a whole plate with one window, so a network must read images that are much dimmer than their own
percentiles would make them: the range of gains here is wide on purpose.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.measure import label as connected

from plateflow.flows import flows_from_labels
from plateflow.model.registry import IN_CHANNELS, TRAINED_DIAMETERS
from plateflow.train.data import Sample

Float = NDArray[np.float32]
Rng = np.random.Generator

ZOOM = (0.45, 3.0)  # an image isn't shrunk or enlarged further than this


@dataclass(frozen=True)
class Crop:
    """What one training step sees of one sample; float32."""

    image: Float  # (3, size, size)
    target: Float  # (3, size, size): unit flow dy, dx; 1 inside objects


def random_crop(rng: Rng, sample: Sample, size: int) -> Crop:
    """Cut, turn, scale and disturb a square of `size` px; nine times in ten with an object in it, if there is one."""
    wanted = np.exp(rng.uniform(*np.log(TRAINED_DIAMETERS)))
    zoom = float(np.clip(wanted / max(sample.diameter, 1.0), *ZOOM)) if sample.diameter else rng.uniform(0.6, 1.6)
    diameter = sample.diameter * zoom
    may_be_empty = rng.random() < 0.1 or not sample.diameter
    for _ in range(8):
        matrix, offset = _geometry(rng, sample.labels.shape, size, zoom)
        labels = ndi.affine_transform(sample.labels, matrix, offset, (size, size), order=0, mode="mirror")
        if may_be_empty or labels.any():
            break
    # an object at the image's border and its mirror image may be two pieces of one number
    labels = connected(labels, background=0, connectivity=1).astype(np.int32)
    target = np.concatenate([flows_from_labels(labels), (labels > 0)[None].astype(np.float32)])

    image = np.zeros((IN_CHANNELS, size, size), np.float32)
    dimming = _dim_objects(rng, labels) if rng.random() < 0.3 else None
    light = _light(rng, size) if rng.random() < 0.4 else None
    helpers = rng.random() > 0.1  # sometimes the object's channel is all there is
    for number, channel in enumerate(sample.image):
        if number and not helpers:
            break
        if zoom < 0.75:
            channel = ndi.gaussian_filter(channel, 0.35 / zoom)  # noqa: PLW2901
        x = ndi.affine_transform(channel, matrix, offset, (size, size), order=1, mode="mirror")
        image[number] = _disturb(rng, x, diameter=diameter, dimming=dimming, light=light)
    return Crop(image, target)


def _geometry(
    rng: Rng, shape: tuple[int, ...], size: int, zoom: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset from crop to image coordinates: any angle, mirrored or not, a little stretched, somewhere."""
    angle = rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.9, 1.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([rng.choice([-1, 1]) * stretch, 1 / stretch]) / zoom
    reach = size / 2 / zoom
    centre = [rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in shape]
    return matrix, centre - matrix @ np.full(2, (size - 1) / 2)


def _dim_objects(rng: Rng, labels: NDArray[np.int32]) -> Float:
    """Factors that make some objects of the crop dim, with soft borders; YX."""
    factors = np.ones(int(labels.max()) + 1, np.float32)
    chosen = rng.random(factors.size) < rng.uniform(0.1, 0.6)
    factors[chosen] = rng.uniform(0.15, 0.6, int(chosen.sum()))
    factors[0] = 1
    spread = ndi.grey_erosion(factors[labels], size=(3, 3))  # the halo of an object dims with it
    return ndi.gaussian_filter(spread, 0.7)


def _light(rng: Rng, size: int) -> Float:
    """Uneven illumination, YX: 1 at its brightest, 0.35 to 1 at its darkest."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = axis[:, None], axis[None]
    a, b, c, d = rng.normal(0, 1, 4)
    field = a * y + b * x + 0.5 * (c * y * y + d * x * x)
    field = (field - field.min()) / max(float(np.ptp(field)), 1e-6)
    return (1 - rng.uniform(0.0, 0.65) * field).astype(np.float32)


def _disturb(rng: Rng, x: Float, *, diameter: float, dimming: Float | None, light: Float | None) -> Float:
    """Change one channel (YX, about 0..1) as stain, focus, light, exposure and camera would."""
    if dimming is not None:
        low = np.float32(np.percentile(x, 5))
        x = low + (x - low) * dimming
    if rng.random() < 0.35:
        x = np.sign(x) * np.abs(x) ** np.float32(rng.uniform(0.6, 1.6))
    blur = rng.random()
    if blur < 0.25:
        x = ndi.gaussian_filter(x, rng.uniform(0.3, 2.0))
    elif blur < 0.37:
        x = ndi.gaussian_filter(x, rng.uniform(0.05, 0.16) * max(diameter, 12.0))  # out of focus
    if light is not None:
        x = x * light
    if rng.random() < 0.1:
        x = np.minimum(x, np.float32(rng.uniform(0.5, 1.0)))  # saturated
    gain = np.exp(rng.uniform(np.log(0.15), np.log(2.0)) if rng.random() < 0.6 else rng.normal(0, 0.2))
    x = x * np.float32(gain)
    if rng.random() < 0.7:
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        if rng.random() < 0.2:
            noise = ndi.gaussian_filter(noise, 0.8) * np.float32(2.5)
        x = x + noise * np.float32(np.exp(rng.uniform(np.log(0.004), np.log(0.12))) * max(gain, 0.2))
    offset = rng.uniform(-0.1, 0.15) if rng.random() < 0.4 else rng.normal(0, 0.02)
    return (x + np.float32(offset)).astype(np.float32)
