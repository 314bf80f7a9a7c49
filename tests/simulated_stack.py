"""A simulated plate of z stacks: spheroidal nuclei, blurred along z as a microscope does, with their truth."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from plateflow.paths import parse_well
from plateflow.simulate.cells import Float, camera
from plateflow.simulate.harmony import HarmonyLayout
from plateflow.simulate.layout import Layout, PlateDescription, Record


def simulate_stack(
    rng: np.random.Generator, shape: tuple[int, int, int], *, anisotropy: float, nuclei: int, diameter_px: float = 21.0
) -> tuple[Float, NDArray[np.uint32]]:
    """Draw nuclei in a volume.

    Args:
        rng: source of every random number.
        shape: (Z, Y, X) in voxels.
        anisotropy: distance of planes over the size of a pixel.
        nuclei: how many to place; fewer if there is no room. They touch, and overlap a little.
        diameter_px: their mean diameter, in pixels of a plane.

    Returns:
        The scene, float32 ZYX, with a bright nucleus at about 0.6; and labels 1..n, uint32 ZYX.
    """
    size = np.array([anisotropy, 1.0, 1.0])
    grid = np.moveaxis(np.indices(shape), 0, -1) * size
    scene, nearest = np.zeros(shape, np.float32), np.ones(shape)
    labels = np.zeros(shape, np.uint32)
    placed: list[tuple[NDArray[np.float64], float]] = []
    for _ in range(40 * nuclei):
        centre, radius = rng.uniform(0, np.array(shape) * size), diameter_px / 2 * rng.lognormal(0, 0.12)
        if len(placed) == nuclei or any(math.dist(centre, c) < 0.95 * (radius + r) for c, r in placed):
            continue
        placed.append((centre, radius))
        axes = radius * np.exp(rng.normal(0, 0.08, 3))
        turned = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        distance = np.sqrt((((grid - centre) @ turned / axes) ** 2).sum(-1))
        labels[(distance < 1) & (distance < nearest)] = len(placed)
        nearest = np.minimum(nearest, distance)
        scene += np.where(distance < 1, 0.55 * rng.lognormal(0, 0.2) * (1 - 0.3 * distance**2), 0).astype(np.float32)
    texture = ndi.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 2.0 / size)
    scene *= np.clip(1 + 0.15 * texture / texture.std(), 0.2, None)
    kept = np.bincount(labels.ravel(), minlength=len(placed) + 1) >= 30
    kept[0] = False
    return scene, np.where(kept, np.cumsum(kept), 0).astype(np.uint32)[labels]


def simulate_stack_plate(
    out: Path,
    *,
    wells: tuple[str, ...] = ("B02",),
    shape: tuple[int, int, int] = (14, 112, 128),
    z_step_um: float = 1.5,
    pixel_size_um: float = 0.6,
    nuclei: int = 16,
    layout: type[Layout] = HarmonyLayout,
    plate: str = "stack",
    seed: int = 0,
) -> tuple[Path, dict[str, NDArray[np.uint32]]]:
    """Write a plate with one field of `shape` (Z, Y, X) per well and one channel, DNA.

    Returns:
        The plate's folder, and the true labels ZYX of every well.
    """
    writer = layout(out, PlateDescription(name=plate, field_shape=shape[1:], pixel_size_um=pixel_size_um))
    anisotropy = z_step_um / pixel_size_um
    truth = {}
    for well in wells:
        row, column = parse_well(well)
        rng = np.random.default_rng([seed, row, column])
        scene, truth[well] = simulate_stack(rng, shape, anisotropy=anisotropy, nuclei=nuclei)
        blurred = ndi.gaussian_filter(scene, (2.0 / anisotropy, 0, 0))
        for z, plane in enumerate(blurred):
            place = Record(
                row=row, column=column, field=0, channel=0, channel_name="DNA", y_um=0, x_um=0, z=z, z_um=z * z_step_um
            )
            writer.write(place, camera(rng, {"DNA": plane}, illumination=0.0)[0])
    writer.finish()
    return writer.raw, truth
