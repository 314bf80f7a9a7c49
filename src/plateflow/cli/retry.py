"""`plateflow retry`: tidy up after a hard kill, or ask for wells again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from plateflow.chain import STAGES
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Project
from plateflow.errors import PlateflowError
from plateflow.paths import PlatePaths
from plateflow.state import slurm
from plateflow.state.journal import outcomes
from plateflow.state.lease import HEARTBEAT_S, SILENT_S, STALE_S, Owner, clear, read_owner
from plateflow.state.requests import ask


def retry(
    target: Annotated[str | None, typer.Argument(help="PLATE or PLATE/WELL; without it: tidy up only")] = None,
    stage: Annotated[str | None, typer.Option(help="the stage to begin from; default: the first that isn't ok")] = None,
    cancel: Annotated[bool, typer.Option(help="cancel the SLURM jobs of a driver that is gone; default: wait")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Clear what a killed run left behind; with a target, also ask for its wells again.

    Without a target nothing that is done is recomputed. Run `snakemake` afterwards. SLURM jobs whose driver is gone go
    on: they are waited for, so that no two jobs do the same wells.
    """
    project = Project.load(configfile)
    if not _drivers_here():
        _wait_for_orphans(cancel)
    _clear_lock([project.paths(plate).root / "leases" for plate in (*project.plates, "screen")])
    for plate in (*project.plates, "screen"):
        _clear_leases(project.paths(plate).root / "leases", plate)
    if target is not None:
        _ask_again(project, target, stage)
        typer.echo("Now run `snakemake`.")


def _clear_lock(leases: list[Path]) -> None:
    locks = sorted(Path(".snakemake/locks").glob("*.lock"))
    if not locks:
        return
    drivers = _drivers_here()
    if drivers:
        numbers = ", ".join(map(str, drivers))
        raise PlateflowError(
            "a snakemake still runs in this folder",
            where=str(Path.cwd()),
            why=f"process {numbers}",
            remedy="wait for it, or stop it with Ctrl-C, then run `plateflow retry` again",
        )
    # Of a job that SLURM killed a moment ago it takes a while to know that it is silent.
    end = time.monotonic() + SILENT_S + HEARTBEAT_S
    while doubtful := {lease: owner for lease, owner in _owners(leases) if owner.alive() is None}:
        if time.monotonic() > end:
            lease, owner = next(iter(doubtful.items()))
            raise PlateflowError(
                "a job of this run may still be alive on another host",
                where=str(lease),
                why=f"{owner}; its last sign of life is less than {STALE_S / 60:.0f} minutes old",
                remedy="wait for it, or run `plateflow retry` on the host where snakemake ran",
            )
        time.sleep(HEARTBEAT_S)
    for lock in locks:
        lock.unlink(missing_ok=True)
    typer.echo("Cleared the lock of a driver that is gone.")


def _owners(folders: list[Path]) -> Iterator[tuple[Path, Owner]]:
    for lease in (lease for folder in folders for lease in sorted(folder.glob("[!.]*"))):
        owner = read_owner(lease)
        if owner is not None:
            yield lease, owner


def _wait_for_orphans(cancel: bool) -> None:
    """Wait until no job of this folder is in SLURM's queue, or cancel them."""
    told = 0.0
    while jobs := slurm.jobs_of(Path.cwd()):
        if not told:
            names = ", ".join(f"{job.number} ({job.rule}, {job.state.lower()})" for job in jobs)
            typer.echo(f"No snakemake runs here, but SLURM still has {len(jobs)} jobs of this folder: {names}.")
            typer.echo(
                "Cancelling them." if cancel else "Waiting for them; Ctrl-C and `plateflow retry --cancel` ends them."
            )
            if cancel:
                slurm.cancel([job.number for job in jobs])
            told = time.monotonic()
        elif time.monotonic() - told > 60:
            typer.echo(f"... {len(jobs)} left")
            told = time.monotonic()
        time.sleep(2)


def _drivers_here() -> list[int]:
    """Processes that run Snakemake's command in this folder; not those that do a driver's job for it, on SLURM."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (process / "cwd").resolve() == Path.cwd()
        except OSError:
            continue
        driver = any(Path(word).name == "snakemake" for word in words[:2]) or words[1:3] == ["-m", "snakemake"]
        if driver and here and "--target-jobs" not in words and int(process.name) != os.getpid():
            found.append(int(process.name))
    return sorted(found)


def _clear_leases(folder: Path, plate: str) -> None:
    for lease in sorted(folder.glob("[!.]*")):
        owner = read_owner(lease)
        alive = owner.alive() if owner else False
        if alive is False:
            if clear(lease):
                typer.echo(f"{plate}: cleared the lease of {lease.name}: {owner or 'its owner'} is gone.")
        else:
            word = "still runs" if alive else "may still run (another host; its last sign of life is recent)"
            typer.echo(f"{plate}: {lease.name} {word}: {owner}. It stops by itself once its driver is gone.", err=True)


def _ask_again(project: Project, target: str, stage: str | None) -> None:
    entry, well = project.target(target)
    paths = project.paths(entry.plate)
    if stage is not None and stage not in STAGES:
        raise PlateflowError(f"there is no stage {stage!r}", remedy=f"the stages are {', '.join(STAGES)}")
    try:
        info = json.loads(paths.info.read_text())
    except FileNotFoundError:
        raise PlateflowError(
            "nothing is known of this plate yet", where=entry.plate, remedy="run `snakemake`; ingest comes first"
        ) from None
    if well and well not in info["wells"]:
        raise PlateflowError(f"the plate has no well {well}", where=entry.plate)
    if stage is not None:
        begins = {well: stage}
    else:
        first_of = _first_not_ok(paths)
        begins = {name: first_of[name] for name in ([well] if well else info["wells"]) if name in first_of}
        if not begins:
            typer.echo(f"{target}: every stage is ok; name one with --stage to do it again.")
    for name, first in begins.items():
        whole = STAGES[first].scope == "plate"
        ask(paths, kind="retry", stage=first, well="" if whole else name, n_columns=info["format"][1])
        typer.echo(f"{entry.plate}/{name or '*'}: asked for again from {first} on.")


def _first_not_ok(paths: PlatePaths) -> dict[str, str]:
    """Of each well that isn't ok somewhere, the first such stage."""
    found: dict[str, str] = {}
    for name in STAGES:
        for entry in outcomes(paths.journals(name)).values():
            if entry.well and entry.state != "ok":
                found.setdefault(entry.well, name)
    return found
