"""`plateflow weights`: the models on this machine, and how to get others."""

from pathlib import Path
from typing import Annotated

import typer

from plateflow.cli.common import WeightsOption
from plateflow.errors import ModelError, PlateflowError
from plateflow.model.registry import (
    PACKAGED,
    PUBLISHED,
    check_published,
    find_weights,
    folder_for_others,
    hash_of,
    licence_notice,
    right_weights,
    search_path,
    spec_of,
)

weights = typer.Typer(
    help="List, fetch, verify and add the weights of models. They are searched in --weights-dir, models/ of this "
    "folder, $PLATEFLOW_WEIGHTS, $CELLPOSE_LOCAL_MODELS_PATH and ~/.cellpose/models, in this order; new ones are put "
    "into the first of these but models/, which holds what `plateflow train` made.",
    no_args_is_help=True,
)


@weights.command("list")
def list_weights(weights_dir: WeightsOption = None) -> None:
    """Show the models: where each one is, or where it can be fetched from, and its licence."""
    for name, path in _models(weights_dir).items():
        if path is not None:
            _describe(name, path)
            continue
        card = PUBLISHED[name]
        typer.echo(f"{name}: not on this machine; {card.size / 1e6:,.0f} MB at {card.url}\n  licence: {card.licence}")


@weights.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="published models, such as cpsam_v2")],
    weights_dir: WeightsOption = None,
) -> None:
    """Download published weights, checksum verified; interrupted downloads resume."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from plateflow.model.fetch import fetch as download

    folder = folder_for_others(weights_dir)
    for name in names:
        if name not in PUBLISHED:
            raise PlateflowError(
                f"there is nothing to fetch for {name!r}", remedy=f"published models are {', '.join(PUBLISHED)}"
            )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for name in names:
        try:
            with Progress(*columns, TimeRemainingColumn()) as bar:
                task = bar.add_task(name, total=PUBLISHED[name].size)
                path = download(name, folder, progress=lambda n: bar.update(task, completed=n))  # noqa: B023
        except OSError as error:
            raise PlateflowError("the weights can't be fetched", where=name, why=str(error)) from error
        typer.echo(f"{name}: {path}, checked")
        if notice := licence_notice(path):
            typer.echo(notice)


@weights.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="models; default: all on this machine")] = None,
    weights_dir: WeightsOption = None,
) -> None:
    """Verify weights: published files by size and sha256, others by opening them. Exit status 1 if one is wrong."""
    from plateflow.model import check_model

    wrong = []
    for name in names or [name for name, path in _models(weights_dir).items() if path]:
        try:
            path = right_weights(name, weights_dir)
            if name not in PUBLISHED:
                check_model(path)
        except ModelError as error:
            wrong.append(f"{name}: {error}")
        else:
            typer.echo(f"{name}: {path} is intact, sha256 {hash_of(path)}")
    if wrong:
        raise PlateflowError(f"{len(wrong)} of the weights can't be used", why="\n  ".join(wrong))


@weights.command()
def add(
    file: Annotated[Path, typer.Argument(help="weights of Plateflow, Cellpose-SAM or SAM's ViT-L")],
    name: Annotated[str, typer.Option(help="what to call it; cpsam, cpsam_v2, sam_vit_l: the published file, checked")],
    weights_dir: WeightsOption = None,
) -> None:
    """Copy a weights file into the folder of weights, so that `model` can name it.

    SAM's checkpoint under another name than sam_vit_l is converted into the start of a model: its encoder, resampled to
    patches of 8 px, and random heads that are yet to be trained.
    """
    import torch

    from plateflow.model.weights import check_model, import_sam, is_sam, save_model
    from plateflow.train.provenance import place, register

    folder = folder_for_others(weights_dir)
    if not file.is_file():
        raise PlateflowError("there is no such file", where=str(file))
    model, suffix = None, ".safetensors" if file.suffix == ".safetensors" else ""
    if name in PUBLISHED:
        check_published(name, file)
    elif is_sam(file):
        model = import_sam(file)
    else:
        check_model(file)
    if model is None:
        target = register(file, name, folder, suffix, brought=name in PUBLISHED)
    else:
        target = place(name, folder)
        card = PUBLISHED["sam_vit_l"]
        licence = f"{card.licence} (encoder of SAM; untrained heads)"
        save_model(model, target, name=name, licence=licence, citation=card.citation, dtype=torch.float32)
    _describe(name, target)


def _describe(name: str, path: Path) -> None:
    spec = None if name in PUBLISHED else spec_of(path)  # which would hash a gigabyte
    typer.echo(f"{name}: {path} ({path.stat().st_size / 1e6:,.0f} MB)")
    typer.echo(f"  licence: {spec.licence if spec else PUBLISHED[name].licence}")
    if spec and spec.parent:
        typer.echo(f"  fine-tuned from: {spec.parent}")


def _models(weights_dir: Path | None) -> dict[str, Path | None]:
    """The default and the published models, None where one isn't on this machine, and what the folders hold besides.

    That is what `add` wrote, and Cellpose's files, which have no suffix.
    """
    files = [path for folder in search_path(weights_dir) if folder.is_dir() for path in sorted(folder.iterdir())]
    others = [
        path.stem if path.suffix == ".safetensors" else path.name
        for path in files
        if path.is_file() and path.suffix in ("", ".safetensors") and not path.name.startswith(".")
    ]
    models: dict[str, Path | None] = {}
    for name in [*PACKAGED, *PUBLISHED, *others]:
        try:
            models[name] = find_weights(name, weights_dir)
        except ModelError:
            models[name] = None
    return models
