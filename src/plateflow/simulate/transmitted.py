"""Looks of transmitted light: phase contrast, bright field, relief, and stained tissue.

The first three are made of one map, the optical thickness of the cells: phase contrast subtracts its surroundings
(hence the halo, and dark cells that turn bright where they are thick), bright field out of focus shows its curvature
(hence rims), relief its slope along one direction. Stained tissue is two dyes that absorb (Beer and Lambert).
"""

from typing import Literal

import numpy as np
from scipy import ndimage as ndi

from plateflow.simulate.anatomy import Anatomy
from plateflow.simulate.bodies import noise
from plateflow.simulate.cells import Float, smooth_field
from plateflow.simulate.stains import fine_noise, nuclear

Contrast = Literal["phase", "brightfield", "relief", "texture"]
HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
"""Absorption in red, green, blue (Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23, 291, 2001)."""


def optical_thickness(rng: np.random.Generator, a: Anatomy, *, flat: bool = False) -> Float:
    """Optical thickness of cells, about 0 to 2: dome or flat lamella, nucleus, nucleoli, granules, ruffled edge."""
    tall = a.smallness(rng)  # cells that round up rise
    height = a.per_cell(np.clip(rng.lognormal(0, rng.uniform(0.1, 0.6), a.count) * tall, 0.4, 3.0))
    dome = a.thickness ** (rng.uniform(0.06, 0.3) if flat else rng.uniform(0.25, 1.1))
    grains = fine_noise(rng, a, rng.uniform(0.015, 0.04))
    swell = noise(rng, a.cells.shape, max(1.5, 0.12 * a.diameter))
    near = np.exp(-a.to_nucleus / (rng.uniform(0.15, 0.6) * a.diameter))
    granules = rng.uniform(0.03, 0.35) * np.clip(grains, -0.5, 2.5) * (0.25 + near) * (a.nuclei == 0)
    nucleus = rng.uniform(-0.15, 0.35) * a.nucleus_depth**0.5 + rng.uniform(0.1, 0.6) * a.nucleoli
    edge = rng.uniform(0.05, 0.35) * np.exp(-((a.depth / max(1.0, 0.03 * a.diameter)) ** 2))
    body = height * (0.12 + dome * (1 + rng.uniform(0, 0.3) * swell)) + granules + nucleus + edge
    return np.where(a.cells > 0, np.clip(body, 0.02, None), 0).astype(np.float32)


def transmitted(rng: np.random.Generator, a: Anatomy, contrast: Contrast) -> Float:
    """Light that has passed the cells, float32 YX, about 0.5 where there is none.

    Args:
        contrast: `phase`, `brightfield`, `relief` (as DIC or oblique light), or `texture`: granules alone, on a body
            as bright as its surroundings.
    """
    shape = a.cells.shape
    flat = contrast == "phase" and rng.random() < 0.5  # spread cells: grey bodies, narrow bright halos
    phase = ndi.gaussian_filter(optical_thickness(rng, a, flat=flat), rng.uniform(0.4, 1.2))
    if contrast == "phase":
        reach = rng.uniform(0.03, 0.09) if flat else rng.uniform(0.05, 0.3)
        around = ndi.gaussian_filter(phase, max(1.2, reach * a.diameter), truncate=3.0)
        light = -np.sin(rng.uniform(0.6, 2.2) * (phase - rng.uniform(0.7, 1.4) * around))
    elif contrast == "brightfield":
        out = max(0.8, rng.uniform(0.01, 0.05) * a.diameter)
        curved = ndi.gaussian_laplace(phase, out) * out**1.5
        light = rng.choice([-1, 1]) * curved - rng.uniform(0.0, 0.35) * phase
    elif contrast == "relief":
        angle = rng.uniform(0, 2 * np.pi)
        smooth = ndi.gaussian_filter(phase, max(0.7, 0.012 * a.diameter))
        slope = np.gradient(smooth)
        light = (np.sin(angle) * slope[0] + np.cos(angle) * slope[1]) * max(2.0, 0.12 * a.diameter)
    else:
        fine = fine_noise(rng, a, rng.uniform(0.012, 0.035))
        light = np.where(a.cells > 0, 0.6 * fine * (0.4 + 0.6 * a.thickness), 0)
        light = light + rng.uniform(-0.5, 0.5) * a.nucleoli + rng.uniform(-0.1, 0.1) * (a.cells > 0)
    inside = light[a.cells > 0]
    if inside.size:
        light = np.clip(light / max(float(inside.std()), 1e-3), -4, 4)
    uneven = rng.uniform(0.0, 0.04) * noise(rng, shape, 0.5 * min(shape)) + rng.uniform(0, 0.008) * noise(rng, shape, 2)
    return np.clip(0.5 + rng.uniform(0.05, 0.16) * light + uneven, 0.02, None).astype(np.float32)


def stained_tissue(rng: np.random.Generator, a: Anatomy, beneath: Float) -> Float:
    """Section stained with hematoxylin and eosin or dyes like them, (3, Y, X) = R, G, B, 0 to 1.

    The cells of `a` are nuclei; `beneath` are others, out of focus, YX, 0 to 1.
    """
    shape, d = a.cells.shape, a.diameter
    chromatin = nuclear(rng, a)
    rim = np.exp(-((a.depth / max(1.0, 0.04 * d)) ** 2)) * (a.cells > 0)
    level = a.per_cell(np.clip(rng.lognormal(0, rng.uniform(0.1, 0.4), a.count), 0.5, 2.0))
    pale = rng.uniform(0.4, 1.0)
    hematoxylin = level * (pale * chromatin + rng.uniform(0.1, 0.6) * rim) + rng.uniform(0.0, 0.5) * beneath
    stroma = 0.5 + 0.25 * noise(rng, shape, d * rng.uniform(0.3, 1.0)) + 0.15 * noise(rng, shape, max(0.8, d * 0.05))
    angle = rng.uniform(0, np.pi)
    waves = ndi.gaussian_filter1d(noise(rng, shape, max(0.8, 0.03 * d)), 0.4 * d, axis=int(angle > np.pi / 2))
    stroma = np.clip(stroma + rng.uniform(0, 0.3) * waves / max(float(waves.std()), 1e-6), 0.05, None)
    holes = noise(rng, shape, d * rng.uniform(0.4, 1.5)) > rng.uniform(0.9, 2.5)
    stroma = np.where(ndi.binary_erosion(holes, iterations=2) & (a.cells == 0), 0.02, stroma)
    eosin = stroma * rng.uniform(0.15, 0.7) * np.where(a.cells > 0, 0.4, 1)
    first = np.clip(HEMATOXYLIN + rng.normal(0, 0.12, 3), 0.05, 1.2)
    second = np.clip(EOSIN + rng.normal(0, 0.15, 3), 0.0, 1.2)
    density = first[:, None, None] * rng.uniform(0.7, 1.9) * hematoxylin + second[:, None, None] * eosin
    lamp = rng.uniform(0.82, 1.0, (3, 1, 1)) * (1 - rng.uniform(0, 0.1) * smooth_field(rng, shape))
    return (lamp * np.exp(-density)).astype(np.float32)
