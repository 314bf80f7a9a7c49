"""Objects and images for the tests of features, and what cp_measure says of them under our names."""

import warnings
from itertools import combinations

import numpy as np
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter

CHANNELS = ("A", "B", "C")


def cells(size: int = 160, count: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels 1..n, of which some touch each other and the border, and three channels of 16 bits in 0..1."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((size, size), np.int32)
    seeds.ravel()[rng.choice(size * size, count, replace=False)] = np.arange(1, count + 1)
    distance, place = distance_transform_edt(seeds == 0, return_indices=True)
    reach = 14 + 60 * gaussian_filter(rng.normal(size=(size, size)), 4)
    labels = np.where(distance < np.maximum(reach, 2), seeds[tuple(place)], 0)
    image = np.stack([gaussian_filter(rng.random((size, size)), sigma) for sigma in (0.7, 1.5, 3)])
    low, high = image.min((1, 2), keepdims=True), image.max((1, 2), keepdims=True)
    return np.searchsorted(np.unique(labels), labels), np.round((image - low) / (high - low) * 65535) / 65535


@st.composite
def odd_labels(draw: st.DrawFn) -> np.ndarray:
    """Small label images: pixels, lines, rectangles, objects in pieces or with holes, at and off the border."""
    height, width = draw(st.integers(9, 24)), draw(st.integers(9, 24))
    labels = np.zeros((height, width), np.int32)
    for number in draw(st.lists(st.integers(1, 40), min_size=1, max_size=6, unique=True)):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        tall, wide = draw(st.sampled_from([(1, 1), (1, 6), (5, 1), (2, 2), (3, 5), (7, 7), (30, 30)]))
        part = labels[y : y + tall, x : x + wide]
        rough = draw(st.sampled_from([0.0, 0.0, 0.3, 0.8]))
        part[np.random.default_rng(number).random(part.shape) >= rough] = number
    if not labels.any():
        labels[height // 2, width // 2] = 7
    return labels


def own_levels(labels: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Each object's intensities as levels 1 to 255 of 255, over its own range without 1 in 200 px at either end."""
    scaled = np.zeros(plane.shape)
    for number in np.unique(labels[labels > 0]):
        own = plane[labels == number]
        clipped = int(np.ceil(own.size / 200)) if own.size >= 50 else 0
        low, high = np.sort(own)[[clipped, own.size - 1 - clipped]]
        scaled[labels == number] = (1 + np.rint(254 * (own.clip(low, high) - low) / max(high - low, 1e-300))) / 255
    return scaled


def peer_values(labels: np.ndarray, image: np.ndarray) -> dict[str, np.ndarray]:
    """What cp_measure 0.3 has, with the names of our columns; CellProfiler's quartiles (`legacy`)."""
    from cp_measure._sanitize import sanitize
    from cp_measure.bulk import get_core_measurements, get_correlation_measurements
    from cp_measure.core.measurecolocalization import get_correlation_overlap
    from cp_measure.multimask.measureobjectneighbors import measureobjectneighbors

    core = get_core_measurements(legacy=True)
    pairs = {**get_correlation_measurements(), "overlap": sanitize(get_correlation_overlap)}
    found = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for family in ("sizeshape", "feret", "zernike"):
            found |= {f"AreaShape_{name}": value for name, value in core[family](labels, image[0]).items()}
        for channel, plane in zip(CHANNELS, image, strict=False):
            for family in ("intensity", "granularity"):
                found |= {f"{name}_{channel}": value for name, value in core[family](labels, plane).items()}
            for name, value in core["texture"](labels, own_levels(labels, plane)).items():
                head, _, tail = name.partition("_")
                found[f"Texture_{head}_{channel}_{tail}"] = value
            for family in ("radial_distribution", "radial_zernikes"):
                for name, value in core[family](labels, plane).items():
                    head, kind, tail = name.split("_", 2)
                    found[f"{head}_{kind}_{channel}_{tail}"] = value
        for (a, first), (b, second) in combinations(zip(CHANNELS, image, strict=False), 2):
            ends = {"_1": f"_{a}_{b}", "_2": f"_{b}_{a}"}
            for family in ("pearson", "manders_fold", "rwc", "overlap"):
                for name, value in pairs[family](first, second, labels).items():
                    stem = name.replace("Correlation_Pearson", "Correlation_Correlation")
                    found[stem[:-2] + ends[stem[-2:]] if stem[-2:] in ends else f"{stem}_{a}_{b}"] = np.array(value)
        _, compact = np.unique(labels, return_inverse=True)
        compact = compact.reshape(labels.shape)
        if len(np.unique(labels)) > 3:
            found |= measureobjectneighbors(compact, compact, distance_method="Adjacent")
    return found
