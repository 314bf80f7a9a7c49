"""`plateflow view`: a plate, a well or a field at any zoom, in the browser; and its store for other programs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, enter_project
from plateflow.errors import PlateflowError
from plateflow.paths import parse_well, well_name
from plateflow.project import Project
from plateflow.report.links import PORT

if TYPE_CHECKING:
    from plateflow.viewer.plates import Plates


def view(
    target: Annotated[str, typer.Argument(help="RESULTS/PLATE[/WELL], or PLATE[/WELL] of the project")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any free one; the report's links expect the default")
    ] = PORT,
    host: Annotated[
        str, typer.Option(help="address to listen on; others than this one let other machines in, without a password")
    ] = "127.0.0.1",
    open_: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Show a plate in the browser: wells and fields at any zoom, channels, and objects outlined. Ctrl-C ends it.

    Nothing is written, and nothing outside the results is served. The store is served, too, for programs that read
    OME-Zarr by HTTP.
    """
    from plateflow.viewer import links
    from plateflow.viewer.server import OPENSEADRAGON, Server, page_path

    plates, plate, well = _find(target, configfile)
    shown = plates.plate(plate)
    if well and well not in shown.metadata["wells"]:
        raise PlateflowError(f"the plate has no well {well}", where=plate)
    server = Server(plates, host=host, port=port, start=page_path(plate, well))
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{server.server_port}{page_path(plate, well)}"
    typer.echo(f"{url}: {plate}{f'/{well}' if well else ''} (Ctrl-C ends it)")
    store = f"http://{name}:{server.server_port}/raw/{plate}/plate.zarr"
    typer.echo(f"  store for other programs: {store}")
    first = well or next(iter(shown.metadata["wells"]), "")
    if first:
        for program, how in links.others(shown.paths, first, shown.labels(first), server.server_port).items():
            typer.echo(f"  {program}: {how}")
    if not OPENSEADRAGON.is_file():
        typer.echo(
            "note: the script that shows tiles isn't installed, so no well is shown: run `make viewer` in the clone "
            "(it takes OpenSeadragon from npm), or install a wheel that was built where npm is",
            err=True,
        )
    if not server.is_loopback:
        typer.echo(f"warning: whoever reaches {host} can see these results, without a password", err=True)
    if open_:
        import webbrowser

        webbrowser.open(url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        typer.echo("ended")
    finally:
        server.server_close()


def _find(target: str, configfile: Path) -> tuple[Plates, str, str]:
    """The plates, the plate's name, and the well or "" that RESULTS/PLATE[/WELL], or PLATE[/WELL] of a project, names.

    The project of a folder of results is the one here, or the one beside it.

    Raises:
        PlateflowError: it names neither.
    """
    from plateflow.viewer.plates import Plates

    folder, well = Path(target).absolute(), ""
    if not (folder / "plate.zarr").is_dir() and (folder.parent / "plate.zarr").is_dir():
        try:
            folder, well = folder.parent, well_name(*parse_well(folder.name))
        except ValueError as error:
            raise PlateflowError(str(error), where=target) from None
    if not (folder / "plate.zarr").is_dir():
        if configfile.is_file():
            project = Project.load(configfile)
            plate, well = project.target(target)
            return Plates(Path(project.config.results), project), plate.name, well
        raise PlateflowError(
            f"there is nothing to view at {target!r}",
            where=str(folder),
            why="it isn't the folder of a plate's results, and there is no configuration here whose plate it could be",
            remedy="name a folder that holds plate.zarr, such as results/PLATE, or results/PLATE/B03; ingest makes it",
        )
    beside = folder.parent.parent / "config" / configfile.name
    for each in filter(Path.is_file, (configfile, beside)):
        with suppress(PlateflowError):  # the results are there, whatever has become of a project
            project = Project.load(enter_project(each))
            if Path(project.config.results).resolve() == folder.parent.resolve():
                return Plates(folder.parent, project), folder.name, well
    return Plates(folder.parent), folder.name, well
