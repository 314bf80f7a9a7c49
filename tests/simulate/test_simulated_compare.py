import csv

import numpy as np
import pytest
import zarr

from plateflow.errors import PlateflowError
from plateflow.simulate.compare import _dose_orders, compare, otsu_watershed
from plateflow.simulate.plate import Fault, WellPlan, simulate_plate

WELLS = [
    WellPlan(well="B02", role="negative", treatment="DMSO", dose=0.0),
    *(
        WellPlan(well=w, role="treatment", treatment="c", dose=d, effect=e)
        for w, d, e in (("B03", 0.1, 0.1), ("C03", 1.0, 0.5), ("C04", 10.0, 0.9))
    ),
    WellPlan(well="D02", role="empty"),
]


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    return simulate_plate(
        tmp_path_factory.mktemp("plate"),
        wells=WELLS,
        fields=2,
        field_shape=(192, 192),
        faults=[Fault(kind="truncated", well="B02", field=1, channel=0)],
    )


def _results(folder, plate, change=lambda labels: labels, broken=None):
    """Results as the pipeline leaves them, made from the truth; the broken field of B02 has no pixels and no labels."""
    with (plate.truth / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with np.load(plate.truth / f"{row['well']}.npz") as truth:
            labels = {name: change(truth[name]) for name in ("nuclei", "cells")}
        if row["well"] == "B02":
            for array in labels.values():
                array[:, 192:] = 0
        group = folder / "plate.zarr" / row["well"][0] / row["well"][1:] / "0"
        image = np.zeros((1, 3, 1, *labels["nuclei"].shape), np.uint16)
        image[0, 0, 0] = 200 + 1000 * (labels["nuclei"] > 0)
        _store(group / "0", image)
        for name, array in labels.items():
            _store(group / "labels" / name / "0", array[None, None])
    # As of a plate on which every second well lost a field: counts are compared per field in use.
    used = [1 + number % 2 for number in range(len(rows))]
    lines = [
        f"{row['well']},{n},{n * int(row['nuclei'])},{row['marker_median'] or 0}"
        for n, row in zip(used, rows, strict=True)
    ]
    head = "Metadata_Well,Metadata_FieldsUsed,Count_Nuclei,marker"
    (folder / "wells.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder


def _store(path, data):
    zarr.create_array(path, data=data, chunks=(*(1 for _ in data.shape[:-2]), 64, 64))


def test_truth_against_itself_is_perfect(tmp_path, plate):
    table = compare(_results(tmp_path, plate), plate.truth, columns=("Count_Nuclei", "marker"))
    nuclei, cells, otsu = table.scores
    assert nuclei.f1 == cells.f1 == 1.0
    assert nuclei.true > 50  # B02's second field is left out, D02 has none
    assert nuclei.in_empty == 0
    assert 0.5 < otsu.f1 <= 1.0
    assert [d.recovered for d in table.doses] == [True, True]
    assert table.doses[0].spearman == pytest.approx(-1)
    assert table.doses[1].spearman == pytest.approx(1)
    assert "1.000" in table.lines()[1]


def test_missing_and_false_objects_lower_the_score(tmp_path, plate):
    def spoil(labels):
        return np.where(labels % 2 == 0, labels, 0)

    half = compare(_results(tmp_path / "a", plate, spoil), plate.truth).scores[0]
    assert half.matched == half.predicted < half.true
    assert half.f1 == pytest.approx(2 / 3, abs=0.05)

    def litter(labels):
        out = labels.copy()
        out[:20, :20] = labels.max() + 1
        return out

    more = compare(_results(tmp_path / "b", plate, litter), plate.truth).scores[0]
    assert more.in_empty == 1
    assert more.f1 < 1


def test_results_of_another_plate_and_missing_ones_are_refused(tmp_path, plate):
    with pytest.raises(PlateflowError, match="shape of the results differs"):
        compare(_results(tmp_path / "a", plate, lambda labels: labels[:-1]), plate.truth)
    with pytest.raises(PlateflowError, match="missing"):
        compare(tmp_path / "nothing", plate.truth)
    with pytest.raises(PlateflowError, match="no column nuclei"):
        compare(_results(tmp_path / "b", plate), plate.truth, columns=("nuclei",))


def test_the_order_of_doses_is_looked_for_in_each_cell_line(tmp_path):
    """Together, the values of a dose's two wells have the same mean."""
    names = ("B02", "B03", "C02", "C03")
    rows = zip(names, "aabb", ("1", "10") * 2, strict=True)
    wells = [{"well": well, "role": "treatment", "CellLine": line, "dose": dose} for well, line, dose in rows]
    lines = [f"{well},{value}" for well, value in zip(names, (1, 2, 2, 1), strict=True)]
    (tmp_path / "wells.csv").write_text("\n".join(["Metadata_Well,marker", *lines]) + "\n")
    orders = _dose_orders(tmp_path / "wells.csv", wells, ("marker",))
    assert [(order.line, order.recovered, round(order.spearman, 6)) for order in orders] == [
        ("a", True, 1),
        ("b", True, -1),
    ]
    (pooled,) = _dose_orders(tmp_path / "wells.csv", [well | {"CellLine": ""} for well in wells], ("marker",))
    assert not pooled.recovered


def test_otsu_and_watershed_cut_touching_discs_apart():
    y, x = np.mgrid[:100, :100]
    discs = (np.hypot(y - 50, x - 35) < 16) | (np.hypot(y - 50, x - 64) < 16)
    labels = otsu_watershed(np.where(discs, 1000, 100).astype(np.uint16))
    assert labels.dtype == np.uint32
    assert labels.max() == 2
    assert labels[50, 35] != labels[50, 64]
    assert not otsu_watershed(np.full((20, 20), 7, np.uint16)).any()
