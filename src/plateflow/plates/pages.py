"""The pages of TIFFs: how many planes a file holds, and which of them nobody reads; and pages that are no plane."""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from plateflow.errors import RawDataError, number_of, printable
from plateflow.plates.pixels import PIXEL_TYPES, Header, header, own_fault

REMEDY = (
    "give as pattern a CSV that has a line for each plane, with the columns path, page (from 0), well, field, channel, "
    "z and t (in load_data.csv, Frame_<channel> is the page); or, where each page is a channel, a regular expression "
    "with the group channels: their names in the file's name, between commas, or nothing, (?P<channels>), to number "
    "them; what isn't to be used must be taken out of the files"
)


def pages_in(path: Path) -> int:
    """The number of planes in a TIFF, without previews; 1 in other files, 0 in what can't be read as one."""
    try:
        head = None if (folder := path.is_dir()) else header(path)
    except OSError:  # reading the plane tells what is wrong
        return 0
    return head.pages if head else int(folder)


def stack_in(path: Path) -> tuple[int, int]:
    """How many channels a TIFF's metadata give its pages, and how many planes or times of each; 1 where they don't."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            sizes = dict(zip(file.series[0].axes, file.series[0].shape, strict=True))
        channels, planes = sizes.get("C", 1), sizes.get("Z", 1) * sizes.get("T", 1)
        alone = channels * planes == pages_in(path)  # else the metadata speak of other files, too
        return (channels, planes) if alone else (1, 1)
    except Exception as error:
        if not own_fault(error):
            raise
        return 1, 1


def unused_pages(planes: pd.DataFrame, pages: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """Yield the path of each file of which some pages are read and others aren't, and a sentence about it.

    Args:
        planes: of the manifest; those without a file are passed over.
        pages: the number of planes in a file, by its path in the manifest.
    """
    used = planes[planes["path"] != ""].groupby("path", sort=False)["page"].nunique()
    with ThreadPoolExecutor(4) as pool:
        for (path, n_used), n_held in zip(used.items(), pool.map(pages, used.index), strict=True):
            if n_held > n_used:
                yield str(path), f"the file holds {number_of(n_held, 'plane[s]')}, and {n_used} of them would be read"


def refuse_unused_pages(plate: str, planes: pd.DataFrame, pages: Mapping[str, int]) -> None:
    """Refuse planes whose files have more pages, of the files whose number of planes is known (`pages`).

    Raises:
        RawDataError: one has.
    """
    for path, why in unused_pages(planes[planes["path"].isin(pages)], lambda path: pages[path]):
        what = "pages of the images would not be used"
        raise RawDataError(what, where=f"{plate}: {path}", why=why, remedy=REMEDY)


def refuse_other_pixels(where: str, headers: Mapping[str, Collection[Header]]) -> None:
    """Refuse channels of which no image is a plane: what helps against one bad file doesn't help a whole channel.

    Raises:
        RawDataError: all images of a channel are colour pictures, or have a type that isn't read.
    """
    colours = {name: of for name, of in headers.items() if of and all(len(each.shape) > 2 for each in of)}
    if colours:
        values = next(iter(next(iter(colours.values())))).shape[2]
        raise RawDataError(
            f"{_of_channels(colours, headers)} are colour pictures, or channels that were stored as colours",
            where=where,
            why=f"each of their pixels has {values} values, where a plane has one channel's",
            remedy="export each channel as a grey image or page of its own (tifffile: photometric='minisblack'), or "
            "split them (ImageJ: Image > Color > Split Channels)",
        )
    types = {name: {each.dtype for each in of} for name, of in headers.items()}
    if others := {name: of for name, of in types.items() if of and not PIXEL_TYPES.intersection(of)}:
        alone = len(others) < len(types)
        raise RawDataError(
            f"{_of_channels(others, headers)} have a pixel type that isn't read",
            where=where,
            why=f"those looked at are {', '.join(sorted(set[str]().union(*others.values())))}; a camera's values are "
            "integers of 8 or 16 bits",
            remedy="give the raw images instead of processed ones or masks; or "
            + ("export them with 8 or 16 bits" if alone else "convert all to uint16")
            + ", with one factor and offset for all: wells can't be compared if each image is scaled by itself",
        )


def _of_channels(some: Collection[str], every: Collection[str]) -> str:
    return "the images" if len(some) == len(every) else f"the images of {' and '.join(map(printable, some))}"
