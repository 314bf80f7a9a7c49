"""The stage `screen`: the page and the tables over all plates.

Reads: the tables and journals of all plates.
Writes: report.html, plates.csv, controls.csv, hits.csv, ledger.parquet and rates.json below results/screen.
Work item: the screen; it has no journal, and is done whenever a plate's report is newer.
"""

from __future__ import annotations

from plateflow.estimate import refine
from plateflow.files import digest, write_json
from plateflow.project import Project
from plateflow.report.screen import write_screen
from plateflow.state.ledger import attempts, write_ledger


def run(project: Project) -> None:
    """Write the page over all plates, and its receipt."""
    page = write_screen(project)
    spent = [row for plate in project.plates.values() for row in attempts(plate.paths)]
    write_ledger(project.screen, spent)
    refine(project, spent)
    write_json(project.screen.receipt("report", "screen"), {"stage": "screen", "work": digest(page)})
