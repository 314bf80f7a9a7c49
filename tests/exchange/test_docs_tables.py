"""The examples of docs/tables.md, run one after another on a small plate."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from planted_plate import Planted

from plateflow.exchange.tables import export_tables

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"


def test_the_examples_run_and_agree(measured: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("duckdb", "ngio", "pycytominer"):
        pytest.importorskip(package)
    planted = measured.copy(tmp_path)
    monkeypatch.chdir(planted.paths.root)
    export_tables(planted.plate, "anndata", Path("exported"))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 7
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block, found)
    cells = pd.concat([pd.read_parquet(path) for path in sorted(Path("cells").iterdir())])
    areas = cells.groupby("Metadata_Well")["Cells_AreaShape_Area"]
    np.testing.assert_array_equal(found["wells"]["cells"], areas.size()[areas.size() > 0])
    np.testing.assert_allclose(found["wells"]["area_px"], areas.median().dropna())
    assert list(found["by_treatment"]["Metadata_dose"].dropna()) == [0.0, 1.0, 10.0]
    assert len(found["some"]) == len(found["together"].dataframe) == len(cells)
    assert found["large"] == (cells["Cells_AreaShape_Area"] > 100).sum()
    assert set(found["areas"].index) <= set(np.unique(found["labels"].get_as_numpy()))
    assert 0 < found["picked"].n_obs < len(cells)
    assert len(found["profiles"]) == len(cells)
