"""Helpers of the workflow tests."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LABEL_SETS = ("nuclei", "cells")


def all_of(well: str, *stages: str) -> set[tuple[str, str, str]]:
    """(stage, well, label set) of a well's units in the named stages."""
    return {
        (stage, well, label_set)
        for stage in stages
        for label_set in (LABEL_SETS if stage in {"infer", "follow", "stitch"} else ("",))
    }


def touch_pixels(path: Path) -> None:
    """Write a raw plane again with one row brighter."""
    import tifffile

    pixels = tifffile.imread(path)
    pixels[40:44] += 500
    tifffile.imwrite(path, pixels)
