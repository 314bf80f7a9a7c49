"""Statistics of a well's raw pixels, gathered by tile as it reads them: exact histograms, extremes, sharpness.

One file per well, `histograms/<well>.npz`. From exact counts the intensity window follows for any set of fields without
reading a pixel again; extremes on a grid give the illumination profile; the rest is for quality control.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
from numpy.typing import NDArray

from plateflow.compiled import compiled
from plateflow.errors import ResultsError
from plateflow.files import write_atomic
from plateflow.paths import PlatePaths
from plateflow.plates.pixels import saturation_level

BINS = 8
"""Height and width of the grid of lowest and highest values: so coarse that every place shows some background."""
_LOW_PX = 4
"""Squares of this size are averaged before the least and the greatest are taken: single pixels are mostly noise."""
_COUNTS = numcodecs.Blosc("zstd", clevel=1, shuffle=numcodecs.Blosc.SHUFFLE)
"""Zip would take longer to compress the counts of a plane than it takes to compute them."""
_SQUARE_PX = 16
"""The largest detail that `focus_score` looks at."""
_NOISE = 3.0
"""Coarse detail counts if it has at least this many times the energy of the noise."""


@dataclass(kw_only=True)
class PlaneStatistics:
    """Statistics of one plane, or of several planes of a field and channel added up.

    Attributes:
        counts: number of pixels with each value, int64 (65536,) or (256,).
        low: of each place on a grid over the plane the least mean of a square of `_LOW_PX`, its background; summed
            over the planes, float64 (BINS, BINS).
        high: the same of the greatest mean: the brightest cell there. A square's brightest pixel doesn't count, which
            may be a stuck one of the camera: that has its place in every field, as light has.
        sharpness: of the sharpest plane, see `focus_score`; NaN if there is nothing to focus on.
    """

    counts: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    sharpness: float
    planes: int

    def add(self, other: PlaneStatistics) -> None:
        """Add another plane."""
        self.counts += other.counts
        self.low += other.low
        self.high += other.high
        self.sharpness = float(np.fmax(self.sharpness, other.sharpness))
        self.planes += other.planes


@dataclass(frozen=True, kw_only=True)
class FieldHistogram:
    """Statistics of a field's raw pixels in one channel, over all its t and z.

    Attributes:
        counts, low, high, sharpness: as of `PlaneStatistics`, but low and high are means over the planes, float32.
        top: the raw value from which on a pixel is saturated, see `saturation_level`.
    """

    counts: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    sharpness: float
    top: int

    @property
    def saturated(self) -> float:
        """The fraction of pixels that are saturated."""
        return float(self.counts[self.top :].sum() / self.counts.sum())


def plane_statistics(pixels: NDArray[Any]) -> PlaneStatistics:
    """Statistics of one raw plane, uint8 or uint16 (y, x)."""
    counts = np.zeros(np.iinfo(pixels.dtype).max + 1, np.uint32)
    rows, columns = (np.arange(BINS + 1) * size // BINS for size in pixels.shape)
    low, high = np.zeros((BINS, BINS)), np.zeros((BINS, BINS))
    _count(pixels, counts)
    _extremes(pixels, rows, columns, low, high)
    sharpness = focus_score(pixels)
    return PlaneStatistics(counts=counts.astype(np.int64), low=low, high=high, sharpness=sharpness, planes=1)


def focus_score(pixels: NDArray[Any]) -> float:
    """Sharpness: log2 of the ratio of detail at 2 to 4 px to detail at 8 to 16 px.

    Detail is the energy of the Haar wavelet between two halvings of the plane. Independent noise of the pixels loses
    three quarters of its energy with each halving; the energy of the finest level (1 to 2 px) is taken for noise and
    subtracted, so the score follows structure, not exposure. Blur lowers it; the number and brightness of cells hardly
    matter. NaN if the coarse detail is not clearly above the noise: an empty field is neither sharp nor blurred.
    """
    if min(pixels.shape) < _SQUARE_PX:
        return float("nan")
    energy = _haar(pixels)
    fine = energy[1] - energy[0] / 4
    coarse = energy[3] - energy[0] / 64
    if not coarse > _NOISE * energy[0] / 64:
        return float("nan")
    return float(np.log2(max(fine, energy[0] / 4000, 1e-12) / coarse))


@compiled
def _count(pixels: NDArray[Any], counts: NDArray[np.uint32]) -> None:
    """Add a plane to a histogram."""
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            counts[pixels[y, x]] += 1


@compiled
def _extremes(
    pixels: NDArray[Any],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> None:
    """The least and greatest mean of the squares within each bin; a bin that is smaller than a square is one."""
    for row in range(len(rows) - 1):
        tall = min(_LOW_PX, rows[row + 1] - rows[row])
        for column in range(len(columns) - 1):
            wide = min(_LOW_PX, columns[column + 1] - columns[column])
            least, greatest = np.inf, 0.0
            for top in range(rows[row], rows[row + 1] - tall + 1, max(tall, 1)):
                for left in range(columns[column], columns[column + 1] - wide + 1, max(wide, 1)):
                    total, size = 0, max(tall * wide, 1)
                    for y in range(top, top + tall):
                        for x in range(left, left + wide):
                            total += pixels[y, x]
                    least = min(least, total / size)
                    if total / size > greatest:  # else it isn't without its brightest pixel, either
                        most = pixels[top : top + tall, left : left + wide].max() if size > 1 else 0
                        greatest = max(greatest, (total - most) / max(size - 1, 1))
            low[row, column], high[row, column] = least, greatest


@compiled
def _haar(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Mean energy per coefficient of the detail between 1 and 2, 2 and 4, 4 and 8, 8 and 16 px.

    In integers: with S the sum of four values, the sum of their squared distances from the mean is sum(a^2) - S^2 / 4.
    """
    half, across = _SQUARE_PX // 2, pixels.shape[1] // _SQUARE_PX
    energy = np.zeros(4)
    sums = np.empty((half, across * half), np.int64)
    detail = np.empty((half, across * half), np.int64)
    for top in range(0, pixels.shape[0] - _SQUARE_PX + 1, _SQUARE_PX):
        for y in range(half):  # a whole row of squares at once, so that it is compiled to vectors
            up, low = pixels[top + 2 * y], pixels[top + 2 * y + 1]
            for x in range(across * half):
                a, b = np.int64(up[2 * x]), np.int64(up[2 * x + 1])
                c, d = np.int64(low[2 * x]), np.int64(low[2 * x + 1])
                sums[y, x] = a + b + c + d
                detail[y, x] = 4 * (a * a + b * b + c * c + d * d) - sums[y, x] ** 2
        for left in range(0, across * half, half):
            energy[0] += detail[:, left : left + half].sum() / (16.0 * half * half)
            size, scale = half, 16.0
            for step in range(1, 4):
                size //= 2
                scale *= 16.0
                total = np.int64(0)
                for y in range(size):
                    for x in range(left, left + size):
                        a, b = sums[2 * y, 2 * x - left], sums[2 * y, 2 * x - left + 1]
                        c, d = sums[2 * y + 1, 2 * x - left], sums[2 * y + 1, 2 * x - left + 1]
                        sums[y, x] = a + b + c + d
                        total += 4 * (a * a + b * b + c * c + d * d) - sums[y, x] ** 2
                energy[step] += total / (scale * size * size)
    return energy / (pixels.shape[0] // _SQUARE_PX * across)


def write_histograms(path: Path, well: dict[str, list[PlaneStatistics | None]], tops: Mapping[str, int]) -> None:
    """Write `histograms/<well>.npz`, with counts from the least to the greatest value alone; none of a channel that a
    field lacks.

    `tops`: by channel, in their order, the greatest value that the camera can give, as far as the metadata know.
    """
    spans, values = [], []
    shape = (len(well), len(tops))
    cells = [channel for statistics in well.values() for channel in statistics]
    size = max(len(channel.counts) for channel in cells if channel)
    grid = np.full((BINS, BINS), np.nan)
    nothing = PlaneStatistics(counts=np.zeros(size, np.int64), low=grid, high=grid, sharpness=np.nan, planes=1)
    flat = [channel or nothing for channel in cells]
    for channel in flat:
        if channel is nothing:
            spans.append((0, 0))
            continue
        used = channel.counts > 0
        low, high = int(used.argmax()), len(used) - int(used[::-1].argmax())
        spans.append((low, high))
        values.append(channel.counts[low:high])
    counts = np.concatenate(values)
    counts = counts.astype(np.uint32) if counts.max() < 2**32 else counts  # as of long films
    write_npz(
        path,
        fields=np.array(list(well), dtype=str),
        channels=np.array(list(tops), dtype=str),
        depth=np.array(size),
        spans=np.array(spans, np.int32).reshape(*shape, 2),
        counts=np.frombuffer(_COUNTS.encode(counts), np.uint8),
        low=np.array([c.low / c.planes for c in flat], np.float32).reshape(*shape, BINS, BINS),
        high=np.array([c.high / c.planes for c in flat], np.float32).reshape(*shape, BINS, BINS),
        sharpness=np.array([c.sharpness for c in flat], np.float64).reshape(shape),
        tops=np.array(
            [saturation_level(c.counts, top) for c, top in zip(flat, cycle(tops.values()), strict=False)]
        ).reshape(shape),
    )


def read_histograms(paths: PlatePaths, well: str) -> dict[tuple[str, str], FieldHistogram]:
    """The histograms of a well that is used, by field and channel, without the fields and channels that were left out.

    Raises:
        ResultsError: an earlier release wrote them, without all that is needed now.
    """
    histograms = {}
    with np.load(paths.histogram(well)) as file:
        content = {name: file[name] for name in file.files}
    if "high" not in content:
        raise ResultsError(
            "the histograms of this well are of an earlier release",
            where=f"{paths.plate}/{well}: {paths.histogram(well)}",
            remedy="run `snakemake`; tile writes them anew",
        )
    counted, start = _COUNTS.decode(content["counts"]), 0
    counted = np.frombuffer(counted, f"u{len(counted) // np.diff(content['spans']).sum()}")
    for f, name in enumerate(content["fields"].tolist()):
        for c, channel in enumerate(content["channels"].tolist()):
            low, high = content["spans"][f, c].tolist()
            if low == high:
                continue
            counts = np.zeros(int(content["depth"]), np.int64)
            counts[low:high] = counted[start : start + high - low]
            start += high - low
            histograms[name, channel] = FieldHistogram(
                counts=counts,
                low=content["low"][f, c],
                high=content["high"][f, c],
                sharpness=float(content["sharpness"][f, c]),
                top=int(content["tops"][f, c]),
            )
    return histograms


@dataclass
class PlateCounts:
    """What the fields of a plate hold in one channel, summed up; without the saturated ones as long as most are sound.

    Attributes:
        sums: counts by value, as `FieldHistogram.counts`, of the fields that aren't saturated, of those that are, and
            of those of one value, where nothing was seen: they count where there are no others.
        fields: how many of each.
    """

    sums: NDArray[np.int64]
    fields: list[int]

    @property
    def mostly_clipped(self) -> bool:
        """Whether as many fields are saturated as not: then all of them count."""
        return self.fields[1] >= max(self.fields[0], 1)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Of the fields that count."""
        return self.sums[: 1 + self.mostly_clipped].sum(axis=0) if any(self.fields[:2]) else self.sums[2]


def add_fields(
    plate: dict[str, PlateCounts], histograms: Mapping[tuple[str, str], FieldHistogram], saturated_fraction: float
) -> None:
    """Add the fields of a well to what a plate (or the well) holds, by channel (`quality.saturated_fraction`)."""
    for (_, channel), each in histograms.items():
        if channel not in plate:
            plate[channel] = PlateCounts(np.zeros((3, len(each.counts)), np.int64), [0, 0, 0])
        kind = 2 if np.count_nonzero(each.counts) == 1 else int(each.saturated >= saturated_fraction)
        plate[channel].sums[kind] += each.counts
        plate[channel].fields[kind] += 1


def intensity_limits(counts: NDArray[np.int64], percentiles: tuple[float, float]) -> dict[str, float]:
    """The intensity limits of a histogram: the least values that have given percentages of the pixels at or below them.

    Pixels of a single value would give a window without width: it then reaches one step up.
    """
    below = np.cumsum(counts)
    low, high = (int(np.searchsorted(below, max(1, share / 100 * below[-1]))) for share in percentiles)
    return {"low": float(low), "high": float(max(high, low + 1))}


def write_npz(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as a compressed npz by rename; the same arrays give the same bytes.

    numpy's own writer compresses at a level that takes longer than everything else that tile does with a plane.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asanyarray(array), allow_pickle=False)
            # the epoch of zip files: no clock in the content
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            packed = array.dtype == np.uint8  # the counts
            file.writestr(member, content.getvalue(), zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED, 1)
    write_atomic(path, buffer.getvalue())
