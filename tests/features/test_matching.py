"""Which nucleus belongs to which cell."""

import time

import numpy as np
import pytest
from feature_scenes import odd_labels
from hypothesis import given, settings
from hypothesis import strategies as st

from plateflow.errors import ArgumentError
from plateflow.features import measure
from plateflow.features.feature import Regions
from plateflow.features.matching import match, match_kinds
from plateflow.segment.growth import grow_evenly


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Cell 2 holds nuclei 5 (9 px) and 7 (4 px); 7 also touches cell 4 (2 px); cell 4 has none of its own; cell 9
    has nothing; nucleus 8 lies outside of all cells."""
    cells, nuclei = np.zeros((10, 30), np.uint32), np.zeros((10, 30), np.uint32)
    cells[:, 0:10], cells[:, 10:18], cells[:, 19:24] = 2, 4, 9
    nuclei[1:4, 1:4] = 5
    nuclei[6:8, 8:11] = 7
    nuclei[3:5, 26:28] = 8
    return cells, nuclei


def regions(labels: np.ndarray) -> Regions:
    return Regions(labels=labels, pixel_size_um=(1.0, 1.0))


def matched(rows: np.ndarray, others: np.ndarray) -> list[int]:
    return [int(np.unique(others[others > 0])[i]) if i >= 0 else 0 for i in match(regions(rows), regions(others)).index]


def test_each_nucleus_goes_to_one_cell_and_each_cell_takes_its_largest() -> None:
    cells, nuclei = scene()
    assert matched(cells, nuclei) == [5, 0, 0]
    assert match(regions(cells), regions(nuclei)).children.tolist() == [2, 0, 0]
    assert matched(nuclei, cells) == [2, 2, 0]
    assert match(regions(nuclei), regions(cells)).children.tolist() == [0, 0, 0]


def test_ties_go_to_the_smaller_label() -> None:
    cells = np.array([[1, 1, 1, 2, 2, 2]], np.uint8)
    assert matched(cells, np.array([[0, 0, 6, 6, 0, 0]])) == [6, 0]
    assert matched(cells, np.array([[6, 4, 0, 0, 0, 0]])) == [4, 0]


def test_counts_agree_with_a_loop_over_all_pairs() -> None:
    rng = np.random.default_rng(4)
    cells = np.kron(rng.integers(0, 6, (8, 8)), np.ones((5, 5), int)).astype(np.uint32)
    nuclei = np.kron(rng.integers(0, 90, (20, 20)), np.ones((2, 2), int)).astype(np.uint32)
    cell_labels, nucleus_labels = (np.unique(x[x > 0]).astype(int) for x in (cells, nuclei))
    shared = {(c, n): int(((cells == c) & (nuclei == n)).sum()) for c in cell_labels for n in nucleus_labels}
    parent = {n: max(cell_labels, key=lambda c: (shared[c, n], -c)) for n in nucleus_labels}
    children = [[n for n in nucleus_labels if parent[n] == c and shared[c, n]] for c in cell_labels]
    found = match(regions(cells), regions(nuclei))
    assert min(np.bincount(cells.ravel())) > max(np.bincount(nuclei.ravel())[1:])
    assert found.children.tolist() == [len(mine) for mine in children]
    best = [max(mine, key=lambda n: (shared[c, n], -n)) for c, mine in zip(cell_labels, children, strict=True)]
    assert matched(cells, nuclei) == best


def test_the_table_has_the_match_in_the_row_and_nan_without_one() -> None:
    cells, nuclei = scene()
    table = measure(np.ones((1, 10, 30)), {"Nuclei": nuclei, "Cells": cells}, channels=["A"], pixel_size_um=1.0)
    assert table["ObjectNumber"].tolist() == [2, 4, 9]
    assert table["Cells_Children_Nuclei_Count"].tolist() == [2, 0, 0]
    assert table["Nuclei_Number_Object_Number"].fillna(-1).tolist() == [5, -1, -1]
    assert table["Nuclei_AreaShape_Area"].fillna(-1).tolist() == [9, -1, -1]
    assert table["Cells_AreaShape_Area"].tolist() == [100, 80, 50]


def test_rows_can_be_any_label_set() -> None:
    cells, nuclei = scene()
    table = measure(
        np.ones((1, 10, 30)), {"Spots": nuclei, "Cells": cells}, channels=["A"], pixel_size_um=1.0, rows="Spots"
    )
    assert table["ObjectNumber"].tolist() == [5, 7, 8]
    assert table["Cells_Number_Object_Number"].fillna(-1).tolist() == [2, 2, -1]


def test_kinds_and_scores_tell_one_to_one_multinucleate_anucleate_and_orphan() -> None:
    cells, nuclei = scene()
    found = match(regions(cells), regions(nuclei))
    assert match_kinds(found, "Cells", "Nuclei").tolist() == ["multinucleate", "anucleate", "anucleate"]
    assert found.orphans == 1
    np.testing.assert_array_equal(found.score, [1, np.nan, np.nan])
    back = match(regions(nuclei), regions(cells))
    assert match_kinds(back, "Nuclei", "Cells").tolist() == ["multinucleate", "multinucleate", "orphan"]
    np.testing.assert_allclose(back.score, [1, 4 / 6, np.nan])
    assert (back.siblings.tolist(), back.orphans) == ([2, 2, 0], 2)
    nuclei[nuclei == 7] = 0
    assert match_kinds(match(regions(cells), regions(nuclei)), "Cells", "Nuclei")[0] == "one_to_one"
    assert match_kinds(match(regions(nuclei), regions(cells)), "Nuclei", "Cells").tolist() == ["one_to_one", "orphan"]
    assert match_kinds(back, "Spots", "Cells").tolist() == ["several", "several", "none"]


def by_pairs(rows: np.ndarray, others: np.ndarray) -> list[tuple]:
    """Index, score, children and siblings of each row, by a loop over all pairs."""
    area = [{n: int((x == n).sum()) for n in np.unique(x[x > 0]).tolist()} for x in (rows, others)]
    shared = {(r, o): int(((rows == r) & (others == o)).sum()) for r in area[0] for o in area[1]}
    parent_of_other, parent_of_row = {}, {}
    for r in area[0]:
        for o in area[1]:
            if not shared[r, o]:
                continue
            if area[1][o] <= area[0][r]:
                if all((shared[r, o], -r) >= (shared[k, o], -k) for k in area[0]):
                    parent_of_other[o] = r
            elif all((shared[r, o], -o) >= (shared[r, k], -k) for k in area[1]):
                parent_of_row[r] = o
    found = []
    for r in area[0]:
        kept = [o for o in area[1] if parent_of_other.get(o) == r or parent_of_row.get(r) == o]
        best = max(kept, key=lambda o, r=r: (shared[r, o], -o), default=None)
        score = shared[r, best] / min(area[0][r], area[1][best]) if best else np.nan
        siblings = sum(p == parent_of_row.get(r) for p in parent_of_row.values()) if r in parent_of_row else 0
        found.append((best or 0, score, sum(p == r for p in parent_of_other.values()), siblings))
    return found


@given(rows=odd_labels(), others=odd_labels(), shift=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_any_two_sets_are_matched_as_a_loop_over_all_pairs_does(
    rows: np.ndarray, others: np.ndarray, shift: int
) -> None:
    height, width = min(rows.shape[0], others.shape[0]), min(rows.shape[1], others.shape[1])
    rows, others = rows[:height, :width], np.roll(others[:height, :width], shift, 1)
    found, expected = match(regions(rows), regions(others)), by_pairs(rows, others)
    assert matched(rows, others) == [item[0] for item in expected]
    np.testing.assert_allclose(found.score, [item[1] for item in expected])
    assert found.children.tolist() == [item[2] for item in expected]
    assert found.siblings.tolist() == [item[3] for item in expected]


def crowded() -> dict[str, np.ndarray]:
    """Cell 1 holds nuclei 1 (100 px, in its corner) and 2 (64 px, whose ring has more pixels there), cell 2 nucleus 3;
    cell 3 holds nucleus 4, whose ring others fill."""
    labels = {name: np.zeros((60, 90), np.uint32) for name in ("Nuclei", "Cells")}
    labels["Cells"][5:35, 5:45], labels["Cells"][36:58, 5:45], labels["Cells"][5:40, 50:88] = 1, 2, 3
    labels["Nuclei"][5:15, 5:15], labels["Nuclei"][15:23, 28:36], labels["Nuclei"][40:50, 20:30] = 1, 2, 3
    labels["Nuclei"][10:20, 60:70] = 5
    labels["Nuclei"][13:16, 62:67] = 4
    labels["Ring"] = grow_evenly(labels["Nuclei"], radius=4, inner=1)
    return labels


def measured(labels: dict[str, np.ndarray], rows: str, sources: dict[str, str]):
    image = np.ones((1, *labels[rows].shape), np.float32)
    options = {"channels": ["A"], "pixel_size_um": 1.0, "families": ["location"]}
    return measure(image, labels, rows=rows, sources=sources, **options)


def test_a_row_has_the_ring_of_its_nucleus_whichever_lies_in_its_cell() -> None:
    labels = crowded()
    labels["Cells"][labels["Nuclei"] == 5] = 0  # so cell 3 has nucleus 4, which has no ring
    alone = measured(labels, "Cells", {})
    assert alone["Ring_Number_Object_Number"].tolist() == [2, 3, 5], "by its own pixels it is another nucleus's"
    table = measured(labels, "Cells", {"Ring": "Nuclei"})
    assert table["Nuclei_Number_Object_Number"].tolist() == [1, 3, 4]
    assert table["Ring_Number_Object_Number"].fillna(0).tolist() == [1, 3, 0]
    assert table["Cells_Children_Ring_Count"].tolist() == [2, 1, 0]
    assert table["Metadata_Match_Ring"].tolist() == ["several", "one_to_one", "none"]
    inside = [((labels["Ring"] == n) & (labels["Cells"] == row)).sum() for n, row in ((1, 1), (3, 2))]
    shares = [count / min((labels["Ring"] == n).sum(), 10_000) for count, n in zip(inside, (1, 3), strict=True)]
    np.testing.assert_allclose(table["Cells_Match_Ring_Overlap"], [*shares, np.nan])
    assert table.attrs["orphans"] == {"Nuclei": 1, "Ring": 1}


def test_a_ring_round_cells_is_that_of_the_cell_of_the_row_though_no_nucleus_touches_it() -> None:
    nuclei = np.zeros((60, 60), np.uint32)
    nuclei[10:20, 10:20], nuclei[35:45, 30:40] = 1, 2
    cells = grow_evenly(nuclei, radius=5)
    cells[cells > 0] = 9 - cells[cells > 0]  # as drawn by hand: numbers are others
    labels = {"Nuclei": nuclei, "Cells": cells, "Halo": grow_evenly(cells, radius=3, inner=0)}
    table = measured(labels, "Nuclei", {"Halo": "Cells"})
    assert table["Cells_Number_Object_Number"].tolist() == table["Halo_Number_Object_Number"].tolist() == [8, 7]
    assert table["Nuclei_Parent_Halo"].tolist() == [8, 7]
    assert table["Nuclei_Match_Halo_Overlap"].tolist() == [0, 0]


@pytest.mark.parametrize("rows", ["Nuclei", "Ring"])
def test_what_the_rows_are_made_from_is_matched_by_number(rows: str) -> None:
    labels = crowded()
    table = measured(labels, rows, {"Ring": "Nuclei"})
    other = "Ring" if rows == "Nuclei" else "Nuclei"
    assert table[f"{other}_Number_Object_Number"].fillna(0).tolist() == [
        n if n != 4 else 0 for n in table["ObjectNumber"]
    ]
    assert table.attrs["orphans"][other] == (rows == "Ring")


def test_what_a_set_is_made_from_must_be_there() -> None:
    labels = {name: each for name, each in crowded().items() if name != "Nuclei"}
    with pytest.raises(ArgumentError, match="Ring can't be made from 'Nuclei'"):
        measured(labels, "Cells", {"Ring": "Nuclei"})


def test_80_000_cells_are_matched_in_seconds() -> None:
    pattern = np.arange(1, 80_001, dtype=np.int32).reshape(250, 320)
    cells = np.kron(pattern, np.pad(np.ones((17, 17), np.int32), 1))
    nuclei = np.kron(pattern, np.pad(np.ones((7, 7), np.int32), 6))
    start = time.process_time()
    found = match(regions(cells), regions(nuclei))
    assert time.process_time() - start < 5
    np.testing.assert_array_equal(found.index, np.arange(80_000))
    assert (found.score == 1).all()


def test_the_cytoplasm_is_the_cell_without_any_nucleus() -> None:
    cells, nuclei = scene()
    nuclei[:, 19:24] = 9  # covers cell 9: no cytoplasm is left
    table = measure(np.ones((1, 10, 30)), {"Nuclei": nuclei, "Cells": cells}, channels=["A"], pixel_size_um=1.0)
    area = table["Cytoplasm_AreaShape_Area"]
    assert area.fillna(-1).tolist() == [100 - 9 - 4, 80 - 2, -1]
    assert table["Cytoplasm_Number_Object_Number"].fillna(-1).tolist() == [2, 4, -1]
    assert not table.columns.str.contains("Cytoplasm_(?:Neighbors|Quality)").any()
    of_nuclei = measure(
        np.ones((1, 10, 30)), {"Nuclei": nuclei, "Cells": cells}, channels=["A"], pixel_size_um=1.0, rows="Nuclei"
    )
    assert of_nuclei["Cytoplasm_AreaShape_Area"].fillna(-1).tolist() == [87, 87, -1, -1]
    # Of two objects of the same size the row's is the parent.
    assert of_nuclei["Nuclei_Parent_Cells"].fillna(-1).tolist() == [2, 2, -1, -1]
    assert of_nuclei["Metadata_Match_Cells"].tolist() == ["multinucleate", "multinucleate", "orphan", "one_to_one"]


def test_three_sets_of_any_names_work_alike() -> None:
    cells, nuclei = scene()
    spots = np.zeros_like(cells)
    spots[0, 0:6:2] = [3, 4, 5]
    table = measure(
        np.ones((1, 10, 30)), {"Spots": spots, "Nuclei": nuclei, "Cells": cells}, channels=["A"], pixel_size_um=1.0
    )
    assert table["Cells_Children_Spots_Count"].tolist() == [3, 0, 0]
    assert table["Metadata_Match_Spots"].tolist() == ["several", "none", "none"]
    assert table.attrs["orphans"] == {"Spots": 0, "Nuclei": 1}
    alone = measure(np.ones((1, 10, 30)), {"Nuclei": nuclei}, channels=["A"], pixel_size_um=1.0)
    assert alone["ObjectNumber"].tolist() == [5, 7, 8]
    assert not alone.columns.str.startswith("Metadata").any()
