"""Flows to labels by Cellpose 4's own conventions, written down anew: where labels differ, these are the reasons.

Paths are float32 in coordinates of -1 to 1 over the image, which the sampling takes for another convention: at pixel p
of L it reads the flow at ``p * L / (L - 1) - 0.5``, so half a pixel off at the borders, where it finds half the flow or
none. End positions are truncated. Equal counts in one neighbourhood are all seeds. Heat diffuses in every object for as
many steps as the largest needs, and slopes are taken across the borders of objects that touch. Objects above 0.4 of the
image are dropped; small ones are dropped before holes are filled and after, and a hole takes what lies in it.
"""

import itertools
import math

import numpy as np
from scipy import ndimage

LARGEST = 0.4


def cellpose_labels(
    flow: np.ndarray, logit: np.ndarray, *, n_steps: int = 200, flow_threshold: float = 0.4, min_size: int = 15
) -> np.ndarray:
    """Make labels of a flow field ``(D, *space)`` and logits ``(*space)``; in 3D without a flow error, as Cellpose."""
    mask = logit > 0
    labels = label(follow(flow * mask / np.float32(5), mask, n_steps), mask)
    drop(labels, np.bincount(labels.ravel()) > int(LARGEST * labels.size))
    if flow_threshold > 0 and labels.ndim == 2:
        drop(labels, flow_errors(labels, flow) > flow_threshold)
    drop(labels, np.bincount(labels.ravel()) < min_size)
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        if box is not None:
            labels[box][ndimage.binary_fill_holes(labels[box] == number)] = number
    drop(labels, np.bincount(labels.ravel()) < min_size)
    return labels


def follow(flow: np.ndarray, mask: np.ndarray, n_steps: int) -> np.ndarray:
    """Follow from every pixel of the mask; end pixels ``(D, n)``."""
    axes = range(mask.ndim)
    size = np.array(mask.shape, np.float32)[:, None]
    span = np.maximum(size - 1, 1)
    # A border of zeros is what lies outside; the parts of a vector lie side by side, to be found at once.
    field = np.pad(np.moveaxis(flow, 0, -1) * (2 / span[:, 0]), [(1, 1)] * mask.ndim + [(0, 0)])
    strides = [int(np.prod(field.shape[axis + 1 : -1])) for axis in axes]
    field = field.reshape(-1, mask.ndim)
    at = before = np.stack(np.nonzero(mask)).astype(np.float32) / span * 2 - 1
    end, moving = at.copy(), np.arange(at.shape[1])
    for left in range(n_steps, 0, -1):
        if left % 12 == 0 and left < n_steps:  # a state of 12 steps ago comes back: whole rounds are left
            still = (at == before).all(0)
            end[:, moving] = at
            moving, at = moving[~still], at[:, ~still]
            before = at
        where = (at + 1) * (size * np.float32(0.5)) - np.float32(0.5)
        low = np.floor(where)
        weights = 1 - (where - low), where - low
        pixel = sum((low[axis].astype(np.int64) + 1) * strides[axis] for axis in axes)
        step = np.zeros((at.shape[1], mask.ndim), np.float32)
        for corner in itertools.product((0, 1), repeat=mask.ndim):
            share = math.prod((weights[corner[axis]][axis] for axis in axes), start=np.float32(1))
            step += field.take(pixel + np.dot(corner, strides), 0) * share[:, None]
        at = np.clip(at + step.T, -1, 1)
    end[:, moving] = at
    return np.minimum(((end + 1) * np.float32(0.5) * span).astype(np.int64), np.array(mask.shape)[:, None] - 1)


def label(endpoints: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Label the pixels of a mask by the seed in whose basin their paths end; greater seeds win."""
    count = np.zeros(mask.shape, np.int64)
    np.add.at(count, tuple(endpoints), 1)
    seeds = np.argwhere((count > 10) & (count == ndimage.maximum_filter(count, 5, mode="constant")))
    seeds = seeds[np.lexsort((-np.arange(len(seeds)), count[tuple(seeds.T)]))]
    owner = np.zeros(mask.shape, np.int64)
    cube = np.ones((3,) * mask.ndim, bool)
    for number, seed in enumerate(seeds, 1):
        box = tuple(slice(max(s - 5, 0), s + 6) for s in seed)
        basin = np.zeros(count[box].shape, bool)
        basin[tuple(seed - [s.start for s in box])] = True
        for _ in range(5):
            basin = ndimage.binary_dilation(basin, cube) & (count[box] > 2)
        owner[box][basin] = number
    labels = np.zeros(mask.shape, np.int64)
    labels[mask] = owner[tuple(endpoints)]
    return labels


def flow_errors(labels: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Mean squared difference of the flow from the labels' own, for each label 0..max of a plane; NaN without any."""
    padded = np.pad(labels, 1)
    objects = [(number, box) for number, box in enumerate(ndimage.find_objects(padded), 1) if box is not None]
    centres = []
    for number, box in objects:
        pixels = np.argwhere(padded[box] == number)
        middle = np.floor(pixels.mean(0) + 0.5)
        centres.append(pixels[((pixels - middle) ** 2).sum(1).argmin()] + [s.start for s in box])
    y, x = np.transpose(centres).reshape(2, -1).astype(int)
    shifts = list(itertools.product((-1, 0, 1), repeat=2))
    inside = [(np.roll(padded, shift, (0, 1)) == padded) & (padded > 0) for shift in shifts]
    heat = np.zeros(padded.shape)
    for _ in range(max((2 * sum(s.stop - s.start + 1 for s in box) for _, box in objects), default=0)):
        heat[y, x] += 1
        heat = sum(np.roll(heat, shift, (0, 1)) * same for shift, same in zip(shifts, inside, strict=True)) / 9
    slope = np.stack([np.roll(heat, -1, axis) - np.roll(heat, 1, axis) for axis in (0, 1)])[:, 1:-1, 1:-1]
    slope /= np.maximum(np.sqrt((slope**2).sum(0)), 1e-300)
    away = ((slope - flow.astype(np.float64) / 5) ** 2).sum(0)
    with np.errstate(invalid="ignore"):
        return np.bincount(labels.ravel(), away.ravel()) / np.bincount(labels.ravel())


def drop(labels: np.ndarray, numbers: np.ndarray) -> None:
    """Remove the labels that ``numbers``, by label, marks."""
    labels[numbers[labels]] = 0
