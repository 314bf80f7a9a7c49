import pytest
from planted_plate import Planted, small_plate


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A small plate, ready for the stage features."""
    return small_plate(tmp_path_factory.mktemp("planted"))
