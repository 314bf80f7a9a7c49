"""The pages of TIFFs: how many planes a file holds, and which of them nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from plateflow.errors import RawDataError

REMEDY = (
    "give as pattern a CSV that has a line for each plane, with the columns path, page (from 0), well, field, channel, "
    "z and t (in load_data.csv, Frame_<channel> is the page); or, where each page is a channel, a regular expression "
    "with the group channels: their names in the file's name, between commas, or nothing, (?P<channels>), to number "
    "them"
)


def pages_in(path: Path) -> int:
    """The number of planes in a TIFF, without previews; 1 in other files, 0 in what can't be read as one."""
    import tifffile

    try:
        if path.is_dir() or path.suffix.lower() == ".png":
            return 1
        with tifffile.TiffFile(path) as file:
            first: Any = file.pages[0]
            pages: Any = file.pages if len(file.pages) > 1 else [first]
            count = sum(page.shape == first.shape and not page.is_reduced for page in pages)
            if file.is_ome:  # whose series may reach into other files
                return count
            return max(count, file.series[0].size // first.size)  # planes may lie beside those that have a page
    except Exception:  # reading the plane tells what is wrong
        return 0


def unused_pages(root: Path, planes: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield the path of each file of which some pages are read and others aren't, and a sentence about it.

    Args:
        root: the folder that paths are relative to.
        planes: of the manifest; those without a file are passed over.
    """
    used = planes[planes["path"] != ""].groupby("path", sort=False)["page"].nunique()
    with ThreadPoolExecutor(4) as pool:
        held = pool.map(lambda path: pages_in(root / path), used.index)
        for (path, n_used), n_held in zip(used.items(), held, strict=True):
            if n_held > n_used:
                yield str(path), f"the file holds {n_held} planes, and {n_used} of them would be read"


def refuse_unused_pages(plate: str, root: Path, planes: pd.DataFrame) -> None:
    """Refuse planes whose files have more pages.

    Raises:
        RawDataError: one has.
    """
    for path, why in unused_pages(root, planes):
        what = "pages of the images would not be used"
        raise RawDataError(what, where=f"{plate}: {path}", why=why, remedy=REMEDY)
