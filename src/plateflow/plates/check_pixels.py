"""Preflight of the images: the headers of all files, and the pixels of a sample, or of all with `--deep`."""

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from plateflow.errors import RawDataError
from plateflow.plates.check_index import Problem, Severity
from plateflow.plates.pages import REMEDY, pages_in, unused_pages
from plateflow.plates.pixels import PlaneError, saturation_level
from plateflow.plates.raw import RawFolder
from plateflow.plates.reader import Index

SAMPLED_FIELDS = 12
SAMPLED_PLANES = 120
OFFSET = 32768
"""ScanR adds this to its 12-bit values."""
_REMEDIES = {
    "missing": "copy the file from the instrument again; without it the field is left out",
    "colour": "save each channel as a grey image of its own; as it is, the field is left out",
    "not_brightness": "save it as a grey image in which 0 is black; as it is, the field is left out",
    "wrong_type": "nothing, if the instrument marked the image as invalid so (Harmony: 32 bits); the field is left out",
    "negative": "export it with the camera's own values, or add one offset to all images; the field is left out",
}
_COPY_AGAIN = "copy the file from the instrument again; as it is, the field is left out"
Row = dict[Any, Any]


class _Facts(NamedTuple):
    """What the pixels of a plane show."""

    low: int
    high: int
    values: int  # the number of different ones
    step: int  # the greatest common divisor of all values
    level: int  # from which on pixels are saturated
    top: float  # the fraction of pixels that are
    crc: int


def check_pixels(index: Index, saturated_fraction: float, *, deep: bool) -> Iterator[Problem]:
    """Yield files that cannot be read, and pixels that look wrong.

    Args:
        saturated_fraction: the fraction of pixels at the top of the camera's range from which on a plane is reported,
            as `quality.saturated_fraction` in the configuration.
        deep: decode every file; otherwise check the headers and lengths of all, and the pixels of a sample of fields.
    """
    folder, planes = RawFolder(index.root), index.planes[index.planes["path"] != ""]
    sample = set(planes.index if deep else _sample(planes))
    stopped: list[RawDataError] = []

    def look(item: tuple[Any, Row]) -> PlaneError | _Facts | None:
        if stopped:
            return None
        try:
            pixels = folder.read(item[1], decode=item[0] in sample)
        except PlaneError as error:
            return error
        except RawDataError as error:
            stopped.append(error)
            return None
        if item[0] not in sample:
            return None
        counts = np.bincount(pixels.ravel())
        values = np.flatnonzero(counts)
        level = saturation_level(counts, min(index.metadata["bit_max"], np.iinfo(pixels.dtype).max))
        return _Facts(
            low=int(values[0]),
            high=int(values[-1]),
            values=len(values),
            step=int(np.gcd.reduce(values)),
            level=level,
            top=float(counts[level:].sum() / pixels.size),
            crc=zlib.crc32(pixels.tobytes()),
        )

    rows = planes.to_dict("records")
    looked: list[tuple[Row, _Facts]] = []
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(look, zip(planes.index, rows, strict=True))
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, _Facts):
                looked.append((row, result))
            elif result is not None:
                what, remedy = f"{result.reason}: {result.detail}", _REMEDIES.get(result.reason, _COPY_AGAIN)
                yield _problem(folder, row, "error", what, remedy)
    for error in stopped[:1]:
        yield Problem("error", str(index.metadata["plate"]), f"{error.what}: {error.where}: {error.why}", error.remedy)
    if not stopped:
        severity: Severity = "warning" if index.pages_chosen else "error"
        remedy = (
            "nothing, if the table leaves them out on purpose; else give it a line for each"
            if index.pages_chosen
            else REMEDY
        )
        wells = planes.drop_duplicates("path").set_index("path")["well"]
        for path, what in unused_pages(planes, lambda path: pages_in(folder.path(path))):
            file = str(folder.path(path))
            yield Problem(severity, str(index.metadata["plate"]), what, remedy, well=str(wells[path]), file=file)
    yield from _odd_planes(folder, looked, saturated_fraction)
    yield from _odd_plate(str(index.metadata["plate"]), [facts for _, facts in looked if facts.values > 1])


def _sample(planes: pd.DataFrame) -> pd.Index:
    """All planes of a few fields, spread evenly over the plate."""
    fields = planes[["well", "field"]].drop_duplicates()
    chosen = fields.iloc[np.unique(np.linspace(0, len(fields) - 1, SAMPLED_FIELDS).round().astype(int))]
    kept = planes.reset_index().merge(chosen, on=["well", "field"])["index"]
    return pd.Index(kept.iloc[:: max(1, -(-len(kept) // SAMPLED_PLANES))])


def _problem(folder: RawFolder, row: Row, severity: Severity, what: str, remedy: str) -> Problem:
    """A problem of the plane in a row of the manifest."""
    file = str(folder.path(row["path"]))
    what = f"channel {row['channel']}: {what.replace(file, 'the file')}"
    return Problem(severity, row["plate"], what, remedy, well=row["well"], field=row["field"], file=file)


def _odd_planes(folder: RawFolder, looked: list[tuple[Row, _Facts]], saturated_fraction: float) -> Iterator[Problem]:
    first: dict[tuple[int, int, int], Row] = {}
    for row, facts in looked:
        if facts.values == 1:
            remedy = "check whether the lamp was on; the field gets the flag `empty`"
            yield _problem(folder, row, "warning", f"constant: every pixel is {facts.low}", remedy)
            continue
        if facts.top >= saturated_fraction:
            what = f"saturated: {facts.top:.1%} of the pixels are at the top of the range that is used, {facts.level:,}"
            remedy = "lower the exposure next time; intensities of bright cells are too low"
            yield _problem(folder, row, "warning", what, remedy)
        other = first.setdefault((facts.crc, facts.low, facts.high), row)
        if (other["path"], other["page"]) != (row["path"], row["page"]):
            place = ", ".join(f"{key} {other[key]}" for key in ("well", "field", "channel", "t", "z"))
            remedy = "check whether a file was copied under another name, or a projection stands for its planes"
            yield _problem(folder, row, "warning", f"doubled: the same pixels as those of {place}", remedy)


def _odd_plate(plate: str, looked: list[_Facts]) -> Iterator[Problem]:
    """What holds for (nearly) all planes: an offset, or gaps between the values."""
    if not looked:
        return
    if sum(facts.low >= OFFSET for facts in looked) > 0.9 * len(looked):
        lowest = min(facts.low for facts in looked)
        what = f"raw values have an offset: none is below {lowest:,} (ScanR adds 32,768)"
        remedy = "nothing for segmentation; intensities in the tables include it: subtract it from the images"
        yield Problem("warning", plate, what, f"{remedy} if ratios are compared")
    step = int(np.gcd.reduce([facts.step for facts in looked]))
    if step > 1 and max(facts.values for facts in looked) >= 16:
        what = f"all raw values are multiples of {step}{' (8 bits spread over 16)' if step == 257 else ''}"
        remedy = "nothing for segmentation; export the camera's own values if intensities are to be compared"
        yield Problem("warning", plate, what, remedy)
