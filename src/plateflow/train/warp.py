"""Compiled image operations of the crops: cut and turn, blur, and targets of large objects."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plateflow.flows import flows_from_labels

Float = NDArray[np.float32]
ENLARGED = 0.8
"""Pixels of an image for one of the crop, below which its labels are smoothed."""
COARSE_FROM = 40.0
"""Median diameter (px) from which on flows are computed on every second pixel: an eighth of the work."""


def cut(
    pixels: NDArray[np.uint16] | NDArray[np.float32],
    limits: NDArray[np.float64],
    labels: NDArray[np.int32],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    size: int,
) -> tuple[Float, NDArray[np.int32]]:
    """Cut a square out of an image, turned and scaled; what lies beyond the image is its mirror image.

    Where the image shrinks, several places are averaged for each pixel of the crop, so that fine patterns don't alias.

    Args:
        pixels: CYX.
        limits: (C, 2), values that become 0 and 1.
        labels: YX.
        matrix: (2, 2), from coordinates (y, x) of the crop to those of the image.
        offset: of the crop's first pixel in the image.
        size: of the crop.

    Returns:
        The crop's channels, float32 (C, size, size), bilinear; its labels, (size, size), nearest, or where the image
        is enlarged by the votes of four pixels, so that outlines have no steps.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    image = np.zeros((len(pixels), size, size), np.float32)
    cut_labels = np.zeros((size, size), np.int32)
    _cut(pixels, limits, labels, matrix, offset, max(1, min(4, round(scale))), scale < ENLARGED, image, cut_labels)
    return image, cut_labels


@njit(cache=True, nogil=True)
def _fold(position: float, length: int) -> float:
    """Mirror a coordinate into 0..length - 1."""
    last = length - 1.0
    if last == 0.0:
        return 0.0
    while position < 0.0 or position > last:
        position = -position if position < 0.0 else 2.0 * last - position
    return position


@njit(cache=True, nogil=True)
def _vote(labels, y, x):  # type: ignore[no-untyped-def]
    """The label that most of a point's surroundings have, of the four pixels around it by their bilinear weights."""
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, labels.shape[0] - 1), min(x0 + 1, labels.shape[1] - 1)
    fy, fx = y - y0, x - x0
    a, b, c, d = labels[y0, x0], labels[y0, x1], labels[y1, x0], labels[y1, x1]
    if a == b == c == d:
        return a
    weights = ((a, (1 - fy) * (1 - fx)), (b, (1 - fy) * fx), (c, fy * (1 - fx)), (d, fy * fx))
    best, most = a, -1.0
    for label, _ in weights:
        total = 0.0
        for other, weight in weights:
            if other == label:
                total += weight
        if total > most:
            best, most = label, total
    return best


@njit(cache=True, nogil=True, fastmath=True)
def _cut(pixels, limits, labels, matrix, offset, fold, enlarges, image, cut_labels):  # type: ignore[no-untyped-def]
    channels, height, width = pixels.shape
    size = cut_labels.shape[0]
    gain = np.zeros(channels)
    for c in range(channels):
        if limits[c, 1] > limits[c, 0]:
            gain[c] = 1.0 / (limits[c, 1] - limits[c, 0])
    for i in range(size):
        for j in range(size):
            y = _fold(matrix[0, 0] * i + matrix[0, 1] * j + offset[0], height)
            x = _fold(matrix[1, 0] * i + matrix[1, 1] * j + offset[1], width)
            cut_labels[i, j] = _vote(labels, y, x) if enlarges else labels[int(y + 0.5), int(x + 0.5)]
            for part in range(fold * fold):
                if fold > 1:
                    u = i + (part // fold + 0.5) / fold - 0.5
                    v = j + (part % fold + 0.5) / fold - 0.5
                    y = _fold(matrix[0, 0] * u + matrix[0, 1] * v + offset[0], height)
                    x = _fold(matrix[1, 0] * u + matrix[1, 1] * v + offset[1], width)
                y0, x0 = int(y), int(x)
                y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
                fy, fx = np.float32(y - y0), np.float32(x - x0)
                for c in range(channels):
                    a, b = np.float32(pixels[c, y0, x0]), np.float32(pixels[c, y0, x1])
                    d, e = np.float32(pixels[c, y1, x0]), np.float32(pixels[c, y1, x1])
                    top, bottom = a + (b - a) * fx, d + (e - d) * fx
                    image[c, i, j] += top + (bottom - top) * fy
    for c in range(channels):
        for i in range(size):
            for j in range(size):
                image[c, i, j] = (image[c, i, j] / (fold * fold) - limits[c, 0]) * gain[c]


def blur(image: Float, sigma_y: float, sigma_x: float) -> Float:
    """Gaussian blur of a YX image, its border repeated; wide ones are computed on a coarser grid."""
    factor = int(min(sigma_y, sigma_x) // 3) + 1
    if factor > 1:
        return enlarge(blur_exactly(shrink(image, factor), sigma_y / factor, sigma_x / factor), factor, image.shape)
    return blur_exactly(image, sigma_y, sigma_x)


def shrink(image: Float, factor: int) -> Float:
    """Means of blocks of a YX image; its border is repeated where blocks reach beyond it."""
    rows, columns = (-(-n // factor) for n in image.shape)
    padded = np.pad(image, [(0, rows * factor - image.shape[0]), (0, columns * factor - image.shape[1])], "edge")
    return padded.reshape(rows, factor, columns, factor).mean((1, 3), dtype=np.float32)


def enlarge(small: Float, factor: int, shape: tuple[int, ...]) -> Float:
    """Enlarge a YX image bilinearly: pixel (0, 0) becomes the middle of the first block of `factor` x `factor`."""
    out = np.empty(shape, np.float32)
    _spread(small, factor, out)
    return out


def blur_exactly(image: Float, sigma_y: float, sigma_x: float) -> Float:
    """Gaussian blur of a YX image, cut off at three standard deviations, its border repeated."""
    for sigma in (sigma_x, sigma_y):  # along rows, then, turned, along columns
        if sigma > 0.05:
            reach = int(3 * sigma + 0.5) + 1
            kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
            padded = np.pad(image, [(0, 0), (reach, reach)], mode="edge")
            out = np.zeros_like(image)
            _convolve_rows(padded, (kernel / kernel.sum()).astype(np.float32), out)
            image = out
        image = np.ascontiguousarray(image.T)
    return image


@njit(cache=True, nogil=True, fastmath=True)
def _convolve_rows(padded, kernel, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for k in range(kernel.size):
            weight = kernel[k]
            for j in range(out.shape[1]):
                out[i, j] += weight * padded[i, j + k]


@njit(cache=True, nogil=True, fastmath=True)
def _spread(small, factor, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        y = min(max((i + 0.5) / factor - 0.5, 0.0), small.shape[0] - 1.0)
        y0 = int(y)
        y1 = min(y0 + 1, small.shape[0] - 1)
        for j in range(out.shape[1]):
            x = min(max((j + 0.5) / factor - 0.5, 0.0), small.shape[1] - 1.0)
            x0 = int(x)
            x1 = min(x0 + 1, small.shape[1] - 1)
            top = small[y0, x0] + (small[y0, x1] - small[y0, x0]) * np.float32(x - x0)
            bottom = small[y1, x0] + (small[y1, x1] - small[y1, x0]) * np.float32(x - x0)
            out[i, j] = top + (bottom - top) * np.float32(y - y0)


def flow_target(labels: NDArray[np.int32], diameter: float) -> Float:
    """Target of a crop: unit flow dy, dx, and 1 inside objects; float32 (3, Y, X).

    Args:
        labels: YX, each object in one piece; both sides even.
        diameter: median of the objects, px. From `COARSE_FROM` on the flow of every second pixel is computed and
            interpolated within each object.
    """
    target = np.zeros((3, *labels.shape), np.float32)
    target[2] = labels > 0
    if diameter < COARSE_FROM:
        target[:2] = flows_from_labels(labels)
    else:
        small = np.ascontiguousarray(labels[::2, ::2])
        _interpolate_flows(flows_from_labels(small), small, labels, target)
    return target


@njit(cache=True, nogil=True)
def _interpolate_flows(flows, small, labels, target):  # type: ignore[no-untyped-def]
    """Unit vectors at all pixels from those at even ones of the same object."""
    for i in range(labels.shape[0]):
        y0 = i // 2
        y1 = min(y0 + i % 2, small.shape[0] - 1)
        for j in range(labels.shape[1]):
            label = labels[i, j]
            if label == 0:
                continue
            x0 = j // 2
            x1 = min(x0 + j % 2, small.shape[1] - 1)
            dy = dx = 0.0
            for y in (y0, y1):
                for x in (x0, x1):
                    if small[y, x] == label:
                        dy += flows[0, y, x]
                        dx += flows[1, y, x]
            length = np.sqrt(dy * dy + dx * dx)
            if length > 0.0:
                target[0, i, j] = dy / length
                target[1, i, j] = dx / length
