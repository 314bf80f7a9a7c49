"""`plateflow weights`: the models on this machine, and how to get others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from plateflow.config import SAFE_NAME
from plateflow.errors import PlateflowError

weights = typer.Typer(
    help="List, fetch, verify and add the weights of models. They are searched in --weights-dir, $PLATEFLOW_WEIGHTS, "
    "$CELLPOSE_LOCAL_MODELS_PATH and ~/.cellpose/models, in this order; new ones are put into the first of these.",
    no_args_is_help=True,
)
Folder = Annotated[Path | None, typer.Option("--weights-dir", help="folder of weights, searched before the others")]


@weights.command("list")
def list_weights(weights_dir: Folder = None) -> None:
    """Show the models: where each one is, or where it can be fetched from, and its licence."""
    from plateflow.model.registry import PUBLISHED, find_weights

    for name in ["default", *PUBLISHED, *_added(weights_dir)]:
        try:
            path = find_weights(name, weights_dir)
        except ValueError:
            card = PUBLISHED[name]
            typer.echo(
                f"{name}: not on this machine; {card.size / 1e6:,.0f} MB at {card.url}\n  licence: {card.licence}"
            )
            continue
        with _clearly(name):
            _describe(name, path)


@weights.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="published models, such as cpsam_v2")],
    weights_dir: Folder = None,
) -> None:
    """Download published weights, checksum verified; interrupted downloads resume."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from plateflow.model.fetch import fetch as download
    from plateflow.model.registry import PUBLISHED, licence_notice, search_path

    folder = search_path(weights_dir)[0]
    for name in names:
        if name not in PUBLISHED:
            raise PlateflowError(
                f"there is nothing to fetch for {name!r}", remedy=f"published models are {', '.join(PUBLISHED)}"
            )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    for name in names:
        with _clearly(name, "fetched"), Progress(*columns, TimeRemainingColumn()) as bar:
            task = bar.add_task(name, total=PUBLISHED[name].size)

            def show(done: int, bar: Progress = bar, task: object = task) -> None:
                bar.update(task, completed=done)  # type: ignore[arg-type]

            path = download(name, folder, progress=show)
        typer.echo(f"{name}: {path}, checked")
        if notice := licence_notice(path):
            typer.echo(notice)


@weights.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="models; default: all on this machine")] = None,
    weights_dir: Folder = None,
) -> None:
    """Verify weights: published files by size and sha256, others by opening them. Exit status 1 if one is wrong."""
    from plateflow.model import check_model
    from plateflow.model.registry import PUBLISHED, check_published, find_weights, hash_of

    wrong = []
    for name in names or ["default", *_on_this_machine(weights_dir), *_added(weights_dir)]:
        try:
            path = find_weights(name, weights_dir)
            if name in PUBLISHED:
                check_published(name, path)
            else:
                check_model(path)
        except (ValueError, OSError) as error:
            wrong.append(f"{name}: {error}")
        else:
            typer.echo(f"{name}: {path} is intact, sha256 {hash_of(path)}")
    if wrong:
        raise PlateflowError(f"{len(wrong)} of the weights can't be used", why="\n  ".join(wrong))


@weights.command()
def add(
    file: Annotated[Path, typer.Argument(help="weights of Plateflow, Cellpose-SAM or SAM's ViT-L")],
    name: Annotated[str, typer.Option(help="what to call it; cpsam, cpsam_v2, sam_vit_l: the published file, checked")],
    weights_dir: Folder = None,
) -> None:
    """Copy a weights file into the folder of weights, so that `model` can name it.

    SAM's checkpoint under another name than sam_vit_l is converted into the start of a model: its encoder, resampled to
    patches of 8 px, and random heads that are yet to be trained.
    """
    from plateflow.model.registry import PUBLISHED, check_published, search_path

    folder = search_path(weights_dir)[0]
    if not SAFE_NAME.fullmatch(name) or name == "default":
        raise PlateflowError(f"{name!r} cannot be the name of a model", remedy="use letters, digits and . _ + -")
    if not file.is_file():
        raise PlateflowError("there is no such file", where=str(file))
    if name in PUBLISHED:
        target = folder / PUBLISHED[name].file
        write: Callable[[Path], object] = _copy_of(file)
        with _clearly(name):
            check_published(name, file)
    else:
        with _clearly(str(file)):
            suffix, write = _opened(file, name)
        target = folder / (name.removesuffix(suffix) + suffix)
    if target.exists():
        raise PlateflowError("a model of this name exists already", where=str(target), remedy="give another --name")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{os.getpid()}.{target.name}")  # with its suffix, by which the format is known
    try:
        write(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    with _clearly(name):
        _describe(name, target)


def _opened(file: Path, name: str) -> tuple[str, Callable[[Path], object]]:
    """The suffix that a model's file gets, and what writes it; ValueError if it is no model."""
    from plateflow.model.weights import check_model, import_sam, is_sam, save_model

    if not is_sam(file):
        check_model(file)
        return (".safetensors" if file.suffix == ".safetensors" else ""), _copy_of(file)

    import torch

    from plateflow.model.registry import PUBLISHED

    model, card = import_sam(file), PUBLISHED["sam_vit_l"]
    licence = f"{card.licence} (encoder of SAM; untrained heads)"
    return ".safetensors", lambda path: save_model(
        model, path, name=name, licence=licence, citation=card.citation, dtype=torch.float32
    )


def _copy_of(file: Path) -> Callable[[Path], object]:
    return lambda path: shutil.copyfile(file, path)


def _describe(name: str, path: Path) -> None:
    from plateflow.model.registry import PUBLISHED, spec_of

    licence = PUBLISHED[name].licence if name in PUBLISHED else spec_of(path).licence
    typer.echo(f"{name}: {path} ({path.stat().st_size / 1e6:,.0f} MB)\n  licence: {licence}")


def _on_this_machine(weights_dir: Path | None) -> Iterator[str]:
    """Published models that are on this machine."""
    from plateflow.model.registry import PUBLISHED, find_weights

    for name in PUBLISHED:
        try:
            find_weights(name, weights_dir)
        except ValueError:
            continue
        yield name


def _added(weights_dir: Path | None) -> list[str]:
    """Other models in the folders: files that `add` wrote, and Cellpose's, which have no suffix."""
    from plateflow.model.registry import PUBLISHED, search_path

    files = [path for folder in search_path(weights_dir) if folder.is_dir() for path in sorted(folder.iterdir())]
    names = [path.stem if path.suffix == ".safetensors" else path.name for path in files if _is_model(path)]
    return [name for name in dict.fromkeys(names) if name not in PUBLISHED]


def _is_model(path: Path) -> bool:
    return path.is_file() and path.suffix in ("", ".safetensors") and not path.name.startswith(".")


@contextmanager
def _clearly(where: str, done: str = "used") -> Iterator[None]:
    """Turn errors of the file system into an error for a user."""
    try:
        yield
    except OSError as error:
        raise PlateflowError(f"the weights can't be {done}", where=where, why=str(error)) from error
