"""Stains of screening assays, drawn on the anatomy of a field.

Each stain takes a random generator and an `Anatomy` and returns light, float32 YX, 0 outside the cells and about 1
where a cell is well stained; how bright each cell is comes later. All widths follow the size of the cells, so that a
cell of 20 px shows what a camera of that resolution would.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from plateflow.simulate.anatomy import Anatomy
from plateflow.simulate.bodies import noise
from plateflow.simulate.cells import Float

Stain = Callable[[np.random.Generator, Anatomy], Float]


def diffuse(rng: np.random.Generator, a: Anatomy) -> Float:
    """A dye of the whole cell: thick in the middle, flat at the edge; nucleus left out, alike, or brighter."""
    flat = rng.uniform(0.15, 1.2)
    body = (rng.uniform(0.05, 0.35) + a.thickness**flat) * _grain(rng, a, rng.uniform(0.02, 0.2), rng.uniform(0, 0.3))
    nucleus = rng.choice([rng.uniform(0.25, 0.8), 1.0, rng.uniform(1.2, 2.2)], p=[0.45, 0.25, 0.3])
    nucleoli = 1 + rng.uniform(-0.3, 0.9) * a.nucleoli
    return _inside(a, body * np.where(a.nuclei > 0, nucleus * nucleoli, 1))


def membrane(rng: np.random.Generator, a: Anatomy) -> Float:
    """Membrane or junctions alone: a rim, patchy, over a body that is nearly dark."""
    width = max(0.8, rng.uniform(0.012, 0.06) * a.diameter)
    rim = np.exp(-((a.depth / width) ** 2)) * _grain(rng, a, 0.15, rng.uniform(0.05, 0.4))
    body = rng.uniform(0.0, 0.25) * a.thickness ** rng.uniform(0.3, 1.0) * np.where(a.nuclei > 0, 0.6, 1)
    ruffles = rng.uniform(0, 0.4) * np.clip(fine_noise(rng, a, 0.06) - 1, 0, 2) * (a.nuclei == 0)
    return _inside(a, rim + body + ruffles)


def vesicles(rng: np.random.Generator, a: Anatomy) -> Float:
    """Lysosomes and endosomes: spots about a dark nucleus on a dim body."""
    spots = np.clip(fine_noise(rng, a, rng.uniform(0.008, 0.025)) - rng.uniform(0.6, 1.8), 0, 3)
    near = np.exp(-a.to_nucleus / (rng.uniform(0.06, 0.3) * a.diameter)) + rng.uniform(0, 0.2)
    body = rng.uniform(0.1, 0.4) * (0.3 + a.thickness)
    return _inside(a, np.where(a.nuclei > 0, rng.uniform(0.1, 0.6), 1) * (body + 1.2 * spots * near))


def mitochondria(rng: np.random.Generator, a: Anatomy) -> Float:
    """A net of threads, dense about the nucleus: the zero crossings of smooth noise."""
    thread = np.exp(-((fine_noise(rng, a, rng.uniform(0.015, 0.05)) / rng.uniform(0.2, 0.5)) ** 2))
    breaks = np.clip(0.7 + 0.7 * fine_noise(rng, a, 0.05), 0, 1.5)
    near = np.exp(-a.to_nucleus / (rng.uniform(0.12, 0.6) * a.diameter)) * (0.3 + a.thickness)
    body = rng.uniform(0.05, 0.3) * (0.3 + a.thickness)
    return _inside(a, np.where(a.nuclei > 0, rng.uniform(0.1, 0.5), 1) * (body + thread * breaks * near))


def actin(rng: np.random.Generator, a: Anatomy) -> Float:
    """Stress fibres along the cell, a bright cortex, the nucleus faint beneath."""
    width = max(0.7, rng.uniform(0.012, 0.03) * a.diameter)
    turned = a.axis + rng.normal(0, 0.25, len(a.axis))
    fibres = np.zeros(a.cells.shape, np.float32)
    kinds = np.rint(turned / (np.pi / 6)).astype(int) % 6
    for kind in np.unique(kinds[1:]):
        fibres = np.where((kinds == kind)[a.cells], _stripes(rng, a, kind * np.pi / 6, width), fibres)
    cortex = np.exp(-((a.depth / (rng.uniform(1.2, 3.0) * width + 0.5)) ** 2))
    body = rng.uniform(0.15, 0.5) * (0.4 + 0.6 * a.thickness) * np.where(a.nuclei > 0, rng.uniform(0.4, 1.0), 1)
    return _inside(a, body + rng.uniform(0.2, 0.8) * np.clip(fibres, 0, 3) + rng.uniform(0.2, 1.0) * cortex)


def golgi(rng: np.random.Generator, a: Anatomy) -> Float:
    """A clumped cap at one side of the nucleus, over a dim body."""
    y, x = _from_pole(a)
    size = rng.uniform(0.07, 0.16) * a.diameter
    cap = np.exp(-0.5 * (y * y + x * x) / size**2) * np.clip(1 + fine_noise(rng, a, 0.03), 0.1, None)
    body = rng.uniform(0.2, 0.5) * (0.3 + a.thickness) * _grain(rng, a, 0.03, 0.3)
    return _inside(a, np.where(a.nuclei > 0, 0.55, 1) * (body + rng.uniform(0.8, 2.0) * cap))


def reticulum(rng: np.random.Generator, a: Anatomy) -> Float:
    """Endoplasmic reticulum: a fine mesh that fades from the nucleus to the edge."""
    mesh = 1 - rng.uniform(0.2, 0.6) * np.exp(-((fine_noise(rng, a, rng.uniform(0.015, 0.03)) / 0.5) ** 2))
    fade = np.exp(-a.to_nucleus / (rng.uniform(0.15, 0.6) * a.diameter)) * (0.25 + a.thickness) + 0.08
    return _inside(a, np.where(a.nuclei > 0, rng.uniform(0.2, 0.8), 1) * mesh * fade)


def tubulin(rng: np.random.Generator, a: Anatomy) -> Float:
    """Filaments that run out from the centrosome."""
    y, x = _from_pole(a)
    radius = np.hypot(y, x)
    texture = noise(rng, (256, 256), 1.3)
    offset = rng.integers(0, 256, len(a.axis))[a.cells]
    bundles = float(np.clip(rng.uniform(0.8, 1.6) * a.diameter, 20, 160))
    around = np.rint(np.arctan2(y, x) / (2 * np.pi) * bundles * 2).astype(int) + offset
    outward = np.rint(radius / (0.12 * a.diameter)).astype(int) + offset
    threads = ndi.gaussian_filter(texture[around % 256, outward % 256], 0.6)
    fade = 0.35 + np.exp(-radius / (rng.uniform(0.2, 0.5) * a.diameter))
    return _inside(
        a, fade * np.clip(0.8 + rng.uniform(0.2, 0.5) * threads, 0.05, None) * np.where(a.nuclei > 0, 0.6, 1)
    )


def rna(rng: np.random.Generator, a: Anatomy) -> Float:
    """RNA dyes: an even body, a darker nucleus, bright nucleoli."""
    body = (0.3 + 0.7 * a.thickness**0.6) * _grain(rng, a, 0.03, 0.25)
    return _inside(a, np.where(a.nuclei > 0, rng.uniform(0.4, 0.9) + rng.uniform(0.6, 1.6) * a.nucleoli, body))


def nuclear(rng: np.random.Generator, a: Anatomy) -> Float:
    """DNA: domes with chromatin, nucleoli dark, in some species bright chromocentres."""
    dome = a.nucleus_depth ** rng.uniform(0.1, 0.5)
    chromatin = _grain(rng, a, 0.05 * rng.uniform(0.5, 1.5), rng.uniform(0.05, 0.45))
    chromatin = chromatin - rng.uniform(0, 0.5) * a.nucleoli
    chromatin = chromatin + rng.uniform(0, 0.25) * noise(rng, a.cells.shape, max(1.0, 0.07 * a.diameter))
    if rng.random() < 0.25:
        chromatin = chromatin + rng.uniform(0.4, 1.2) * np.clip(fine_noise(rng, a, 0.03) - 1.2, 0, 1.5)
    return np.where(a.nuclei > 0, dome * np.clip(chromatin, 0.15, None), 0).astype(np.float32)


WHOLE_CELL: dict[str, Stain] = {
    "diffuse": diffuse,
    "membrane": membrane,
    "vesicles": vesicles,
    "mitochondria": mitochondria,
    "actin": actin,
    "golgi": golgi,
    "reticulum": reticulum,
    "tubulin": tubulin,
    "rna": rna,
}


def _inside(a: Anatomy, light: NDArray[np.floating[Any]]) -> Float:
    return np.where(a.cells > 0, light, 0).astype(np.float32)


def fine_noise(rng: np.random.Generator, a: Anatomy, part: float) -> Float:
    """Noise whose grain is a part of a cell's diameter (less in large cells), and at least what a pixel shows."""
    size = a.diameter * min(1.0, (40 / a.diameter) ** 0.4)
    return noise(rng, a.cells.shape, max(0.7, part * size))


def _grain(rng: np.random.Generator, a: Anatomy, part: float, contrast: float) -> Float:
    """A factor about 1 that varies with the grain of `fine_noise`."""
    return np.clip(1 + np.float32(contrast) * fine_noise(rng, a, part), 0.1, None)


def _stripes(rng: np.random.Generator, a: Anatomy, angle: float, width: float) -> Float:
    """Streaks along one direction, mean 0 and standard deviation about 1."""
    height, across = a.cells.shape
    side = int(np.hypot(height, across)) + 4
    streaks = ndi.gaussian_filter(rng.standard_normal((side, side), dtype=np.float32), (width, 9 * width))
    streaks /= np.float32(streaks.std())
    y, x = np.mgrid[:height, :across].astype(np.float32)
    y, x = y - height / 2, x - across / 2
    v = np.rint(y * np.cos(angle) - x * np.sin(angle) + side / 2).astype(int)
    u = np.rint(y * np.sin(angle) + x * np.cos(angle) + side / 2).astype(int)
    return streaks[np.clip(v, 0, side - 1), np.clip(u, 0, side - 1)]


def _from_pole(a: Anatomy) -> tuple[Float, Float]:
    """Offset (y, x) in px of each pixel from its cell's pole."""
    pole = a.pole.astype(np.float32)[a.cells]
    y, x = np.mgrid[: a.cells.shape[0], : a.cells.shape[1]].astype(np.float32)
    return y - pole[..., 0], x - pole[..., 1]
