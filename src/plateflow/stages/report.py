"""The stage `report`: the page of a plate.

Reads: the tables of `aggregate`, small levels of images and labels, journals.
Writes: report.html, ledger.parquet.
Work item: the plate.
"""

from __future__ import annotations

from plateflow.files import write_atomic
from plateflow.images.window import load_window
from plateflow.stages.runner import Job, Outcome, WorkItem, one_by_one, run_job
from plateflow.state.ledger import write_ledger


def work_items(job: Job) -> list[WorkItem[None]]:
    """The plate, with the tables and label images that its page shows."""
    shown = {stage: sorted(job.plate.outcomes(stage).items()) for stage in ("tile", "stitch", "aggregate")}
    depends = {
        stage: [[*key, entry.fingerprint, entry.state] for key, entry in items] for stage, items in shown.items()
    }
    return [WorkItem(depends={**depends, "window": load_window(job.paths).fingerprint(job.plate.channels)})]


def run(job: Job) -> None:
    """Write the page of a plate."""
    run_job(job, lambda: work_items(job), one_by_one(lambda item: report(job)))


def report(job: Job) -> Outcome:
    """Write report.html; sections that fail are named in the outcome."""
    import pandas as pd

    from plateflow.report import sections
    from plateflow.report.page import chart_library, render
    from plateflow.stats.wells import NOT_ACQUIRED

    paths = job.paths
    wells = pd.read_parquet(paths.table("wells.parquet"))
    absent = wells["Metadata_State"] == NOT_ACQUIRED
    view = sections.View(
        plate=job.plate,
        wells=wells[~absent].reset_index(drop=True),
        not_acquired=wells.loc[absent, "Metadata_Well"].tolist(),
        qc=pd.read_parquet(paths.table("qc.parquet")),
        aggregate=job.plate.outcomes("aggregate").required(),
    )
    made = sections.gather(view)
    page = render(
        "page.html.j2",
        plate=paths.plate,
        verdict=sections.verdict(view),
        sections=made,
        library=chart_library(),
    )
    write_atomic(paths.table("report.html"), page.encode())
    write_ledger(paths)
    failed = [section["name"] for section in made if section["error"]]
    return Outcome(info={"bytes": len(page)} | ({"failed sections": failed} if failed else {}))
