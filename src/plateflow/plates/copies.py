"""Places of a well that were taken twice: the later copy is no field, and would be counted twice."""

import math

import pandas as pd

from plateflow.touching import on_each_other

_WITHIN, _EXACTLY = 4, 50
"""Fields lie on each other if they are off by less than a quarter of their sides; they coincide if by a fiftieth."""


def later_copies(planes: pd.DataFrame) -> set[tuple[str, str]]:
    """Find the fields that lie on an earlier one of their well.

    One that lacks planes counts as later, as it may be why the place was taken again. At most half of a well's fields
    are copies: more are a sign that the positions are wrong. Where the well would be left with fewer fields than is
    usual on the plate, only fields that coincide are copies, and fewer than half.

    Args:
        planes: complete, with their `state` and where known `time_s`; a well's fields in order.

    Returns:
        (well, field) of each.
    """
    taken = planes.get("time_s", math.nan)
    table = planes.assign(gone=planes["state"] == "missing", taken=taken).groupby(["well", "field"], sort=False)
    first = ["y_um", "x_um", "dy_um", "dx_um", "height", "width"]
    fields = table.agg(dict.fromkeys(first, "first") | {"gone": "sum", "taken": "min"}).reset_index()
    wells = fields.groupby("well", sort=False)
    usual = wells.size().mode().min()
    copies = set[tuple[str, str]]()
    for _, of_well in wells:
        rows = of_well.sort_values(["gone", "taken"], kind="stable")
        corners = rows[["y_um", "x_um"]].to_numpy(float) / rows[["dy_um", "dx_um"]].to_numpy(float)
        for share, least in ((_WITHIN, max(usual, len(rows) / 2)), (_EXACTLY, len(rows) // 2 + 1)):
            on, kept = on_each_other(corners, rows[["height", "width"]].to_numpy(float), share=share), list[int]()
            for n in range(len(rows)):
                if not on[n, kept].any():
                    kept.append(n)
            if len(kept) >= least:
                later = rows.drop(rows.index[kept])
                copies.update(zip(later["well"], later["field"], strict=True))
                break
    return copies
