"""Which nucleus belongs to which cell."""

import numpy as np

from plateflow.features import measure
from plateflow.features.feature import Regions
from plateflow.features.objects import match


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
