import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))
from planted_plate import measured  # noqa: F401 - the fixture
