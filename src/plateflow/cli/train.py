"""`plateflow train`: a model of one's own, from annotated images or corrected wells of a plate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plateflow.cli.common import DEFAULT_CONFIG, ConfigOption, WeightsOption
from plateflow.errors import ConfigError, ModelError, PlateflowError, number_of

if TYPE_CHECKING:
    from plateflow.train.data import Sample
    from plateflow.train.recipe import Recipe

SCRATCH, SAM = "scratch", "sam"
SECONDS = 480.0
"""Of a training for which nothing says how long it is."""
LIGHTS = {"fluorescence": "fluorescence", "transmitted": "transmitted light", "colour": "stained tissue in colours"}


def train(
    name: Annotated[str, typer.Option(help="what `model` of the configuration will call it")],
    data: Annotated[
        list[Path] | None, typer.Option(help="folder of pairs of image and labels, or of such ones")
    ] = None,
    plate: Annotated[Path | None, typer.Option(help="results of a plate, RESULTS/PLATE, with corrected labels")] = None,
    wells: Annotated[
        str, typer.Option(help="of the plate, such as B03,C05; default: those whose labels were corrected")
    ] = "",
    label_set: Annotated[str, typer.Option(help="of the plate")] = "cells",
    start: Annotated[
        str,
        typer.Option("--from", help="default, fast, cpsam, cpsam_v2, sam, scratch, or another model's name or path"),
    ] = "default",
    recipe: Annotated[Path | None, typer.Option(help="YAML or JSON: fields of a recipe.json that shall differ")] = None,
    steps: Annotated[int | None, typer.Option(help="train so many steps: repeatable")] = None,
    seconds: Annotated[float | None, typer.Option(help="train so long; 480 where nothing else is said")] = None,
    licence: Annotated[
        str, typer.Option(help="of the images and labels; the stricter of it and the start's holds")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="for weights, log, page and checkpoint; default: training/NAME"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="processes that make crops; default: one a core")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="only draw what the network would see")] = False,
    configfile: ConfigOption = DEFAULT_CONFIG,
    weights_dir: WeightsOption = None,
) -> None:
    """Train a model on annotated images, from a model that is there or from scratch.

    A run that was stopped goes on from its checkpoint when it is given again. The model goes to models/ of this folder,
    where `model: NAME` of the configuration and `--model NAME` find it. Several GPUs: start one process each with
    torchrun, or with srun in a SLURM job.
    """
    from plateflow.files import write_atomic
    from plateflow.model.registry import MODELS, UNKNOWN, hash_of, spec_of
    from plateflow.report.training import preview_picture, training_page
    from plateflow.segment.engine import choose_device
    from plateflow.train.batches import Batches, balanced
    from plateflow.train.loop import Terms
    from plateflow.train.loop import train as run
    from plateflow.train.memory import memory_words
    from plateflow.train.provenance import data_digest, place, register, stricter_licence
    from plateflow.train.ranks import Ranks

    place(name, MODELS)
    folder, first = output or Path("training") / name, Ranks.of_environment().rank == 0
    on = choose_device(device)
    path = None if start == SCRATCH else _start(start, weights_dir)
    sources = _sources(data or [], plate, wells, label_set, configfile)
    samples = [sample for each in sources.values() for sample in each]
    how = _recipe(name, path, recipe, steps, seconds, samples)
    batches = Batches(how, balanced(sources))
    if preview:
        write_atomic(folder / "preview.png", preview_picture(batches))
        typer.echo(f"{folder / 'preview.png'}: crops as the network sees them, with the targets' outlines and flows")
        return
    spec = spec_of(path) if path else None
    terms = Terms(
        licence=stricter_licence(spec.licence, licence) if spec else licence or UNKNOWN,
        citation=spec.citation if spec else "",
        channels=_channels(samples, spec.channels if spec else ()),
        colours=bool(spec and spec.colours) or any(sample.light == "colour" for sample in samples),
        parent=f"{spec.name}, sha256 {hash_of(spec.path)}" if spec else "",
        data=data_digest(samples),
    )
    if first:
        objects = number_of(sum(len(set(each.labels.ravel().tolist()) - {0}) for each in samples), "object[s]")
        typer.echo(f"{number_of(len(samples), 'image[s]')} of {number_of(len(sources), 'source[s]')}, {objects}")
        for light, several in LIGHTS.items():
            if like := [source for source, each in sources.items() if any(sample.light == light for sample in each)]:
                typer.echo(f"  taken for {several}: {', '.join(like)}")
        if on.type == "cuda":
            typer.echo(memory_words(how))
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def show() -> None:
        write_atomic(folder / "training.html", training_page(folder, name, batches, terms, device=on.type).encode())

    run(
        how,
        batches.sources,
        folder,
        device=on.type,
        workers=max(1, cores) if workers is None else workers,
        starts={name: path} if path else {},
        terms=terms,
        saved=show,
    )
    if first:
        target = register(folder / f"{name}.safetensors", name, MODELS)
        (folder / "checkpoint.pt").unlink()  # what is done has nothing to go on from
        typer.echo(f"{target}: `model: {name}` and `--model {name}` find it in this folder\n  licence: {terms.licence}")
        typer.echo(f"{folder / 'training.html'}: losses and examples")


def _start(start: str, weights_dir: Path | None) -> Path:
    """The file of the weights to start from."""
    from plateflow.model.registry import right_weights

    try:
        return right_weights("sam_vit_l" if start == SAM else start, weights_dir)
    except ModelError as error:
        raise ModelError(
            "there is nothing to start from", where=f"--from {start}", why=error.why, remedy=error.remedy
        ) from error


def _recipe(
    name: str, start: Path | None, file: Path | None, steps: int | None, seconds: float | None, samples: list[Sample]
) -> Recipe:
    """The recipe: defaults for the network and the samples, then what the file says, then the options."""
    from plateflow.model.weights import start_config
    from plateflow.train.data import sizes_about
    from plateflow.train.recipe import NETWORKS, defaults_for, make_recipe, read_recipe

    if steps is not None and seconds is not None:
        raise typer.BadParameter("give --steps or --seconds", param_hint="--seconds")
    said = read_recipe(file) if file else {}
    own = list((said.pop("networks", None) or {}).values())
    if len(own) > 1 or (own and start):
        why = "its networks are those of the weights to start from" if start else "it names several networks"
        remedy = "take `networks` out of the file, or use --from scratch" if start else "leave one"
        raise ConfigError("the recipe doesn't fit", where=str(file), why=why, remedy=remedy)
    config = start_config(start) if start else NETWORKS["default"]
    values: dict[str, Any] = {**defaults_for(config, trained=start is not None), **said}
    varied = said.get("augmentation") or {}
    if start and isinstance(varied, dict):
        values["augmentation"] = {"diameters": sizes_about(samples), **varied}
    if steps is not None or seconds is not None:
        values |= {"steps": steps, "seconds": seconds}
    elif values.get("steps") is None and values.get("seconds") is None:
        values["seconds"] = SECONDS
    values["networks"] = {name: own[0] if own else config}
    return make_recipe(values, where=str(file) if file else "--steps, --seconds")


def _sources(
    data: list[Path], plate: Path | None, wells: str, label_set: str, configfile: Path
) -> dict[str, list[Sample]]:
    """Samples by source."""
    from plateflow.asked import Asked
    from plateflow.project import Project
    from plateflow.train.folders import read_sources
    from plateflow.train.plates import plate_samples

    if not data and plate is None:
        remedy = "give --data FOLDER with images and labels, or --plate RESULTS/PLATE with corrected wells"
        raise PlateflowError("there is nothing to train on", remedy=remedy)
    if wells and plate is None:
        raise PlateflowError(
            "wells are those of a plate", where=f"--wells {wells}", remedy="give --plate RESULTS/PLATE"
        )
    sources: dict[str, list[Sample]] = {}
    for folder in data:
        for source, samples in read_sources(folder).items():
            sources[source if source not in sources else str(folder / source)] = samples
    if plate is not None:
        asked = Asked.given()  # a job's configuration is that of its run
        project = asked.project if asked else Project.load(configfile)
        chosen = wells.split(",") if wells else None
        sources[f"{plate.name}, {label_set}"] = plate_samples(plate, chosen, label_set, project)
    return sources


def _channels(samples: list[Sample], known: tuple[str, ...]) -> tuple[str, ...]:
    """What each channel is: as the start says, and others after these where images have more."""
    from plateflow.model.registry import TRAINED_CHANNELS

    known = known or TRAINED_CHANNELS
    most = max((len(sample.pixels) for sample in samples if sample.light != "colour"), default=0)
    return known + ("another",) * (most - len(known))
