"""What MetaXpress writes into the headers of its TIFFs, and where fields lie by it; for `imagexpress`.

Stage positions are in um, of a field's centre, and y points down, as the rows of the image (seen: fields above each
other continue so). They stand in the headers alone, and sites lie alike in all wells, so three wells a site are looked
at, and all of them only where these three differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from plateflow.paths import well_name
from plateflow.plates.files import Listing
from plateflow.plates.reader import some

WELLS_SAMPLED = 3
Plane = dict[str, Any]
Head = Mapping[str, str]


class Headers:
    """The metadata in the TIFFs' headers, each read once: property -> text, `height` and `width` of the image too."""

    def __init__(self, listing: Listing) -> None:
        self.listing, self.read = listing, dict[str, Head]()

    def of(self, plane: Plane) -> Head:
        """Of one plane; empty where the file has none, or can't be read."""
        name = plane["path"]
        if name not in self.read:
            self.read[name] = _head(self.listing.root / name)
        return self.read[name]

    def first(self, planes: list[Plane]) -> Head:
        """Of the first of a few planes that has the size that most of them have: one bad file decides nothing."""
        step = max(1, len(planes) // 5)
        heads = [head for plane in planes[::step] if plane.get("path") and (head := self.of(plane))]
        sizes = Counter((head["height"], head["width"]) for head in heads)
        return next((head for head in heads if (head["height"], head["width"]) == sizes.most_common(1)[0][0]), {})


def _head(path: Path) -> Head:
    import tifffile
    from defusedxml.ElementTree import fromstring

    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            size = {"height": str(page.shape[0]), "width": str(page.shape[1])}
            text = page.description
            found = fromstring(text).iter() if text.startswith("<MetaData") else ()  # prop and custom-prop
            return {str(item.get("id")): str(item.get("value")) for item in found} | size
    except Exception:
        return {}


def real(head: Head, key: str) -> float:
    """A number of a header, NaN where there is none."""
    try:
        return float(head.get(key, "nan"))
    except ValueError:
        return math.nan


def heights_of(planes: list[Plane], heads: Headers) -> dict[tuple[int, int], float]:
    """Of each channel and step the height in um above the plate's lowest step, as one field has it."""
    first, place = planes[0], ("row", "column", "field", "t")
    field = [plane for plane in planes if all(plane[key] == first[key] for key in place)]
    stacks = Counter(plane["channel"] for plane in field)
    heights = {
        (p["channel"], p["z"]): real(heads.of(p), "z-position")
        for p in sorted(field, key=lambda p: (-stacks[p["channel"]], p["channel"], p["z"]))
    }
    lowest = next(iter(heights.values()))
    return {key: round(height - lowest, 3) for key, height in heights.items()}


def positions_of(
    planes: list[Plane], heads: Headers, sizes: Mapping[int, Mapping[str, Any]], notes: list[str]
) -> dict[Any, tuple[float, float]]:
    """Of each site, or where they differ of each well's site, its centre (y, x) in um from the centre of the well.

    Without that offset in the headers, from the lowest site.
    """
    by_site: dict[int, dict[tuple[int, int], Plane]] = {}
    for plane in planes:
        by_site.setdefault(plane["field"], {}).setdefault((plane["row"], plane["column"]), plane)
    counts = Counter(well for wells in by_site.values() for well in wells)
    anchor = min(by_site)

    def offset(plane: Plane) -> tuple[float, float] | None:
        head = heads.of(plane)
        if "OffsetFromWellCenterUmX" in head:
            y, x = (real(head, f"OffsetFromWellCenterUm{axis}") for axis in "YX")
        else:
            lowest = by_site[anchor].get((plane["row"], plane["column"]))
            base = heads.of(lowest) if lowest else {}
            y, x = (real(head, f"stage-position-{a}") - real(base, f"stage-position-{a}") for a in "yx")
        return None if math.isnan(y + x) else (y, x)

    found: dict[Any, tuple[float, float]] = {}
    wrong: list[str] = []
    pixel = next(iter(sizes.values()))["dx_um"]
    for site, wells in by_site.items():
        usual = sorted(wells, key=lambda well: (-counts[well], well))
        sample = [wells[usual[n * (len(usual) - 1) // (WELLS_SAMPLED - 1)]] for n in range(WELLS_SAMPLED)]
        for plane in sample:
            label = heads.of(plane).get("stage-label", "").partition(" : ")[0].strip()
            if label and label != well_name(plane["row"], plane["column"]):
                wrong.append(f"{plane['path']} ({label})")
        known = [place for plane in sample if (place := offset(plane)) is not None]
        if not known:
            continue
        y, x = (median(place[axis] for place in known) for axis in (0, 1))
        if any(max(abs(place[0] - y), abs(place[1] - x)) > 2 * pixel for place in known):
            found |= {(*well, site): place for well, p in wells.items() if (place := offset(p)) is not None}
        found[site] = y, x
    if wrong:
        notes.append(f"images say another well than their names, which are followed: {some(set(wrong))}")
    return found
