"""Samples for training and evaluation: annotated images from folders, and simulated ones.

The folders are laid out as `<data>/<split>/<source>/images/<name>.tif` with `labels/<name>.tif`. A sample holds what
the network sees, by the convention of the model card: the channel of the object first, helper channels after it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from plateflow.segment.image import scale_intensities
from plateflow.simulate.cells import camera, simulate_field

CODEX_CHANNELS = {"membrane": 0, "cytoplasm": 1, "nucleus": 2}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One annotated image."""

    source: str
    name: str
    image: NDArray[np.float32]
    """CYX, 1 to 3 channels, each scaled by its percentiles; the object's channel first."""
    labels: NDArray[np.int32]
    """YX."""
    diameter: float
    """Median diameter of the objects in px; 0 without objects."""


def median_diameter(labels: NDArray[np.integer]) -> float:
    """Median over objects of the diameter (px) of a circle of the object's area; 0 without objects."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    return float(np.median(2 * np.sqrt(areas / np.pi))) if areas.size else 0.0


def _sample(source: str, name: str, channels: Iterable[NDArray[np.generic]], labels: NDArray[np.integer]) -> Sample:
    image = scale_intensities(np.stack(list(channels)))
    return Sample(
        source=source, name=name, image=image, labels=labels.astype(np.int32), diameter=median_diameter(labels)
    )


def load_source(folder: Path) -> list[Sample]:
    """Read every image of one source, in order of names.

    A CODEX image (membrane, cytoplasm, nucleus) gives two samples of whole cells, (cytoplasm, nucleus) and (membrane,
    nucleus); a colour image gives its mean, dark objects made bright; a grey one is taken as it is.

    Raises:
        ValueError: if the folder holds no images, or one without labels of its shape.
    """
    samples: list[Sample] = []
    for path in sorted((folder / "images").glob("*.tif")):
        image = tifffile.imread(path)
        labels = tifffile.imread(folder / "labels" / path.name)
        if image.ndim == 3 and image.shape[-1] == 3:
            image = 255.0 - image.mean(axis=-1)
        if image.shape[-2:] != labels.shape:
            raise ValueError(f"{path} has the shape {image.shape}, its labels {labels.shape}.")
        if image.ndim == 2:
            samples.append(_sample(folder.name, path.stem, [image], labels))
        else:
            for name in ("cytoplasm", "membrane"):
                channels = [image[CODEX_CHANNELS[name]], image[CODEX_CHANNELS["nucleus"]]]
                samples.append(_sample(folder.name, f"{path.stem}:{name}", channels, labels))
    if not samples:
        raise ValueError(f"{folder} holds no images (expected images/<name>.tif with labels/<name>.tif).")
    return samples


def simulated_samples(n: int, seed: int, size: int = 320) -> tuple[list[Sample], list[Sample]]:
    """Draw `n` fields over the range of a screen's looks; return (nuclei samples, cell samples).

    One field in twenty holds no cells. Sizes, crowding, dimness, blur, light and noise differ from field to field.
    """
    nuclei: list[Sample] = []
    cells: list[Sample] = []
    for number in range(n):
        rng = np.random.default_rng((seed, number))
        empty = number % 20 == 19
        scene = simulate_field(
            rng,
            (size, size),
            density=0.0 if empty else rng.uniform(0.03, 0.35),
            diameter_px=float(np.exp(rng.uniform(np.log(14), np.log(40)))),
            size_spread=rng.uniform(0.08, 0.25),
            elongation=rng.uniform(1.1, 1.5),
            irregularity=rng.uniform(0.02, 0.12),
            clumping=rng.uniform(0.2, 0.8),
            overlap=rng.uniform(0.0, 0.2),
            brightness=rng.uniform(0.35, 0.7),
            brightness_spread=rng.uniform(0.15, 0.45),
            dim_fraction=rng.uniform(0.0, 0.4),
            mitotic_fraction=rng.uniform(0.0, 0.08),
            chromatin=rng.uniform(0.05, 0.35),
            cell_scale=rng.uniform(1.7, 3.0),
            debris=rng.uniform(0.0, 2.5),
            haze=rng.uniform(0.0, 0.08),
        )
        image = camera(
            rng,
            scene.channels,
            blur_px=rng.uniform(0.6, 1.8),
            defocus_px=rng.uniform(1.0, 4.0) if rng.random() < 0.15 else 0.0,
            illumination=rng.uniform(0.0, 0.5),
            photons=float(np.exp(rng.uniform(np.log(80), np.log(1500)))),
        )
        dna, agp = image[list(scene.channels).index("DNA")], image[list(scene.channels).index("AGP")]
        nuclei.append(_sample("simulated_nuclei", f"{seed}-{number}", [dna], scene.nuclei))
        cells.append(_sample("simulated_cells", f"{seed}-{number}", [agp, dna], scene.cells))
    return nuclei, cells
