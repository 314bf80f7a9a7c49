"""Preflight of the files: headers of all, pixels of a sample, or of all with `--deep`."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plateflow.plates.pixels import PlaneError
from plateflow.plates.plate import read_row
from plateflow.plates.problem import Problem
from plateflow.plates.reader import Index

SAMPLED_FIELDS = 12
SAMPLED_PLANES = 120
SATURATED = 0.01
OFFSET = 32768
"""ScanR writes its 12 bits above this value."""
_REMEDIES = {
    "missing": "copy the file from the instrument again; without it the field is left out",
    "wrong_type": "nothing, if the instrument marked the image as invalid so (Harmony: 32 bits); the field is left out",
}
_READ_AGAIN = "copy the file from the instrument again; as it is, the field is left out"


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What the pixels of a plane show."""

    low: int
    high: int
    values: int  # different ones
    step: int  # greatest common divisor of all values
    top: float  # fraction of pixels at the top of the camera's range
    crc: int


def check_pixels(index: Index, *, deep: bool) -> Iterator[Problem]:
    """Files that can't be read, and pixels that are odd.

    Args:
        index: the plate.
        deep: decode every file; otherwise headers and lengths of all, and the pixels of a sample of whole fields.
    """
    plate = str(index.info["plate"])
    planes = index.planes[index.planes["path"] != ""]
    sample = set(planes.index if deep else _sample(planes))

    def look(item: tuple[Any, dict[Any, Any]]) -> PlaneError | _Facts | None:
        try:
            pixels = read_row(item[1], decode=item[0] in sample)
        except PlaneError as error:
            return error
        return _facts(pixels, index.info["bit_max"]) if item[0] in sample else None

    rows = planes.to_dict("records")
    known: list[tuple[dict[Any, Any], _Facts]] = []
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(look, zip(planes.index, rows, strict=True))
        for row, result in zip(rows, found, strict=True):
            if isinstance(result, _Facts):
                known.append((row, result))
            elif result is not None:
                yield _problem(
                    row, "error", f"{result.reason}: {result.detail}", _REMEDIES.get(result.reason, _READ_AGAIN)
                )
    yield from _odd_planes(known)
    yield from _odd_plate(plate, [facts for _, facts in known if facts.values > 1])


def _sample(planes: pd.DataFrame) -> pd.Index:
    """All planes of a few fields spread evenly over the plate."""
    fields = planes[["well", "field"]].drop_duplicates()
    chosen = fields.iloc[np.unique(np.linspace(0, len(fields) - 1, SAMPLED_FIELDS).round().astype(int))]
    kept = planes.reset_index().merge(chosen, on=["well", "field"])["index"]
    return pd.Index(kept.iloc[:: max(1, -(-len(kept) // SAMPLED_PLANES))])


def _facts(pixels: NDArray[Any], bit_max: int) -> _Facts:
    counts = np.bincount(pixels.ravel())
    values = np.flatnonzero(counts)
    return _Facts(
        low=int(values[0]),
        high=int(values[-1]),
        values=len(values),
        step=int(np.gcd.reduce(values)),
        top=float(counts[bit_max:].sum() / pixels.size),
        crc=zlib.crc32(pixels.tobytes()),
    )


def _problem(row: dict[Any, Any], severity: Any, what: str, remedy: str) -> Problem:
    return Problem(
        severity=severity,
        plate=row["plate"],
        well=row["well"],
        field=row["field"],
        file=row["path"],
        what=f"channel {row['channel']}: {what.replace(row['path'], 'the file')}",
        remedy=remedy,
    )


def _odd_planes(known: list[tuple[dict[Any, Any], _Facts]]) -> Iterator[Problem]:
    first: dict[tuple[int, int, int], dict[Any, Any]] = {}
    for row, facts in known:
        if facts.values == 1:
            yield _problem(
                row,
                "warning",
                f"constant: every pixel is {facts.low}",
                "see whether the lamp was on; the field gets the flag `empty`",
            )
            continue
        if facts.top > SATURATED:
            yield _problem(
                row,
                "warning",
                f"saturated: {facts.top:.1%} of the pixels are at the top of the range",
                "lower the exposure next time; intensities of bright cells are too low",
            )
        key = facts.crc, facts.low, facts.high
        other = first.setdefault(key, row)
        if (other["path"], other["page"]) != (row["path"], row["page"]):
            yield _problem(
                row,
                "warning",
                f"doubled: the same pixels as those of well {other['well']}, field {other['field']}, channel "
                f"{other['channel']}, t {other['t']}, z {other['z']}",
                "see whether a file was copied under another name, or a projection stands for its planes",
            )


def _odd_plate(plate: str, known: list[_Facts]) -> Iterator[Problem]:
    """What holds for (nearly) all planes: an offset, or values with gaps between them."""
    if not known:
        return
    if sum(facts.low >= OFFSET for facts in known) > 0.9 * len(known):
        yield Problem(
            severity="warning",
            plate=plate,
            what=f"raw values have an offset: none is below {min(facts.low for facts in known):,} (ScanR adds 32,768)",
            remedy="nothing for the segmentation; intensities in the tables contain it, so subtract it from the images "
            "where ratios are compared",
        )
    step = int(np.gcd.reduce([facts.step for facts in known]))
    if step > 1 and max(facts.values for facts in known) >= 16:
        why = " (8 bits spread over 16)" if step == 257 else ""
        yield Problem(
            severity="warning",
            plate=plate,
            what=f"all raw values are multiples of {step}{why}",
            remedy="nothing for the segmentation; export the camera's own values if intensities are to be compared",
        )
