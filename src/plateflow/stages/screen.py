"""The stage `screen`: the page and the tables over all plates.

Reads: the tables and journals of all plates.
Writes: report.html, plates.csv, controls.csv, hits.csv, ledger.parquet and rates.json below results/screen.
Work item: the screen; it has no journal, and is done whenever something else is asked of a plate's report.
"""

from __future__ import annotations

from plateflow.asked import Asked, write_receipt
from plateflow.estimate import refine
from plateflow.files import remove, settle, stamp_of
from plateflow.project import Project
from plateflow.report.screen import write_screen
from plateflow.state.ledger import attempts, write_ledger

FILES = ("report.html", "plates.csv", "controls.csv", "hits.csv", "ledger.parquet", "rates.json")


def run(project: Project, digest: str = "") -> None:
    """Write the page over all plates, and its receipt, which lists the files with size and checksum.

    Args:
        digest: of what is asked; without it as the project is now.
    """
    digest = digest or Asked.of(project).screen
    for receipt in project.screen.receipts("report", "screen"):
        remove(receipt)
    settle()
    write_screen(project)
    spent = [row for plate in project.plates.values() for row in attempts(plate.paths)]
    write_ledger(project.screen, spent)
    refine(project, spent)
    tables = {name: project.screen.table(name) for name in FILES}
    files = {name: stamp_of(path) for name, path in tables.items() if path.is_file()}
    settle()
    write_receipt(project.screen, "report", "screen", digest, {"stage": "screen", "files": files})
