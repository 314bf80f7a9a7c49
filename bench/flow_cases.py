"""Label images and flow fields to measure with: as realistic as needed, and quick to make at any size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Labels = NDArray[np.int32]


def draw_cells(size: int, count: int, *, foreground: float = 0.49, ndim: int = 2, seed: int = 0) -> Labels:
    """Cells on a jittered grid, bumpy ellipsoids that stop where the next one begins; many of them touch."""
    random = np.random.default_rng(seed)
    side = int(np.ceil(count ** (1 / ndim)))
    pitch = size / side
    centres = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) * pitch] * ndim, indexing="ij"), -1).reshape(-1, ndim)
    centres = centres[np.sort(random.permutation(len(centres))[:count])]
    centres = centres + random.uniform(-0.33, 0.33, centres.shape) * pitch
    volume = foreground * 1.06 * size**ndim / count
    radius = (volume / (np.pi if ndim == 2 else 4 / 3 * np.pi)) ** (1 / ndim) * random.uniform(0.8, 1.25, count)
    stretch = np.exp(random.normal(0, 0.2, (count, ndim)))
    stretch /= stretch.prod(1, keepdims=True) ** (1 / ndim)
    turn = np.linalg.qr(random.normal(size=(count, ndim, ndim)))[0]
    tree = cKDTree(centres)
    labels = np.empty((size,) * ndim, np.int32)
    plane = np.indices((size,) * (ndim - 1)).reshape(ndim - 1, -1).T
    for row in range(size):
        pixels = np.concatenate([np.full((len(plane), 1), row), plane], 1)
        cell = tree.query(pixels)[1]
        away = np.einsum("nij,nj->ni", turn[cell], pixels - centres[cell]) / stretch[cell]
        bumps = 1 + 0.1 * np.cos(3 * np.arctan2(away[:, 0], away[:, 1]) + cell)
        inside = (away**2).sum(1) < (radius[cell] * bumps) ** 2
        labels[row] = np.where(inside, cell + 1, 0).reshape(labels.shape[1:])
    return labels


def draw_flow(labels: Labels, flows: NDArray[np.float32], *, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a network would predict: 5 x the targets, blurred, with correlated noise; noisy logits. float32."""
    random = np.random.default_rng(seed)

    def noise(sd: float) -> NDArray[Any]:
        field = ndimage.gaussian_filter(random.normal(size=labels.shape).astype(np.float32), 1.5)
        return field * np.float32(sd / field.std())

    flow = np.stack([ndimage.gaussian_filter(5 * component, 0.7) + noise(0.5) for component in flows])
    logit = ndimage.gaussian_filter(np.where(labels > 0, np.float32(6), np.float32(-6)), 0.7) + noise(0.5)
    return flow, logit


def tile(array: NDArray[Any], times: int) -> NDArray[Any]:
    """Repeat the last two axes, for canvases that would take long to draw."""
    return np.tile(array, (1,) * (array.ndim - 2) + (times, times))
