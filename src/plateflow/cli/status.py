"""`plateflow status`: plates x stages, or what happened to one well and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from plateflow.chain import STAGES, part_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status
from plateflow.errors import PlateflowError
from plateflow.project import Plate, Project
from plateflow.stages.job import Job
from plateflow.stages.stale import StaleItem, ToDo, to_do
from plateflow.state.journal import Entry, Journal, outcomes
from plateflow.state.lease import leases


def status(
    target: Annotated[str | None, typer.Argument(help="PLATE or PLATE/WELL; default: all plates")] = None,
    watch: Annotated[bool, typer.Option(help="follow a run until all plates are complete, from any host")] = False,
    log: Annotated[
        bool, typer.Option("--log", help="with PLATE/WELL: the log of the job that did the well last")
    ] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show what is done, stale, flagged and left out, and what to do about it.

    All plates are told from the journals alone; of a PLATE or PLATE/WELL the names and sizes of all files are compared
    with them, too. A well is explained stage by stage: state, reason, what made it stale, and the log to read. Exit
    status: 4 as long as anything is stale or to do, else 1 where that can't be told, else 3 as long as anything is left
    out, else 0.
    """
    project = Project.load(configfile)
    if target and "/" in target:
        plate, well = project.target(target)
        if log:
            _print_log(plate, well)
            return
        found = to_do(plate, files=True)
        explain(plate, well, found)
        of_well = ToDo({key: item for key, item in found.items.items() if item.key[0] in ("", well)}, found.note)
        raise typer.Exit(_status([of_well], left_out=any(item.well == well for item in plate.left_out())))
    plates = [project.target(target)[0]] if target else list(project.plates.values())
    if watch:
        from plateflow.cli.watch import watch as follow

        follow(project.config, plates)
    looks = {plate.name: to_do(plate, files=target is not None) for plate in plates}
    if not watch:
        overview(plates, looks)
    lines = [str(item) for plate in plates if not looks[plate.name].fault for item in plate.left_out()]
    if lines:
        typer.echo("\n  ".join([f"Left out ({len(lines)}):", *lines]))
        typer.echo("Mend the files, then `snakemake`. `plateflow retry PLATE/WELL`, then `snakemake` tries one again.")
    raise typer.Exit(_status(list(looks.values()), left_out=bool(lines)))


def _status(looks: list[ToDo], *, left_out: bool) -> int:
    if any(look.items or (look.note and not look.fault) for look in looks):
        return Status.STALE
    if any(look.fault for look in looks):
        return Status.ERROR
    return Status.LEFT_OUT if left_out else Status.OK


def overview(plates: list[Plate], looks: dict[str, ToDo]) -> None:
    """Print plates x stages: work items that are ok, flagged, left out, stale or to do, and the time they took."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="work items by state; seconds are those of the jobs' work", title_justify="left")
    table.add_column("plate")
    for name in STAGES:
        table.add_column(name, justify="right")
    notes = []
    for plate in plates:
        found = looks[plate.name]
        table.add_row(plate.name, *(_cell(plate, name, found) for name in STAGES))
        notes += [f"{plate.name}: {line}" for line in _notes(plate, found)]
    console = Console()
    console.width = max(console.width, 24 + 11 * len(STAGES))
    console.print(table)
    for line in notes:
        typer.echo(line)


def _cell(plate: Plate, stage: str, found: ToDo) -> str:
    try:
        entries = plate.outcomes(stage)
    except (OSError, PlateflowError):
        return "?"
    counts = Counter(entry.state for key, entry in entries.items() if (stage, key) not in found.items)
    todo = sum(name == stage for name, _ in found.items)
    if not entries and not todo:
        return "-"
    parts = [f"{count} {state}" for state, count in counts.items()] + ([f"{todo} to do"] if todo else [])
    return "\n".join([*parts, f"{sum(entry.seconds for entry in entries.values()):.1f} s"])


def _notes(plate: Plate, found: ToDo) -> Iterator[str]:
    """What a table can't show: what is stale, why, and what to do about it; and the leases."""
    if found.note:
        yield found.note
    groups = Counter((stage, reason(item), item.remedy) for (stage, _), item in found.items.items())
    for (stage, why, remedy), n in groups.items():
        yield f"{stage}: {n} {why}: {remedy}"
    try:
        held = list(leases(plate.paths.root / "leases"))
    except OSError as error:
        held = []
        yield f"leases can't be read: {error.strerror}"
    for lease, owner in held:
        gone = owner is None or owner.alive() is False
        yield f"{lease.name} {'died: run `plateflow retry`, then `snakemake`' if gone else f'runs: {owner}'}"


def reason(item: StaleItem) -> str:
    """Why something is to be done, in words."""
    if item.why == ("never done",):
        return "never done, though a receipt is there" if item.seen else "never done"
    if item.why == ("files",):
        return "stale: files are gone or damaged"
    return f"stale: {', '.join(item.why)} changed" if item.why[0] != "left in the middle" else "left in the middle"


def explain(plate: Plate, well: str, found: ToDo) -> None:
    """Print what happened to a well, stage by stage.

    Raises:
        PlateflowError: the plate isn't ingested, or has no such well.
    """
    plate.check_well(well)
    typer.echo(f"{plate.name}/{well}")
    for name, stage in STAGES.items():
        latest = plate.outcomes(name)
        for path in plate.paths.journals(name):
            job = path.stem.removeprefix(f"{name}-")
            for entry in outcomes([path]).values():
                if entry.well in ("", well) and latest[entry.key].sequence == entry.sequence:
                    stale = found.items.get((name, entry.key))
                    _explain_entry(plate, Job(plate=plate, stage=stage, name=job), entry, stale)
        for (stage_name, key), stale in found.items.items():
            if stage_name == name and key[0] == well and key not in latest:
                typer.echo(f"  {name} {key[1]:20} to do ({reason(stale)}): {stale.remedy}")
        if stage.scope != "plate":
            _last_failure(plate, name, well)
    if found.note:
        typer.echo(f"  {found.note}")


def _explain_entry(plate: Plate, job: Job, entry: Entry, stale: StaleItem | None) -> None:
    place = f"{job.stage.name} {entry.label_set}" + (f" block {entry.block}" if entry.block >= 0 else "")
    why = f": {entry.reason}" if entry.reason else ""
    typer.echo(f"  {place:24} {entry.state}{why}  {entry.seconds:.2f} s, {entry.finished}")
    for field, field_reason in entry.fields.items():
        typer.echo(f"    field {field}: {field_reason}")
    if entry.detail:
        typer.echo(f"    {entry.detail}")
    if entry.accepted:
        made_by, accepted = entry.made_by or "unknown", entry.accepted
        typer.echo(
            f"    made by version {made_by}; stands as version {accepted['version']}: "
            f"accepted by {accepted['by']}, {accepted['at']}"
        )
    if stale is not None:
        typer.echo(f"    {reason(stale)}: {stale.remedy}")
    if entry.left_out:
        typer.echo(f"    mend it, then `snakemake`; or `plateflow retry {plate.name}/{entry.well}`, then `snakemake`")
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
