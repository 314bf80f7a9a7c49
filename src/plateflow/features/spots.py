"""Spots: bright dots of one size in a channel, within the objects of a label set.

A spot is a local maximum of the Laplacian of Gaussian (Lindeberg, Int. J. Comput. Vis. 30, 1998, scale-normalised:
-sigma² ∇²G, sigma = diameter / (2 √2), at which a disc, and a Gaussian spot of that sigma, respond most) that exceeds a
threshold. What a pixel's response is depends on the pixels within 8 sigma alone, in an order that is fixed, so the
blocks in which it is computed decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.features.feature import THREADS, Integers, Labels, Pixels, Regions, Values, Volume

if TYPE_CHECKING:
    import pandas as pd

Plane = NDArray[np.float32]
BLOCK_ROWS = 128
"""Rows of a block: it is as wide as the image, and its rows stay in the processor's cache."""
DEVIATIONS = 4.75
"""By how many standard deviations a spot's response exceeds the background's. Of smoothed white noise, at most
(3 / 2 sigma²) u exp(-u² / 2) / (2 pi)^(3/2) maxima per pixel exceed u of them (Adler, The Geometry of Random Fields,
1981): at 4.75 one in 28,000 areas of a spot, so less than one in 100 nuclei that are 15 spots wide."""
LEAST_AREA = 8000
"""Pixels that tell a background; a quarter of them are looked at."""
BINS = tuple(float(2.0 ** (step / 4)) for step in range(-8, 25))
"""Edges of the histogram of quality, as multiples of the threshold: from a quarter of it to 64 times."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """How the pixels of a field respond that belong to no spot: median, and standard deviation by the MAD."""

    median: float
    deviation: float

    @classmethod
    def of(cls, responses: NDArray[np.floating[Any]]) -> Background:
        """That of responses, of which a minority may be spots and the dark around them.

        Those beyond 3 standard deviations are left out, again and again until none is.
        """
        kept = np.sort(responses.astype(np.float64))
        while True:
            median = float(np.median(kept))
            deviation = 1.4826 * float(np.median(np.abs(kept - median)))
            first, last = np.searchsorted(kept, [median - 3 * deviation, np.nextafter(median + 3 * deviation, np.inf)])
            if last - first == len(kept):
                return cls(median=median, deviation=deviation)
            kept = kept[first:last]

    @classmethod
    def median_of(cls, several: Sequence[Background]) -> Background:
        """The medians of several: a minority that is full of spots moves neither."""
        return cls(
            median=float(np.median([each.median for each in several])),
            deviation=float(np.median([each.deviation for each in several])),
        )

    @property
    def threshold(self) -> float:
        """The least response of a spot."""
        return self.median + DEVIATIONS * self.deviation


def sigma_of(diameter_px: float) -> float:
    """The scale at which spots of a diameter respond most."""
    return diameter_px / (2 * np.sqrt(2))


def log_response(plane: Plane, diameter_px: float, inside: NDArray[np.bool_] | None = None) -> Plane:
    """The scale-normalised Laplacian of Gaussian, negated: float32 (y, x), positive at bright spots.

    Gaussian and second derivative are sampled to 4 sigma; the latter's sum is 0, so that an even background gives 0.

    Args:
        plane: (y, x), in any unit.
        inside: where the plane holds something, by default everywhere. What lies outside counts as the mean of what is
            inside nearby, and beside the plane it is mirrored: no response at an edge that isn't in the sample.
    """
    sigma = sigma_of(diameter_px)
    radius = int(np.ceil(4 * sigma))
    x = np.arange(radius + 1) / sigma
    smooth = np.exp(-(x**2) / 2)
    smooth /= 2 * smooth.sum() - smooth[0]
    second = (x**2 - 1) * smooth
    second -= (2 * second.sum() - second[0]) * smooth
    kernels = smooth.astype(np.float32), (-second).astype(np.float32)
    height, width = plane.shape
    response = np.empty((height, width), np.float32)

    def work(top: int) -> None:
        stop = min(top + BLOCK_ROWS, height)
        # what is filled within one radius looks one radius further
        first, last = top - 2 * radius, stop + 2 * radius
        rows = slice(max(first, 0), min(last, height))
        pad = ((rows.start - first, last - rows.stop), (2 * radius, 2 * radius))
        part = np.pad(plane[rows].astype(np.float32, copy=False), pad, mode="symmetric")
        if inside is not None and not inside[rows].all():
            part = _fill(part, np.pad(inside[rows], pad, mode="symmetric"), radius)
        _filter(part, *kernels, response[top:stop])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(0, height, BLOCK_ROWS)))
    return response


@compiled
def _fill(part: Plane, known: NDArray[np.bool_], radius: int) -> Plane:
    """Put into each pixel that isn't known the mean of those that are, at most `radius` away along y and x; else 0."""
    height, width = part.shape
    totals, counts = np.zeros((height, width)), np.zeros((height, width))
    for y in range(height):
        for x in range(radius, width - radius):
            for u in range(x - radius, x + radius + 1):
                if known[y, u]:
                    totals[y, x] += part[y, u]
                    counts[y, x] += 1
    filled = np.zeros_like(part)
    for y in range(radius, height - radius):
        for x in range(radius, width - radius):
            if known[y, x]:
                filled[y, x] = part[y, x]
                continue
            total, count = 0.0, 0.0
            for v in range(y - radius, y + radius + 1):
                total += totals[v, x]
                count += counts[v, x]
            if count > 0:
                filled[y, x] = total / count
    return filled


@compiled
def _filter(part: Plane, smooth: Plane, second: Plane, response: Plane) -> None:
    """The response of a block, whose pixels are given with a border twice as wide as the kernels reach.

    Rows are sliced, so that indices are plain and the loops are compiled to vectors.
    """
    radius, (height, width) = len(smooth) - 1, response.shape
    long = width + 2 * radius
    along, across = np.empty(long, np.float32), np.empty(long, np.float32)
    for y in range(height):
        middle, s, d = part[y + 2 * radius, radius : radius + long], smooth[0], second[0]
        for x in range(long):
            along[x] = s * middle[x]
            across[x] = d * middle[x]
        for k in range(1, radius + 1):
            above = part[y + 2 * radius - k, radius : radius + long]
            below = part[y + 2 * radius + k, radius : radius + long]
            s, d = smooth[k], second[k]
            for x in range(long):
                both = above[x] + below[x]
                along[x] += s * both
                across[x] += d * both
        row, along_here, across_here = response[y], along[radius : radius + width], across[radius : radius + width]
        s, d = smooth[0], second[0]
        for x in range(width):
            row[x] = d * along_here[x] + s * across_here[x]
        for k in range(1, radius + 1):
            left, right = along[radius - k : radius - k + width], along[radius + k : radius + k + width]
            left_too, right_too = across[radius - k : radius - k + width], across[radius + k : radius + k + width]
            s, d = smooth[k], second[k]
            for x in range(width):
                row[x] += d * (left[x] + right[x]) + s * (left_too[x] + right_too[x])


def maxima(response: Plane, labels: Labels, least: float) -> tuple[Integers, Integers, Values]:
    """y, x and response of the maxima in objects that reach `least`, in raster order."""
    ys, xs = _maxima(response, labels, least)
    return ys, xs, response[ys, xs].astype(np.float64)


@compiled
def _maxima(response: Plane, labels: Labels, least: float) -> tuple[Integers, Integers]:
    """y and x of the maxima that lie in an object and reach `least`: greater than the neighbours before, in raster
    order, and not less than those after."""
    height, width = response.shape
    n = 0
    ys, xs = np.empty(1024, np.int64), np.empty(1024, np.int64)
    for y in range(height):
        for x in range(width):
            value = response[y, x]
            if value < least or labels[y, x] == 0:
                continue
            highest = True
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    v, u = y + dy, x + dx
                    if (dy == 0 and dx == 0) or v < 0 or u < 0 or v >= height or u >= width:
                        continue
                    before = dy < 0 or (dy == 0 and dx < 0)
                    if response[v, u] > value or (before and response[v, u] == value):
                        highest = False
            if highest:
                if n == len(ys):
                    ys, xs = np.append(ys, np.empty(n, np.int64)), np.append(xs, np.empty(n, np.int64))
                ys[n], xs[n] = y, x
                n += 1
    return ys[:n], xs[:n]


def find_spots(
    plane: Plane,
    labels: Labels,
    *,
    diameter_px: float,
    threshold: float,
    pixel_size_um: tuple[float, ...] = (np.nan, np.nan),
    outside: NDArray[np.bool_] | None = None,
) -> tuple[pd.DataFrame, Regions, Integers, Background | None]:
    """The spots in the objects of an image.

    A spot's place is the vertex of the parabola through the response at the maximum and at its two neighbours, along y
    and along x (Lowe, Int. J. Comput. Vis. 60, 2004, without the mixed term, which is 0 for round spots).

    Args:
        plane: (y, x), one channel; NaN where it isn't known: objects there have no spots.
        labels: integers (y, x), 0 is background.
        diameter_px: of a spot.
        threshold: the least quality, above 0.
        pixel_size_um: along y and x, for the densities; NaN where it isn't known.
        outside: (y, x), True where no image lies.

    Returns:
        the spots by ascending label, then quality from the best on, then place, with
            `label`: of the object in which it lies,
            `y_px, x_px`: 0 is the centre of the first pixel,
            `quality`: the response, in units of intensity; half the height of a Gaussian spot of this size,
            `intensity`: sum of what exceeds the background, over the pixels up to half a diameter from it,
            `background`: median of the object's pixels from 1 to 1.5 diameters from it,
            `centroid_px, border_px, neighbour_px`: distance to the object's centroid, to the nearest pixel of its
            outline, and to the nearest other spot in it (NaN without one);
        the objects in which there could be any; how many maxima in them lie between the edges `BINS` times the
        threshold; the background in them, None where they have fewer than `LEAST_AREA` pixels.
    """
    import pandas as pd

    if not (inside := np.isfinite(plane)).all():
        labels = np.where(np.isin(labels, labels[~inside]), 0, labels)
    if outside is not None:
        inside &= ~outside
    response = log_response(plane, diameter_px, None if inside.all() else inside)
    ys, xs, quality = maxima(response, labels, BINS[0] * threshold)
    counts, _ = np.histogram(quality, np.multiply(BINS, threshold))
    kept = quality >= threshold
    ys, xs, quality = ys[kept], xs[kept], quality[kept]
    regions = Regions(labels=labels, pixel_size_um=pixel_size_um)
    order = np.lexsort((xs, ys, -quality, labels[ys, xs]))
    ys, xs, quality = ys[order], xs[order], quality[order]
    table = pd.DataFrame({"label": labels[ys, xs].astype(np.int64)})
    places = vertices(response, ys, xs)
    table["y_px"], table["x_px"] = places
    table["quality"] = quality
    numbers = table["label"].to_numpy()
    table["intensity"], table["background"] = _photometry(plane, inside, labels, numbers, *places, diameter_px)
    firsts = np.searchsorted(table["label"], [*regions.numbers, np.iinfo(np.int64).max])
    distances = _distances(regions.pixels, regions.starts, regions.volume[0], regions.centres(), firsts, *places)
    for name, values in zip(("centroid_px", "border_px", "neighbour_px"), distances.T, strict=True):
        table[name] = values
    looked_at = response[::2, ::2][labels[::2, ::2] > 0]
    return table, regions, counts, Background.of(looked_at) if len(looked_at) >= LEAST_AREA / 4 else None


def vertices(response: Plane, ys: Integers, xs: Integers) -> tuple[Values, Values]:
    """The places of maxima below a pixel, y and x; a maximum on the image's border, or a plateau, stays where it is."""
    places = []
    for at, last, dy, dx in ((ys, response.shape[0] - 1, 1, 0), (xs, response.shape[1] - 1, 0, 1)):
        inner = (at > 0) & (at < last)
        v, u = ys[inner], xs[inner]
        before, here, after = (response[v + k * dy, u + k * dx].astype(np.float64) for k in (-1, 0, 1))
        curvature = before - 2 * here + after
        place = at.astype(np.float64)
        place[inner] += np.divide(before - after, 2 * curvature, out=np.zeros(len(v)), where=curvature < 0)
        places.append(place)
    return places[0], places[1]


@compiled
def _photometry(
    plane: Plane,
    inside: NDArray[np.bool_],
    labels: Labels,
    numbers: Integers,
    ys: Values,
    xs: Values,
    diameter: float,
) -> tuple[Values, Values]:
    """`intensity` and `background` of spots in objects of these numbers; what isn't inside doesn't count.

    Where none of the object's pixels is in the ring, as in one that is no larger than its spot, all of the ring count.
    """
    height, width = plane.shape
    reach = int(np.ceil(1.5 * diameter)) + 1
    intensity, background = np.empty(len(ys)), np.empty(len(ys))
    own, others = np.empty((2 * reach + 1) ** 2), np.empty((2 * reach + 1) ** 2)
    for spot in range(len(ys)):
        y, x = int(np.rint(ys[spot])), int(np.rint(xs[spot]))
        n_own, n_others, total, n = 0, 0, 0.0, 0
        for v in range(max(y - reach, 0), min(y + reach + 1, height)):
            for u in range(max(x - reach, 0), min(x + reach + 1, width)):
                if not inside[v, u]:
                    continue
                value = plane[v, u]
                distance = np.hypot(v - ys[spot], u - xs[spot]) / diameter
                if distance <= 0.5:
                    total += value
                    n += 1
                elif 1 <= distance <= 1.5:
                    if labels[v, u] == numbers[spot]:
                        own[n_own] = value
                        n_own += 1
                    else:
                        others[n_others] = value
                        n_others += 1
        ring = own[:n_own] if n_own else others[:n_others]
        background[spot] = np.median(ring) if len(ring) else np.nan
        intensity[spot] = total - n * background[spot]
    return intensity, background


@compiled
def _distances(
    pixels: Pixels, starts: Integers, labels: Volume, centres: Values, firsts: Integers, ys: Values, xs: Values
) -> Values:
    """By spot, its distances in px to its object's centroid and outline and to the nearest spot there.

    An object's spots are those from `firsts` of it up to the next. An outline's pixels have one of 4 neighbours that is
    not the object's, or beside the image.
    """
    height, width = labels.shape
    found = np.full((len(ys), 3), np.nan)
    for index in range(len(starts) - 1):
        first, last = firsts[index], firsts[index + 1]
        if first == last:
            continue
        label = labels[pixels[starts[index]] // width, pixels[starts[index]] % width]
        for spot in range(first, last):
            found[spot, 0] = np.hypot(ys[spot] - centres[index, 0], xs[spot] - centres[index, 1])
            found[spot, 1] = np.inf
            for other in range(first, spot):
                distance = np.hypot(ys[spot] - ys[other], xs[spot] - xs[other])
                found[spot, 2] = np.fmin(found[spot, 2], distance)
                found[other, 2] = np.fmin(found[other, 2], distance)
        for pixel in pixels[starts[index] : starts[index + 1]]:
            y, x = pixel // width, pixel % width
            inner = 0 < y < height - 1 and labels[y - 1, x] == label and labels[y + 1, x] == label
            if inner and 0 < x < width - 1 and labels[y, x - 1] == label and labels[y, x + 1] == label:
                continue
            for spot in range(first, last):
                found[spot, 1] = min(found[spot, 1], np.hypot(y - ys[spot], x - xs[spot]))
    return found
