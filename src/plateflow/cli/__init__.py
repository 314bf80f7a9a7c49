"""The command line: it explains and prepares; Snakemake runs the plates.

One file per command. Nothing heavy is imported before a command runs, so that `plateflow --help` answers at once.
"""

import sys
from typing import Annotated

import typer

from plateflow.access import explain
from plateflow.cli import (
    accept,
    check,
    clean,
    demo,
    evaluate,
    export,
    import_labels,
    init,
    pilot,
    plan,
    retry,
    run,
    segment,
    status,
    train,
    verify,
    view,
    weights,
)
from plateflow.cli.common import Status
from plateflow.errors import PlateflowError

INTERRUPTED = 130
"""Typer's status after Ctrl-C."""
_typer = typer.Typer(
    name="plateflow",
    help="From raw high-content plates to segmented OME-Zarr, per-cell and per-well tables. `snakemake` runs the "
    "plates; these commands prepare, explain and repair.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"plateflow {version('plateflow')}")
        raise typer.Exit


@_typer.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command in (
    *(init.init, check.check, pilot.pilot, plan.plan, status.status, retry.retry, run.run),
    *(view.view, export.export),
    *(verify.verify, clean.clean, accept.accept, segment.segment, evaluate.evaluate, train.train, demo.demo),
):
    _typer.command()(command)
_typer.command("import")(import_labels.import_labels)
_typer.add_typer(weights.weights, name="weights")


def run_typed(words: list[str]) -> None:
    """Run a command as it is typed; what goes wrong is raised."""
    _typer(words, standalone_mode=False)


def app() -> None:
    """The entry point of the `plateflow` command; an error that a user can fix ends with 1 and no traceback.

    So does an error of the system that no command has explained: its message names the file, and whose it is where
    this user may not use it.
    """
    try:
        _typer()
    except SystemExit as end:
        sys.exit(Status.ERROR if end.code == INTERRUPTED else end.code)
    except (PlateflowError, OSError) as error:
        print(f"plateflow: {explain(error)}", file=sys.stderr)
        sys.exit(1)
