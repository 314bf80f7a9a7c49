"""Every feature of every well as the page holds it: packed by the stage, unpacked by the browser."""

from __future__ import annotations

import base64
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plateflow.features.words import in_words
from plateflow.report.view import View
from plateflow.stats.reference import HIGH, JUDGED, LOW, shares_in, well_values
from plateflow.stats.segmentation import COLUMNS
from plateflow.stats.wells import SPREADS

DIGITS = 4
"""Significant digits that the page shows."""
MANTISSA = 14
"""Bits that keep them: a relative error of 2^-15 is less than half of the least step between two such numbers."""
MAX_VALUES = 6_000_000
"""Values in a page, about 2.7 characters each. Of a series with more, only the first features are offered."""
SEGMENTATION = {
    "size": "median diameter (px)",
    "uncovered": "share of what is bright that is in no object",
    "unmatched": "share of objects without a partner (nucleus, cell)",
    "flow_check": "share of objects dropped by the flow check",
}
"""The numbers of `stats.segmentation` in words, by their flags."""


def features(view: View) -> dict[str, str]:
    """What the plate map can show: columns of the well table, each in words; counts and shares first, no spreads."""
    wells, channels = view.wells, view.plate.channels
    known = {name: title for name, title in view.metrics.items() if name.startswith("Count_")}
    shares = shares_in(wells)
    known |= {name: in_words(name, channels) for name in (*shares, *view.metrics) if name not in known}
    for name, flag in view.judged.items():
        known[name] = f"{name.removeprefix('Metadata_').removesuffix(f'_{COLUMNS[flag]}')}: {SEGMENTATION[flag]}"
    spreads = {f"{name}_{spread}" for name in wells for spread in SPREADS}
    spreads |= {f"{name}{end}" for name in shares for end in (LOW, HIGH, JUDGED)}
    others = [name for name in map(str, wells) if not name.startswith(("Metadata_", "Count_")) and name not in spreads]
    known |= {name: in_words(name, channels) for name in others if name not in known}
    found = wells[list(known)].notna().any()
    taken = set[str]()
    shown = {}
    for name, title in known.items():
        if found[name]:
            shown[name] = f"{title} ({name})" if title in taken else title  # what is typed must say which one
            taken.add(title)
    return shown


def packed(view: View, names: list[str]) -> tuple[str, int]:
    """The values (feature, frame, well of `View.by_well`) with DIGITS digits, and of how many features they are.

    They are those of `well_values`: counts per field in use, NaN for wells not in use. Each is the upper half of a
    float64, big-endian; the first bytes of all come first, then the second ones, and so on, as that deflates best.

    Returns:
        base64 of a zlib stream; at least one feature, however many values that are.
    """
    wells, frames = view.by_well["Metadata_Well"], view.frames
    names = names[: max(MAX_VALUES // max(len(wells) * len(frames), 1), 1)]
    tables = [well_values(frame.wells, names).set_axis(frame.wells["Metadata_Well"]) for frame in frames]
    values = np.stack([table.reindex(wells).to_numpy(np.float64).T for table in tables], axis=1)
    halves = _upper_halves(_rounded(values.ravel()))
    planes = np.ascontiguousarray(halves.astype(">u4").view(np.uint8).reshape(-1, 4).T)
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode(), len(names)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values with DIGITS significant digits, as `format` rounds them."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in values.tolist()])


def _upper_halves(values: NDArray[np.float64]) -> NDArray[np.uint32]:
    """The upper 32 bits of values, rounded to MANTISSA bits: finite ones, and NaN."""
    cut = np.uint64(52 - MANTISSA)
    bits = values.view(np.uint64) + (np.uint64(1) << (cut - np.uint64(1)))
    return (bits >> cut << cut >> np.uint64(32)).astype(np.uint32)


def number(value: float) -> str:
    """A value with DIGITS significant digits, as the page's script writes it, too."""
    if math.isnan(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.{DIGITS}g}"
    return f"{float(f'{value:.{DIGITS}g}'):,.10g}"


def map_data(view: View) -> dict[str, Any]:
    """What the script of the plate map needs: the shape of the plate, its wells, features and packed values."""
    shown = features(view)
    values, n = packed(view, list(shown)) if shown else ("", 0)
    return {
        "features": [[name, words] for name, words in shown.items()][:n],
        "omitted": len(shown) - n,
        "frames": len(view.frames),
        "values": values,
    }
