"""Spots: the filter against a slow one, what is found against what was drawn, and what is measured of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import erf

from plateflow.features import spots
from plateflow.features.spot_columns import per_object, spot_features
from plateflow.features.spots import Background, find_spots, log_response, sigma_of

NOISE = 20.0
DIAMETER = 6.0


def slow_response(plane: NDArray, inside: NDArray, diameter: float) -> NDArray[np.float64]:
    """The same in float64: the image is filled pixel by pixel, then convolved with the whole kernel at once."""
    sigma = sigma_of(diameter)
    radius = int(np.ceil(4 * sigma))
    x = np.arange(-radius, radius + 1) / sigma
    smooth = np.exp(-(x**2) / 2)
    smooth /= smooth.sum()
    second = (x**2 - 1) * smooth
    second -= second.sum() * smooth
    kernel = -(np.outer(smooth, second) + np.outer(second, smooth))
    values = np.pad(np.where(inside, plane, 0).astype(np.float64), 2 * radius, mode="symmetric")
    known = np.pad(inside, 2 * radius, mode="symmetric")
    filled = np.zeros_like(values)
    for y, x in np.ndindex(values.shape):
        box = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
        if known[y, x]:
            filled[y, x] = values[y, x]
        elif known[box].any():
            filled[y, x] = values[box][known[box]].mean()
    whole = ndimage.correlate(filled, kernel, mode="constant")
    return whole[2 * radius : -2 * radius, 2 * radius : -2 * radius]


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    diameter=st.floats(2, 6),
    rows=st.integers(1, 41),
    share=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_the_response_is_that_of_a_slow_filter_whatever_the_blocks(seed, shape, diameter, rows, share) -> None:
    rng = np.random.default_rng(seed)
    plane = rng.normal(500, 100, shape).astype(np.float32)
    inside = ndimage.uniform_filter(rng.random(shape), 5) >= np.quantile(rng.random(99), share) * 0.9
    plane[~inside] = np.nan
    first = log_response(plane, diameter, inside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spots, "BLOCK_ROWS", rows)
        in_blocks = log_response(plane, diameter, inside)
    np.testing.assert_array_equal(first, in_blocks)
    if inside.any():
        wanted = slow_response(plane, inside, diameter)
        np.testing.assert_allclose(first[inside], wanted[inside], rtol=0, atol=2e-3)


def draw(rng: np.random.Generator, n: int, snr: float, size: int = 256) -> tuple[NDArray[np.float32], NDArray]:
    """An image of Gaussian spots whose sigma is that of their diameter, integrated over pixels, at least a diameter
    apart (nearer ones have one maximum), on an even background with noise; and their places.

    Signal to noise: height of a spot above the background over the standard deviation of the noise of a pixel.
    """
    places: list[NDArray] = []
    while len(places) < n:
        place = rng.uniform(DIAMETER, size - DIAMETER, 2)
        if not places or (np.linalg.norm(np.array(places) - place, axis=1) >= DIAMETER).all():
            places.append(place)
    sigma, edges = sigma_of(DIAMETER), np.arange(size + 1) - 0.5
    shares = [np.diff(erf((edges - np.array(places)[:, [axis]]) / (np.sqrt(2) * sigma)), axis=1) / 2 for axis in (0, 1)]
    image = 400 + 2 * np.pi * sigma**2 * snr * NOISE * np.einsum("ny,nx->yx", *shares)
    return np.rint(image + rng.normal(0, NOISE, image.shape)).astype(np.float32), np.array(places)


def paired(true: NDArray, found: NDArray) -> int:
    """How many true spots have one of their own among those found, at most half a diameter from it."""
    far = cdist(true, found) > DIAMETER / 2
    return int((~far[linear_sum_assignment(far)]).sum())


def test_recall_and_precision_from_sparse_to_crowded() -> None:
    """A plate of fields with 20 to 230 spots (10 % of the area is spots) at signal to noise 3, 5 and 10; as in a run,
    one threshold for all of them, from the medians over its fields."""
    rng = np.random.default_rng(5)
    fields = [draw(rng, n, snr) for snr in (3, 5, 10) for n in (20, 80, 230)]
    backgrounds = [Background.of(log_response(image, DIAMETER).ravel()) for image, _ in fields]
    threshold = Background.median_of(backgrounds).threshold
    labels = np.ones((256, 256), np.uint32)
    recalls, precisions, errors = [], [], []
    for image, true in fields:
        table, *_ = find_spots(image, labels, diameter_px=DIAMETER, threshold=threshold)
        found = table[["y_px", "x_px"]].to_numpy()
        right = paired(true, found)
        recalls.append(right / len(true))
        precisions.append(right / len(found))
        errors.append(np.median(cdist(true, found).min(axis=1)))
    print(np.round(recalls, 3), np.round(precisions, 3), np.round(errors, 2))
    assert min(recalls) >= 0.95
    assert min(precisions) >= 0.95
    assert errors[-1] < 0.15  # px, at a signal to noise of 10


def test_noise_alone_has_fewer_spots_than_was_aimed_at() -> None:
    rng = np.random.default_rng(8)
    image = rng.normal(400, NOISE, (1024, 1024)).astype(np.float32)
    least = Background.of(log_response(image, DIAMETER)[::2, ::2].ravel()).threshold
    table, *_ = find_spots(image, np.ones(image.shape, np.uint32), diameter_px=DIAMETER, threshold=least)
    assert len(table) <= 4  # of 37,000 areas of a spot; one in 28,000 is the bound


def test_the_background_is_what_is_left_of_spots_and_of_the_dark_around_them() -> None:
    rng = np.random.default_rng(3)
    noise, spoilt = rng.normal(2, 3, 20_000), rng.normal(2, 3, 20_000)
    spoilt[:2000] += rng.uniform(20, 200, 2000)
    clean, found = Background.of(noise), Background.of(spoilt)
    assert (clean.median, clean.deviation) == pytest.approx((2, 3), rel=0.04)
    assert (found.median, found.deviation) == pytest.approx((2, 3), rel=0.06)
    even = Background.of(np.full(50, 7.0))
    assert (even.median, even.deviation) == (7, 0)


def test_what_is_measured_of_spots_and_of_their_objects() -> None:
    """Against sums over pixels, written out, in two objects, one of which holds no spot; a third isn't known whole."""
    rng = np.random.default_rng(1)
    plane = rng.normal(100, 1, (80, 120)).astype(np.float32)
    ys, xs = np.mgrid[:80, :120]
    for y, x in ((20.3, 25.0), (31.0, 39.6), (60.0, 20.0), (40.0, 100.0)):
        plane += 60 * np.exp(-((ys - y) ** 2 + (xs - x) ** 2) / (2 * sigma_of(DIAMETER) ** 2)).astype(np.float32)
    labels = np.zeros((80, 120), np.uint32)
    labels[5:50, 10:60], labels[5:30, 62:80], labels[30:60, 85:119] = 7, 9, 12
    plane[59, 118] = np.nan
    table, objects, counts, between = find_spots(
        plane, labels, diameter_px=DIAMETER, threshold=10, pixel_size_um=(0.5, 0.25), outside=ys < 2
    )
    assert table["label"].tolist() == [7, 7]  # what lies outside of objects, and in one that isn't known, isn't counted
    assert objects.numbers.tolist() == [7, 9]
    assert counts[8:].sum() == 2
    assert between is None  # of too few pixels
    found = table.sort_values("y_px")
    np.testing.assert_allclose(found[["y_px", "x_px"]], [[20.3, 25.0], [31.0, 39.6]], atol=0.1)
    apart = np.hypot(*np.diff(found[["y_px", "x_px"]], axis=0)[0])
    np.testing.assert_allclose(found["neighbour_px"], [apart, apart])
    for row in found.itertuples():
        distance = np.hypot(ys - row.y_px, xs - row.x_px)
        ring = plane[(distance >= DIAMETER) & (distance <= 1.5 * DIAMETER) & (labels == 7)]
        assert row.background == pytest.approx(np.median(ring), rel=1e-6)
        disc = plane[distance <= DIAMETER / 2].astype(float)
        assert row.intensity == pytest.approx((disc - row.background).sum(), rel=1e-5)
        outline = (labels == 7) & ~ndimage.binary_erosion(labels == 7)
        assert row.border_px == pytest.approx(distance[outline].min())
        assert row.centroid_px == pytest.approx(np.hypot(row.y_px - 27, row.x_px - 34.5))
        assert row.quality == pytest.approx(30, abs=2.5)  # half the height
    features = spot_features("Foci", "Nuclei", "GFP")
    values = per_object(table, objects, features)
    assert values["Children_Foci_Count"].to_dict() == {7: 2, 9: 0}
    assert values.at[7, "Children_Foci_Density_um2"] == pytest.approx(2 / (45 * 50 * 0.125))
    assert values.at[9, "Children_Foci_IntegratedIntensity_GFP"] == 0
    assert values.at[7, "Children_Foci_IntegratedIntensity_GFP"] == pytest.approx(table["intensity"].sum())
    for column, of in {
        "Mean_Foci_Intensity_IntegratedIntensity_GFP": "intensity",
        "Mean_Foci_Quality_GFP": "quality",
        "Mean_Foci_Distance_Centroid_Nuclei": "centroid_px",
        "Mean_Foci_Distance_Minimum_Nuclei": "border_px",
        "Mean_Foci_Neighbors_FirstClosestDistance": "neighbour_px",
    }.items():
        assert values.at[7, column] == pytest.approx(table[of].mean())
        assert np.isnan(values.at[9, column])


def test_an_image_without_objects_has_no_spots() -> None:
    table, objects, counts, between = find_spots(
        np.ones((9, 9), np.float32), np.zeros((9, 9), np.uint32), diameter_px=3, threshold=0.1
    )
    assert (len(table), len(objects.numbers), counts.sum(), between) == (0, 0, 0, None)
    assert len(per_object(table, objects, spot_features("Foci", "Nuclei", "GFP"))) == 0
