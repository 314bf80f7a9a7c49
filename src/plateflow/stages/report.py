"""The stage `report`: the page of a plate.

Reads: the tables of `aggregate`, small levels of images and labels, journals.
Writes: report.html, ledger.parquet.
Work item: the plate.
"""

from typing import Any

from plateflow.chain import labels_stage
from plateflow.files import write_atomic
from plateflow.images.window import load_window
from plateflow.stages.job import Job, Outcome, WorkItem
from plateflow.stages.runner import one_by_one, run_job
from plateflow.state.ledger import write_ledger


def work_items(job: Job) -> list[WorkItem[None]]:
    """The plate, with the tables and label images that its page shows."""
    from plateflow.report.view import accepted_results

    stages = ("tile", labels_stage(job.config), "aggregate")
    shown = {stage: sorted(job.plate.outcomes(stage).items()) for stage in stages}
    depends: dict[str, Any] = {
        stage: [[*key, entry.fingerprint, entry.state] for key, entry in items] for stage, items in shown.items()
    }
    if accepted := accepted_results(job.plate):
        depends["accepted"] = accepted
    return [WorkItem(depends={**depends, "window": load_window(job.paths).fingerprint(job.plate.channels)})]


def run(job: Job) -> None:
    """Write the page of a plate."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: report(job)))


def report(job: Job) -> Outcome:
    """Write report.html and the ledger; sections that fail are named in the outcome."""
    from plateflow.report.page import plate_page
    from plateflow.report.view import View

    page, failed = plate_page(View.read(job.plate))
    write_atomic(job.paths.table("report.html"), page.encode())
    write_ledger(job.paths)
    return Outcome(info={"bytes": len(page)} | ({"failed sections": failed} if failed else {}))
