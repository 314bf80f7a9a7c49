"""What all tests share: a clean environment, real data, and which worker runs which tests."""

import os
import random
import signal
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

REPOSITORY = Path(__file__).resolve().parents[1]

# A user's own settings, or an allocation that these tests run in, would reach the programs that they start.
for name in list(os.environ):
    programs = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SNAKEMAKE_", "PLATEFLOW_DRIVER", "PLATEFLOW_ASKED")
    if name.startswith(programs) or name in {"FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"}:
        del os.environ[name]
# What a shell starts in its background ignores SIGINT, and so does all that it starts: tests that send one would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("PLATEFLOW_FAULTS_SEED", str(random.randrange(7)))  # the workers inherit it

COMPILING = ("test_same_in_every_layout.py", "test_features_stage.py")
"""The first files of two workers: one compiles flows and labels, the other features, and all others load them."""
SAME_PROJECT = (
    *("test_chain.py", "test_incremental.py", "test_keys.py", "test_one_book.py", "test_own_model.py"),
    "test_switches.py",
)
"""One worker runs these, as they share a project that Snakemake has run: making one takes half a minute."""


def pytest_report_header() -> str:
    """Say which seventh of the operations on files fails in this run."""
    return f"faults: PLATEFLOW_FAULTS_SEED={os.environ['PLATEFLOW_FAULTS_SEED']} (`make test-faults` takes all)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compile first; then come the workflow's tests, which are the longest, so that no worker ends with a long file."""
    items.sort(key=lambda item: (item.path.name not in COMPILING, "workflow" not in item.path.parts))


class OneWorkerPerFile(LoadFileScheduling):
    """Files go to workers whole and in their order; those that share a project go to one worker."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return SAME_PROJECT[0] if file.endswith(SAME_PROJECT) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneWorkerPerFile:
    """The scheduler of `pytest -n 2`."""
    return OneWorkerPerFile(config, log)


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
