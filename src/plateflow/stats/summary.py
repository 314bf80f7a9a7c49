"""The table for people, summary.csv: of each well what matters, in words and few columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from plateflow.config import Stats
from plateflow.features.words import in_words
from plateflow.files import write_atomic
from plateflow.paths import PlatePaths
from plateflow.stats.alike import Alike
from plateflow.stats.controls import LEVEL, positive_controls
from plateflow.stats.effects import DOSE, TREATMENT, UNIT
from plateflow.stats.groups import group_columns
from plateflow.stats.reference import FRAME, ROLE, SHARE, by_frame, centre_and_spread, has_role, shares_in, well_values
from plateflow.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "summary.csv"
MOST, FEATURES = 40, 5
"""Columns that the table has at most, and features among them."""
NUMBERS = ("Count_", SHARE)
"""What columns of numbers and shares of objects begin with."""
FORMULA = ("=", "+", "-", "@")
"""Spreadsheets take text that begins so for a formula, which a plate map from elsewhere could hide."""
HEADS = dict(zip(FRAME, ("Time point", "Plane"), strict=True)) | {"Metadata_FieldsUsed": "Fields used"}


def write_summary(
    paths: PlatePaths, wells: pd.DataFrame, mapped: Sequence[str], settings: Stats, channels: Sequence[str]
) -> dict[str, list[str]]:
    """Write summary.csv, one row per well and frame, from the well table and the tables of statistics.

    Columns, MOST at the most: place and state of the well; role, treatment, dose and groups; counts per field in use
    and shares of objects; how far the well is from the controls (`distances`); the medians of the features that
    separate the controls best (`best_features`); then what else the plate map says, columns that tell wells apart
    first. It is UTF-8 with a mark, without which Excel takes µ for two letters, and text that would be a formula has a
    quotation mark before it.

    Args:
        paths: of the plate, with its tables.
        wells: the well table.
        mapped: its columns that come from the plate map.
        settings: of the statistics.
        channels: of the plate, whose names may hold underscores.

    Returns:
        `features`: the names of the features; `omitted`: the columns for which there was no room.
    """
    import pandas as pd

    groups = group_columns(settings)
    features = best_features(paths)
    frames = [name for name in FRAME if name in wells and wells[name].nunique() > 1]
    own = [f"Metadata_{name}" for name in ("State", "Reason", "Flags", "FieldsUsed")]
    first = ["Metadata_Plate", "Metadata_Well", *frames, *own, ROLE, TREATMENT, DOSE, UNIT, *groups]
    first = [name for name in dict.fromkeys(first) if name in wells]
    numbers = _numbers(wells)
    others = [name for name in mapped if name in wells and name not in first]
    others.sort(key=lambda name: wells[name].fillna("").nunique() < 2)
    far = distances(wells, features, groups, robust=settings.normalise.endswith("robust"))
    room = MOST - len(first) - far.shape[1] - len(features)
    chosen = [*numbers, *others][: max(room, 0)]
    numbers, others = ([name for name in names if name in chosen] for names in (numbers, others))

    values = well_values(wells, [*numbers, *features])
    table = pd.concat([wells[first], values[numbers], far, values[features], wells[others]], axis=1)
    table.columns = pd.Index(_heads([str(name) for name in table], channels))
    text = table.map(_plain).to_csv(index=False, float_format="%.7g")
    write_atomic(paths.table(SUMMARY), f"\ufeff{text}".encode())
    shown = {*first, *chosen}
    every = [*_numbers(wells), *(name for name in mapped if name in wells)]
    return {"features": features, "omitted": [name for name in every if name not in shown]}


def _numbers(wells: pd.DataFrame) -> list[str]:
    """The columns of counts and shares."""
    return [name for name in map(str, wells) if name.startswith(NUMBERS[0])] + shares_in(wells)


def _heads(names: Sequence[str], channels: Sequence[str]) -> list[str]:
    """The names of columns in words, each once."""
    heads = list[str]()
    for name in names:
        if name.startswith("Metadata_"):
            head = HEADS.get(name, name.removeprefix("Metadata_"))
        else:
            head = name if " " in name else in_words(name, channels)
        heads.append(str(_plain(f"{head} ({name})" if head in heads else head)))
    return heads


def _plain(cell: Any) -> Any:
    """A cell in one line that no spreadsheet takes for a formula."""
    if not isinstance(cell, str):
        return cell
    line = " ".join(cell.split())
    return f"'{line}" if line.startswith(FORMULA) else line


def best_features(paths: PlatePaths) -> list[str]:
    """The features that separate the controls best, no two of which say one thing (`alike.Alike`); FEATURES at most.

    They are ordered by Z', in the frame and group, and for the positive control, where it is best; those that differ
    surely first. Without a Z', they are the lead features of the treatments that differ most surely.
    """
    table = read_table(paths.table("controls.csv"))
    table = table[table["ZPrime"].notna()]
    sure = table["Q"] <= LEVEL
    ordered = table.assign(_sure=sure).sort_values(["_sure", "ZPrime"], ascending=False, kind="stable")["Feature"]
    if ordered.empty:
        hits = read_table(paths.table("hits.csv"))
        ordered = hits[hits["Q"].notna()].sort_values(["Q", "P"], kind="stable")["Feature"]
    names = [str(name) for name in ordered.drop_duplicates() if not str(name).startswith(NUMBERS)]
    if not names:
        return []
    return list(Alike(_read(paths, names)).groups(names, most=FEATURES))


def _read(paths: PlatePaths, names: list[str]) -> pd.DataFrame:
    """Normalised values, which compare over groups."""
    import pandas as pd

    return pd.read_parquet(paths.table("normalised.parquet"), columns=names)


def distances(wells: pd.DataFrame, features: Sequence[str], groups: Sequence[str], *, robust: bool) -> pd.DataFrame:
    """How far each well is from the controls of its frame and group, in spreads of the negative ones.

    It is the root of the mean of the squared distances from the control's centre in these features, each over the
    negative controls' spread; in those that have one, and a value in the well. Of several positive controls (and doses
    of them) the nearest counts. NaN where there are too few controls for a centre or spread.

    Args:
        wells: the well table.
        features: on which the distance is measured.
        groups: the columns by which wells form groups.
        robust: take medians and MADs.
    """
    import pandas as pd

    names = ["distance to the negative controls (SD)", "distance to the nearest positive control (SD)"]
    far = pd.DataFrame(np.nan, index=wells.index, columns=names)
    for _, rows in by_frame(wells, groups):
        values = well_values(rows, features)
        centre, spread = centre_and_spread(values[has_role(rows, "negative")], robust=robust)
        centres = [centre_and_spread(values.loc[index], robust=robust)[0] for _, index in positive_controls(rows)]
        for name, control in zip(names, ([centre], centres), strict=True):
            apart = [(((values - each) / spread) ** 2).mean(axis=1) ** 0.5 for each in control]
            far.loc[rows.index, name] = np.fmin.reduce([each.to_numpy(np.float64) for each in apart])
    return far
