"""`plateflow pilot`: a look at a raw plate before the run, to choose channels, diameters and models by eye."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, Status, numbers
from plateflow.cli.init import guess_label_sets, make_spec, of_sheet
from plateflow.config import Config, LabelSet, PlateSpec
from plateflow.errors import ChannelError, ConfigError, PlateflowError, RawDataError, number_of
from plateflow.installed import project_folder
from plateflow.project import Project

if TYPE_CHECKING:
    from plateflow.images.pilot import PilotField
    from plateflow.plates import RawPlate
    from plateflow.segment.pilot import Limits, PilotSet

EDGE = 1024
"""Px: of larger fields the middle is shown."""


def pilot(
    plate: Annotated[str, typer.Argument(help="a plate of the plate sheet, or the folder of a raw plate")],
    wells: Annotated[str, typer.Option(help="how many, spread over the plate, or which: B03,C05")] = "4",
    diameter_um: Annotated[str, typer.Option(help="diameters to compare, such as 8,12,18")] = "",
    model: Annotated[str, typer.Option(help="models to compare, such as A,B; default: the configured ones")] = "",
    write: Annotated[bool, typer.Option("--write", help="put the estimated diameters into the configuration")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
) -> None:
    """Look at a few raw fields before any run: every channel, and what is found in them at several diameters.

    Writes a page, pilot-PLATE.html, with outlines, counts and sizes side by side, and estimates the diameter of each
    label set. Label sets are those of the configuration; without one they are guessed from the channels' names.
    Exit status: 3 where a field couldn't be read, 1 where the plate lacks a channel of a label set.
    """
    from plateflow.files import write_atomic
    from plateflow.images.pilot import choose_wells
    from plateflow.plates import open_plate
    from plateflow.report.pilot import pilot_page
    from plateflow.segment.grid import pixel_um

    diameters = numbers(diameter_um, "--diameter-um", least=0.01, most=1e4)
    models = list(dict.fromkeys(filter(None, model.split(","))))
    project = Project.load(configfile) if configfile.is_file() else None
    if write and (diameters or len(models) > 1):
        raise typer.BadParameter("it writes what one model estimates: leave out --diameter-um, and further models")
    if write and project is None:
        remedy = "`plateflow init` makes one"
        raise PlateflowError("there is no configuration to write to", where=str(configfile), remedy=remedy)
    raw = open_plate(spec := _spec(plate, project, configfile))
    config = project.config if project else _guessed(raw)
    typer.echo(f"label sets {'as configured' if project else 'as guessed from the names of the channels'}")
    if not config.segmentation:
        typer.echo("note: no channel's name says what it shows, so none is segmented: name channels in a configuration")
    fields, notes = _read(raw, choose_wells(raw, wells), config.z)
    limits, um = _limits(raw, fields, config), pixel_um(raw.metadata)
    sets: list[PilotSet] = []
    lacking: list[ChannelError] = []
    for name, settings in config.segmented.items():
        try:
            sets.append(_try(name, settings, raw, config, fields, limits, models, diameters))
        except ChannelError as error:
            lacking.append(error)
    page = Path(f"pilot-{spec.plate}.html").absolute()
    text = pilot_page(
        spec.plate,
        facts=_facts(raw, fields, um),
        notes=[*notes, *(f"{each.where}: {each.what}; {each.why}" for each in lacking)],
        fields=fields,
        limits=limits,
        percentiles=config.normalise.percentiles,
        sets=sets,
        pixel_um=um,
    )
    write_atomic(page, text.encode())
    for line in (line for tried in sets for line in _lines(tried, um)):
        typer.echo(line)
    typer.echo(f"{page}: channels, outlines, counts and sizes side by side")
    for each in lacking:
        typer.echo(f"plateflow: {each}", err=True)
    if write and not lacking:
        _write(configfile, config, sets, um)
    if lacking:
        raise typer.Exit(Status.ERROR)
    if notes:
        raise typer.Exit(Status.LEFT_OUT)


def _spec(plate: str, project: Project | None, configfile: Path) -> PlateSpec:
    """The line of the plate sheet for a plate: its own by its id, or one made for a folder."""
    folder = Path(plate)
    if project and plate in project.plates:
        return project.plates[plate].spec
    if folder.exists():
        return make_spec(folder, **of_sheet(project_folder(configfile), folder, None))
    if project:
        project.plate(plate)
    why = "it is no folder, and there is no configuration here whose plate sheet could name it"
    raise PlateflowError(f"there is no plate {plate!r}", why=why, remedy="give the folder of a raw plate")


def _guessed(raw: RawPlate) -> Config:
    """A configuration with the label sets that `init` would choose; with none where no channel's name tells."""
    channels = [channel["name"] for channel in raw.metadata["channels"]]
    only = {"nuclei": LabelSet(channels=channels)} if len(channels) == 1 else {}
    return Config().model_copy(update={"segmentation": guess_label_sets(channels) or only})


def _read(raw: RawPlate, wells: Sequence[str], z_mode: str) -> tuple[list[PilotField], list[str]]:
    """A field of each well, and of which wells it can't be read, and why."""
    from plateflow.images.pilot import read_field
    from plateflow.plates import PlaneError

    fields: list[PilotField] = []
    notes: list[str] = []
    for well in _track(wells, "read fields"):
        try:
            fields.append(read_field(raw, well, z_mode=z_mode, edge=EDGE))
        except PlaneError as error:
            notes.append(f"{well} is left out: {error.detail} ({error.reason})")
            typer.echo(f"note: {notes[-1]}", err=True)
    if not fields:
        remedy = "name other wells with --wells, or see `plateflow check`"
        raise RawDataError("no field could be read", where=raw.metadata["plate"], why="; ".join(notes), remedy=remedy)
    return fields, notes


def _limits(raw: RawPlate, fields: Sequence[PilotField], config: Config) -> Limits:
    """By channel, the percentiles of these fields; of channels that have no picture here none."""
    import numpy as np

    from plateflow.segment.image import intensity_limits

    planes = {
        channel["name"]: [each.planes[channel["name"]].ravel() for each in fields if channel["name"] in each.planes]
        for channel in raw.metadata["channels"]
    }
    percentiles = config.normalise.percentiles
    return {name: intensity_limits(np.concatenate(of), percentiles) for name, of in planes.items() if of}


def _try(
    name: str,
    settings: LabelSet,
    raw: RawPlate,
    config: Config,
    fields: Sequence[PilotField],
    limits: Limits,
    models: Sequence[str],
    diameters_um: Sequence[float],
) -> PilotSet:
    """Look for the objects of a label set; errors as of `try_label_set`, and where no field here has its channels."""
    from plateflow.model.registry import model_spec
    from plateflow.plates.check import check_channels
    from plateflow.segment.grid import diameter_px, grid_of
    from plateflow.segment.pilot import try_label_set

    channels, where = settings.channels, f"{raw.metadata['plate']}, segmentation.{name}.channels"
    check_channels(config.model_copy(update={"segmentation": {name: settings}}), raw.metadata)
    if not any(set(channels) <= field.planes.keys() for field in fields):
        why, remedy = "each lacks one or more of them", "name other wells with --wells"
        raise ChannelError(f"no field here has all of {', '.join(channels)}", where=where, why=why, remedy=remedy)
    diameters: list[tuple[float | None, str]] = [] if diameters_um else [(None, "")]
    given = [(LabelSet(channels=channels, diameter_um=um), "given", f"--diameter-um {um:g}") for um in diameters_um]
    for each, why, of in [*given, (settings, "configured", where)]:
        if (px := diameter_px(each, raw.metadata, where=of)) is not None:
            for model in models or [settings.model]:
                grid_of(model_spec(model), px, where=of)
            diameters.append((px, why))
    return try_label_set(
        name,
        settings,
        fields,
        limits,
        models=models or [settings.model],
        diameters=diameters,
        device=config.device,
        where=where,
        track=_track,
    )


def _track(items: Sequence[Any], description: str) -> Iterable[Any]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track

    return track(items, description=escape(description), console=Console(stderr=True), transient=True)


def _facts(raw: RawPlate, fields: Sequence[PilotField], um: float | None) -> list[str]:
    """What is shown, for the head of the page."""
    first = fields[0]
    facts = [f"{math.prod(raw.metadata['format'])}-well plate, read as {raw.metadata['layout']}"]
    facts.append(f"{um:.4g} µm per pixel" if um else "the size of a pixel isn't known")
    facts.append(f"one field each of {', '.join(field.well for field in fields)}")
    if max(first.shape) > EDGE:
        facts.append(f"the middle {EDGE} px of fields of {first.shape[1]} x {first.shape[0]} px")
    return facts + [first.taken] * bool(first.taken)


def _lines(tried: PilotSet, pixel_um: float | None) -> Iterator[str]:
    """The estimates in words."""
    for model, estimate in tried.estimates.items():
        if estimate.diameter is None:
            yield f"{tried.name}, {model}: no object whose flow agrees with it, so no estimate of the diameter"
            continue
        um = f" ({estimate.diameter * pixel_um:.3g} µm)" if pixel_um else ""
        of = f"{number_of(estimate.best.objects, 'object[s]')} at the scale that agrees best"
        yield f"{tried.name}, {model}: diameter about {estimate.diameter:.3g} px{um}; {of}"


def _write(path: Path, config: Config, sets: Sequence[PilotSet], pixel_um: float | None) -> None:
    """Put the estimates into the configuration: in µm where it has µm, or nothing and the size of a pixel is known."""
    from plateflow.config.edit import write_diameters

    diameters = {}
    for tried in sets:
        (estimate,) = tried.estimates.values()
        settings = config.segmentation[tried.name]
        in_um = settings.diameter_um is not None or (settings.diameter_px is None and pixel_um is not None)
        if estimate.diameter is None or (in_um and pixel_um is None):
            why = "no objects were found" if estimate.diameter is None else "the size of a pixel isn't known"
            what = "nothing is written to the configuration"
            raise ConfigError(what, where=f"{path}: segmentation.{tried.name}", why=why)
        px = estimate.diameter
        diameters[tried.name] = ("diameter_um", px * (pixel_um or 1)) if in_um else ("diameter_px", px)
    rounded = {name: (key, float(f"{value:.3g}")) for name, (key, value) in diameters.items()}
    for line in write_diameters(path, rounded) or [f"{path} has these diameters already"]:
        typer.echo(line)
