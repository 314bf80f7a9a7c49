"""A small simulated plate."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from images_project import Project

from plateflow.simulate.plate import WellPlan, micro_wells, simulate_plate


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[..., Project]:
    """Simulate a plate of two wells, or of those given."""

    def make(
        *, wells: Sequence[WellPlan] | None = None, options: dict[str, Any] | None = None, **simulation: Any
    ) -> Project:
        values = {"fields": 2, "field_shape": (64, 80)} | simulation
        made = simulate_plate(tmp_path / "raw", wells=wells or micro_wells(), **values)
        return Project(raw=made.raw, results=tmp_path / "results", options=options or {})

    return make
