"""Columns of the tables in words, for people: the name of CellProfiler stays the name in files."""

from __future__ import annotations

from collections.abc import Sequence


def in_words(column: str, channels: Sequence[str]) -> str:
    """A column of the well table in words, such as `Cells: mean intensity, DNA`.

    Args:
        column: `Cells_Intensity_MeanIntensity_DNA`, or `Count_Cells`.
        channels: of the plate; their names may hold underscores.
    """
    compartment, _, rest = column.partition("_")
    if compartment == "Count":
        return f"{rest}: count per field"
    channel = max((name for name in channels if rest.endswith(f"_{name}")), key=len, default="")
    words = rest.removesuffix(f"_{channel}").replace("_", " ")
    return f"{compartment}: {words}{', ' if channel else ''}{channel}"
