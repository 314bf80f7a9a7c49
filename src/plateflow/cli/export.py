"""`plateflow export`: images with labels to correct by hand, and tables that other programs read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption
from plateflow.project import Project


class Program(StrEnum):
    """Programs in which labels are corrected."""

    CELLPOSE = "cellpose"
    QUPATH = "qupath"
    IMAGEJ = "imagej"
    NAPARI = "napari"


class Tables(StrEnum):
    """Forms of tables."""

    CYTOTABLE = "cytotable"
    ANNDATA = "anndata"
    CSV = "csv"


def export(
    plate: Annotated[str, typer.Argument(help="the plate's id")],
    to: Annotated[Program | None, typer.Option(help="the program in which labels will be corrected")] = None,
    tables: Annotated[Tables | None, typer.Option(help="the form of tables; always of all wells")] = None,
    wells: Annotated[str, typer.Option(help="with --to: worst:N (default: N = 6), random:N, or names: B03,C05")] = "",
    label_set: Annotated[str, typer.Option(help="with --to: the label set; default: that of the rows")] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="the folder to write; default: export/PLATE/FORM")
    ] = None,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Write images with labels to correct by hand (--to), or tables that other programs read (--tables)."""
    if (to is None) == (tables is None):
        raise typer.BadParameter("name either --to or --tables")
    if tables is not None and (wells or label_set):
        raise typer.BadParameter("tables are of all wells: leave out --wells and --label-set")
    chosen = Project.load(configfile).plate(plate)
    folder = output or Path("export") / chosen.name / str(to or tables)
    if tables is not None:
        from plateflow.exchange.tables import export_tables

        lines = export_tables(chosen, tables.value, folder)
    else:
        from rich.console import Console

        from plateflow.exchange.images import export_images

        labels = label_set or chosen.config.row_label_set
        lines = export_images(chosen, str(to), wells or "worst:6", labels, folder, Console(stderr=True))
    for line in lines:
        typer.echo(line)
