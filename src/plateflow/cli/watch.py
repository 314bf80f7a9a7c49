"""`plateflow status --watch`: plates x stages while they run, from files alone, so from any host."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from plateflow.chain import STAGES
from plateflow.config import Config
from plateflow.project import Plate
from plateflow.state.progress import JobProgress, Progress

if TYPE_CHECKING:
    from rich.console import Group

SECONDS = 5.0
ROWS = 30
"""Plates shown at a time; a screen's other plates are counted."""
FAILURES = 10


def watch(config: Config, plates: list[Plate]) -> None:
    """Show what runs, again and again, until all plates are complete; Ctrl-C leaves the run alone.

    On a terminal the picture is renewed in its place; else it is printed again whenever it has changed.
    """
    from rich.console import Console
    from rich.live import Live

    console, progress, shown = Console(), Progress(config), ""
    if not console.is_terminal:
        console.width = max(console.width, 24 + 11 * len(STAGES))
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            jobs, unseen = {}, {}
            for plate in plates:
                try:
                    jobs[plate.name] = progress.of(plate.paths)
                except OSError as error:  # a storage that is away for a moment doesn't end the watch
                    unseen[plate.name] = str(error)
            look = picture(jobs, unseen)
            if console.is_terminal:
                live.update(look, refresh=True)
            else:
                with console.capture() as capture:
                    console.print(look)
                if capture.get() != shown:
                    shown = capture.get()
                    print(shown, flush=True)
            if not unseen and all(job.state == "done" for of_plate in jobs.values() for job in of_plate):
                return
            time.sleep(SECONDS)


def picture(jobs: dict[str, list[JobProgress]], unseen: dict[str, str]) -> Group:
    """All plates at one moment: what failed; a count of plates that wait or are complete; the others in a table.

    Args:
        jobs: of each plate.
        unseen: why a plate's files can't be read.
    """
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="jobs done, and wells finished by running jobs", title_justify="left")
    table.add_column("plate")
    for name in STAGES:
        table.add_column(name, justify="right")
    rest: Counter[str] = Counter()
    for plate, of_plate in jobs.items():
        word = _word(of_plate)
        if len(jobs) > 1 and (word == "complete" or table.row_count >= ROWS or (word and len(jobs) > ROWS)):
            rest[word or "running or failed"] += 1
        else:
            table.add_row(plate, *(_cell([job for job in of_plate if job.stage == name]) for name in STAGES))
    counts = [f"{count} plates {word}" for word, count in rest.items()]
    return Group(*(escape(line) for line in _failures(jobs, unseen)), *counts, *([table] if table.row_count else []))


def _word(jobs: list[JobProgress]) -> str:
    """What to call a plate that needs no row of its own; empty where something happens in it."""
    states = {job.state for job in jobs}
    return "complete" if states == {"done"} else "waiting" if states <= {"done", "waits"} else ""


def _failures(jobs: dict[str, list[JobProgress]], unseen: dict[str, str]) -> list[str]:
    lines = [f"{plate}: cannot be read: {why}" for plate, why in unseen.items()]
    for plate, of_plate in jobs.items():
        lines += [_failure(plate, job) for job in of_plate if job.failures or job.state == "silent"]
    more = len(lines) - FAILURES
    return [*lines[:FAILURES], f"and {more} more jobs failed"] if more > 0 else lines


def _cell(jobs: list[JobProgress]) -> str:
    states = Counter(job.state for job in jobs)
    if states["done"] == len(jobs):
        return "[green]done[/]"
    if states["waits"] == len(jobs):
        return "-"
    lines = [f"{states['done']}/{len(jobs)}"]
    if states["runs"]:
        lines.append(f"{states['runs']} run: {sum(job.wells for job in jobs if job.state == 'runs')} w")
    lines += [f"[red]{states[state]} {state}[/]" for state in ("failed", "silent") if states[state]]
    return "\n".join(lines)


def _failure(plate: str, job: JobProgress) -> str:
    now = {
        "runs": f"{job.failures} failed; running again",
        "silent": "no sign of life for 30 s; `plateflow retry` tidies up if its run is gone",
        "failed": f"{job.failures} failed; waiting to be tried again, or given up",
    }
    lines = [f"{plate}: {job.stage} {job.job}: {now[job.state]}", *filter(None, job.error.split("\n"))]
    line = job.last_line()
    if line and line not in job.error:
        lines.append(f"last line of {job.log}: {line}")
    return "\n    ".join(lines)
