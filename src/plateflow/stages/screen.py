"""The stage `screen`: the page and the tables over all plates.

Reads: the tables and journals of all plates.
Writes: index.html, plates.csv, controls.csv, hits.csv, replicates.csv, ledger.parquet and rates.json below
    results/screen.
Work item: the screen; it has no journal, and is done whenever something else is asked of a plate's report.
"""

from plateflow.asked import Asked, write_receipt
from plateflow.errors import LeaseError
from plateflow.estimate import refine
from plateflow.files import remove, settle, stamp_of
from plateflow.paths import SCREEN_PAGE
from plateflow.project import SCREEN, Plate, Project
from plateflow.report.screen import write_screen
from plateflow.stages.job import damage
from plateflow.stages.reading import LostFileError
from plateflow.stages.runner import explain
from plateflow.state.journal import PLATE_KEY
from plateflow.state.lease import Lease
from plateflow.state.ledger import attempts, write_ledger
from plateflow.state.progress import DONE
from plateflow.state.requests import record_lost

FILES = (SCREEN_PAGE, "plates.csv", "controls.csv", "hits.csv", "replicates.csv", "ledger.parquet", "rates.json")
FORMER_PAGE = "report.html"
"""The page's name in earlier releases."""


def run(project: Project, digest: str = "") -> None:
    """Write the page over all plates, and its receipt, which lists the files with size and checksum.

    Args:
        digest: of what is asked; without it as the project is now.

    Raises:
        LeaseError: another job holds the lease.
        LostFileError: a file of a plate isn't there as it was written.
        PlateflowError: a disk is full or fails.
    """
    digest = digest or Asked.of(project).screen
    with Lease(project.screen.lease(SCREEN, SCREEN), holder="the screen's job") as lease:
        try:
            _write(project, digest, lease)
        except OSError as error:
            if (explained := explain(error, project.screen)) is error:
                raise
            raise explained from error


def _write(project: Project, digest: str, lease: Lease) -> None:
    for plate in project.plates.values():
        _check(plate)
    if not lease.held():
        raise LeaseError("another job has taken over the screen", where=str(lease.path))
    for receipt in project.screen.receipts("report", "screen"):
        remove(receipt)
    settle()
    write_screen(project)
    remove(project.screen.table(FORMER_PAGE))
    spent = [row for plate in project.plates.values() for row in attempts(plate.paths)]
    write_ledger(project.screen, spent)
    refine(project, spent)
    tables = {name: project.screen.table(name) for name in FILES}
    files = {name: stamp_of(path) for name, path in tables.items() if path.is_file()}
    settle()
    write_receipt(project.screen, "report", "screen", digest, {"stage": "screen", "files": files})
    print(DONE)


def _check(plate: Plate) -> None:
    """Compare what the screen reads of a plate with what the journals list."""
    for stage in ("ingest", "aggregate"):
        entry = plate.outcomes(stage).get(PLATE_KEY)
        if entry is None:
            continue
        for name, stamp in entry.files.items():
            if stage == "ingest" and plate.paths.path_of(name) != plate.paths.metadata:
                continue
            if why := damage(plate.paths, name, stamp, content=True):
                record_lost(plate.paths.watch(SCREEN, SCREEN), stage, entry, name, 0)
                raise LostFileError(plate, stage, entry, name, why)
