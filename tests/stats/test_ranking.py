"""Wells in the order in which their segmentation is to be doubted."""

import numpy as np
import pandas as pd
import pytest

from plateflow.stats.ranking import doubts, worst_first


def table(**columns: list) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    wells = pd.DataFrame({"Metadata_Well": [f"A{k:02d}" for k in range(1, n + 1)], "Metadata_State": "ok"})
    wells = wells.assign(Metadata_FieldsUsed=1, **{f"Metadata_{name}": values for name, values in columns.items()})
    return wells.assign(Count_Nuclei=100, Count_Cells=100)


def test_the_worst_of_any_label_set_and_kind_of_doubt_counts() -> None:
    wells = table(
        Nuclei_Uncovered=[0.1, 0.1, 0.1, 0.05, 0.1],
        Cells_Unmatched=[0.0, 0.6, 0.1, 0.05, 0.1],
        Cells_Dropped=[0.3, 0.0, 0.1, 0.05, np.nan],
        Nuclei_Diameter_px=[20.0, 20.0, 80.0, 20.0, 20.0],
    )
    assert worst_first(wells) == [
        "A03",
        "A02",
        "A01",
        "A05",
        "A04",
    ]  # four times the diameter is twice the flag's limit
    assert 1 < doubts(wells)["A03"] < 1.1


def test_columns_of_the_plate_map_that_end_alike_count_for_nothing() -> None:
    wells = table(Cells_Dropped=[0.1, 0.2, 0.0], Tip_Dropped=["no", "yes", "no"], Bead_Diameter_px=[1.0, 1.0, 90.0])
    assert worst_first(wells) == ["A02", "A01", "A03"]
    assert doubts(wells)["A02"] == pytest.approx(0.22)


def test_wells_that_cannot_be_judged_come_last_and_those_left_out_nowhere() -> None:
    wells = table(Cells_Uncovered=[np.nan, 0.2, 0.0, 0.9], Cells_Diameter_px=[np.nan, 30.0, 30.0, 30.0])
    wells.loc[3, "Metadata_State"] = "quarantined"
    frames = pd.concat([wells, wells.assign(Metadata_Time=1)])
    assert worst_first(frames) == ["A02", "A03", "A01"]
    assert worst_first(table(Flags=["", ""])) == ["A01", "A02"]  # tables of an earlier version
