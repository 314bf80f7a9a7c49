"""The effects of plates, as aggregate leaves them, without wells: what the tables over all plates are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from plateflow.paths import PlatePaths
from plateflow.state.journal import Entry, append_outcome
from plateflow.tables import write_table

INFO = {
    "controls": {"grade": "good", "reasons": ["two wells"], "best": []},
    "hits": {"hits": 1, "treatments": 2, "why none": ""},
    "positions": {"Edge": [0, 1]},
}


def effects(
    rng: Any,
    plate: str,
    treatments: Sequence[tuple[str, float]],
    features: Sequence[str],
    *,
    missing: float = 0.0,
    reference: bool = True,
) -> pd.DataFrame:
    """A plate's table of effects: 1 to 3 wells a treatment; one in ten treatments has an effect in a third of features.

    Args:
        treatments: names and doses.
        missing: the share of values that no well has.
        reference: without it nothing can be compared.
    """
    n, shape = rng.integers(1, 4, len(treatments)), (len(treatments), len(features))
    wells = np.where(rng.random(shape) < missing, 0, n[:, None])
    true = np.where((rng.random((shape[0], 1)) < 0.1) & (rng.random(shape) < 0.3), rng.normal(0, 6, shape), 0)
    freedom = float(rng.integers(3, 60)) if reference else 0.0
    spread = np.sqrt(1 / np.maximum(wells, 1) + 1 / (freedom + 1))
    mean = np.where((wells > 0) & reference, true + spread * rng.standard_t(max(freedom, 1), shape), np.nan)
    one_side = (rng.random(shape) < 0.5) | (wells == 1)
    head = pd.DataFrame(sorted(treatments, key=str), columns=["Metadata_treatment", "Metadata_dose"])
    head["Metadata_dose_unit"] = "uM"
    head.insert(0, "Metadata_Plate", plate)
    head["Metadata_Replicates"], head["Metadata_Wells"] = n, "B02"
    head["Metadata_ReferenceVariance"] = 1 / (freedom + 1) if reference else np.inf
    head["Metadata_Freedom"] = freedom
    sides = pd.DataFrame(
        np.where(one_side, wells, -wells).astype(np.int16), columns=[f"{name}_Sides" for name in features]
    )
    return head.join(pd.DataFrame(mean.astype(np.float32), columns=list(features))).join(sides)


def controls(rng: Any, plate: str, features: Sequence[str]) -> pd.DataFrame:
    """A plate's table of controls, as far as the screen's is made from it."""
    head = pd.DataFrame({"Metadata_Plate": plate, "Feature": list(features), "Positive": 'taxol, 5 "µM"'})
    numbers = {name: rng.normal(size=len(features)) for name in ("ZPrime", "RobustZPrime", "SSMD", "RobustSSMD", "Q")}
    return head.assign(**numbers, Reason="").assign(Q=np.nan)


def leave(paths: PlatePaths, table: pd.DataFrame, control_table: pd.DataFrame) -> None:
    """Write what aggregate leaves of a plate."""
    write_table(paths.table("effects.parquet"), table)
    write_table(paths.table("controls.csv"), control_table)
    append_outcome(paths.journal("aggregate", "plate"), Entry(fingerprint="x", info=INFO))
