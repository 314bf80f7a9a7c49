"""What the fields of a well should have: each plane, that is channel, time point and z plane, that one of them has.

Wells of a plate may differ: one has a deeper stack, another stains of its own. What no field of a well has was not
taken there, or the whole of it was lost: the planes don't tell which, so the wells that differ are named.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

_PLANE = ["channel", "t", "z"]


def add_missing(planes: pd.DataFrame) -> pd.DataFrame:
    """Add a row, without a path, for each plane that a field lacks and another of its well has.

    A well without any image should have what the plate has. `planes` are the manifest's, before they have a state.
    """
    taken = planes[["well", *_PLANE]].drop_duplicates()
    seen = planes.groupby("well", sort=False)["path"].any()
    if not seen.all():
        whole = taken[_PLANE].drop_duplicates()
        lost = pd.DataFrame({"well": seen.index[~seen]}).merge(whole, how="cross")
        taken = pd.concat([taken[taken["well"].map(seen)], lost])
    expected = planes[["row", "column", "well", "field"]].drop_duplicates().merge(taken, on="well")
    if len(expected) == len(planes):
        return planes
    place = ["well", "field", *_PLANE]
    present = pd.MultiIndex.from_frame(planes[place])
    lacking = expected[~pd.MultiIndex.from_frame(expected[place]).isin(present)]
    geometry = ["y_um", "x_um", "dy_um", "dx_um", "height", "width"]
    lacking = lacking.join(planes.groupby(["well", "field"], sort=False)[geometry].first(), on=["well", "field"])
    return pd.concat([planes, lacking.assign(path="", page=0, z_um=np.nan)], ignore_index=True)


def lacking_channels(planes: pd.DataFrame, channels: list[str]) -> dict[str, list[str]]:
    """By well, the channels of the plate that it lacks, in their order; without the wells that have all."""
    own = planes.groupby("well", sort=False)["channel"].agg(set)
    lacking = {str(well): [name for name in channels if name not in has] for well, has in own.items()}
    return {well: names for well, names in lacking.items() if names}


def uneven(planes: pd.DataFrame, lacking: Mapping[str, list[str]]) -> list[tuple[list[str], str]]:
    """Wells that have other planes than most, or not all channels at all of their times: which, and what of them."""
    wells: dict[str, list[str]] = {}
    for well, names in lacking.items():
        wells.setdefault(f"no channel {', '.join(names)}", []).append(well)
    channels: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    times = planes.groupby("well", sort=False)["t"].nunique()
    for channel, own in planes.drop_duplicates(["well", *_PLANE]).groupby("channel", sort=False):
        stacks = own.groupby("well", sort=False)
        n_t, n_z = stacks["t"].nunique(), stacks["z"].nunique()
        for counts, what in ((n_z, "z plane"), (n_t, "time point")):
            usual = int(counts.mode().max())
            for count, some in counts[counts != usual].groupby(counts):
                key = f"{count} {what}{'s' * (count > 1)} where most have {usual}", tuple(map(str, some.index))
                channels.setdefault(key, []).append(str(channel))
        for text, odd in (
            ("planes at only some time points", n_t < times[n_t.index]),
            ("fewer z planes at some time points than at others", stacks.size() < n_t * n_z),
        ):
            if odd.any():
                channels.setdefault((text, tuple(map(str, odd.index[odd]))), []).append(str(channel))
    for (text, alike), of in channels.items():
        wells.setdefault(f"{text} ({', '.join(of)})", []).extend(alike)
    end = "; unless that was planned, something was lost"
    return [(listed, f"well[s have| has] {text}{end}") for text, listed in wells.items()]
