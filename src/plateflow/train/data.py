"""Samples for training and evaluation: what the network sees of an image, and its labels; simulated samples.

By the convention of the model card the channel of the object is the first, helper channels come after it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plateflow.segment.diameter import median_diameter
from plateflow.segment.image import intensity_limits, scale_intensities
from plateflow.simulate.cells import camera, simulate_field
from plateflow.simulate.looks import Look, random_field

CODEX_CHANNELS = {"membrane": 0, "cytoplasm": 1, "nucleus": 2}
GREY, LEAST_BACKGROUND = 0.25, 0.1
"""The level that all but 5 % of the background exceed in transmitted light (phase contrast 0.31 and more, fluorescence
at most 0.18), and the share of an image that must be background to tell."""

Light = Literal["fluorescence", "transmitted", "colour"]
"""`transmitted`: the background is grey, objects are darker or brighter; `colour`: red, green, blue of such light."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One annotated image, as its file has it: processes that make crops share it, and normalise as they cut.

    Attributes:
        pixels: CYX, 1 to 3 channels, the object's channel first.
        limits: (C, 2), the values of each channel that are mapped to 0 and 1; equal where there is no contrast.
        labels: YX, 0 outside objects.
        diameter: median diameter of the objects in px; 0 without objects.
    """

    source: str
    name: str
    pixels: NDArray[np.uint16] | NDArray[np.float32]
    limits: NDArray[np.float64]
    labels: NDArray[np.int32]
    diameter: float
    light: Light = "fluorescence"

    @property
    def image(self) -> NDArray[np.float32]:
        """The normalised image, CYX; not clipped, a channel without contrast is 0."""
        return scale_intensities(self.pixels, self.limits)


def light_of(image: NDArray[np.float32], labels: NDArray[np.integer]) -> Light:
    """What light shows the objects of a normalised image CYX: where all is grey around them, it is transmitted."""
    around = image[0][labels == 0]
    grey = len(image) == 1 and around.size > LEAST_BACKGROUND * labels.size and np.percentile(around, 5) > GREY
    return "transmitted" if grey else "fluorescence"


def sizes_about(samples: Iterable[Sample]) -> tuple[float, float]:
    """The range (px) over which a fine-tune spreads the median diameters of images: a fourth beyond those there are.

    It gains more in the same time than over all sizes (docs/correcting.md).
    """
    sizes = [sample.diameter for sample in samples if sample.diameter]
    return min(sizes) / 1.25, max(sizes) * 1.25


def make_sample(
    source: str, name: str, channels: Iterable[NDArray[Any]], labels: NDArray[np.integer], light: Light = "fluorescence"
) -> Sample:
    """Make a sample of the channels of an image, YX of any number type, and its labels."""
    pixels = np.stack(list(channels))
    pixels = pixels.astype(np.uint16 if np.can_cast(pixels.dtype, np.uint16) else np.float32)
    return Sample(
        source=source,
        name=name,
        pixels=pixels,
        limits=np.array([intensity_limits(channel) for channel in pixels]),
        labels=np.ascontiguousarray(labels, dtype=np.int32),
        diameter=median_diameter(labels),
        light=light,
    )


def look_sample(look: Look, seed: int, number: int) -> Sample:
    """Draw field `number` of a look; the same for the same arguments."""
    field = random_field(np.random.default_rng((seed, number, sum(map(ord, look)))), look)
    bright = look == "transmitted" or field.kind == "bright empty"
    light: Light = "colour" if look == "tissue" else "transmitted" if bright else "fluorescence"
    return make_sample(f"simulated_{look}", f"{seed}-{number}:{field.kind}", field.image, field.labels, light)


def plate_sample(target: Literal["nuclei", "cells"], seed: int, number: int, size: int = 384) -> Sample:
    """Draw field `number` of the kind of cells that simulated plates hold; one field in twenty is empty.

    Sizes, crowding, dimness, blur, light and noise differ from field to field. Nuclei are seen in DNA alone; whole
    cells in a cytoplasm stain, most with DNA beside it. Both targets of one number are the same field.
    """
    rng = np.random.default_rng((seed, number))
    sparse, odd, rough = rng.random(3) < (0.25, 0.3, 0.2)
    density = 0.0 if number % 20 == 19 else rng.uniform(0.005, 0.04) if sparse else rng.uniform(0.03, 0.4)
    scene = simulate_field(
        rng,
        (size, size),
        density=density,
        diameter_px=float(np.exp(rng.uniform(np.log(10), np.log(46)))),
        size_spread=rng.uniform(0.05, 0.3),
        elongation=rng.uniform(1.5, 2.6) if odd else rng.uniform(1.1, 1.5),
        irregularity=rng.uniform(0.15, 0.25) if rough else rng.uniform(0.02, 0.15),
        clumping=rng.uniform(0.1, 0.9),
        overlap=rng.uniform(0.0, 0.25),
        brightness=rng.uniform(0.3, 0.8),
        brightness_spread=rng.uniform(0.1, 0.5),
        dim_fraction=rng.uniform(0.0, 0.4),
        mitotic_fraction=rng.uniform(0.0, 0.1),
        chromatin=rng.uniform(0.05, 0.45),
        cell_scale=min(rng.uniform(1.5, 4.2), np.sqrt(2.5 / max(density, 0.01))),  # as far as there is room
        debris=rng.uniform(0.0, 2.5) if density else 0.0,  # alone, what is out of focus would look like nuclei
        haze=rng.uniform(0.0, 0.12),
    )
    image = camera(
        rng,
        scene.channels,
        blur_px=rng.uniform(0.5, 2.2),
        defocus_px=rng.uniform(1.0, 5.0) if rng.random() < 0.15 else 0.0,
        illumination=rng.uniform(0.0, 0.6),
        photons=float(np.exp(rng.uniform(np.log(40), np.log(2000)))),
    )
    dna, agp, marker = (image[list(scene.channels).index(name)] for name in ("DNA", "AGP", "Marker"))
    if target == "nuclei":
        return make_sample("plate_nuclei", f"{seed}-{number}", [dna], scene.nuclei)
    body = agp if rng.random() < 0.7 else marker
    if crowded := (scene.cells > 0).mean() > 0.6:  # there only nuclei and rims, if these are sharp, tell cells apart
        photons = float(np.exp(rng.uniform(np.log(200), np.log(2000))))
        body = camera(rng, {"AGP": scene.channels["AGP"]}, blur_px=rng.uniform(0.5, 1.1), photons=photons)[0]
    channels = [body, dna] if rng.random() < 0.8 or crowded else [body]
    return make_sample("plate_cells", f"{seed}-{number}", channels, scene.cells)
