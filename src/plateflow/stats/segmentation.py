"""Does the segmentation fit the images? Numbers and flags per well and label set, and what they say of the plate.

Four questions, none of which knows the truth: are the objects as large as the network expects, is what is bright in an
object, do nuclei and cells belong together, and do objects agree with the flow that they were made from. Each is asked
where there is enough to judge: a blank well, a dead control and a sparse one can't be told from a bad segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Config
from plateflow.features.brightness import LEAST_BRIGHT, Counts, add_counts, bright_from
from plateflow.features.measure import compartment
from plateflow.features.pairs import unmatched_in
from plateflow.stats.reference import MIN_WELLS, reference_wells

if TYPE_CHECKING:
    import pandas as pd

OF_TYPICAL = 0.25
"""And that share must be this part of the plate's median: what is bright in a well without cells is something else."""
LEAST_OBJECTS = 20
"""Objects that a well must have for its median diameter and shares of objects to be judged."""
MOST = 0.5
"""A share is too large from here on: of sound segmentations, the halos of small objects come to a quarter, and cells
whose nucleus was missed to a tenth."""
FAR = 2.0
"""Factor by which the median diameter may differ from the one that is given."""
NAMED = 5
"""The most wells that are named as the worst."""

FLAGS = {
    "size": "the objects' median diameter is outside what the model was trained on, or far from the one that is given",
    "uncovered": "most of what is bright in a label set's first channel is in none of its objects",
    "unmatched": "most cells have no nucleus, or most nuclei no cell",
    "flow_check": "most objects were dropped, as they don't agree with their flow",
}
"""The flags of this module with their meaning."""
COLUMNS = {"size": "Diameter_px", "uncovered": "Uncovered", "unmatched": "Unmatched", "flow_check": "Dropped"}
"""By flag, the column of the well table with its number: `Metadata_<Set>_<column>`."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is to judge of a label set in a well; of all its fields and frames together.

    Attributes:
        objects: how many were found.
        area_px: of them all.
        dropped: how many others the flow check dropped, and their area, px; None: not known, of an earlier version.
        diameter_px: median over the objects of the diameter of a circle of the object's area, px of the image; NaN
            without objects, and for volumes.
        unmatched: of nuclei how many belong to no cell, of cells how many have no nucleus; of others only where they
            are matched one to one, else None.
        bright: see `features.brightness`; None: not known, of an earlier version.
    """

    objects: int
    area_px: int
    dropped: tuple[int, int] | None
    diameter_px: float
    unmatched: int | None
    bright: Counts | None

    @property
    def dropped_share(self) -> float:
        """The share of the objects that were dropped or, if that is smaller, of their area; NaN if not known.

        So neither many specks nor one large smear stand for the objects. NaN also of fewer than LEAST_OBJECTS.
        """
        if self.dropped is None or self.objects + self.dropped[0] < LEAST_OBJECTS:
            return np.nan
        totals = self.objects + self.dropped[0], self.area_px + self.dropped[1]
        return min(part / max(total, 1) for part, total in zip(self.dropped, totals, strict=True))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What objects of a label set should be like.

    Attributes:
        channel: in which they are seen.
        diameters_px: least and greatest median diameter that is right, px of the image; None: not known.
        why: that it is.
    """

    channel: str
    diameters_px: tuple[float, float] | None = None
    why: str = ""

    @classmethod
    def of(cls, channel: str, *, scale: float, diameter: float | None, diameters: tuple[float, float]) -> Expected:
        """What is expected of a model.

        Args:
            channel: the label set's first.
            scale: px of the network's grid per px of the image; other than 1 where a diameter is given.
            diameter: px, of the model (`ModelSpec`).
            diameters: px, on which it was trained (`ModelSpec`).
        """
        if scale != 1 and diameter is not None:
            given = diameter / scale
            return cls(channel=channel, diameters_px=(given / FAR, given * FAR), why=f"{given:.3g} px is given")
        why = "its model was trained on {:.3g} to {:.3g} px".format(*diameters)
        middle = math.sqrt(diameters[0] * diameters[1])  # a fine-tune on a few images knows one size
        right = min(diameters[0], middle / FAR), max(diameters[1], middle * FAR)
        return cls(channel=channel, diameters_px=right, why=why)


def unmatched_of(path: Path, config: Config, without_row: Mapping[str, int]) -> dict[str, int]:
    """How many nuclei of a well belong to no cell, and how many cells have no nucleus, by compartment.

    A nucleus belongs to a larger cell: where the two are swapped, neither has the other.

    Args:
        path: the well's cell table.
        config: of the project; nothing is counted unless one of the two makes the rows of the table, and the well has
            both.
        without_row: by compartment, how many objects have no row.
    """
    import pyarrow.parquet as pq

    rows, sets = compartment(config.row_label_set), {compartment(name) for name in config.segmentation}
    if not {rows} < {"Nuclei", "Cells"} <= sets:
        return {}
    other = "Cells" if rows == "Nuclei" else "Nuclei"
    larger = f"{rows}_Parent_{other}" if rows == "Cells" else f"{rows}_Children_{other}_Count"
    table = pq.read_table(
        path, columns=[f"Metadata_Match_{other}", larger, f"{other}_Number_Object_Number"]
    ).to_pandas()
    return unmatched_in(table, rows, other, without_row)


def judge(
    found: Mapping[str, Mapping[str, Found]], expected: Mapping[str, Expected]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, list[str]]]]:
    """Numbers and flags of each well.

    Args:
        found: by well and label set.
        expected: by label set.

    Returns:
        By well, the columns of the well table (NaN where there is nothing to judge), and by well and flag the label
        sets that have it.
    """
    numbers: dict[str, dict[str, float]] = {well: {} for well in found}
    flags: dict[str, dict[str, list[str]]] = {well: {} for well in found}
    for name, wanted in expected.items():
        sets = {well: of_well[name] for well, of_well in found.items() if name in of_well}
        uncovered = _uncovered({well: each.bright for well, each in sets.items() if each.bright is not None})
        for well, each in sets.items():
            few = each.objects < LEAST_OBJECTS
            of_flag = {"size": np.nan if few else each.diameter_px, "uncovered": uncovered.get(well, np.nan)}
            of_flag["unmatched"] = np.nan if few or each.unmatched is None else each.unmatched / each.objects
            # what the network makes of a blank well seldom agrees with its flow
            of_flag["flow_check"] = each.dropped_share if well in uncovered or not few else np.nan
            for flag, number in of_flag.items():
                numbers[well][f"Metadata_{compartment(name)}_{COLUMNS[flag]}"] = number
                if _excess(flag, number, wanted) > 0:
                    flags[well].setdefault(flag, []).append(name)
    return numbers, flags


def _excess(flag: str, number: float, wanted: Expected) -> float:
    """How far a number is beyond what is right: above 0 the well is flagged; NaN where it can't be judged."""
    if flag != "size":
        return number - MOST
    if wanted.diameters_px is None:
        return np.nan
    least, greatest = np.log(wanted.diameters_px)
    return float(abs(np.log(number) - (least + greatest) / 2) - (greatest - least) / 2)


def _uncovered(bright: Mapping[str, Counts]) -> dict[str, float]:
    """By well, the share of what is bright that is in no object; without the wells in which too little is bright."""
    start = bright_from(add_counts([*bright.values()])[0]) if bright else None
    if start is None:
        return {}
    sums = {well: (counts[:, start:].sum(axis=1), counts[0].sum()) for well, counts in bright.items()}
    shares = {well: over[0] / max(total, 1) for well, (over, total) in sums.items()}
    some = [share for share in shares.values() if share >= LEAST_BRIGHT]
    least = max(LEAST_BRIGHT, OF_TYPICAL * float(np.median(some or [1])))
    return {well: float(over[1] / over[0]) for well, (over, _) in sums.items() if shares[well] >= least}


def plate_doubts(wells: pd.DataFrame, expected: Mapping[str, Expected]) -> list[dict[str, Any]]:
    """What is wrong with the segmentation of the plate as a whole.

    A flag counts where most of the wells that can be judged have it: of the negative controls, or where fewer than
    MIN_WELLS of these can be, of all but positive controls and empty wells, so that a toxic plate isn't doubted. A
    label set of which fewer objects than fields were found is doubted in any case.

    Args:
        wells: the well table.
        expected: by label set.

    Returns:
        dicts with `flag` (or `none`), `label_set`, `text`, `wells`, the worst ones, each with its number as text, and
        `line`, all of that in one; a text's number is the median `of` the wells that were asked, if any.
    """
    import pandas as pd

    doubts: list[dict[str, Any]] = []
    by_well = wells.drop_duplicates("Metadata_Well").reset_index(drop=True)
    for name, wanted in expected.items():
        prefix = compartment(name)
        n = int(wells[f"Count_{prefix}"].sum())
        n_fields = int(by_well.loc[by_well[f"Count_{prefix}"].notna(), "Metadata_FieldsUsed"].sum())
        if n < n_fields:
            text = f"no {name} were found" if not n else f"next to no {name} were found: {n} in {n_fields} fields"
            doubts.append(_doubt("none", name, text, []))
        for flag, column in COLUMNS.items():
            values = by_well.get(f"Metadata_{prefix}_{column}", pd.Series(dtype=float)).dropna()
            judged = [values[reference_wells(by_well, which)[values.index]] for which in ("negative", "plate")]
            of, typical = ("negative controls", judged[0]) if len(judged[0]) >= MIN_WELLS else ("plate", judged[1])
            excess = values.map(partial(_excess, flag, wanted=wanted)).sort_values(ascending=False, kind="stable")
            if (excess[typical.index] > 0).sum() * 2 <= len(typical):
                continue
            shown = [(by_well.loc[i, "Metadata_Well"], _number(flag, values[i])) for i in excess[excess > 0].index]
            text = _TEXTS.get((flag, prefix), _TEXTS[flag, ""])
            text = text.format(
                name=name, channel=wanted.channel, number=_number(flag, typical.median()), why=wanted.why
            )
            doubts.append(_doubt(flag, name, text, shown[:NAMED]) | {"of": of})
    return doubts


def _doubt(flag: str, label_set: str, text: str, wells: list[tuple[str, str]]) -> dict[str, Any]:
    worst = f" (worst: {', '.join(f'{well} {number}' for well, number in wells)})" if wells else ""
    return {"flag": flag, "label_set": label_set, "text": text, "wells": wells, "line": f"{text}{worst}"}


def columns_of(wells: pd.DataFrame) -> dict[str, str]:
    """The columns of a well table with numbers of this module, and their flags.

    A column of the plate map may end alike, as `Metadata_Tip_Dropped`; label sets are what the table counts.
    """
    present = dict.fromkeys(map(str, wells))
    sets = [name.removeprefix("Count_") for name in present if name.startswith("Count_")]
    columns = {f"Metadata_{name}_{column}": flag for name in sets for flag, column in COLUMNS.items()}
    return {name: columns[name] for name in present if name in columns}


def numbers_of(flag: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> list[str]:
    """What the well table says of a well for a flag of this module, by label set; `columns` are its `columns_of`."""
    names = [name for name, own in columns.items() if own == flag and row[name] is not None]
    prefixes = [name.removeprefix("Metadata_").removesuffix(f"_{COLUMNS[flag]}").lower() for name in names]
    return [f"{prefix} {_number(flag, row[name])}" for prefix, name in zip(prefixes, names, strict=True)]


def _number(flag: str, value: float) -> str:
    return f"{value:.3g} px" if flag == "size" else f"{value:.0%}"


_TEXTS = {
    ("size", ""): "the median diameter of {name} is {number}, while {why}",
    ("uncovered", ""): "{number} of what is bright in {channel} is in none of the {name}",
    ("unmatched", "Nuclei"): "{number} of the nuclei belong to no cell",
    ("unmatched", "Cells"): "{number} of the cells have no nucleus",
    ("unmatched", ""): "{number} of the {name} have no partner, though they are matched one to one",
    ("flow_check", ""): "{number} of the {name} were dropped, as they don't agree with the flow",
}
"""By flag, and for what goes by the label set its name; the number is the median of the wells that were asked."""
