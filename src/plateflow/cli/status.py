"""`plateflow status`: plates x stages, or what happened to one well and why."""

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from plateflow.asked import Stamps, screen_digest
from plateflow.chain import part_of, stage_of, stages_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status
from plateflow.cli.status_page import StatusPage
from plateflow.cli.watch import HAPPENS, ROWS, SECONDS, failures, lay_out, table, widen
from plateflow.cli.watch import watch as follow
from plateflow.errors import PlateflowError, ResultsError, number_of
from plateflow.files import stat_of
from plateflow.project import Plate, Project
from plateflow.stages.job import Job
from plateflow.stages.stale import Glance, StaleItem, ToDo, glance, to_do
from plateflow.state.corrections import Correction, corrections
from plateflow.state.journal import Entry, Journal, LeftOut, outcomes, wells_and_fields
from plateflow.state.lease import SILENT_S, leases
from plateflow.state.progress import JobProgress, Progress, screen_failure, screen_runs

PLATE_STATES = ("complete", "running", "to do", "stale", "failed", "unread")
NAMED = 3
"""So many plates are named where the same is to be done in many."""


def status(
    target: Annotated[str | None, typer.Argument(help="PLATE or PLATE/WELL; default: all plates")] = None,
    watch: Annotated[bool, typer.Option(help="follow a run until all plates are complete, from any host")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="only what failed or was left out, all of it")] = False,
    log: Annotated[
        bool, typer.Option("--log", help="with PLATE/WELL: the log of the job that did the well last, or failed to")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="also write a page to this file; with --watch, keep it up to date"),
    ] = None,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show what is done, stale, failed and left out, and what to do about it.

    All plates are told from receipts and the ends of journals alone; of a PLATE or PLATE/WELL every work item is looked
    at, with names and sizes of all files. A well is explained stage by stage: state, reason, what made it stale, and
    the log to read. Exit status: 4 as long as anything is stale or to do, else 1 where that can't be told, else 3 as
    long as anything is left out, else 0.
    """
    project = Project.load(configfile)
    plate, well = project.target(target) if target else (None, "")
    if well and html:
        raise typer.BadParameter("a page shows plates, not a well", param_hint="--html")
    if plate and well:
        raise typer.Exit(_print_log(plate, well) if log else explain(plate, well))
    plates = [plate] if plate else list(project.plates.values())
    page = StatusPage(html, project, plates) if html else None
    if watch:
        with suppress(KeyboardInterrupt):
            follow(project.config, plates, *([partial(page.write, every=SECONDS)] if page else []))
    one = plate and not (watch or failed)
    progress, stamps = Progress(project.config), Stamps()
    looks = [glance(each, progress, stamps) for each in plates] if page or not one else []
    if page:
        page.write(*_by_plate(looks))
    if plate and one:
        found = to_do(plate, files=True)
        left_out = [] if found.fault else plate.left_out()
        overview(plate, found)
        _print_left_out(left_out)
        raise typer.Exit(_status(found, left_out=bool(left_out)))
    if failed:
        _print_failed(looks)
    elif not watch:
        _print_screen(plates, looks)
    if not failed:
        _print_left_out([item for look in looks for item in look.left_out], None if len(plates) <= ROWS else ROWS)
    states = {look.state for look in looks}
    of_all = not (target or watch)  # `--watch` is over when all plates are complete
    if of_all and states == {"complete"} and (line := _over_all(project, looks)):
        typer.echo(line)
        raise typer.Exit(Status.STALE)
    if states & {"failed", "running", "stale", "to do"}:
        raise typer.Exit(Status.STALE)
    some_left_out = any(look.left_out for look in looks)
    raise typer.Exit(Status.ERROR if "unread" in states else Status.LEFT_OUT if some_left_out else Status.OK)


def _over_all(project: Project, looks: list[Glance]) -> str:
    """What there is to do over all plates, which are complete; empty where that is done."""
    digest = screen_digest({look.plate: look.asked for look in looks})
    if project.screen.receipt("report", "screen", digest).is_file():
        return ""
    if screen_runs(project.screen):
        return "screen: the page over all plates is being made"
    if failure := screen_failure(project.screen, digest):
        return f"{failure}\n  what to do: fix the cause, then `snakemake`; after a kill `plateflow retry` first"
    return "screen: the page over all plates is to do: `snakemake`"


def _status(look: ToDo, *, left_out: bool) -> Status:
    if look.items or (look.note and not look.fault):
        return Status.STALE
    return Status.ERROR if look.fault else Status.LEFT_OUT if left_out else Status.OK


def _print_screen(plates: list[Plate], looks: list[Glance]) -> None:
    """Print all plates: totals, what failed, what is to be done and why, and plates x stages where there is room."""
    states, wells = Counter(look.state for look in looks), sum(look.wells for look in looks)
    counts = [f"{states[state]:,} {state}" for state in PLATE_STATES if states[state]]
    lacking = sum(bool(look.left_out) for look in looks)
    line = f"{number_of(len(looks), 'plate[s]')}, {number_of(wells, 'well[s]')}: {', '.join(counts)}"
    typer.echo(f"{line}; {lacking:,} with wells or fields left out" if lacking else line)
    jobs, unread = _by_plate(looks)
    typer.echo("".join(f"{line}\n" for line in failures(jobs, unread)), nl=False)
    causes: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for look in looks:
        for cause, n in look.causes.items():
            causes.setdefault(cause, []).append((look.plate, n))
    for (stage, why, remedy), found in causes.items():
        names, n = ", ".join(name for name, _ in found[:NAMED]), sum(n for _, n in found)
        names += f" and {number_of(len(found) - NAMED, 'more plate[s]')}" if len(found) > NAMED else ""
        typer.echo(f"{names}: {stage}: {number_of(n, 'job[s]')} to do: {why}: {remedy}")
    doubtful = [look for look in looks if look.doubts]
    for look in doubtful[:ROWS]:
        more = number_of(len(look.doubts) - 1, "more")
        rest = f"; and {more}: `plateflow status {look.plate}`" if len(look.doubts) > 1 else ""
        typer.echo(f"{look.plate}: {look.doubts[0]}{rest}")
    if doubtful[ROWS:]:
        typer.echo(f"and {number_of(len(doubtful) - ROWS, 'more plate[s]')} to look at: `results/screen/index.html`")
    small = len(plates) <= ROWS
    for plate in plates if small else ():
        for line in _leases(plate):
            typer.echo(line)
    shown = [look for look in looks if small or look.state in HAPPENS][:ROWS]
    if shown:
        from rich.console import Console

        title = "work items by state where all jobs are done; else jobs done, and wells finished by running jobs"
        widen(Console()).print(table({look.plate: jobs[look.plate] for look in shown if look.plate in jobs}, title))
    if not small:
        rest = number_of(len(looks) - len(shown), "plate[s aren't| isn't] shown")
        typer.echo(f"{rest}; `plateflow status PLATE` shows one.")
    typer.echo("Files weren't looked at: `plateflow status PLATE` compares names and sizes, `plateflow verify` all.")


def _by_plate(looks: list[Glance]) -> tuple[dict[str, list[JobProgress]], dict[str, str]]:
    """The jobs of each plate, and why others can't be read."""
    jobs = {look.plate: look.jobs for look in looks if not look.unread}
    return jobs, {look.plate: look.unread for look in looks if look.unread}


def _print_failed(looks: list[Glance]) -> None:
    lines = failures(*_by_plate(looks), limit=None)
    left_out = [item for look in looks for item in look.left_out]
    if lines:
        typer.echo("\n".join([*lines, "Fix the cause, then `snakemake`; after a kill `plateflow retry` first."]))
    _print_left_out(left_out)
    if not lines and not left_out:
        typer.echo("No job has failed, and nothing is left out.")


def _print_left_out(items: list[LeftOut], limit: int | None = None) -> None:
    if items:
        typer.echo("\n  ".join([f"Left out ({wells_and_fields(items)}):", *map(str, items[:limit])]))
        if items[limit:] and limit:
            typer.echo(f"  and {wells_and_fields(items[limit:])} more: `plateflow status --failed`")
        typer.echo("Fix the files, then `snakemake`. `plateflow retry PLATE/WELL`, then `snakemake` tries one again.")


def overview(plate: Plate, found: ToDo) -> None:
    """Print a plate's work items by stage: ok, flagged, left out, stale or to do, and the time that they took."""
    from rich.console import Console

    stages = stages_of(plate.config)
    cells = {plate.name: [_cell(plate, name, found) for name in stages]}
    widen(Console()).print(lay_out(cells, stages, "work items by state; seconds are those of the jobs' work"))
    try:
        failed = failures({plate.name: Progress(plate.config).of(plate.paths)}, {})
    except (OSError, PlateflowError):  # the notes say so
        failed = []
    notes = (f"{plate.name}: {line}" for line in _notes(plate, found))
    doubts = (f"{plate.name}: {what}" for what in ([] if found.fault else plate.doubts()))
    for line in (*failed, *notes, *doubts, *_leases(plate)):
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
    """What a table can't show: what is stale, why, and what to do about it."""
    if found.note:
        yield found.note
    groups = Counter((stage, str(item), item.remedy) for (stage, _), item in found.items.items())
    for (stage, why, remedy), n in groups.items():
        yield f"{stage}: {n} {why}: {remedy}"


def _leases(plate: Plate) -> Iterator[str]:
    """Which jobs of a plate run, or died; who gave a sign of life just now isn't asked for in a queue."""
    try:
        held = list(leases(plate.paths.root / "leases"))
    except OSError as error:
        held = []
        yield f"{plate.name}: leases can't be read: {error.strerror}"
    for lease, owner in held:
        elsewhere = owner is not None and owner.host != socket.gethostname()
        alive = owner and ((elsewhere and time.time() - owner.beat < SILENT_S) or owner.alive() is not False)
        what = f"runs: {owner}" if alive else "died: run `plateflow retry`, then `snakemake`"
        yield f"{plate.name}: {lease.name} {what}"


def _is_known(plate: Plate, well: str) -> bool:
    """Whether the plate is ingested, so that its wells are known.

    Raises:
        PlateflowError: it is, and has no such well.
    """
    try:
        plate.check_well(well)
    except ResultsError:
        return False
    return True


def explain(plate: Plate, well: str) -> Status:
    """Print what happened to a well, stage by stage; returns the exit status.

    Raises:
        PlateflowError: the plate has no such well.
    """
    known, found = _is_known(plate, well), to_do(plate, files=True)
    typer.echo(f"{plate.name}/{well}")
    for name, stage in stages_of(plate.config).items():
        if not known and name != "ingest":
            continue
        latest = plate.outcomes(name)
        for path in plate.paths.journals(name):
            job = path.stem.removeprefix(f"{name}-")
            for entry in outcomes([path]).values():
                if entry.well in ("", well) and latest[entry.key].sequence == entry.sequence:
                    stale = found.items.get((name, entry.key))
                    _explain_entry(plate, Job(plate=plate, stage=stage, name=job), entry, stale)
        for (stage_name, key), stale in found.items.items():
            if stage_name == name and key[0] in ("", well) and key not in latest:
                typer.echo(f"  {name} {key[1]:20} to do ({stale}): {stale.remedy}")
        for failed in _failures(plate, name, well):
            error = failed.error.replace("\n", "\n    ")
            typer.echo(f"  {name} {failed.job}: last attempt failed: {error}\n    log: {failed.log}")
    for correction in corrections(plate.paths).values():
        if correction.well == well:
            typer.echo(f"  {correction}{_use_of(plate, correction)}")
    if found.note:
        typer.echo(f"  {found.note}")
    items = {key: item for key, item in found.items.items() if item.key[0] in ("", well)}
    of_well = ToDo(items, found.note, found.fault)
    return _status(of_well, left_out=not found.fault and any(item.well == well for item in plate.left_out()))


def _use_of(plate: Plate, correction: Correction) -> str:
    """Of a correction, in words, whether it is in use."""
    if correction.label_set not in plate.config.segmentation:
        return "; not in use: the configuration has no such label set"
    try:
        in_use = plate.correction(*correction.place)
        earlier = in_use and in_use.made_from != plate.labels_id(*correction.place)
    except ResultsError as error:
        return f"; can't tell whether it is in use: {error.what}"
    if not in_use:
        return "; not in use: the images have changed since"
    return "; made from an earlier segmentation" if earlier else ""


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
        typer.echo(f"    {stale}: {stale.remedy}")
    if entry.left_out:
        typer.echo(f"    fix it, then `snakemake`; or `plateflow retry {plate.name}/{entry.well}`, then `snakemake`")
    if entry.state != "ok":
        typer.echo(f"    log: {plate.paths.latest_log(job.stage.name, job.name)}")


def _failures(plate: Plate, stage: str, well: str) -> list[JobProgress]:
    """Of the jobs of a stage that a well waits for, its part's or the plate's, those whose last attempt failed."""
    failed = [job for job in Progress(plate.config).of(plate.paths) if job.stage == stage and job.state == "failed"]
    whole = stage_of(plate.config, stage).scope == "plate"
    return [job for job in failed if whole or part_of(job.job) == plate.part_of_well(stage, well)]


def _print_log(plate: Plate, well: str) -> Status:
    """Print the log of the job that worked on a well last, whether it ended well or not, or failed before it could."""
    logs: list[tuple[int, Path]] = []
    for stage in stages_of(plate.config) if _is_known(plate, well) else ("ingest",):
        for path in plate.paths.journals(stage):
            journal = Journal.read(path)
            if any(key[0] == well for key in (*journal.latest, *journal.started)):
                log = plate.paths.latest_log(stage, path.stem.removeprefix(f"{stage}-"))
                logs.append((path.stat().st_mtime_ns, log))
        for job in _failures(plate, stage, well):
            stats = [stat_of(path) for path in (plate.paths.journal(stage, job.job), job.log)]
            logs.append((max(stat[1] for stat in stats if stat), job.log))
    if not logs:
        raise PlateflowError("no job has worked on this well yet", where=f"{plate.name}/{well}")
    _, file = max(logs)
    typer.echo(f"{file}:")
    typer.echo(file.read_text(errors="replace") if file.is_file() else "(gone)")
    return Status.OK
