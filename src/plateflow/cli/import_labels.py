"""`plateflow import`: labels that people have corrected."""

from pathlib import Path
from typing import Annotated

import typer

from plateflow.access import user_name
from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, refuse_at_work
from plateflow.errors import PlateflowError
from plateflow.project import Project
from plateflow.state.lease import Lease


def import_labels(
    folder: Annotated[Path, typer.Argument(help="a folder that `plateflow export --to` has written")],
    by: Annotated[str, typer.Option(help="who has corrected them; default: you")] = "",
    split: Annotated[
        bool,
        typer.Option("--split", help="make pieces of an object objects of their own; drop those below min_size_px"),
    ] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Take corrected labels back: cells are measured from them; the pipeline's own stay beside them.

    All labels are checked before anything is written; if some can't be used, none is taken. Objects keep their numbers,
    new ones get new numbers. The next `snakemake` measures these wells again, and no others. `plateflow retry
    PLATE[/WELL] --discard-corrections` takes corrections out again.
    """
    from plateflow.exchange.corrections import import_items
    from plateflow.exchange.images import read_items

    project = Project.load(configfile)
    items = [*read_items(folder)]
    if not items:
        remedy = "name a folder that `plateflow export PLATE --to ...` has made"
        raise PlateflowError("there are no labels", where=str(folder), remedy=remedy)
    plate = project.plate(items[0].plate)
    refuse_at_work(project, plate)
    with Lease(plate.paths.lease("import", "plate"), holder=f"{plate.name}: import"):
        done = import_items(plate, items, by=by or user_name(), split=split)
    for line in done.lines:
        typer.echo(f"{plate.name}: {line}")
    typer.echo("Now run `snakemake`: it measures these wells anew." if done.wells else "Nothing to import.")
