"""One throw-away SLURM for all tests of this folder; without it they fail, and say why. Run by `make test-slurm`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import PREFIX, Cluster

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The running cluster; nothing of it is left afterwards."""
    lab = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))
    made = Cluster(lab)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(lab, ignore_errors=True)
