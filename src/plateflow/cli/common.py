"""What several commands share: exit statuses, and the options that name the configuration and the folder of weights."""

import math
import os
from enum import IntEnum
from pathlib import Path
from typing import Annotated

import typer

from plateflow.chain import STAGES
from plateflow.errors import LeaseError
from plateflow.installed import project_folder
from plateflow.project import Plate, Project
from plateflow.state.lease import running


def enter_project(configfile: Path) -> Path:
    """Go where `snakemake` runs with this configuration, as its relative paths count from there; its name there."""
    folder, here = project_folder(configfile), Path.cwd()
    if folder == here or not folder.is_dir():
        return configfile
    os.chdir(folder)
    typer.echo(f"note: relative paths count from {folder}", err=True)
    return Path("config", configfile.name)


ConfigOption = Annotated[
    Path,
    # `readable`: typer's own test of that doesn't say whose the file is
    typer.Option(
        "--configfile",
        help="the configuration, as given to snakemake; from elsewhere, the project's PROJECT/config/config.yaml",
        show_default=True,
        readable=False,
        callback=enter_project,
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights-dir", help="folder of weights, searched before the others")
]
DEFAULT_CONFIG = Path("config/config.yaml")


def known_stage(name: str | None) -> str | None:
    """The name of a stage as it was given; another word is a wrong use of the command."""
    if name is None or name in STAGES:
        return name
    raise typer.BadParameter(f"there is no stage {name!r}; the stages are {', '.join(STAGES)}")


def refuse_at_work(project: Project, plate: Plate) -> None:
    """Refuse to change what a run, or a job of a plate, works on.

    Raises:
        LeaseError: one is at work.
    """
    for folder in (plate.paths.root, project.screen.root):
        for name, owner in running(folder / "leases").items():
            raise LeaseError(
                f"{plate.name}: {name} is at work",
                where=str(folder / "leases" / name),
                why=f"lease held by {owner}",
                remedy="wait for it, or stop it; if it is gone, run `plateflow retry` first",
            )


def numbers(text: str, option: str, *, least: float, most: float) -> list[float]:
    """The numbers of an option, such as 8,12,18; anything else is a wrong use of the command."""
    try:
        found = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [math.nan]
    if not all(least <= number <= most for number in found):
        raise typer.BadParameter(f"{text!r} isn't numbers from {least:g} to {most:g}, such as 8,12", param_hint=option)
    return found


class Status(IntEnum):
    """How a command ends; docs/faults.md has the table. A wrong option or name of a stage ends it with 2."""

    OK = 0
    ERROR = 1
    LEFT_OUT = 3
    STALE = 4
