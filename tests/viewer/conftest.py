import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
sys.path.insert(0, str(Path(__file__).parents[1] / "images"))

from planted_plate import Planted
from viewed import lit_plate, serving

from plateflow.viewer.plates import Plates
from plateflow.viewer.server import Server


@pytest.fixture(scope="session")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A plate that tests only read."""
    return lit_plate(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="session")
def served(lit: Planted) -> Iterator[Server]:
    """Its server; a file beside the results is nobody's business."""
    (lit.root / "secret.txt").write_text("SECRET")
    with serving(Plates(lit.root / "results")) as server:
        yield server
