"""`plateflow status --html`: the picture of `status` as a page, which renews itself as long as the run is watched."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plateflow.chain import STAGES
from plateflow.cli.watch import cell, failures
from plateflow.errors import PlateflowError, number_of
from plateflow.estimate import estimates_of
from plateflow.files import write_atomic
from plateflow.paths import SCREEN_PAGE
from plateflow.project import Plate, Project
from plateflow.state.journal import LeftOut, wells_and_fields
from plateflow.state.progress import JobProgress, plate_state

LISTED = 200
"""The most failed jobs, and wells and fields that were left out, that the page lists."""


class StatusPage:
    """Writes the page to a file, by rename.

    Attributes:
        file: where it is written.
        plates: those that it shows.
    """

    def __init__(self, file: Path, project: Project, plates: Sequence[Plate]) -> None:
        """Raises PlateflowError: the file is a folder, or its folder isn't there."""
        if file.is_dir() or not file.absolute().parent.is_dir():
            what = "is a folder" if file.is_dir() else "lies in no folder that is there"
            raise PlateflowError(f"--html: {file} {what}", remedy="name a file, such as status.html")
        self.file, self.plates = file, plates
        self._screen = project.screen.table(SCREEN_PAGE)
        self._estimates = estimates_of(project)
        self._left_out: dict[str, tuple[list[JobProgress], list[LeftOut]]] = {}

    def write(
        self, jobs: Mapping[str, list[JobProgress]], unread: Mapping[str, str], *, every: float | None = None
    ) -> None:
        """Write the page.

        Args:
            jobs: of the plates that could be looked at.
            unread: why the others could not.
            every: seconds after which the page is written again, and loads itself; None: it isn't.
        """
        from plateflow.report.page import render

        states = Counter("unread" if plate.name in unread else plate_state(jobs[plate.name]) for plate in self.plates)
        here = {job.stage for of_plate in jobs.values() for job in of_plate}
        stages = [name for name in STAGES if name in here]
        left_out = [item for plate in self.plates if plate.name in jobs for item in self._of(plate, jobs[plate.name])]
        failed = failures(dict(jobs), dict(unread), limit=LISTED)
        done, left = self._seconds(jobs)
        counts = ", ".join(f"{n} {state}" for state, n in states.items())
        running = sum(job.state == "runs" for of_plate in jobs.values() for job in of_plate)
        now = time.time()
        page = render(
            "status.html.j2",
            written=time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now)),
            every=every,
            level="bad" if failed else "warn" if left_out or states["stale"] else "good",
            line=f"{number_of(len(self.plates), 'plate[s]')}: {counts}",
            share=done / (done + left) if done + left else None,
            remaining=_duration(left / running) if running and left else "",
            running=number_of(running, "job[s]"),
            stages=stages,
            rows=[self._row(plate, jobs.get(plate.name), stages) for plate in self.plates],
            screen=self._link(self._screen),
            failed=failed,
            left_out=[(item, self._log(item)) for item in left_out[:LISTED]],
            total=wells_and_fields(left_out),
            more=wells_and_fields(left_out[LISTED:]),
        )
        write_atomic(self.file, page.encode(), stamped=False)

    def _row(self, plate: Plate, jobs: list[JobProgress] | None, stages: Sequence[str]) -> dict[str, Any]:
        cells = [cell([job for job in jobs or () if job.stage == name]) for name in stages]
        link = self._link(plate.paths.table("report.html"))
        return {"plate": plate.name, "state": plate_state(jobs) if jobs else "unread", "cells": cells, "link": link}

    def _link(self, page: Path) -> str:
        """A page's address from the folder of this one; empty where it isn't there."""
        folder = self.file.absolute().parent
        return Path(os.path.relpath(page.absolute(), folder)).as_posix() if page.is_file() else ""

    def _log(self, item: LeftOut) -> Path:
        """The log of the job that left a well or field out."""
        plate = next(plate for plate in self.plates if plate.name == item.plate)
        return plate.paths.latest_log(item.stage, str(plate.part_of_well(item.stage, item.well)))

    def _of(self, plate: Plate, jobs: list[JobProgress]) -> list[LeftOut]:
        """What was left out of a plate; its journals are read again when its jobs have changed."""
        known = self._left_out.get(plate.name)
        if known is None or known[0] != jobs:
            known = self._left_out[plate.name] = jobs, plate.left_out()
        return known[1]

    def _seconds(self, jobs: Mapping[str, list[JobProgress]]) -> tuple[float, float]:
        """Estimated seconds of work that is done, and that is left; jobs that run count by the wells that they have
        finished. Plates of unknown size don't count.
        """
        done = left = 0.0
        for name, of_plate in jobs.items():
            if (estimate := self._estimates.get(name)) is None:
                continue
            seconds = {stage: estimate.seconds(stage) for stage in {job.stage for job in of_plate}}
            for job in of_plate:
                wells = estimate.size.wells / max(1, estimate.jobs(job.stage))
                share = 1.0 if job.state == "done" else min(1.0, job.wells / wells)
                done += seconds[job.stage] * share
                left += seconds[job.stage] * (1 - share)
        return done, left


def _duration(seconds: float) -> str:
    """Two figures at most: 45 min, 3 h 20 min, 2 d 4 h."""
    minutes = max(1, round(seconds / 60))
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
