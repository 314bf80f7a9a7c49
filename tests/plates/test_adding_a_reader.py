"""The worked example of docs/adding-a-reader.md is a reader."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from plateflow.errors import RawDataError
from plateflow.plates import open_plate, plate, recognise

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-reader.md"
SCAN = """<scan rows="8" columns="12" um="0.5">
<shot well="B03" site="1" dye="DNA" x="-0.012" y="0.007" file="0001.tif"/>
<shot well="B03" site="2" dye="DNA" x="0.012" y="0.007" file="0002.tif"/>
<shot well="B03" site="2" dye="AGP" x="0.012" y="0.007" file="0003.tif"/>
</scan>"""


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plate as the page describes it; the page's reader is registered with the line that it gives."""
    code, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    space: dict[str, type] = {}
    exec(compile(code, str(PAGE), "exec"), space)
    reader = eval(line.strip().rstrip(","), space)
    monkeypatch.setitem(plate.READERS, reader.name, reader)
    (tmp_path / "acme.xml").write_text(SCAN)
    for number in (1, 2, 3):
        tifffile.imwrite(tmp_path / f"{number:04d}.tif", np.full((20, 40), number, np.uint16))
    return tmp_path


def test_the_example_reads_its_plate(scan: Path) -> None:
    assert recognise(scan) == "acme"
    opened = open_plate(scan)
    assert opened.metadata["channels"] == [{"name": "DNA", "dtype": "uint16"}, {"name": "AGP", "dtype": "uint16"}]
    assert opened.planes["state"].tolist() == ["ok", "missing", "ok", "ok"]
    assert opened.planes.iloc[0][["y_um", "x_um"]].tolist() == pytest.approx([-7 - 5, -12 - 10])
    assert opened.read("B03", "2", "AGP")[0, 0] == 3


def test_the_example_says_what_is_wrong(scan: Path) -> None:
    (scan / "acme.xml").write_text(SCAN.replace("0001.tif", "../0001.tif"))
    with pytest.raises(RawDataError, match="leads out"):
        open_plate(scan)
    (scan / "acme.xml").write_text(SCAN.replace('"B03" site="2"', '"Q77" site="2"'))
    with pytest.raises(RawDataError, match="cannot parse"):
        open_plate(scan)
