"""Fixtures that all tests share."""

import os
import signal
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# A user's own settings, or an allocation that these tests run in, would reach the programs that they start.
for name in list(os.environ):
    programs = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SNAKEMAKE_")
    if name.startswith(programs) or name in {"FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "PLATEFLOW_DRIVER"}:
        del os.environ[name]
# What a shell starts in its background ignores SIGINT, and so does all that it starts: tests that send one would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real images and plates, kept outside the repository."""
    folder = Path(os.environ.get("PLATEFLOW_TEST_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        reason = f"no test data at {folder}; set PLATEFLOW_TEST_DATA to the folder that holds cells2d and plates"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
