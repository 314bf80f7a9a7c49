"""Tables as they are written and read."""

from pathlib import Path

import pandas as pd
import pytest

from plateflow.tables import read_table, records, write_table


@pytest.mark.parametrize("name", ["hits.csv", "hits.parquet"])
def test_text_stays_text_and_numbers_keep_seven_digits(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {"Metadata_treatment": ["101", "NA", 'a, "b"'], "Reason": ["", "x", ""], "Z": [1 / 3, 2, None]}
    )
    write_table(tmp_path / "p1" / name, table)
    read = read_table(tmp_path / "p1" / name)
    assert read["Metadata_treatment"].tolist() == ["101", "NA", 'a, "b"']
    assert read["Reason"].tolist() == ["", "x", ""]
    assert read["Z"].tolist()[:2] == pytest.approx([1 / 3, 2], abs=1e-7)
    assert records(read)[2] == {"Metadata_treatment": 'a, "b"', "Reason": "", "Z": None}
    before = (tmp_path / "p1" / name).read_bytes()
    write_table(tmp_path / "p1" / name, table)
    assert (tmp_path / "p1" / name).read_bytes() == before


def test_a_text_column_without_a_value_is_text(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", pd.DataFrame({"Reason": pd.Series([], dtype=object)}))
    assert read_table(tmp_path / "a.parquet")["Reason"].tolist() == []
