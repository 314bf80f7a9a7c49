"""`plateflow status`: plates x stages, or what happened to one well and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from plateflow.chain import STAGES, part_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Project
from plateflow.config import PlateEntry
from plateflow.errors import PlateflowError
from plateflow.files import read_lines
from plateflow.stages import stage_module
from plateflow.stages.runner import JobContext, Unit, changes
from plateflow.state.journal import Entry, Key, outcomes
from plateflow.state.lease import read_owner

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
        entry, well = project.target(target)
        if log:
            _print_log(project, entry, well)
        else:
            explain(project, entry, well)
        left_out = any(item.well == well and item.left_out for _, item in _entries(project, entry))
    else:
        chosen = [project.target(target)[0]] if target else list(project.plates.values())
        if watch:
            from plateflow.cli.watch import watch as follow

            follow(project, chosen)
        else:
            overview(project, chosen)
        left_out = _list_left_out(project, chosen)
    raise typer.Exit(3 if left_out else 0)


def _entries(project: Project, entry: PlateEntry) -> Iterator[tuple[str, Entry]]:
    paths = project.paths(entry.plate)
    for stage in STAGES:
        for item in outcomes(paths.journals(stage)).values():
            yield stage, item


def stale_units(project: Project, entry: PlateEntry) -> tuple[Stale, str]:
    """What is to do in a plate: (stage, unit) -> the names of what changed; and why later stages can't be told.

    Stages are asked in order; one whose upstream has never run can't list its units, which ends the list.
    """
    found: Stale = {}
    for name, stage in STAGES.items():
        known = outcomes(project.paths(entry.plate).journals(name))
        try:
            for job in stage.jobs(project.config):
                context = JobContext(config=project.config, entry=entry, stage=stage, job=job)
                units: list[Unit] = stage_module(name).units(context)
                for unit in units:
                    why = changes(context, unit, known.get(unit.key))
                    if why:
                        found[name, unit.key] = why
        except PlateflowError as error:
            return found, f"{name}: {error.what}"
        except (OSError, KeyError) as error:
            return found, f"{name}: waits for the stage before it ({error})"
    return found, ""


def overview(project: Project, plates: list[PlateEntry]) -> None:
    """Print plates x stages: units that are ok, flagged, left out, stale or to do, and the time they took."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="units by state; seconds are of the jobs' work", title_justify="left")
    table.add_column("plate")
    for name in STAGES:
        table.add_column(name, justify="right")
    notes = []
    for entry in plates:
        stale, note = stale_units(project, entry)
        cells = []
        for name in STAGES:
            known = outcomes(project.paths(entry.plate).journals(name))
            counts = Counter(item.state for item in known.values() if (name, item.key) not in stale)
            todo = sum(stage == name for stage, _ in stale)
            parts = [f"{count} {state}" for state, count in counts.items()] + ([f"{todo} to do"] if todo else [])
            seconds = sum(item.seconds for item in known.values())
            cells.append("\n".join([*parts, f"{seconds:.1f} s"] if known or todo else ["-"]))
        table.add_row(entry.plate, *cells)
        if note:
            notes.append(f"{entry.plate}: {note}")
        reasons = Counter((stage, why) for (stage, _), whys in stale.items() for why in whys if why != "never done")
        notes += [f"{entry.plate}: {stage}: {n} stale: {why} changed" for (stage, why), n in reasons.items()]
        leases = project.paths(entry.plate).root / "leases"
        for lease in sorted(leases.glob("[!.]*")):
            owner = read_owner(lease)
            gone = owner is None or owner.alive() is False
            notes.append(f"{entry.plate}: {lease.name} {'died: run `plateflow retry`' if gone else f'runs: {owner}'}")
    console = Console()
    console.width = max(console.width, 24 + 11 * len(STAGES))
    console.print(table)
    for line in notes:
        typer.echo(line)


def _list_left_out(project: Project, plates: list[PlateEntry]) -> bool:
    from plateflow.state.left_out import left_out_lines

    lines = [line for entry in plates for line in left_out_lines(project.paths(entry.plate))]
    if lines:
        typer.echo(f"Left out ({len(lines)}):")
        for line in lines:
            typer.echo(f"  {line}")
    return bool(lines)


def explain(project: Project, entry: PlateEntry, well: str) -> None:
    """Print what happened to a well, stage by stage.

    Raises:
        PlateflowError: the plate isn't ingested, or has no such well.
    """
    paths = project.paths(entry.plate)
    try:
        info = json.loads(paths.info.read_text())
    except FileNotFoundError:
        raise PlateflowError("nothing is known of this plate yet", where=entry.plate, remedy="run snakemake") from None
    if well not in info["wells"]:
        raise PlateflowError(f"the plate has no well {well}", where=entry.plate)
    stale, note = stale_units(project, entry)
    typer.echo(f"{entry.plate}/{well}")
    for name, stage in STAGES.items():
        journals = paths.journals(name)
        mine = {path: [e for e in outcomes([path]).values() if e.well in ("", well)] for path in journals}
        latest = outcomes(journals)
        for path, items in mine.items():
            for item in items:
                if latest[item.key].sequence != item.sequence:
                    continue
                unit = f" {item.label_set}" + (f" block {item.block}" if item.block >= 0 else "")
                why = stale.get((name, item.key))
                typer.echo(
                    f"  {name + unit:24} {item.state}{f': {item.reason}' if item.reason else ''}"
                    f"  {item.seconds:.2f} s, {item.finished}"
                )
                for field, reason in item.fields.items():
                    typer.echo(f"    field {field}: {reason}")
                if item.detail:
                    typer.echo(f"    {item.detail}")
                if why:
                    first = "`plateflow check`, then " if "raw files" in why else ""
                    again = f"{entry.plate}/{well}" if item.well else entry.plate
                    typer.echo(f"    stale: {', '.join(why)} changed; {first}`snakemake` does it again")
                    typer.echo(f"    (should it not, as after .snakemake was lost: `plateflow retry {again}`)")
                if item.state != "ok":
                    job = path.stem.removeprefix(f"{name}-")
                    typer.echo(f"    log: {paths.log(name, job)}")
        for (stage_name, key), why in stale.items():
            if stage_name == name and key[0] == well and key not in latest:
                typer.echo(f"  {name} {key[1]:20} to do ({', '.join(why)})")
        if stage.scope != "plate":
            _last_words(project, entry, name, well, info["format"][1])
    if note:
        typer.echo(f"  {note}")


def _print_log(project: Project, entry: PlateEntry, well: str) -> None:
    """Print the log of the job that worked on a well last, whether it ended well or not."""
    paths = project.paths(entry.plate)
    known = [path for stage in STAGES for path in paths.journals(stage) if _mentions(path, well)]
    if not known:
        raise PlateflowError("no job has worked on this well yet", where=f"{entry.plate}/{well}")
    stage, _, job = max(known, key=lambda path: path.stat().st_mtime_ns).stem.partition("-")
    file = paths.log(stage, job)
    typer.echo(f"{file}:")
    typer.echo(file.read_text(errors="replace") if file.is_file() else "(gone)")


def _mentions(journal: Path, well: str) -> bool:
    return any(well in (line.get("well"), line.get("key", [None])[0]) for line in read_lines(journal))


def _last_words(project: Project, entry: PlateEntry, stage: str, well: str, n_columns: int) -> None:
    """The error with which the last attempt at a well's part ended, if it failed."""
    paths = project.paths(entry.plate)
    parts = project.config.parts.gpu if STAGES[stage].scope == "gpu" else project.config.parts.cpu
    part = part_of(well, parts, n_columns)
    for job in STAGES[stage].jobs(project.config):
        if int(job.partition("-")[0]) == part:
            lines = list(read_lines(paths.journal(stage, job)))
            if lines and lines[-1].get("event") == "failed":
                typer.echo(f"    last attempt failed: {lines[-1]['error']}\n    log: {paths.log(stage, job)}")
