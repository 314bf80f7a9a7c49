"""The demo's comparison of foci, positive cells and cell lines with the truth, on small tables made by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from plateflow.cli.demo import ASSAY
from plateflow.config import Config
from plateflow.errors import PlateflowError
from plateflow.simulate.compare_assay import FOCI, LINE, SHARE, agreement, compare_assay, line_results, spot_score
from plateflow.tables import write_table


def test_spots_match_one_to_one_within_reach():
    planted = {"B02": np.array([[10.0, 10.0], [10.0, 14.0], [50.0, 50.0]]), "D07": np.zeros((0, 2))}
    found = {
        "B02": np.array([[10.0, 12.0], [10.0, 11.9], [50.0, 52.5], [90.0, 90.0]]),  # both of two, none, none
        "D07": np.array([[1.0, 1.0]]),
    }
    score = spot_score(found, planted)
    assert (score.true, score.predicted, score.matched, score.in_empty) == (3, 4, 2, 1)
    assert (score.recall, score.precision) == (pytest.approx(2 / 3), 0.5)
    found["B02"] = np.array([[10.0, 10.0], [10.1, 10.0]])  # one focus isn't found twice
    assert spot_score(found, planted).matched == 1
    assert spot_score(found | {"B02": np.zeros((0, 2))}, planted).matched == 0
    assert spot_score(planted, planted).f1 == 1


def test_agreement_is_of_the_wells_of_the_truth():
    true = pd.Series({"B02": 1.0, "B03": 2.0, "B04": 4.0})
    found = agreement("foci", pd.Series({"B04": 4.5, "B03": 2.1, "B02": 0.9, "D07": 9.0}), true)
    assert (found.wells, found.bias, found.worst) == (3, pytest.approx(0.5 / 3), pytest.approx(0.5))
    assert found.correlation == pytest.approx(np.corrcoef([0.9, 2.1, 4.5], [1, 2, 4])[0, 1])
    with pytest.raises(PlateflowError, match="foci isn't known of B03, B04"):
        agreement("foci", pd.Series({"B02": 1.0, "B03": np.nan}), true)


WELLS = [
    {"well": f"B0{n}", "role": "treatment", "CellLine": line, "dose": str(dose), "effect": str(dose / (dose + half))}
    for line, half in (("a", 1.0), ("b", 3.0))
    for n, dose in enumerate((0.1, 1.0, 10.0), 2)
]
WELLS.append({"well": "D07", "role": "empty", "CellLine": "", "dose": "", "effect": "0.0"})
HITS = pd.DataFrame(
    {
        "Metadata_CellLine": ["a", "b", "a", "a", "b", "b"],
        "Metadata_dose": [10.0, 10.0, 1.0, 0.1, 1.0, 0.1],
        "Hit": [True, True, True, False, False, False],
    }
)
CURVES = pd.DataFrame(
    {
        "Metadata_CellLine": ["a", "a", "a", "b", "b"],
        "EC50": [0.8, 1.2, 1e9, 3.3, np.nan],
        "Flags": ["", "", "imprecise", "", ""],
    }
)
CONTROLS = pd.DataFrame(
    {
        "Metadata_CellLine": ["a", "a", "b", "b"],
        "Feature": ["Count_Cells", "Share_Positive"] * 2,
        "ZPrime": [0.1, 0.7, 0.2, 0.6],
    }
)


def test_each_cell_line_is_judged_by_its_own_rows():
    a, b = line_results(HITS, CURVES, CONTROLS, WELLS)
    assert (a.line, a.doses, a.hits, a.curves, a.z_prime) == ("a", (0.1, 1.0, 10.0), (1.0, 10.0), 2, 0.7)
    assert (b.line, b.doses, b.hits, b.curves, b.z_prime) == ("b", (0.1, 1.0, 10.0), (10.0,), 1, 0.6)
    assert (a.ec50, b.ec50) == (pytest.approx(1.0), 3.3)
    assert (a.true_ec50, b.true_ec50) == (pytest.approx(1.0), pytest.approx(3.0))
    assert str(b) == (
        "b: hits at 1 of 3 doses (10) against 0 negative controls, EC50 3.30 (median of 1 curve; truth 3), "
        "Z' of Share_Positive 0.60"
    )
    wells = [*WELLS, {"role": "negative", "CellLine": "b"}, {"role": "negative", "CellLine": "a"}]
    assert [each.negatives for each in line_results(HITS, CURVES, CONTROLS, wells)] == [1, 1]
    with pytest.raises(PlateflowError, match="no row of Share_Positive for b"):
        line_results(HITS, CURVES, CONTROLS[:2], WELLS)


@pytest.fixture
def demo(tmp_path):
    """Results and truth of six wells, of which B04 has a fault and is unlike its truth."""
    results, truth = tmp_path / "results", tmp_path / "truth"
    truth.mkdir()
    faults = [{"kind": "defocus", "well": "B04", "field": 1, "channel": None}]
    (truth / "truth.json").write_text(json.dumps({"plate": "demo", "faults": faults}))
    wells = [row | {"well": f"B0{n}"} for n, row in enumerate(WELLS[:6], 2)]
    shares = [0.0, 0.2, 0.9, 0.1, 0.3, 0.5]
    true = [row | {"foci_per_nucleus": n, "share_positive": n / 10} for n, row in enumerate(wells, 1)]
    pd.DataFrame(true).to_csv(truth / "truth.csv", index=False)
    for row in true:
        n = row["foci_per_nucleus"]
        foci = np.full((n, 2), 10.0) + np.arange(n)[:, None] * 5
        np.savez(truth / f"{row['well']}.npz", foci=foci)
        own = pd.DataFrame(foci + 0.5, columns=["y_px", "x_px"])
        write_table(results / "spots/foci" / f"{row['well']}.parquet", own)
        counts = pd.DataFrame({"Nuclei_Children_Foci_Count": [n - 1.0, n + 1.0, np.nan]})
        write_table(results / "cells" / f"{row['well']}.parquet", counts)
    table = pd.DataFrame({"Metadata_Well": [row["well"] for row in wells], "Share_Positive": shares})
    write_table(results / "wells.parquet", table)
    for name, own in (("hits", HITS), ("doses", CURVES), ("controls", CONTROLS)):
        write_table(results / f"{name}.csv", own)
    return results, truth


def test_the_tables_of_a_plate_are_compared_without_its_faulty_wells(demo):
    lines = compare_assay(*demo)
    assert lines[0] == "foci within 2 px of planted ones: recall 1.000, precision 1.000, 0 in the empty well"
    assert lines[1].startswith("foci per nucleus, 5 wells: correlation with the truth 1.000, bias +0.000")
    assert lines[2].startswith("share of positive cells, 5 wells: ")
    assert "bias -0.140, largest difference 0.300" in lines[2]
    assert [line[:7] for line in lines[3:]] == ["a: hits", "b: hits"]


def test_what_is_not_there_is_an_error_that_names_it(demo):
    results, truth = demo
    write_table(results / "wells.parquet", pd.DataFrame({"Metadata_Well": ["B02"]}))
    with pytest.raises(PlateflowError, match=r"no column Share_Positive[\s\S]*wells.parquet[\s\S]*populations"):
        compare_assay(results, truth)
    (results / "spots/foci/B03.parquet").unlink()
    with pytest.raises(PlateflowError, match=r"missing[\s\S]*B03.parquet"):
        compare_assay(results, truth)


def test_the_demo_asks_for_what_is_compared():
    config = Config.model_validate(Config().model_dump() | ASSAY)
    assert [*config.spots] == [FOCI]
    assert [f"Share_{name.capitalize()}" for name in config.populations] == [SHARE]
    assert [f"Metadata_{name}" for name in config.stats.group_by] == [LINE]
