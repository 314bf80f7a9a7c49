"""A well table with known effects, without images: what the statistics are tested on."""

import numpy as np
import pandas as pd

from plateflow.paths import well_name

SHAPE = (16, 24)


def well_table(
    seed: int,
    *,
    shape: tuple[int, int] = SHAPE,
    negatives: int = 32,
    positives: int = 32,
    treatments: int = 160,
    replicates: int = 2,
    hits: int = 32,
    effect: float = 4.0,
    separation: float = 20.0,
    features: int = 1,
    plate: str = "p1",
) -> pd.DataFrame:
    """Wells in random places, of mean 100 and SD 5 in every feature F0, F1, ...

    The first `hits` treatments differ by `effect` SDs, the positive controls by `separation`, in F0 alone.
    """
    rng = np.random.default_rng(seed)
    wells = [well_name(row, column) for row in range(shape[0]) for column in range(shape[1])]
    what = [("negative", "DMSO")] * negatives + [("positive", "nocodazole")] * positives
    what += [("treatment", f"c{n:03d}") for n in range(treatments) for _ in range(replicates)]
    assert len(what) <= len(wells)
    what += [("empty", "")] * (len(wells) - len(what))
    roles, names = np.array(what, object)[rng.permutation(len(wells))].T
    values = rng.normal(100, 5, (len(wells), features))
    values[np.isin(names, [f"c{n:03d}" for n in range(hits)]), 0] += 5 * effect
    values[roles == "positive", 0] += 5 * separation
    head = {
        "Metadata_Plate": plate,
        "Metadata_Well": wells,
        "Metadata_Time": 0,
        "Metadata_role": roles,
        "Metadata_treatment": names,
        "Metadata_dose": 1.0,
        "Metadata_FieldsUsed": 4,
        "Metadata_Flags": "",
    }
    return pd.DataFrame(head).join(pd.DataFrame(values, columns=names_of(features)))


def names_of(features: int) -> list[str]:
    return [f"F{n}" for n in range(features)]
