"""Label images and flow fields of all kinds, drawn from a seed; and the slow, plain way from one to the other."""

import itertools

import numpy as np
from scipy import ndimage

from plateflow.flows import flows_from_labels


def draw_labels(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Objects that touch, lie in each other and cross borders: round, elongated, ring-shaped, tiny, huge."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    grid = np.indices(shape).astype(float)
    axes = (slice(None), *(None for _ in shape))
    for label in range(1, random.integers(2, 80)):
        centre = random.uniform(-3, np.array(shape) + 3)
        size = random.choice([2.0, 5.0, 8.0, max(shape) / 2], p=[0.2, 0.5, 0.29, 0.01])
        stretch = random.choice([1.0, 1.3, 4.0], p=[0.4, 0.5, 0.1])
        turn = np.linalg.qr(random.normal(size=(len(shape), len(shape))))[0]
        away = np.tensordot(turn, grid - centre[axes], 1)
        away[0] /= stretch
        distance = np.sqrt((away**2).sum(0))
        inside = distance < size
        if random.random() < 0.15:
            inside &= distance > size * 0.5
        labels[inside & ((labels == 0) | (random.random() < 0.5))] = label
    return labels


def draw_cells(shape: tuple[int, ...], seed: int, count: int = 80) -> np.ndarray:
    """Compact cells as a network would find them: balls of 7 to 11 px that touch, without small remnants."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    grid = np.indices(shape)
    for label, centre in enumerate(random.integers(0, shape, (count, len(shape))), 1):
        away = ((grid - centre[(slice(None), *(None for _ in shape))]) ** 2).sum(0)
        labels[(away < random.integers(7, 12) ** 2) & (labels == 0)] = label
    return np.where(np.bincount(labels.ravel())[labels] > 100, labels, 0)


def draw_flow(labels: np.ndarray, seed: int, *, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """What a network would predict for these labels: 5 x the targets, blurred, with correlated noise; and logits."""
    random = np.random.default_rng(seed)

    def rough(scale: float) -> np.ndarray:
        field = ndimage.gaussian_filter(random.normal(size=labels.shape), 1.5)
        return field * (scale / max(field.std(), 1e-9))

    flow = np.stack([ndimage.gaussian_filter(c, 0.7) * 5 + rough(noise) for c in flows_from_labels(labels)])
    logit = ndimage.gaussian_filter(np.where(labels > 0, 6.0, -6.0), 0.7) + rough(0.5)
    return flow.astype(np.float16), logit.astype(np.float16)


def draw_scene(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A flow field as above, or wilder: noisier than any network's, long steps, or no structure at all."""
    random = np.random.default_rng(seed)
    flow, logit = draw_flow(draw_labels(shape, seed), seed, noise=random.choice([0.2, 0.5, 1.5]))
    kind = random.integers(0, 6)
    if kind == 0:
        flow = (flow * random.uniform(2, 12)).astype(np.float16)
    elif kind == 1:
        smooth = [ndimage.gaussian_filter(random.normal(size=shape), 3) for _ in flow]
        flow = (np.stack(smooth) * random.choice([5, 60, 400])).astype(np.float16)
    if random.random() < 0.1:
        logit = np.abs(logit) + np.float16(0.5)
    return flow, logit


def slow_flows(labels: np.ndarray) -> np.ndarray:
    """Targets by their definition, one object and one array operation at a time."""
    axes = range(labels.ndim)
    out = np.zeros((labels.ndim, *labels.shape))
    steps = list(itertools.product((-1, 0, 1), repeat=labels.ndim))
    if labels.ndim == 3:
        steps = [step for step in steps if np.abs(step).sum() <= 1]
    for label in np.unique(labels[labels > 0]):
        mask = np.pad(labels == label, 1)
        pixels = np.argwhere(mask)
        middle = np.floor(pixels.mean(0) + 0.5)
        centre = tuple(pixels[((pixels - middle) ** 2).sum(1).argmin()])
        extent = np.ptp(pixels, axis=0) + 1
        heat = np.zeros(mask.shape)
        for _ in range(2 * (extent.sum() + 2) if labels.ndim == 2 else 6 * (extent.sum() + 3)):
            heat[centre] += 1
            heat = sum(np.roll(heat, step, axes) for step in steps) / len(steps) * mask
        slope = np.stack([np.roll(heat, -1, a) - np.roll(heat, 1, a) for a in axes]) * mask
        slope /= np.maximum(np.sqrt((slope**2).sum(0)), 1e-300)
        out += slope[(slice(None), *(slice(1, -1) for _ in axes))]
    return out


def slow_endpoints(flow: np.ndarray, mask: np.ndarray, n_steps: int = 200) -> np.ndarray:
    """Follow in float64, every step of every path."""
    field = np.clip(flow.astype(np.float64) / 5, -7.99, 7.99) * mask
    position = np.argwhere(mask).T.astype(np.float64)
    last = np.array(mask.shape)[:, None] - 1
    for _ in range(n_steps):
        step = [ndimage.map_coordinates(c, position, order=1, mode="nearest") for c in field]
        position = np.clip(position + step, 0, last)
    return np.floor(position + 0.5).astype(np.int64)


def integer_endpoints(flow: np.ndarray, mask: np.ndarray, n_steps: int = 200) -> np.ndarray:
    """Follow in the integers of the design, every step of every path, on the whole canvas."""
    field = np.clip(np.rint(flow.astype(np.float32) * np.float32(819.2)), -32727, 32727).astype(np.int64) * mask
    position = np.argwhere(mask).T * 4096
    last = np.array(mask.shape)[:, None] - 1
    for _ in range(n_steps):
        pixel, part = position >> 12, position & 4095
        corners = {}
        for corner in itertools.product((0, 1), repeat=mask.ndim):
            corners[corner] = field[(slice(None), *np.minimum(pixel + np.array(corner)[:, None], last))]
        for axis in reversed(range(mask.ndim)):
            corners = {
                c[:-1]: a + (((corners[(*c[:-1], 1)] - a) * part[axis] + 2048) >> 12)
                for c, a in corners.items()
                if c[-1] == 0
            }
        position = np.clip(position + corners[()], 0, last * 4096)
    return (position + 2048) >> 12


def slow_labels(
    flow: np.ndarray,
    logit: np.ndarray,
    *,
    n_steps: int = 200,
    flow_threshold: float = 0.4,
    min_size: int = 15,
    max_size: float = np.inf,
) -> np.ndarray:
    """Labels by the definition in the design, with dense arrays over the whole canvas."""
    mask = logit.astype(np.float64) > 0
    endpoints = tuple(integer_endpoints(flow, mask, n_steps))
    count = np.zeros(mask.shape, np.int64)
    np.add.at(count, endpoints, 1)
    # Greater: more end points, then the smaller z, y, x. Every pixel gets a rank of its own.
    rank = np.empty(count.size, np.int64)
    rank[np.lexsort((-np.arange(count.size), count.ravel()))] = np.arange(count.size)
    rank = rank.reshape(count.shape)
    seeds = np.argwhere((count > 10) & (rank == ndimage.maximum_filter(rank, 5, mode="constant", cval=-1)))
    owner = np.zeros(mask.shape, np.int64)
    cube = np.ones((3,) * mask.ndim, bool)
    for number, seed in sorted(enumerate(seeds, 1), key=lambda item: rank[tuple(item[1])]):
        basin = np.zeros(mask.shape, bool)
        basin[tuple(seed)] = True
        for _ in range(5):
            basin = ndimage.binary_dilation(basin, cube) & (count > 2)
        owner[basin] = number
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = owner[endpoints]
    areas = np.bincount(labels.ravel(), minlength=len(seeds) + 1)
    labels[(areas > max_size)[labels]] = 0
    if flow_threshold:
        away = ((flows_from_labels(labels) - flow.astype(np.float64) / 5) ** 2).sum(0)
        for label in np.unique(labels[labels > 0]):
            if away[labels == label].mean() > flow_threshold:
                labels[labels == label] = 0
    filled = labels.copy()
    areas = np.bincount(labels.ravel(), minlength=len(seeds) + 1)
    for label in sorted(np.unique(labels[labels > 0]), key=lambda label: (-areas[label], -label)):
        box = ndimage.find_objects((labels == label).astype(int))[0]
        # scipy's binary_fill_holes uses the same neighbours (4, or 6 in 3D) within the box.
        hole = ndimage.binary_fill_holes(labels[box] == label) & (labels[box] == 0)
        filled[box][hole] = label
    areas = np.bincount(filled.ravel(), minlength=len(seeds) + 1)
    kept = [label for label in range(1, len(seeds) + 1) if areas[label] >= max(min_size, 1)]
    numbers = np.zeros(len(seeds) + 1, np.int64)
    numbers[kept] = np.arange(1, len(kept) + 1)
    return numbers[filled]
