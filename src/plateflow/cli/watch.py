"""`plateflow status --watch`: plates x stages while they run, from files alone, so from any host; and their picture."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from plateflow.chain import STAGES
from plateflow.config import Config
from plateflow.errors import number_of
from plateflow.project import Plate
from plateflow.state.journal import LEFT_OUT
from plateflow.state.progress import JobProgress, Progress, plate_state

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

SECONDS = 5.0
ROWS = 30
"""Plates shown at a time; a screen's other plates are counted."""
FAILURES = 10
"""Failed jobs shown at a time; a screen's others are counted."""
HAPPENS = ("running", "failed")
"""States of the plates that get a row of their own in a large screen."""


def watch(
    config: Config,
    plates: list[Plate],
    seen: Callable[[dict[str, list[JobProgress]], dict[str, str]], None] = lambda jobs, unseen: None,
) -> None:
    """Show what runs, again and again, until all plates are complete; Ctrl-C leaves the run alone.

    Each time `seen` is told the jobs of all plates, and why some couldn't be read. On a terminal the picture is renewed
    in its place; else it is printed again whenever it has changed.
    """
    from rich.console import Console
    from rich.live import Live

    console, progress, shown = Console(), Progress(config), ""
    if not console.is_terminal:
        widen(console)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            jobs, unseen = {}, {}
            for plate in plates:
                try:
                    jobs[plate.name] = progress.of(plate.paths)
                except OSError as error:  # a storage that is away for a moment doesn't end the watch
                    unseen[plate.name] = str(error)
            seen(jobs, unseen)
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


def widen(console: Console) -> Console:
    """The console, wide enough for all stages that a configuration can have."""
    console.width = max(console.width, 24 + 11 * len(STAGES))
    return console


def picture(jobs: dict[str, list[JobProgress]], unseen: dict[str, str]) -> Group:
    """All plates at one moment: what failed, or can't be read (`unseen` says why); in how many plates nothing happens;
    the others in a table.
    """
    from rich.console import Group
    from rich.markup import escape

    rows: dict[str, list[JobProgress]] = {}
    rest: Counter[str] = Counter()
    for plate, of_plate in jobs.items():
        state = plate_state(of_plate)
        happens = state in HAPPENS
        if len(jobs) > 1 and (state == "complete" or len(rows) >= ROWS or (not happens and len(jobs) > ROWS)):
            rest["running or failed" if happens else state] += 1
        else:
            rows[plate] = of_plate
    counts = [f"{number_of(count, 'plate[s]')} {state}" for state, count in rest.items()]
    tables = [table(rows, "jobs done, and wells finished by running jobs")] if rows else []
    return Group(*(escape(line) for line in failures(jobs, unseen)), *counts, *tables)


def table(rows: dict[str, list[JobProgress]], title: str) -> Table:
    """Plates x stages."""
    here = {job.stage for jobs in rows.values() for job in jobs}
    stages = [name for name in STAGES if name in here]
    cells = {
        plate: [_cell([job for job in jobs if job.stage == name]) for name in stages] for plate, jobs in rows.items()
    }
    return lay_out(cells, stages, title)


def lay_out(rows: dict[str, list[str]], stages: Iterable[str], title: str) -> Table:
    """A table of plates, each with a cell per stage."""
    from rich.table import Table

    shown = Table("plate", title=title, title_justify="left")
    for name in stages:
        shown.add_column(name, justify="right")
    for plate, cells in rows.items():
        shown.add_row(plate, *cells)
    return shown


def failures(jobs: dict[str, list[JobProgress]], unseen: dict[str, str], limit: int | None = FAILURES) -> list[str]:
    """A paragraph per job that failed or is silent, and per plate that can't be read; after `limit` just how many."""
    lines = [f"{plate}: can't be read: {why}" for plate, why in [*unseen.items()][:limit]]
    if limit and len(unseen) > limit:
        lines.append(f"and {number_of(len(unseen) - limit, 'more plate[s]')} can't be read")
    failed: dict[tuple[str, ...], list[JobProgress]] = {}  # jobs of a stage that say the same are told together
    for plate, of_plate in jobs.items():
        for job in of_plate:
            if job.failures or job.state == "silent":
                key = plate, job.stage, job.state, str(job.failures), job.told or job.job
                failed.setdefault(key, []).append(job)
    lines += [_failure(key[0], alike) for key, alike in [*failed.items()][:limit]]
    more = sum(map(len, [*failed.values()][limit:])) if limit else 0
    return [*lines, f"and {number_of(more, 'more job[s]')} failed"] if more else lines


def _cell(jobs: list[JobProgress]) -> str:
    return "\n".join(f"[{colour}]{text}[/]" if colour else text for text, colour in cell(jobs))


def cell(jobs: list[JobProgress]) -> list[tuple[str, str]]:
    """What a stage of a plate is at: lines, each with its colour, if it has one."""
    states = Counter(job.state for job in jobs)
    if states["done"] == len(jobs):
        items: Counter[str] = Counter()
        for job in jobs:
            for item_state, count in job.items.items():
                items["left out" if item_state in LEFT_OUT else item_state] += count
        return [(f"{count} {state}", "") for state, count in items.items()] or [("done", "green")]
    if states["waits"] == len(jobs):
        return [("-", "")]
    lines = [(f"{states['done']}/{len(jobs)}", "")]
    if states["runs"]:
        lines.append((f"{states['runs']} run: {sum(job.wells for job in jobs if job.state == 'runs')} w", ""))
    return lines + [(f"{states[state]} {state}", "red") for state in ("failed", "silent", "stale") if states[state]]


def _failure(plate: str, alike: list[JobProgress]) -> str:
    job, names = alike[0], ", ".join(job.job for job in alike)
    now = {
        "runs": f"{job.failures} failed; running again",
        "silent": "no sign of life for 30 s; `plateflow retry` tidies up if its run is gone",
        "failed": f"{job.failures} failed; waiting to be tried again, or given up",
    }
    lines = [f"{plate}: {job.stage} {names}: {now[job.state]}", *filter(None, job.error.split("\n"))]
    line = job.last_line()
    lines.append(f"log: {job.log}" + (f" ends with: {line}" if line and line not in job.error else ""))
    return "\n    ".join(lines)
