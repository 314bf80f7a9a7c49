"""`plateflow run`: one job in this process, without Snakemake."""

from typing import Annotated

import typer

from plateflow.chain import STAGES
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status, known_stage
from plateflow.errors import LeaseError, PlateflowError
from plateflow.project import SCREEN, Project


def _known(name: str) -> str | None:
    return name if name == SCREEN else known_stage(name)


def run(
    plate: Annotated[str, typer.Argument(help="plate id; `screen` for the page over all plates")],
    stage: Annotated[str, typer.Argument(callback=_known, help=f"stage: {', '.join(STAGES)}; for the screen: screen")],
    job: Annotated[
        str | None, typer.Argument(help="job: `plate`, a part such as 3, or of follow 3-0; default: all, in turn")
    ] = None,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Run one job in this process, for debugging: with its lease, journal and receipt, but without Snakemake.

    The stages before it must have run. What is up to date isn't done again; `plateflow retry` asks for it.
    """
    from plateflow.stages import run_stage, stage_module
    from plateflow.stages.runner import Interrupted
    from plateflow.state.lease import announce_driver, running

    project = Project.load(configfile)
    if drivers := running(project.screen.root / "leases"):
        raise LeaseError(
            "snakemake runs on these results",
            where=str(project.screen.root),
            why=f"its lease is held by {', '.join(map(str, drivers.values()))}",
            remedy="wait for it, or stop it: a job beside it would change what its jobs read",
        )
    announce_driver()
    if plate == SCREEN:
        if stage != SCREEN or job is not None:
            raise PlateflowError("the screen has one job", remedy="`plateflow run screen screen`")
        stage_module(SCREEN).run(project)
        return
    try:
        run_stage(project.plate(plate), stage, job)
    except Interrupted as error:
        raise PlateflowError(
            str(error), where=f"{plate}: {stage}", remedy="run it again: it goes on from here"
        ) from None
    if any(item.stage == stage for item in project.plate(plate).left_out()):
        raise typer.Exit(Status.LEFT_OUT)
