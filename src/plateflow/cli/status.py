"""`plateflow status`: plates x stages, or what happened to one well and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from plateflow.chain import STAGES, part_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption
from plateflow.errors import PlateflowError
from plateflow.project import Plate, Project
from plateflow.stages import stage_module
from plateflow.stages.runner import Job, changes
from plateflow.state.journal import Entry, Journal, Key, outcomes
from plateflow.state.lease import leases

Stale = dict[tuple[str, Key], list[str]]


def status(
    target: Annotated[str | None, typer.Argument(help="PLATE or PLATE/WELL; default: all plates")] = None,
    watch: Annotated[bool, typer.Option(help="follow a run until all plates are complete, from any host")] = False,
    log: Annotated[
        bool, typer.Option("--log", help="with PLATE/WELL: the log of the job that did the well last")
    ] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show what is done, stale, flagged and left out, from the journals alone.

    A well is explained stage by stage: state, reason, what made it stale, and the log to read. Ends with 3 as long as
    anything is left out.
    """
    project = Project.load(configfile)
    if target and "/" in target:
        plate, well = project.target(target)
        if log:
            _print_log(plate, well)
        else:
            explain(plate, well)
        left_out = any(item.well == well and not item.field for item in plate.left_out())
    else:
        plates = [project.target(target)[0]] if target else list(project.plates.values())
        if watch:
            from plateflow.cli.watch import watch as follow

            follow(project.config, plates)
        else:
            overview(plates)
        lines = [str(item) for plate in plates for item in plate.left_out()]
        if left_out := bool(lines):
            typer.echo("\n  ".join([f"Left out ({len(lines)}):", *lines]))
    raise typer.Exit(3 if left_out else 0)


def stale_items(plate: Plate) -> tuple[Stale, str]:
    """What there is to do in a plate.

    Stages are asked in order; one whose upstream has never run can't list its work items, which ends the list.

    Returns:
        the names of what changed, by stage and key of the work item; and why later stages can't tell, else "".
    """
    stale: Stale = {}
    for name, stage in STAGES.items():
        entries = plate.outcomes(name)
        try:
            for number in stage.jobs(plate.config):
                job = Job(plate=plate, stage=stage, name=number)
                for item in stage_module(name).work_items(job):
                    why = changes(job, item, entries.get(item.key))
                    if why:
                        stale[name, item.key] = why
        except PlateflowError as error:
            return stale, f"{name}: {error.what}"
        except (OSError, KeyError) as error:  # KeyError: metadata of another release
            return stale, f"{name}: waits for the stage before it ({error})"
    return stale, ""


def overview(plates: list[Plate]) -> None:
    """Print plates x stages: work items that are ok, flagged, left out, stale or to do, and the time they took."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="work items by state; seconds are those of the jobs' work", title_justify="left")
    table.add_column("plate")
    for name in STAGES:
        table.add_column(name, justify="right")
    notes = []
    for plate in plates:
        stale, note = stale_items(plate)
        table.add_row(plate.name, *(_cell(plate, name, stale) for name in STAGES))
        notes += [f"{plate.name}: {line}" for line in _notes(plate, stale, note)]
    console = Console()
    console.width = max(console.width, 24 + 11 * len(STAGES))
    console.print(table)
    for line in notes:
        typer.echo(line)


def _cell(plate: Plate, stage: str, stale: Stale) -> str:
    entries = plate.outcomes(stage)
    counts = Counter(entry.state for key, entry in entries.items() if (stage, key) not in stale)
    todo = sum(name == stage for name, _ in stale)
    if not entries and not todo:
        return "-"
    parts = [f"{count} {state}" for state, count in counts.items()] + ([f"{todo} to do"] if todo else [])
    return "\n".join([*parts, f"{sum(entry.seconds for entry in entries.values()):.1f} s"])


def _notes(plate: Plate, stale: Stale, note: str) -> Iterator[str]:
    """What a table can't show: what is stale and why, and the leases."""
    if note:
        yield note
    reasons = Counter((stage, why) for (stage, _), whys in stale.items() for why in whys if why != "never done")
    for (stage, why), n in reasons.items():
        yield f"{stage}: {n} stale: {why} changed"
    for lease, owner in leases(plate.paths.root / "leases"):
        gone = owner is None or owner.alive() is False
        yield f"{lease.name} {'died: run `plateflow retry`' if gone else f'runs: {owner}'}"


def explain(plate: Plate, well: str) -> None:
    """Print what happened to a well, stage by stage.

    Raises:
        PlateflowError: the plate isn't ingested, or has no such well.
    """
    plate.check_well(well)
    stale, note = stale_items(plate)
    typer.echo(f"{plate.name}/{well}")
    for name, stage in STAGES.items():
        latest = plate.outcomes(name)
        for path in plate.paths.journals(name):
            job = path.stem.removeprefix(f"{name}-")
            for entry in outcomes([path]).values():
                if entry.well in ("", well) and latest[entry.key].sequence == entry.sequence:
                    _explain_entry(plate, well, Job(plate=plate, stage=stage, name=job), entry, stale)
        for (stage_name, key), why in stale.items():
            if stage_name == name and key[0] == well and key not in latest:
                typer.echo(f"  {name} {key[1]:20} to do ({', '.join(why)})")
        if stage.scope != "plate":
            _last_failure(plate, name, well)
    if note:
        typer.echo(f"  {note}")


def _explain_entry(plate: Plate, well: str, job: Job, entry: Entry, stale: Stale) -> None:
    place = f"{job.stage.name} {entry.label_set}" + (f" block {entry.block}" if entry.block >= 0 else "")
    reason = f": {entry.reason}" if entry.reason else ""
    typer.echo(f"  {place:24} {entry.state}{reason}  {entry.seconds:.2f} s, {entry.finished}")
    for field, why in entry.fields.items():
        typer.echo(f"    field {field}: {why}")
    if entry.detail:
        typer.echo(f"    {entry.detail}")
    if changed := stale.get((job.stage.name, entry.key)):
        first = "`plateflow check`, then " if "raw files" in changed else ""
        again = f"{plate.name}/{well}" if entry.well else plate.name
        typer.echo(f"    stale: {', '.join(changed)} changed; {first}`snakemake` does it again")
        typer.echo(f"    (if it does not, as after .snakemake was lost: `plateflow retry {again}`)")
    if entry.state != "ok":
        typer.echo(f"    log: {plate.paths.latest_log(job.stage.name, job.name)}")


def _print_log(plate: Plate, well: str) -> None:
    """Print the log of the job that worked on a well last, whether it ended well or not."""
    journals = []
    for path in (path for stage in STAGES for path in plate.paths.journals(stage)):
        journal = Journal.read(path)
        if any(key[0] == well for key in (*journal.latest, *journal.started)):
            journals.append(path)
    if not journals:
        raise PlateflowError("no job has worked on this well yet", where=f"{plate.name}/{well}")
    stage, _, job = max(journals, key=lambda path: path.stat().st_mtime_ns).stem.partition("-")
    file = plate.paths.latest_log(stage, job)
    typer.echo(f"{file}:")
    typer.echo(file.read_text(errors="replace") if file.is_file() else "(gone)")


def _last_failure(plate: Plate, stage: str, well: str) -> None:
    """Print the error with which the last attempt at a well's part ended, if it failed."""
    for job in STAGES[stage].jobs(plate.config):
        if part_of(job) == plate.part_of_well(stage, well):
            attempts = Journal.read(plate.paths.journal(stage, job)).attempts
            if attempts and attempts[-1].state == "failed":
                log = plate.paths.latest_log(stage, job)
                typer.echo(f"    last attempt failed: {attempts[-1].error}\n    log: {log}")
