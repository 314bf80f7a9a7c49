"""`plateflow accept`: let results stand that an earlier version of a stage has made."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from plateflow.access import explain, user_name
from plateflow.chain import stage_of
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status, known_stage
from plateflow.errors import PlateflowError, number_of
from plateflow.project import Plate, Project
from plateflow.stages import stage_module
from plateflow.stages.job import Job, changes
from plateflow.state.journal import Entry, Journal, Key, append_outcome
from plateflow.state.lease import Lease
from plateflow.state.ledger import now


def accept(
    stage: Annotated[str, typer.Option(callback=known_stage, help="the stage whose earlier results stand")],
    plates: Annotated[list[str] | None, typer.Argument(help="plate ids; default: all")] = None,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Let results stand that only a new version of a stage would do again; journal, report and `status` tell it.

    They keep their fingerprint, so that nothing which builds on them is done again either. `plateflow plan` says what
    a new release would redo. Exit status: 4 where results can't be accepted, as something else has changed, too.
    """
    project = Project.load(configfile)
    stage_of(project.config, stage)  # the configuration may lack it
    some, refused, failed = False, False, False
    for plate in [project.plate(name) for name in plates or project.plates]:
        try:
            accepted, others = accept_plate(plate, stage)
        except (PlateflowError, PermissionError) as error:  # the other plates' results can stand
            typer.echo(f"{plate.name}: {explain(error)}", err=True)
            failed = True
            continue
        for version, n in sorted(accepted.items()):
            typer.echo(
                f"{plate.name}: {number_of(n, 'result[s]')} of {stage}, made by {version}, "
                f"{'stands' if n == 1 else 'stand'} as version {stage_of(project.config, stage).version}"
            )
        for why, n in sorted(others.items()):
            typer.echo(f"{plate.name}: {number_of(n, 'result[s]')} of {stage} can't be accepted: {why} changed, too")
        if not accepted and not others:
            typer.echo(f"{plate.name}: nothing of {stage} was made by another version")
        some, refused = some or bool(accepted), refused or bool(others)
    if some:
        typer.echo("Now run `snakemake`: it does nothing again of what was accepted.")
    raise typer.Exit(Status.ERROR if failed else Status.STALE if refused else Status.OK)


def accept_plate(plate: Plate, name: str) -> tuple[Counter[str], Counter[str]]:
    """Accept the results of a stage of a plate: how many stand, by their version, and don't, by what else has changed.

    Raises:
        LeaseError: a job of the stage is at work.
    """
    stage = stage_of(plate.config, name)
    stand, others = Counter[str](), Counter[str]()
    mark = {"version": stage.version, "by": user_name(), "at": now()}
    for number in stage.jobs(plate.config):
        job = Job(plate=plate, stage=stage, name=number)
        with ExitStack() as held:
            held.enter_context(Lease(plate.paths.lease(name, number), holder=str(job)))
            entries = plate.outcomes(name)
            holders = _holders(plate, name)
            leased = {number}
            for entry, why in of_other_versions(job, entries):
                if why:
                    others[why] += 1
                    continue
                journal = holders[entry.key]
                holder = journal.stem.removeprefix(f"{name}-")
                if holder not in leased:  # of earlier parts
                    lease = plate.paths.lease(name, holder)
                    held.enter_context(Lease(lease, holder=f"{plate.name}: {name} {holder}"))
                    leased.add(holder)
                version = entry.made_by
                append_outcome(journal, replace(entry, accepted=mark | {"from": version}))
                stand[f"version {version}" if version else "an unknown version"] += 1
    return stand, others


def of_other_versions(job: Job, entries: Mapping[Key, Entry]) -> Iterator[tuple[Entry, str]]:
    """The outcomes of a job that another version made, each with what else has changed: else it can be accepted."""
    for item in stage_module(job.stage.name).work_items(job):
        entry = entries.get(item.key)
        why = changes(job, item, entry)
        if entry is not None and "version" in why:
            yield entry, ", ".join(each for each in why if each != "version")


def refusal(plate: Plate, name: str) -> str:
    """Why nothing of a stage of a plate can be accepted; empty where something can."""
    why: dict[str, None] = {}
    try:
        entries = plate.outcomes(name)
        for number in stage_of(plate.config, name).jobs(plate.config):
            for _, other in of_other_versions(Job.of(plate, name, number), entries):
                if not other:
                    return ""
                why[f"{other} changed, too"] = None
    except (PlateflowError, OSError) as error:
        return str(explain(error)).partition("\n")[0]
    return "; ".join(why) or "nothing is known of them"


def _holders(plate: Plate, stage: str) -> dict[Key, Path]:
    """By work item, the journal that holds its latest outcome: the last one of those that `outcomes` looks at."""
    latest: dict[Key, tuple[int, Path]] = {}
    for path in plate.paths.journals(stage):
        for key, entry in Journal.read(path).latest.items():
            if key not in latest or entry.sequence >= latest[key][0]:
                latest[key] = entry.sequence, path
    return {key: path for key, (_, path) in latest.items()}
