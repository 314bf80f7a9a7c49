import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
from planted_plate import Planted, small_plate


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A small plate with its tables."""
    plate = small_plate(tmp_path_factory.mktemp("planted"))
    plate.run("features", "aggregate")
    return plate
