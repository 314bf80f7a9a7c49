"""The headers of a few images of each channel: one type of pixels holds for a channel, and others may have another."""

from collections import Counter
from collections.abc import Collection, Mapping

import pandas as pd

from plateflow.plates.files import Listing
from plateflow.plates.pixels import PIXEL_TYPES, Header, header

HEADERS_READ = 5
LARGEST_PX = 2**32
"""Pixels of the largest plausible image: more is an error in the metadata, or an attack."""


def few_headers(planes: pd.DataFrame, listing: Listing) -> dict[str, dict[str, Header]]:
    """Of each channel, the headers of a few images, by path; without those that are damaged, or absurdly large.

    Args:
        planes: with channel, path and page; a path that isn't in the listing is passed over.

    Raises:
        OSError: the machine is at fault.
    """
    read: dict[tuple[str, int], Header | None] = {}
    headers: dict[str, dict[str, Header]] = {str(channel): {} for channel in planes["channel"].unique()}
    present = planes[planes["path"].isin(listing.files)].drop_duplicates(["channel", "path"])
    for channel, of_channel in present.groupby("channel", sort=False):
        few = of_channel.iloc[:: max(1, len(of_channel) // HEADERS_READ)][:HEADERS_READ]
        found = headers[str(channel)]
        for path, page in zip(few["path"], few["page"].astype(int), strict=True):
            if (path, page) not in read:
                read[path, page] = header(listing.root / path, page)
            head = read[path, page]
            if head is not None and 0 < head.shape[0] * head.shape[1] <= LARGEST_PX:
                found[path] = head
    return headers


def usual_types(headers: Mapping[str, Collection[Header]]) -> dict[str, str]:
    """The pixel type of each channel: the most frequent of its images; where they are even, of all images.

    Types that aren't read don't count: Harmony marks invalid images by 32-bit planes.
    """
    types = {name: Counter(each.dtype for each in of if each.dtype in PIXEL_TYPES) for name, of in headers.items()}
    every = sum(types.values(), Counter())
    usual = max(every, key=lambda kind: every[kind], default="uint16")
    return {name: max(of, key=lambda kind: (of[kind], every[kind]), default=usual) for name, of in types.items()}
