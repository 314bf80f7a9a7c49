"""`plateflow retry`: tidy up after a hard kill, or request wells again."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from plateflow.access import user_name
from plateflow.asked import LOCAL, forget_runs, runs
from plateflow.chain import stage_of, stages_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, known_stage, refuse_at_work
from plateflow.errors import LeaseError, PlateflowError, number_of
from plateflow.project import SCREEN, Plate, Project
from plateflow.stages.stale import to_do
from plateflow.state import slurm
from plateflow.state.corrections import corrections, discard
from plateflow.state.lease import DRIVER_LEASE, HEARTBEAT_S, SILENT_S, STALE_S, Lease, clear, leases, read_owner
from plateflow.state.requests import request

POLL_S = 5.0
"""Seconds between looks at the queue while jobs are waited for."""
STARTING_S = 120.0
"""So long after its lock a driver has its lease at the latest."""


def retry(
    target: Annotated[str | None, typer.Argument(help="PLATE or PLATE/WELL; without it: tidy up only")] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            callback=known_stage, help="the stage to begin from; default: the first that isn't ok and up to date"
        ),
    ] = None,
    discard_corrections: Annotated[
        bool, typer.Option("--discard-corrections", help="take out labels corrected by hand; request nothing else")
    ] = False,
    cancel: Annotated[bool, typer.Option(help="cancel the SLURM jobs of a driver that is gone; default: wait")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Clear what a killed run left behind; with a target, also request its wells again.

    Without a target nothing that is done is recomputed. Run `snakemake` afterwards. SLURM jobs whose driver is gone run
    on: they are waited for, so that no two jobs do the same wells.
    """
    if discard_corrections and (target is None or stage is not None):
        raise typer.BadParameter("name PLATE or PLATE/WELL, and no stage", param_hint="--discard-corrections")
    project = Project.load(configfile)
    _refuse_while_driven(project)
    _end_orphans(project, cancel)
    folders = {plate.name: plate.paths.root / "leases" for plate in project.plates.values()}
    folders[SCREEN] = project.screen.root / "leases"  # of the driver
    _clear_lock(list(folders.values()))
    for plate, folder in folders.items():
        _clear_leases(folder, plate)
    if target is not None and discard_corrections:
        _discard(project, target)
    elif target is not None:
        _request_again(project, target, stage)
        typer.echo("Now run `snakemake`.")


def _refuse_while_driven(project: Project) -> None:
    """Wait until it is certain that no driver has these results.

    Raises:
        LeaseError: one runs, here or on another host.
    """
    lease = project.screen.lease(*DRIVER_LEASE)
    end = time.monotonic() + SILENT_S + HEARTBEAT_S  # of one that SLURM ended a moment ago it takes so long
    while (owner := read_owner(lease)) is not None and (alive := owner.alive()) is not False:
        if alive or time.monotonic() > end:
            raise LeaseError(
                "a driver runs" if alive else "a driver may still run on another host",
                where=str(project.screen.root.parent),
                why=f"it is {owner.seen()}",
                remedy="wait for it, or stop it there with Ctrl-C or scancel, then run `plateflow retry` again",
            )
        time.sleep(HEARTBEAT_S)
    if _locks() and (drivers := _drivers_here()):  # one that is about to take its lease
        raise LeaseError(
            "a snakemake still runs in this folder",
            where=str(Path.cwd()),
            why=f"process {', '.join(map(str, drivers))}",
            remedy="wait for it, or stop it with Ctrl-C, then run `plateflow retry` again",
        )


def _locks() -> list[Path]:
    """Snakemake's own locks of this folder."""
    return sorted(Path(".snakemake/locks").glob("*.lock"))


def _clear_lock(folders: list[Path]) -> None:
    locks = _locks()
    if not locks:
        return
    locked = max(lock.stat().st_mtime for lock in locks)
    begun = max((lease.stat().st_mtime for lease, _ in leases(folders[-1])), default=0.0)
    if locked > begun and time.time() - locked < STARTING_S:  # a lease would tell who it is
        raise LeaseError(
            "a driver may be about to start on another host",
            where=str(locks[0]),
            why=f"its lock is {time.time() - locked:.0f} s old, and no lease tells whose it is",
            remedy=f"run `plateflow retry` again in {STARTING_S / 60:.0f} minutes",
        )
    # Of a job that SLURM killed a moment ago it takes a while to know that it is silent.
    end = time.monotonic() + SILENT_S + HEARTBEAT_S
    while doubtful := [
        (lease, owner)
        for folder in folders
        for lease, owner in leases(folder)
        if owner is not None and owner.alive() is None
    ]:
        if time.monotonic() > end:
            lease, owner = doubtful[0]
            raise LeaseError(
                "a job of this run may still be alive on another host",
                where=str(lease),
                why=f"it is {owner.seen()}; it is given up after {STALE_S / 60:.0f} minutes of silence",
                remedy="wait for it, or run `plateflow retry` on the host where snakemake ran",
            )
        time.sleep(HEARTBEAT_S)
    for lock in locks:
        lock.unlink(missing_ok=True)
    typer.echo("Cleared the lock of a driver that is gone.")


def _end_orphans(project: Project, cancel: bool) -> None:
    """Wait until no job of a run on these results is in SLURM's queue, or cancel them; leave all others alone.

    Raises:
        LeaseError: SLURM doesn't answer, or jobs are another user's, who alone can cancel them.
    """
    gone = runs(project.screen)
    of_slurm = [run for run in gone if not run.startswith(LOCAL)]
    queued = slurm.jobs()
    if queued is None and of_slurm and slurm.is_here():
        raise LeaseError("SLURM's queue can't be asked for jobs of an earlier run", remedy="try again later")
    others = [job for job in _not_this_one(queued) if job.folder == Path.cwd() and job.name not in gone]
    if others:
        typer.echo(f"Not of a run on these results, and left alone: SLURM jobs {', '.join(map(str, others))}.")
    orphans = [job for job in _not_this_one(queued) if job.name in gone]
    if orphans:
        names = ", ".join(map(str, orphans))
        typer.echo(f"Their driver is gone, but SLURM still has {number_of(len(orphans), 'job[s]')} of it: {names}.")
        if cancel:
            foreign = sorted({job.user for job in orphans} - {user_name()})
            if foreign:
                who = ", ".join(foreign)
                raise LeaseError(
                    f"jobs of a run on these results are {who}'s, and can't be cancelled by you",
                    remedy=f"{who} runs `plateflow retry --cancel`; or wait for them: `plateflow retry`",
                )
            typer.echo("Cancelling them.")
            slurm.cancel([job.number for job in orphans])
        else:
            typer.echo("Waiting for them; Ctrl-C and `plateflow retry --cancel` ends them.")
    announced = time.monotonic()
    while orphans:
        time.sleep(2 if cancel else POLL_S)
        queued = slurm.jobs(of_slurm)
        orphans = _not_this_one(queued) if queued is not None else orphans
        if orphans and time.monotonic() - announced > 60:
            typer.echo(f"... {len(orphans)} left")
            announced = time.monotonic()
    forget_runs(project.screen, gone, queued)


def _not_this_one(queued: list[slurm.QueuedJob] | None) -> list[slurm.QueuedJob]:
    """Jobs without the one in which this process itself may run."""
    return [job for job in queued or () if job.number != os.environ.get("SLURM_JOB_ID")]


def _drivers_here() -> list[int]:
    """Processes that run Snakemake's command in this folder; not those that do a driver's job for it, on SLURM."""
    drivers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            in_this_folder = (process / "cwd").resolve() == Path.cwd()
        except OSError:
            continue
        driver = any(Path(word).name == "snakemake" for word in words[:2]) or words[1:3] == ["-m", "snakemake"]
        if driver and in_this_folder and "--target-jobs" not in words and int(process.name) != os.getpid():
            drivers.append(int(process.name))
    return sorted(drivers)


def _clear_leases(folder: Path, plate: str) -> None:
    for lease, owner in leases(folder):
        alive = owner.alive() if owner else False
        if alive is False:
            if clear(lease):
                typer.echo(f"{plate}: cleared the lease of {lease.name}: {owner or 'its owner'} is gone.")
        else:
            word = "still runs" if alive else "may still run (another host; its last sign of life is recent)"
            typer.echo(f"{plate}: {lease.name} {word}: {owner}. It stops by itself once its driver is gone.", err=True)


def _discard(project: Project, target: str) -> None:
    plate, well = project.target(target)
    refuse_at_work(project, plate)
    with Lease(plate.paths.lease("import", "plate"), holder=f"{plate.name}: retry --discard-corrections"):
        found = [each for each in corrections(plate.paths).values() if well in ("", each.well)]
        if found:
            discard(plate.paths, [each.place for each in found])
    if not found:
        if well:
            plate.check_well(well)
        typer.echo(f"{target}: there are no corrections.")
        return
    for each in found:
        typer.echo(f"{plate.name}/{each.well}: discarded: {each}")
    typer.echo("Now run `snakemake`: it measures the pipeline's labels of these wells.")


def _request_again(project: Project, target: str, stage: str | None) -> None:
    plate, well = project.target(target)
    if well:
        plate.check_well(well)
    if stage is not None:
        stage_of(plate.config, stage)  # the configuration may lack it
        begins = {well: stage}
    else:
        first_of, unclear = _first_to_do(plate)
        begins = {name: first_of[name] for name in ([well] if well else ["", *plate.wells]) if name in first_of}
        if not begins and unclear:
            raise PlateflowError(
                "can't tell from which stage on", where=target, why=unclear, remedy="name one with --stage"
            )
        if not begins:
            typer.echo(f"{target}: every stage is ok and up to date; name one with --stage to do it again.")
    for name, first in begins.items():
        whole_plate = stage_of(plate.config, first).scope == "plate"
        request(plate.paths, kind="retry", stage=first, well="" if whole_plate else name, n_columns=plate.n_columns)
        typer.echo(f"{plate.name}/{name or '*'}: requested again from {first} on.")


def _first_to_do(plate: Plate) -> tuple[dict[str, str], str]:
    """The first stage in which a well (or "", the plate) isn't ok, or is stale, by well; why not all of it is told."""
    found = to_do(plate, files=True)
    first: dict[str, str] = {}
    for stage in stages_of(plate.config):
        for well in [key[0] for name, key in found.items if name == stage]:
            first.setdefault(well, stage)
        for entry in plate.outcomes(stage).values():
            if entry.well and entry.state != "ok":
                first.setdefault(entry.well, stage)
    return first, found.note if found.fault else ""
